// Score against cost, with the Pareto front: nothing else is both better and cheaper.
const COSTS = [
  {
    name: "peak memory of the evaluation, GiB",
    read: (entry) => memoryOf(entry) / 1024,
    has: (entry) => known(memoryOf(entry)),
    text: (value) => value.toFixed(2),
  },
  {
    name: "time of the evaluation, s",
    read: (entry) => entry.cost.total,
    has: (entry) => known(entry.cost.total),
    text: duration,
  },
  {
    name: "time of the pretraining, h",
    read: (entry) => entry.pretraining.total / 3600,
    has: (entry) => known((entry.pretraining || {}).total),
    text: (value) => `${value.toFixed(2)} h`,
  },
  {
    name: "peak GPU memory of the pretraining, GiB",
    read: (entry) => entry.pretraining.peak_allocated_mib / 1024,
    has: (entry) => known((entry.pretraining || {}).peak_allocated_mib),
    text: (value) => value.toFixed(2),
  },
  {
    name: "GPU hours of pretraining and evaluation",
    read: (entry) => entry.gpu_hours,
    has: (entry) => known(entry.gpu_hours),
    text: (value) => `${number(value)} h`,
  },
  {
    name: "parameters, millions",
    read: (entry) => entry.cost.params / 1e6,
    has: (entry) => known(entry.cost.params),
    text: (value) => `${value.toFixed(1)} M`,
  },
  { name: "GMACs of one image", read: (entry) => entry.cost.gmacs, has: (entry) => known(entry.cost.gmacs), text: rate },
];

const paretoFront = (points, higher) => {
  const ordered = [...points].sort((a, b) => a.x - b.x || (higher ? b.y - a.y : a.y - b.y));
  const front = [];
  for (const point of ordered) {
    const best = front[front.length - 1];
    if (!best || (higher ? point.y > best.y : point.y < best.y)) front.push(point);
  }
  return front;
};

const costPanel = () => {
  const select = h("select", { id: "cost-axis" });
  let chosen = 0;
  const usable = COSTS.filter((cost) => board.groups.some((group) => contestants(group).some(cost.has)));
  if (!usable.length) return null;
  options(
    select,
    usable.map((cost, place) => [String(place), cost.name]),
    "0",
  );
  const card = panel({
    id: "cost",
    title: "Score against cost",
    how: "The line joins the Pareto front: no other method is both cheaper and better.",
    controls: h("div", { class: "controls" }, field("Cost", select)),
    build: (width) => drawCost(width, usable[chosen]),
  });
  select.addEventListener("change", () => {
    chosen = Number(select.value);
    changed();
  });
  return card;
};

const share = (points, axis) => {
  const values = points.map((point) => point[axis]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return (point) => (high > low ? (point[axis] - low) / (high - low) : 0.5);
};

// Where the name of each point stands, in pixels from it: above, or where a neighbour has that place below, or further up.
const HEIGHTS = [-13, 17, -28];
const heights = (named, across, up) => {
  const taken = [];
  return new Map(
    named.map((point) => {
      const near = (other) => Math.abs(across(point) - across(other)) < 0.3 && Math.abs(up(point) - up(other)) < 0.08;
      const beside = taken.filter(near);
      taken.push(point);
      return [point, HEIGHTS[Math.min(beside.length, HEIGHTS.length - 1)]];
    }),
  );
};

// Names never leave the drawing: they start or end at a point that is near an edge.
const nameMarks = (named, points) => {
  const place = share(points, "x");
  const height = heights(named, place, share(points, "y"));
  const anchors = [
    ["start", -8, (part) => part < 0.25],
    ["middle", 0, (part) => part >= 0.25 && part <= 0.75],
    ["end", 8, (part) => part > 0.75],
  ];
  const spots = anchors.flatMap((anchor) => HEIGHTS.map((dy) => [...anchor, dy]));
  return spots.map(([textAnchor, dx, fits, dy]) =>
    Plot.text(
      named.filter((point) => fits(place(point)) && height.get(point) === dy),
      {
        x: "x",
        y: "y",
        text: (point) => shortened(point.entry.label, 30),
        textAnchor,
        dx,
        dy,
        fill: "var(--ink)",
        stroke: "var(--card)",
        strokeWidth: 4,
        fontWeight: 550,
      },
    ),
  );
};

const drawCost = (width, cost) => {
  const group = focused();
  const points = contestants(group)
    .filter(cost.has)
    .map((entry) => ({ entry, x: cost.read(entry), y: entry.value }));
  if (!points.length) return nothing("This cost was not measured in this table.");
  const front = paretoFront(points, group.higher);
  const onFront = new Set(front.map((point) => point.entry));
  const named = points.filter((point) => strong(point.entry) || (onFront.has(point.entry) && points.length <= 24));
  const said = `${points.length} methods, ${arrow(group)} against ${cost.name}; on the Pareto front: ${front.map((point) => point.entry.label).join(", ")}`;
  const dots = SYMBOLS.map((symbol, place) =>
    Plot.dot(
      points.filter((point) => slot(point.entry) === place),
      { x: "x", y: "y", r: 6, symbol, fill: COLOURS[place], stroke: "var(--card)", strokeWidth: 1.5 },
    ),
  );
  const drawn = plot(said, {
    width,
    height: 340,
    marginLeft: 52,
    marginBottom: 42,
    marginTop: 32,
    marginRight: 24,
    x: { label: `${cost.name} →`, labelAnchor: "right", nice: true, ticks: Math.min(8, width / 80) },
    y: { label: arrow(group), nice: true, grid: true, ticks: 6, reverse: !group.higher },
    marks: [
      Plot.line(front, { x: "x", y: "y", curve: "step-after", stroke: "var(--accent)", strokeWidth: 1.5, strokeOpacity: 0.6 }),
      Plot.dot(
        points.filter((point) => !strong(point.entry)),
        { x: "x", y: "y", r: 4.5, fill: "var(--quiet)", stroke: "var(--card)", strokeWidth: 1 },
      ),
      dots,
      nameMarks(named, points),
      Plot.tip(
        points,
        Plot.pointer({
          x: "x",
          y: "y",
          title: (point) => `${point.entry.label}\n${number(point.y)}\n${cost.text(point.x)}`,
          fill: "var(--card)",
          stroke: "var(--line)",
        }),
      ),
    ],
  });
  const devices = [...new Set(points.map((point) => (point.entry.cost.device || "").trim()).filter(Boolean))];
  const warning =
    devices.length > 1
      ? h(
          "p",
          { class: "banner" },
          `Measured on different devices (${devices.join("; ")}): time and memory of one are not those of another.`,
        )
      : null;
  const rows = points.map((point) => [
    point.entry.label,
    number(point.y),
    cost.text(point.x),
    onFront.has(point.entry) ? "yes" : "",
    point.entry.cost.device || NONE,
  ]);
  return [drawn, warning, asTable("Score against cost", ["Method", arrow(group), cost.name, "Pareto front", "Device"], rows)];
};
