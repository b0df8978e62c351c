// What the reader has chosen. Panels redraw when it changes.
const board = JSON.parse(document.getElementById("data").textContent);

board.groups.forEach((group, place) => {
  group.place = place;
  group.id = `table-${place}`;
  group.name = [
    group.task_title,
    group.protocol,
    group.dataset,
    ...(group.label_fraction === 1 ? [] : [percent(group.label_fraction)]),
  ].join(" · ");
  group.entries.forEach((entry, line) => Object.assign(entry, { group, id: `${place}-${line}` }));
});

const contestants = (group) => group.entries.filter((entry) => entry.kind === "method");

const COLOURS = ["var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)"];
const SYMBOLS = ["circle", "square", "triangle", "diamond"];
const DASHES = ["none", "6 3", "2 3", "8 3 2 3"];

const state = { focus: 0, marked: [], listeners: [] };

// Methods by variant, in the order in which the tables list them.
const variants = new Map();
for (const group of board.groups)
  for (const entry of contestants(group)) if (!variants.has(entry.variant)) variants.set(entry.variant, entry.label);

const focused = () => board.groups[state.focus];

const changed = () => state.listeners.forEach((listener) => listener());

const mark = (variant) => {
  const place = state.marked.indexOf(variant);
  if (place >= 0) state.marked[place] = null;
  else if (state.marked.includes(null)) state.marked[state.marked.indexOf(null)] = variant;
  else if (state.marked.length < COLOURS.length) state.marked.push(variant);
  else state.marked[COLOURS.length - 1] = variant;
  changed();
};

// A line of several seeds under a name that says of which seed a part of the analysis is.
const ofSeed = (part) => (entry) =>
  known(entry[`${part}_seed`]) ? { ...entry, label: `${entry.label}, seed ${entry[`${part}_seed`]}` } : entry;
const slot = (entry) => state.marked.indexOf(entry.variant);
const colour = (entry) => (slot(entry) >= 0 ? COLOURS[slot(entry)] : "var(--quiet)");
