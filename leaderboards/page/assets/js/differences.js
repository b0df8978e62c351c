// A forest plot: by how much each method falls short of the best of its table, on the same patients.
const gaps = (group) =>
  contestants(group).filter((entry) => entry.standing && entry.standing.difference && known(entry.standing.difference.value));

const differencesPanel = () => {
  if (!board.groups.some((group) => gaps(group).length)) return null;
  return panel({
    id: "differences",
    title: "Paired differences to the best",
    how: "Each line is one method minus the best, on the same patients. An open dot: the interval holds 0, so the difference may be noise.",
    build: drawDifferences,
  });
};

const drawDifferences = (width) => {
  const group = focused();
  const rows = gaps(group);
  const best = contestants(group).find((entry) => entry.standing && entry.standing.rank === 1 && !entry.standing.difference);
  if (!rows.length)
    return nothing(
      "No paired differences for this table: `report` computes them where two methods have predictions of the same rows.",
    );
  const points = rows.map((entry) => ({
    entry,
    name: entry.label,
    ...entry.standing.difference,
    p: entry.standing.p_holm,
    rank: rankText(entry.standing),
  }));
  const noise = (point) => known(point.low) && point.low <= 0 && point.high >= 0;
  const longest = Math.max(...points.map((point) => point.name.length));
  const left = Math.min(Math.floor(width * 0.38), 14 + longest * 7);
  const common = { y: "name" };
  const drawn = plot(
    `${points.length} methods minus ${best ? best.label : "the best"} in ${arrow(group)}; ${points.filter(noise).length} intervals hold 0`,
    {
      width,
      height: 60 + (points.length > 6 ? 25 : 34) * points.length,
      marginLeft: left,
      marginRight: 62,
      marginTop: 8,
      marginBottom: 42,
      x: {
        label: `difference in ${group.metric} →`,
        labelAnchor: "right",
        grid: true,
        ticks: Math.min(7, (width - left - 62) / 70),
        nice: true,
      },
      y: {
        label: null,
        domain: points.map((point) => point.name),
        tickSize: 0,
        tickFormat: (name) => shortened(name, Math.floor(left / 7)),
      },
      marks: [
        Plot.ruleX([0], { stroke: "var(--ink)", strokeWidth: 1 }),
        Plot.ruleY(
          points.filter((point) => known(point.low)),
          { ...common, x1: "low", x2: "high", stroke: (point) => colour(point.entry), strokeWidth: 2.2 },
        ),
        Plot.dot(points, {
          ...common,
          x: "value",
          r: 4.5,
          stroke: (point) => colour(point.entry),
          strokeWidth: 2,
          fill: (point) => (noise(point) ? "var(--card)" : colour(point.entry)),
        }),
        Plot.text(points, {
          ...common,
          frameAnchor: "right",
          dx: 58,
          textAnchor: "end",
          text: (point) => (known(point.p) ? `p ${point.p < 0.001 ? "< .001" : point.p.toFixed(3)}` : ""),
          fill: "var(--soft)",
          fontVariant: "tabular-nums",
        }),
      ],
    },
  );
  const told = h(
    "p",
    { class: "hint" },
    best ? `Best: ${best.label}, ${scoreText(best)}. ` : "",
    "p values are adjusted by Holm.",
  );
  const table = points.map((point) => [
    point.name,
    signed(point.value),
    range(point.low, point.high),
    known(point.p) ? number(point.p) : NONE,
    point.rank,
  ]);
  return [
    drawn,
    told,
    asTable(
      "Paired differences to the best",
      ["Method", `Difference in ${group.metric}`, "95 % interval", "p (Holm)", "Rank"],
      table,
    ),
  ];
};
