// Methods against tables, for each data set: a shade says how near to the best of its column a value is.
const glance = () => {
  const sets = new Map();
  for (const group of board.groups) {
    const name = `${group.dataset} ${group.dataset_version}`;
    if (contestants(group).length) sets.set(name, [...(sets.get(name) || []), group]);
  }
  if (!sets.size) return null;
  const tables = [...sets].map(([name, groups]) => scroller(`At a glance: ${name}`, glanceTable(name, groups)));
  return h(
    "section",
    { id: "glance", "aria-labelledby": "glance-title" },
    h("h2", { id: "glance-title" }, "At a glance"),
    h(
      "p",
      { class: "lead" },
      "Each column is a contest of its own. The shade says how near a method comes to the best of its column; bold is the first rank group, within which a difference may be noise.",
    ),
    h("div", { class: "card flush" }, tables),
    board.averages.filter((average) => average.head.length > 2).map(meansOf),
  );
};

// Means over tasks, closed at first: they are of cells that all methods have, and the formula stands below them.
const meansOf = (average) =>
  h(
    "details",
    { class: "means" },
    h("summary", {}, `Means over tasks, ${average.dataset}`),
    scroller(
      `Means over tasks, ${average.dataset}`,
      h(
        "table",
        { class: "plain" },
        h("caption", { class: "visually-hidden" }, `Means over tasks, ${average.dataset}`),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            average.head.map((name) => h("th", { scope: "col" }, name)),
          ),
        ),
        h(
          "tbody",
          {},
          average.lines.map(([name, ...cells]) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, name),
              cells.map((cell) => h("td", {}, cell)),
            ),
          ),
        ),
      ),
    ),
    average.below.map((text) => h("p", { class: "hint" }, text)),
  );

const glanceTable = (name, groups) => {
  const order = new Map();
  const columns = groups.map((group) => {
    const found = new Map();
    for (const entry of [...group.entries].reverse()) if (variants.has(entry.variant)) found.set(entry.variant, entry);
    for (const entry of contestants(group)) if (!order.has(entry.variant)) order.set(entry.variant, entry.label);
    return found;
  });
  const spans = [];
  for (const group of groups) {
    const last = spans[spans.length - 1];
    if (last && last.title === group.task_title) last.length += 1;
    else spans.push({ title: group.task_title, length: 1 });
  }
  const tops = h(
    "tr",
    {},
    h("td", {}),
    spans.map((span) => h("th", { colspan: span.length, scope: "colgroup" }, span.title)),
  );
  const heads = h(
    "tr",
    {},
    h("th", { scope: "col" }, "Method"),
    groups.map((group) =>
      h(
        "th",
        { scope: "col" },
        h(
          "a",
          { href: `#${group.id}`, title: group.protocol },
          group.label_fraction === 1 ? shortProtocol(group, groups) : percent(group.label_fraction),
        ),
        h("small", {}, arrow(group)),
      ),
    ),
  );
  const shown = [...order].slice(0, 60);
  const rows = shown.map(([variant, label]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, label),
      columns.map((column, place) => glanceCell(column.get(variant), groups[place])),
    ),
  );
  const rest = order.size - shown.length;
  const caption = h("caption", {}, name, rest ? ` (${plural(rest, "further method")} in the tables below)` : null);
  return h("table", { class: "glance" }, caption, h("thead", {}, tops, heads), h("tbody", {}, rows));
};

const shortProtocol = (group, groups) => {
  const same = groups.filter((other) => other.task === group.task && other.protocol === group.protocol);
  return same.length > 1 ? percent(group.label_fraction) : group.protocol;
};

const glanceCell = (entry, group) => {
  if (!entry || !known(entry.value)) return h("td", { class: "gone" }, entry ? scoreText(entry) : NONE);
  const values = contestants(group).map((other) => other.value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const share = high > low ? (entry.value - low) / (high - low) : 1;
  const first = entry.standing && entry.standing.rank === 1; // what may differ by noise alone from the best is shown as the best
  const near = first ? 1 : group.higher || high === low ? share : 1 - share;
  const button = h("button", { type: "button", onclick: () => showDetails(entry) }, number(entry.value));
  return h("td", { class: near === 1 ? "heat best" : "heat", style: { "--heat": `${Math.round(near * 100)}%` } }, button);
};
