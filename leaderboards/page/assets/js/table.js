// One table of all results. Sorting moves lines inside their own group only: what cannot be compared is never in one order.
const COLUMNS = [
  { name: "Method", key: (entry) => entry.label.toLowerCase() },
  { name: "Score", key: (entry) => entry.value, hint: "the primary metric of the group" },
  { name: "95 % interval" },
  {
    name: "Rank",
    key: (entry) => (entry.standing ? entry.standing.rank : null),
    hint: "the ranks that the data allow; a shared range is a difference within noise",
    any: (entry) => entry.standing,
  },
  { name: "Seeds", key: (entry) => entry.keys.length, text: (entry) => String(entry.keys.length) },
  {
    name: "GPU GiB",
    key: (entry) => entry.cost.peak_allocated_mib,
    text: (entry) => gib(entry.cost.peak_allocated_mib),
    hint: "peak allocated GPU memory; reserved and device stand in the details",
  },
  {
    name: "Host GiB",
    key: (entry) => entry.cost.peak_host_mib,
    text: (entry) => gib(entry.cost.peak_host_mib),
    hint: "peak memory of the process",
  },
  {
    name: "Time",
    key: (entry) => entry.cost.total,
    text: (entry) => duration(entry.cost.total),
    hint: "sum over the phases of the evaluation",
  },
  { name: "Images/s", key: (entry) => entry.cost.images_per_second, text: (entry) => rate(entry.cost.images_per_second) },
  { name: "Params", key: (entry) => entry.cost.params, text: (entry) => count(entry.cost.params), hint: "parameters" },
  {
    name: "GMACs",
    key: (entry) => entry.cost.gmacs,
    text: (entry) => rate(entry.cost.gmacs),
    hint: "multiply-accumulates of one image, in units of 10⁹",
  },
  {
    name: "Pretraining",
    key: (entry) => (entry.pretraining || {}).total,
    text: (entry) => duration((entry.pretraining || {}).total),
    hint: "time of the pretraining",
  },
  {
    name: "GPU hours",
    key: (entry) => entry.gpu_hours,
    text: (entry) => number(entry.gpu_hours),
    hint: "pretraining and evaluation",
    any: (entry) => known(entry.gpu_hours),
  },
];
const KINDS = ["method", "reference", "undefined", "missing"];
const PAGE = window.matchMedia("(max-width: 720px)").matches ? 8 : 40; // lines of a group before "show all"

const sorting = { column: -1, down: false };
const open = new Set();

const compareKeys = (a, b) => {
  if (!known(a) || !known(b)) return known(b) - known(a); // what was not measured comes last in both directions
  const order = typeof a === "string" ? a.localeCompare(b) : a - b;
  return sorting.down ? -order : order;
};

const sorted = (entries, columns) => {
  if (sorting.column < 0) return entries;
  const { key } = columns[sorting.column];
  return [...entries].sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind) || compareKeys(key(a), key(b)));
};

const resultsSection = () => {
  const shown = h("p", { id: "shown", class: "hint", role: "status" });
  const columns = COLUMNS.filter((column) => !column.any || board.groups.some((group) => group.entries.some(column.any)));
  const table = h("table", { class: "rows" });
  const redraw = () => drawTable(table, columns, shown, redraw);
  const section = h(
    "section",
    { id: "results", "aria-labelledby": "results-title", tabindex: -1 },
    h("h2", { id: "results-title" }, "Results"),
    h(
      "p",
      { class: "lead" },
      "One block is one contest: the same data, split, protocol and share of labels. Sorting works inside a block. Choose a score for everything behind it.",
    ),
    filterForm(redraw),
    shown,
    h("div", { class: "card flush" }, scroller("Results", table)),
  );
  redraw();
  return section;
};

const drawTable = (table, columns, shown, redraw) => {
  const heads = columns.map((column, place) => {
    if (!column.key) return h("th", { scope: "col", class: "plot" }, column.name);
    const active = sorting.column === place;
    const click = () => {
      sorting.down = active ? !sorting.down : place > 0;
      sorting.column = place;
      redraw();
      table.tHead.rows[0].cells[place].firstChild.focus();
    };
    return h(
      "th",
      { scope: "col", "aria-sort": active ? (sorting.down ? "descending" : "ascending") : "none" },
      h("button", { type: "button", title: column.hint, onclick: click }, column.name),
    );
  });
  let [visible, all] = [0, 0];
  const bodies = board.groups.flatMap((group) => {
    all += group.entries.length;
    const fitting = groupFits(group) ? group.entries.filter(entryFits) : [];
    visible += fitting.length;
    return fitting.length ? [groupBody(group, sorted(fitting, columns), columns, redraw)] : [];
  });
  if (!bodies.length)
    bodies.push(
      h("tbody", {}, h("tr", {}, h("td", { colspan: columns.length, class: "nothing" }, "Nothing fits these filters."))),
    );
  fill(
    table,
    h("caption", { class: "visually-hidden" }, "Results by task, data set, protocol and share of labels"),
    h("thead", {}, h("tr", {}, heads)),
    bodies,
  );
  shown.textContent =
    visible === all
      ? `${plural(all, "line")} in ${plural(board.groups.length, "table")}`
      : `${visible.toLocaleString("en")} of ${plural(all, "line")}`;
};

