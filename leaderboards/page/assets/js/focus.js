// Which table the charts speak of, and which methods they highlight (at most four, told apart by colour, symbol and dash).
const focusBar = () => {
  const groups = board.groups.filter((group) => contestants(group).length);
  const select = options(
    h("select", { id: "focus" }),
    groups.map((group) => [String(group.place), group.name]),
    String(state.focus),
  );
  select.addEventListener("change", () => {
    state.focus = Number(select.value);
    changed();
  });
  const chips = h("div", { class: "marks", role: "group", "aria-label": "Highlight methods" });
  const redraw = () => {
    const had =
      document.activeElement && chips.contains(document.activeElement) ? document.activeElement.dataset.variant : null;
    fill(
      chips,
      [...variants].slice(0, 40).map(([variant, label]) => {
        const place = state.marked.indexOf(variant);
        return h(
          "button",
          {
            type: "button",
            "data-variant": variant,
            "aria-pressed": String(place >= 0),
            style: { "--c": place >= 0 ? COLOURS[place] : "transparent" },
            onclick: () => mark(variant),
          },
          h("i", { "aria-hidden": "true" }),
          label,
        );
      }),
    );
    if (had !== null) chips.querySelector(`[data-variant="${had}"]`)?.focus();
  };
  state.listeners.push(redraw);
  redraw();
  return h("div", { class: "focus card" }, field("Charts show", select), chips);
};

const startingFocus = () => {
  // The contest that most methods share; of equal ones the one with most to show beside it.
  const worth = (group) =>
    contestants(group).length * 10 +
    (contestants(group).some((entry) => entry.subgroups) ? 2 : 0) +
    (group.metrics.some((name) => name.includes("/")) ? 1 : 0) +
    (board.groups.some((other) => other !== group && other.series === group.series) ? 1 : 0) +
    group.label_fraction;
  state.focus = board.groups.reduce((best, group) => (worth(group) > worth(board.groups[best]) ? group.place : best), 0);
  state.marked = contestants(focused())
    .slice(0, 3)
    .map((entry) => entry.variant);
};

const closerLook = () => {
  if (!variants.size) return null;
  const panels = [
    costPanel(),
    differencesPanel(),
    efficiencyPanel(),
    findingsPanel(),
    metricsPanel(),
    subgroupsPanel(),
    calibrationPanel(),
    promptsPanel(),
    examplesPanel(),
    curvesPanel(),
  ].filter(Boolean);
  return h(
    "section",
    { id: "closer", "aria-labelledby": "closer-title" },
    h("h2", { id: "closer-title" }, "A closer look"),
    h(
      "p",
      { class: "lead" },
      "Choose a table and up to four methods; every chart follows. The same figures stand as a table below each chart.",
    ),
    focusBar(),
    h("div", { class: "panels" }, panels),
  );
};
