// A panel: a title, one sentence on how to read it, a drawing by Observable Plot and the same figures as a table.
const panel = ({ id, title, how, wide = false, controls = null, build }) => {
  const body = h("div", { class: "body" });
  const card = h(
    "figure",
    { class: wide ? "card panel wide" : "card panel", id, "aria-labelledby": `${id}-title` },
    h("figcaption", {}, h("h3", { id: `${id}-title` }, title), h("p", {}, how)),
    controls,
    body,
  );
  let last = 0;
  const redraw = () => {
    const width = Math.max(280, Math.floor(body.clientWidth));
    last = width;
    const opened = body.querySelector("details")?.open;
    fill(body, build(width));
    if (opened && body.querySelector("details")) body.querySelector("details").open = true;
  };
  new ResizeObserver(() => {
    if (Math.abs(Math.floor(body.clientWidth) - last) > 4) requestAnimationFrame(redraw);
  }).observe(body);
  state.listeners.push(redraw);
  return card;
};

// Plot writes its style into the drawing; the page's own style says the same, and the policy of the page allows no other.
const plot = (said, settings) => {
  const drawn = Plot.plot({
    className: "chart",
    style: { fontFamily: "inherit", fontSize: "12px", background: "none", color: "var(--soft)", overflow: "visible" },
    ...settings,
  });
  drawn.querySelector("style")?.remove();
  for (const part of drawn.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label"); // the drawing is one picture with one text
  drawn.setAttribute("role", "img");
  drawn.setAttribute("aria-label", said);
  return drawn;
};

const asTable = (caption, head, rows) =>
  h(
    "details",
    { class: "figures" },
    h("summary", {}, "The figures as a table"),
    scroller(
      caption,
      h(
        "table",
        { class: "plain" },
        h("caption", { class: "visually-hidden" }, caption),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            head.map((name) => h("th", { scope: "col" }, name)),
          ),
        ),
        h(
          "tbody",
          {},
          rows.map(([name, ...cells]) =>
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
  );

const nothing = (text) => h("p", { class: "nothing" }, text);

const legend = (entries) => {
  const kept = entries.filter((entry) => slot(entry) >= 0).sort((a, b) => slot(a) - slot(b));
  return kept.length
    ? h(
        "p",
        { class: "legend" },
        kept.map((entry) =>
          h(
            "span",
            { style: { "--c": colour(entry) } },
            h("i", { class: SYMBOLS[slot(entry)], "aria-hidden": "true" }),
            entry.label,
          ),
        ),
      )
    : null;
};

// The name of an entry beside its drawing; those that are not highlighted stay quiet.
const strong = (entry) => slot(entry) >= 0;
