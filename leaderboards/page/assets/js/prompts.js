// How much a zero-shot score depends on the wording of the prompts: the standard deviation over templates, each used alone.
const SPREAD = /_prompt_spread$/;

const promptPlace = (group) => group.metrics.findIndex((name) => SPREAD.test(name));

const promptsPanel = () => {
  if (!board.groups.some((group) => promptPlace(group) >= 0)) return null;
  return panel({
    id: "prompts",
    title: "Spread over prompts",
    how: "Zero-shot score with one standard deviation over the prompt templates, each used alone: how much of a score is the wording.",
    build: drawPrompts,
  });
};

const drawPrompts = (width) => {
  const place = promptPlace(focused());
  const group = place >= 0 ? focused() : board.groups.find((other) => promptPlace(other) >= 0);
  const at = promptPlace(group);
  const points = contestants(group)
    .map((entry) => ({ entry, name: entry.label, value: entry.value, spread: meanMetric(entry, at) }))
    .filter((point) => known(point.spread));
  if (!points.length) return nothing("No method here was measured with several prompt templates.");
  const left = Math.min(Math.floor(width * 0.38), 14 + 7 * Math.max(...points.map((point) => point.name.length)));
  const drawn = plot(`${arrow(group)} of ${points.length} methods with the spread over prompt templates`, {
    width,
    height: 54 + 24 * points.length,
    marginLeft: left,
    marginRight: 24,
    marginTop: 8,
    marginBottom: 42,
    x: { label: `${group.metric} →`, labelAnchor: "right", grid: true, nice: true, ticks: Math.min(7, (width - left) / 70) },
    y: {
      label: null,
      domain: points.map((point) => point.name),
      tickSize: 0,
      tickFormat: (name) => shortened(name, Math.floor(left / 7)),
    },
    marks: [
      Plot.ruleY(points, {
        y: "name",
        x1: (point) => point.value - point.spread,
        x2: (point) => point.value + point.spread,
        stroke: (point) => colour(point.entry),
        strokeWidth: 6,
        strokeOpacity: 0.35,
      }),
      Plot.dot(points, { y: "name", x: "value", r: 4, fill: (point) => colour(point.entry) }),
    ],
  });
  return [
    h("p", { class: "hint" }, group.name),
    drawn,
    asTable(
      "Spread over prompts",
      ["Method", arrow(group), "Standard deviation over prompts"],
      points.map((point) => [point.name, number(point.value), number(point.spread)]),
    ),
  ];
};
