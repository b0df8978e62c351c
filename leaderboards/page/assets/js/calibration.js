// Reliability: how often a finding is there when a method says so with a given probability.
const calibrationPanel = () => {
  if (!board.groups.some((group) => contestants(group).some((entry) => entry.calibration))) return null;
  return panel({
    id: "calibration",
    title: "Calibration",
    how: "On the diagonal, a stated probability is what is observed. Below it, a method is too sure. The size of a dot is the number of predictions.",
    build: drawCalibration,
  });
};

const drawCalibration = (width) => {
  const group = focused();
  const entries = contestants(group)
    .filter((entry) => entry.calibration && strong(entry))
    .map(ofSeed("calibration"))
    .sort((a, b) => slot(a) - slot(b));
  if (!entries.length) return nothing("No calibration for the highlighted methods in this table.");
  const bins = (entry) => entry.calibration.bins.filter((bin) => bin.count > 0 && known(bin.observed));
  const marks = [
    Plot.line(
      [
        [0, 0],
        [1, 1],
      ],
      { stroke: "var(--soft)", strokeDasharray: "3 4" },
    ),
  ];
  for (const entry of entries) {
    marks.push(
      Plot.line(bins(entry), {
        x: "mean_predicted",
        y: "observed",
        stroke: colour(entry),
        strokeWidth: 2,
        strokeDasharray: DASHES[slot(entry)],
      }),
      Plot.dot(bins(entry), {
        x: "mean_predicted",
        y: "observed",
        r: "count",
        fill: colour(entry),
        fillOpacity: 0.75,
        symbol: SYMBOLS[slot(entry)],
        stroke: "var(--card)",
      }),
    );
  }
  const side = Math.min(width, 420);
  const drawn = plot(`Observed against stated probability of ${entries.map((entry) => entry.label).join(", ")}`, {
    width: side,
    height: side,
    marginLeft: 48,
    marginBottom: 44,
    r: { range: [1.5, 7] },
    x: { domain: [0, 1], label: "stated probability →", labelAnchor: "right", grid: true, ticks: 5 },
    y: { domain: [0, 1], label: "↑ observed share", grid: true, ticks: 5 },
    marks,
  });
  const ece = h(
    "p",
    { class: "hint" },
    "Expected calibration error: ",
    entries.map((entry) => `${entry.label} ${number(entry.calibration.ece && entry.calibration.ece.value)}`).join(" · "),
  );
  const rows = entries.flatMap((entry) =>
    bins(entry).map((bin) => [
      entry.label,
      `${number(bin.low)} to ${number(bin.high)}`,
      number(bin.mean_predicted),
      number(bin.observed),
      String(bin.count),
    ]),
  );
  return [
    legend(entries),
    drawn,
    ece,
    asTable("Calibration", ["Method", "Bin", "Mean stated", "Observed", "Predictions"], rows),
  ];
};
