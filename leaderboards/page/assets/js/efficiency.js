// Score against the share of labels, one small drawing for each protocol that has several shares.
const seriesOf = () => {
  const found = new Map();
  for (const group of board.groups)
    if (contestants(group).length) found.set(group.series, [...(found.get(group.series) || []), group]);
  return [...found.values()]
    .filter((groups) => groups.length > 1)
    .map((groups) => groups.sort((a, b) => a.label_fraction - b.label_fraction));
};

const efficiencyPanel = () => {
  const series = seriesOf();
  if (!series.length) return null;
  return panel({
    id: "efficiency",
    title: "Label efficiency",
    wide: true,
    how: "Score at each share of the labelled patients. Bands are the 95 % interval of a single run, or one standard deviation over seeds.",
    build: (width) => {
      const columns = Math.max(1, Math.min(series.length, Math.floor(width / 330)));
      const each = Math.min(620, Math.floor((width - 28 * (columns - 1)) / columns));
      const all = series.flat().flatMap(contestants);
      const firsts = [...new Map(all.map((entry) => [entry.variant, entry])).values()];
      return [
        legend(firsts),
        h(
          "div",
          { class: "small-multiples" },
          series.map((groups) => drawSeries(groups, each)),
        ),
        efficiencyTable(series),
      ];
    },
  });
};

const drawSeries = (groups, width) => {
  const points = groups.flatMap((group) =>
    contestants(group).map((entry) => {
      const span = ends(entry) || [entry.value, entry.value];
      return { entry, x: group.label_fraction, y: entry.value, low: span[0], high: span[1], variant: entry.variant };
    }),
  );
  const [first] = groups;
  const quiet = points.filter((point) => !strong(point.entry));
  const marks = [
    Plot.line(quiet, { x: "x", y: "y", z: "variant", stroke: "var(--quiet)", strokeWidth: 1.2, strokeOpacity: 0.7 }),
  ];
  COLOURS.forEach((stroke, place) => {
    const own = points.filter((point) => slot(point.entry) === place);
    marks.push(
      Plot.areaY(own, { x: "x", y1: "low", y2: "high", fill: stroke, fillOpacity: 0.16 }),
      Plot.line(own, { x: "x", y: "y", stroke, strokeWidth: 2.2, strokeDasharray: DASHES[place] }),
      Plot.dot(own, { x: "x", y: "y", symbol: SYMBOLS[place], r: 4.5, fill: stroke, stroke: "var(--card)", strokeWidth: 1.2 }),
    );
  });
  marks.push(
    Plot.tip(
      points,
      Plot.pointer({
        x: "x",
        y: "y",
        title: (point) => `${point.entry.label}\n${number(point.y)} at ${percent(point.x)}`,
        fill: "var(--card)",
        stroke: "var(--line)",
      }),
    ),
  );
  const shares = groups.map((group) => group.label_fraction);
  return h(
    "div",
    {},
    h("h4", {}, first.task_title, h("small", {}, `${first.protocol} · ${first.dataset} · ${arrow(first)}`)),
    plot(
      `${first.task_title}, ${first.protocol}: ${arrow(first)} of ${new Set(points.map((point) => point.variant)).size} methods at ${shares.map(percent).join(", ")} of the labels`,
      {
        width,
        height: 270,
        marginLeft: 44,
        marginRight: 18,
        marginBottom: 36,
        x: { type: "log", label: null, ticks: shares, tickFormat: percent },
        y: { label: null, grid: true, ticks: 5, nice: true, reverse: !first.higher },
        marks,
      },
    ),
  );
};

const efficiencyTable = (series) => {
  const shares = [...new Set(series.flat().map((group) => group.label_fraction))].sort((a, b) => a - b);
  const rows = series.flatMap((groups) => {
    const found = new Map();
    for (const group of groups)
      for (const entry of contestants(group))
        found.set(entry.variant, { ...(found.get(entry.variant) || { label: entry.label }), [group.label_fraction]: entry });
    return [...found.values()].map((line) => [
      line.label,
      groups[0].protocol,
      ...shares.map((share) =>
        line[share]
          ? `${number(line[share].value)} ${line[share].interval ? range(...line[share].interval) : known(line[share].spread) ? `± ${number(line[share].spread)}` : ""}`
          : NONE,
      ),
    ]);
  });
  return asTable("Label efficiency", ["Method", "Protocol", ...shares.map(percent)], rows);
};
