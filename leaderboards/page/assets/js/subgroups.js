// Score by sex, age and view, for the highlighted methods.
const subgroupsPanel = () => {
  if (!board.groups.some((group) => contestants(group).some((entry) => entry.subgroups))) return null;
  return panel({
    id: "subgroups",
    title: "By sex, age and view",
    how: "The highlighted methods on parts of the test patients, with 95 % intervals. Small parts have wide intervals.",
    build: drawSubgroups,
  });
};

const drawSubgroups = (width) => {
  const group = focused();
  const entries = contestants(group)
    .filter((entry) => entry.subgroups && strong(entry))
    .map(ofSeed("subgroups"))
    .sort((a, b) => slot(a) - slot(b));
  if (!entries.length) return nothing("No subgroups for the highlighted methods in this table.");
  const points = entries.flatMap((entry) =>
    entry.subgroups
      .filter((part) => known(part.score.value))
      .map((part) => ({
        entry,
        by: part.by,
        part: `${part.value}`,
        ...part.score,
        patients: part.patients,
        variant: slot(entry),
      })),
  );
  const order = [...new Map(points.map((point) => [`${point.by}: ${point.part}`, point])).keys()];
  const left = Math.min(Math.floor(width * 0.4), 14 + 7 * Math.max(...order.map((name) => name.length)));
  const offset = (point) => (entries.indexOf(point.entry) - (entries.length - 1) / 2) * 8;
  const marks = entries.flatMap((entry) => {
    const own = points.filter((point) => point.entry === entry);
    const shift = { dy: offset({ entry }), y: (point) => `${point.by}: ${point.part}` };
    return [
      Plot.ruleY(
        own.filter((point) => known(point.low)),
        { ...shift, x1: "low", x2: "high", stroke: colour(entry), strokeWidth: 2 },
      ),
      Plot.dot(own, {
        ...shift,
        x: "value",
        fill: colour(entry),
        symbol: SYMBOLS[slot(entry)],
        r: 4,
        stroke: "var(--card)",
        strokeWidth: 1,
      }),
    ];
  });
  const metric = entries[0].subgroups[0].metric;
  const drawn = plot(
    `${metric} of ${entries.map((entry) => entry.label).join(", ")} by ${[...new Set(points.map((point) => point.by))].join(", ")}`,
    {
      width,
      height: 54 + order.length * (14 + 9 * entries.length),
      marginLeft: left,
      marginRight: 18,
      marginTop: 8,
      marginBottom: 42,
      x: { label: `${metric} →`, labelAnchor: "right", grid: true, nice: true, ticks: Math.min(7, (width - left) / 70) },
      y: { label: null, domain: order, tickSize: 0, tickFormat: (name) => shortened(name, Math.floor(left / 7)) },
      marks,
    },
  );
  const rows = points.map((point) => [
    point.entry.label,
    `${point.by}: ${point.part}`,
    String(point.patients),
    number(point.value),
    range(point.low, point.high),
  ]);
  return [
    legend(entries),
    drawn,
    asTable("By sex, age and view", ["Method", "Part", "Patients", metric, "95 % interval"], rows),
  ];
};
