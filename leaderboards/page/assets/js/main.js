// The page from top to bottom.
const EMPTY = "No results yet: run `python -m benchmark run --method mcr --task all` first, then `python -m benchmark report`.";

const header = () => {
  const tasks = new Set(board.groups.map((group) => group.task));
  const sets = new Set(board.groups.map((group) => `${group.dataset} ${group.dataset_version}`));
  const facts = [
    plural(board.methods, "method"),
    plural(tasks.size, "task family", "task families"),
    plural(sets.size, "data set"),
    plural(board.groups.length, "table"),
    plural(board.results, "result"),
  ];
  if (board.latest) facts.push(`last one ${board.latest.slice(0, 16).replace("T", " ")} UTC`);
  const links = [
    ["#glance", "At a glance"],
    ["#results", "Results"],
    ["#closer", "A closer look"],
    ["#reading", "How to read it"],
  ];
  return h(
    "header",
    {},
    h(
      "div",
      { class: "wrap" },
      h("p", { class: "kicker" }, "Vision-language pretraining on chest X-rays and reports"),
      h("h1", {}, "Leaderboard"),
      h("p", { class: "lead" }, "Score, interval, memory and time of every method, one protocol a table."),
      board.groups.length
        ? h(
            "ul",
            { class: "facts" },
            facts.map((fact) => h("li", {}, fact)),
          )
        : null,
      board.banners.map((banner) => h("p", { class: "banner" }, banner)),
      subsetBanner(),
    ),
    board.groups.length
      ? h(
          "nav",
          { "aria-label": "Sections" },
          h(
            "div",
            { class: "wrap" },
            links.map(([href, text]) => h("a", { href }, text)),
          ),
        )
      : null,
  );
};

const subsetBanner = () => {
  if (board.runs || !board.groups.length) return null;
  const lines =
    board.lines < board.all_lines
      ? `the best ${board.lines.toLocaleString("en")} of ${board.all_lines.toLocaleString("en")} lines`
      : "every line, without the details of single results";
  return h(
    "p",
    { class: "banner", id: "subset" },
    `This page shows ${lines}, to stay small; `,
    h("a", { href: "leaderboard.json" }, "leaderboard.json"),
    " has everything.",
  );
};

const reading = () =>
  h(
    "section",
    { id: "reading", "aria-labelledby": "reading-title" },
    h("h2", { id: "reading-title" }, "How to read it"),
    h(
      "ul",
      {},
      board.notes.map((note) => h("li", {}, note)),
    ),
    board.left_out.length
      ? [
          h("h3", {}, "Left out"),
          h(
            "ul",
            {},
            board.left_out.map((text) => h("li", {}, text)),
          ),
        ]
      : null,
  );

const openLinked = () => {
  const key = new URLSearchParams(location.hash.slice(1)).get("result");
  if (!key) return;
  for (const group of board.groups)
    for (const entry of group.entries) if (entry.keys.includes(key)) return void showDetails(entry);
};

if (board.groups.length) startingFocus();
const page = board.groups.length
  ? [header(), h("main", {}, glance(), resultsSection(), closerLook(), reading()), details]
  : [
      header(),
      h(
        "main",
        {},
        h("section", { id: "results", tabindex: -1 }, h("p", { class: "card nothing" }, EMPTY)),
        board.left_out.length ? reading() : null,
      ),
    ];
document.getElementById("board").replaceWith(...page.filter(Boolean));
changed();
openLinked();
window.addEventListener("hashchange", openLinked);
