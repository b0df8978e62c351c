// All metrics over all findings of the chosen table; no shade, because a table does not say which of them are better when lower.
const metricsPanel = () => {
  if (!board.groups.some((group) => plainMetrics(group).length > 1)) return null;
  return panel({
    id: "metrics",
    title: "All metrics",
    wide: true,
    how: "Every metric over all findings; in retrieval both directions. Means over the seeds.",
    build: drawMetrics,
  });
};

const plainMetrics = (group) =>
  group.metrics.map((name, place) => ({ name, place })).filter((column) => !column.name.includes("/"));

const drawMetrics = () => {
  const group = focused();
  const columns = plainMetrics(group);
  if (!columns.length) return nothing("The metrics of single results are not in this page; leaderboard.json has them.");
  const rows = group.entries.filter((entry) => known(entry.value)).slice(0, 40);
  return scroller(
    "All metrics",
    h(
      "table",
      { class: "plain wide-table" },
      h("caption", { class: "visually-hidden" }, `All metrics, ${group.name}`),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "Method"),
          columns.map((column) => h("th", { scope: "col" }, column.name)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((entry) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, entry.kind === "reference" ? h("em", {}, entry.label) : entry.label),
            columns.map((column) => h("td", {}, number(meanMetric(entry, column.place)))),
          ),
        ),
      ),
    ),
  );
};