const groupBody = (group, entries, columns, redraw) => {
  const axis = axisOf(group);
  const kept = open.has(group.id) ? entries : entries.slice(0, PAGE);
  const lines = kept.map((entry) => line(entry, group, columns, axis));
  if (kept.length < entries.length) {
    const more = h(
      "button",
      {
        type: "button",
        class: "quiet",
        onclick: () => {
          open.add(group.id);
          redraw();
        },
      },
      `Show all ${plural(entries.length, "line")}`,
    );
    lines.push(h("tr", { class: "more" }, h("td", { colspan: columns.length }, more)));
  }
  const chips = [
    `${group.dataset} ${group.dataset_version}`,
    `${percent(group.label_fraction)} of the labels`,
    `@${group.protocol_hash}`,
  ];
  const head = h(
    "th",
    { scope: "rowgroup", colspan: columns.length },
    h("span", { class: "task" }, group.task_title),
    h("span", { class: "protocol" }, group.protocol),
    h("span", { class: "metric" }, arrow(group)),
    chips.map((chip) => h("span", { class: "chip" }, chip)),
    group.banners.map((banner) => h("span", { class: "chip warn", title: banner }, banner.split(":")[0])),
    group.reasons.map((reason) => h("p", { class: "hint" }, reason)),
  );
  return h("tbody", { id: group.id }, h("tr", { class: "group" }, head), lines);
};

const line = (entry, group, columns, axis) => {
  const flags = entry.flags.length
    ? h(
        "span",
        { class: "flags" },
        entry.flags.map((flag) => h("span", { class: "flag" }, flag)),
      )
    : null;
  const name = h("th", { scope: "row" }, h(entry.kind === "reference" ? "em" : "span", { class: "name" }, entry.label), flags);
  const button = h(
    "button",
    {
      type: "button",
      "aria-haspopup": "dialog",
      "aria-label": `${entry.label}: ${scoreText(entry)}, details`,
      onclick: () => showDetails(entry),
    },
    scoreText(entry),
  );
  const score = h("td", { class: "score" }, button);
  // Where there is no result, its reason takes the room of the figures.
  if (entry.kind === "missing")
    return h("tr", { class: "missing" }, name, score, h("td", { class: "reason", colspan: columns.length - 2 }, entry.reason));
  const cells = columns.slice(2).map((column) => {
    if (column.name === "95 % interval") return h("td", { class: "plot" }, intervalPlot(entry, axis), belowPlot(entry));
    if (column.name === "Rank") return h("td", { "data-label": "Rank" }, rankText(entry.standing));
    const text = column.text(entry);
    return h("td", { "data-label": column.name, class: text === NONE ? "none" : null }, text);
  });
  return h("tr", { class: entry.kind }, name, score, cells);
};

const ends = (entry) => {
  if (entry.interval) return entry.interval;
  return known(entry.value) && known(entry.spread) ? [entry.value - entry.spread, entry.value + entry.spread] : null;
};

const extent = (entries) => {
  const values = entries
    .flatMap((entry) => [
      entry.value,
      ...(ends(entry) || []),
      ...(entry.published ? [entry.published.low, entry.published.high] : []),
    ])
    .filter(known);
  return values.length ? [Math.min(...values), Math.max(...values)] : [0, 0];
};

// The methods set the axis; a reference that lies further away than their whole span is an arrow at the edge.
const axisOf = (group) => {
  const [low, high] = extent(contestants(group));
  const span = high - low;
  if (!(span > 0)) return extent(group.entries);
  const near = group.entries.filter((entry) => known(entry.value) && entry.value >= low - span && entry.value <= high + span);
  return extent([...contestants(group), ...near]);
};

const intervalPlot = (entry, [low, high]) => {
  if (!known(entry.value) || high <= low) return null;
  const place = (value) => (4 + (132 * Math.min(Math.max(value - low, 0), high - low)) / (high - low)).toFixed(1);
  const span = ends(entry);
  const kind = entry.interval ? "interval" : "spread";
  const beyond = entry.value < low || entry.value > high;
  const said = [
    scoreText(entry),
    span ? `${kind} from ${number(span[0])} to ${number(span[1])}` : "",
    entry.published ? `published ${entry.published.text}` : "",
  ]
    .filter(Boolean)
    .join(", ");
  return h(
    "svg",
    { viewBox: "0 0 140 16", role: "img", "aria-label": said, class: "mini" },
    h("line", { class: "track", x1: 4, x2: 136, y1: 8, y2: 8 }),
    entry.published
      ? h("rect", {
          class: "published",
          x: place(entry.published.low),
          width: Math.max(2, place(entry.published.high) - place(entry.published.low)),
          y: 1,
          height: 14,
        })
      : null,
    span && !beyond ? h("line", { class: kind, x1: place(span[0]), x2: place(span[1]), y1: 8, y2: 8 }) : null,
    beyond
      ? h("path", { class: "beyond", d: entry.value > high ? "M131 4l6 4-6 4z" : "M9 4l-6 4 6 4z" })
      : h("circle", { cx: place(entry.value), cy: 8, r: 3.4 }),
  );
};

const belowPlot = (entry) => [
  entry.interval
    ? h("small", {}, range(...entry.interval))
    : known(entry.spread)
      ? h("small", {}, `± ${number(entry.spread)} over ${plural(entry.keys.length, "seed")}`)
      : null,
  entry.published ? entry.published.badges.map((badge) => h("span", { class: "badge" }, badge)) : null,
];
