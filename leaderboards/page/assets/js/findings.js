// Score by finding: metrics named METRIC/FINDING, the mean over the seeds.
const meanMetric = (entry, place) => {
  const values = (entry.runs || [])
    .map((run) => run.metrics[place])
    .map((item) => (Array.isArray(item) ? item[0] : item))
    .filter(known);
  return values.length ? sum(values) / values.length : null;
};

const findingColumns = (group) => {
  const families = new Map();
  group.metrics.forEach((name, place) => {
    const cut = name.indexOf("/");
    if (cut > 0)
      families.set(name.slice(0, cut), [...(families.get(name.slice(0, cut)) || []), { finding: name.slice(cut + 1), place }]);
  });
  return families;
};

const findingsPanel = () => {
  const metrics = [...new Set(board.groups.flatMap((group) => [...findingColumns(group).keys()]))];
  if (!metrics.length) return null;
  const select = options(
    h("select", { id: "finding-metric" }),
    metrics.map((name) => [name, name]),
    metrics[0],
  );
  const card = panel({
    id: "findings",
    title: "By finding",
    wide: true,
    how: "Each column is one finding; the shade says how near a method comes to the best of that column, which may be noise: findings are not ranked. Means over the seeds.",
    controls: h("div", { class: "controls" }, field("Metric", select)),
    build: () => drawFindings(select.value),
  });
  select.addEventListener("change", changed);
  return card;
};

const drawFindings = (metric) => {
  const group = focused();
  const columns = findingColumns(group).get(metric);
  if (!columns) return nothing(`This table has no ${metric} by finding. Choose a classification table above.`);
  const rows = contestants(group)
    .slice(0, 40)
    .map((entry) => ({ entry, values: columns.map((column) => meanMetric(entry, column.place)) }));
  const bounds = columns.map((_, place) => {
    const values = rows.map((row) => row.values[place]).filter(known);
    return [Math.min(...values), Math.max(...values)];
  });
  const cell = (value, [low, high]) => {
    if (!known(value)) return h("td", { class: "gone" }, NONE);
    const share = high > low ? (value - low) / (high - low) : 1;
    return h("td", { class: "heat", style: { "--heat": `${Math.round(100 * share)}%` } }, number(value));
  };
  return scroller(
    "Score by finding",
    h(
      "table",
      { class: "glance findings" },
      h("caption", { class: "visually-hidden" }, `${metric} by finding, ${group.name}`),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "Method"),
          columns.map((column) => h("th", { scope: "col" }, column.finding)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, row.entry.label),
            row.values.map((value, place) => cell(value, bounds[place])),
          ),
        ),
      ),
    ),
  );
};
