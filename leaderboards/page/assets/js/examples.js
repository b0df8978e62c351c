// A few images of the synthetic set with the reports that a method ranks first for them.
const exampleTables = () => board.groups.filter((group) => group.examples);

const examplesPanel = () => {
  const most = Math.max(0, ...exampleTables().map((group) => group.examples.length));
  if (!most) return null;
  const select = options(
    h("select", { id: "example-query" }),
    Array.from({ length: most }, (_, at) => [String(at), `${at + 1} of ${most}`]),
    "0",
  );
  const card = panel({
    id: "examples",
    title: "Retrieval examples",
    wide: true,
    how: "One synthetic image with its own report, and the three reports that each highlighted method ranks first for it, with their similarity. Images are fixed and evenly spaced in the test split, not chosen; of several seeds the first is shown. Similarities of different methods have no common scale.",
    controls: h("div", { class: "controls" }, field("Image", select)),
    build: () => drawExamples(Number(select.value)),
  });
  select.addEventListener("change", changed);
  return card;
};

const drawExamples = (at) => {
  const group = focused();
  if (!group.examples) return nothing("This table has no retrieval examples. Choose a retrieval table of the phantom above.");
  const query = group.examples[at];
  if (!query) return nothing("This table has fewer examples.");
  const entries = contestants(group)
    .filter((entry) => strong(entry) && entry.examples?.[at])
    .sort((a, b) => slot(a) - slot(b));
  return h(
    "div",
    { class: "examples" },
    h(
      "div",
      { class: "query" },
      h("img", { src: query.image, alt: `Synthetic chest X-ray ${query.uid}`, width: 144, height: 144 }),
      h("h4", {}, "Its own report", h("small", {}, query.uid)),
      h("p", {}, board.table[query.report]),
    ),
    entries.length ? entries.map((entry) => foundReports(entry, entry.examples[at])) : nothing("No examples of the highlighted methods."),
  );
};

const foundReports = (entry, { rank: [rank, tied, candidates], found }) =>
  h(
    "div",
    { class: "found", style: { "--c": colour(entry) } },
    h(
      "h4",
      {},
      h("i", { class: SYMBOLS[slot(entry)], "aria-hidden": "true" }),
      entry.label,
      h("small", {}, `own report at rank ${rank} of ${candidates}${tied ? `, tied with ${tied}` : ""}`),
    ),
    h(
      "ol",
      {},
      found.map(([text, score, right]) =>
        h(
          "li",
          { class: right ? "right" : null },
          h("span", { class: "similarity" }, number(score)),
          right ? h("span", { class: "badge" }, "✓ own report") : null,
          h("p", {}, board.table[text]),
        ),
      ),
    ),
  );
