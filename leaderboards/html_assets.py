"""The style and the script of the page. Both are allowed by their hash alone, so no other script can run."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f3f5f8; --card: #ffffff; --ink: #17202b; --soft: #5a6675; --line: #dfe4ea; --track: #e3e8ee;
  --accent: #0b6e75; --accent-soft: #d7eeee; --amber: #7a4b00; --amber-soft: #fff0d2; --red: #a3212b;
  --shade-0: #ffffff; --shade-1: #e6f3f3; --shade-2: #cbe6e6; --shade-3: #a9d5d6; --shade-4: #83c2c4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1318; --card: #171e26; --ink: #e8edf2; --soft: #9aa7b5; --line: #2a3440; --track: #2a3440;
    --accent: #55c6c8; --accent-soft: #12383b; --amber: #ffcf7d; --amber-soft: #3b2a0c; --red: #ff8f8f;
    --shade-0: #171e26; --shade-1: #16292f; --shade-2: #153a40; --shade-3: #144d52; --shade-4: #136267;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 4rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 1480px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 36px; }
h1 { font-size: clamp(1.5rem, 3.4vw, 2.5rem); line-height: 1.12; letter-spacing: -.02em; margin: 0; }
h2 { font-size: 1.3rem; letter-spacing: -.01em; margin: 34px 0 12px; }
h3 { font-size: 1.05rem; margin: 0; padding: 14px 18px 8px;
  display: flex; flex-wrap: wrap; gap: 6px 12px; align-items: center; }
h4, h5 { margin: 0 0 4px; font-size: .82rem; color: var(--soft); font-weight: 600; }
a { color: var(--accent); text-underline-offset: 3px; }
code { font: .86em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
small { font-size: .8rem; font-weight: 400; color: var(--soft); }
.lead { margin: 8px 0 14px; color: var(--soft); font-size: 1.1rem; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 0; padding: 0; list-style: none; color: var(--soft); }
.banner { margin: 16px 0 0; padding: 10px 16px; border-left: 5px solid currentColor; border-radius: 6px; font-weight: 600;
  color: var(--amber); background: var(--amber-soft); }
nav { position: sticky; top: 0; z-index: 3;
  display: flex; flex-wrap: wrap; gap: 8px 20px; align-items: center; margin-top: 18px;
  padding: 10px max(24px, calc((100% - 1432px) / 2)); background: var(--card); border-block: 1px solid var(--line); }
nav a { text-decoration: none; font-weight: 600; }
nav input { margin-left: auto; width: 260px; padding: 7px 12px; font: inherit; color: var(--ink); background: var(--page);
  border: 1px solid var(--line); border-radius: 8px; }
nav span { color: var(--soft); font-variant-numeric: tabular-nums; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; margin: 0 0 18px; overflow: hidden; }
.empty, footer .card { padding: 16px 18px; }
.empty { margin-top: 24px; }
.chips { display: inline-flex; flex-wrap: wrap; gap: 6px; }
.chips > * { padding: 1px 9px; border-radius: 99px; border: 1px solid var(--line); }
.chips .warn, .flag { color: var(--amber); background: var(--amber-soft); border-color: transparent; }
.flag { display: inline-block; margin: 1px 4px 1px 0; padding: 0 8px; border-radius: 99px; font-size: .8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 8px; text-align: right; white-space: nowrap; font-weight: 400; }
thead th { color: var(--soft); font-size: .8rem; font-weight: 600;
  vertical-align: bottom; border-bottom: 1px solid var(--line); }
th:first-child, .flags, .rows thead th:last-child { text-align: left; }
tbody th { font-weight: 600; white-space: normal; min-width: 12.5rem; overflow-wrap: anywhere; }
.rows th:first-child, .rows .more td, .glance th:first-child { padding-left: 18px; }
.rows tbody tr:first-child > * { border-top: 1px solid var(--line); }
.rows thead + tbody tr:first-child > * { border-top: 0; }
.rows tbody:hover { background: color-mix(in srgb, var(--accent-soft) 35%, transparent); }
thead button { all: unset; cursor: pointer; }
thead button:hover, th[aria-sort$=ending] { color: var(--accent); }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px; }
.score { font-weight: 700; font-size: 1.05rem; }
td:not(.plot) > small { display: block; line-height: 1.1; }
.none, .glance .gone { color: var(--soft); opacity: .7; }
.reference th, .reference .score { font-weight: 400; }
.undefined .score, .missing .score { color: var(--red); font-size: .95rem; }
.missing tr:first-child td:not(.score) { color: var(--soft); }
th.plot, td.plot { width: 208px; min-width: 206px; text-align: left; }
.axis { display: flex; justify-content: space-between; width: 190px; font-weight: 400; }
.axis i { font-style: normal; }
svg { display: block; width: 190px; height: 18px; }
.plot small { display: block; width: 190px; text-align: center; line-height: 1; }
.track { stroke: var(--track); stroke-width: 1.5; }
.interval, .spread { stroke: var(--accent); stroke-width: 7; stroke-opacity: .38; }
.spread { stroke-dasharray: 2 2; }
circle { fill: var(--accent); stroke: var(--card); stroke-width: 1.5; }
.reference circle { fill: var(--soft); } .reference line:not(.track) { stroke: var(--soft); }
.more td { padding-top: 0; padding-bottom: 9px; text-align: left; white-space: normal; }
.reason { margin: 0 0 4px; color: var(--red); overflow-wrap: anywhere; }
summary { cursor: pointer; font-size: .8rem; color: var(--soft); width: fit-content; }
summary b { color: var(--accent); font-weight: 600; margin-right: 12px; }
.run { margin-top: 10px; padding: 12px 14px; border-radius: 8px; background: var(--page); font-size: .86rem; }
.boxes { display: grid; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); gap: 14px 26px; }
dl { margin: 0; } dl div { display: flex; gap: 12px; justify-content: space-between; border-top: 1px solid var(--line); }
dt { color: var(--soft); } dd { margin: 0; text-align: right; overflow-wrap: anywhere; min-width: 0; }
.glance caption { text-align: left; padding: 14px 18px 4px; font-weight: 600; }
.glance th { vertical-align: top; } .glance th small { display: block; } .glance .metric { color: var(--ink); }
.glance td { border-top: 2px solid var(--card); border-left: 2px solid var(--card); font-weight: 600; }
.glance .gone { font-weight: 400; font-size: .82rem; }
.glance tbody th { border-top: 1px solid var(--line); }
.shade-0 { background: var(--shade-0); } .shade-1 { background: var(--shade-1); } .shade-2 { background: var(--shade-2); }
.shade-3 { background: var(--shade-3); } .shade-4 { background: var(--shade-4); }
.hint { margin: 0; padding: 8px 18px 12px; color: var(--soft); font-size: .82rem; }
footer { padding-bottom: 48px; color: var(--soft); } footer h2 { color: var(--ink); } footer li { margin: 4px 0; }
[hidden] { display: none !important; }
@media (max-width: 720px) {
  header, main, footer { padding-inline: 14px; }
  nav { padding-inline: 14px; gap: 6px 14px; } nav input { width: 100%; margin: 0; }
  html { scroll-padding-top: 8px; } nav { position: static; }
  .glance th:first-child { position: sticky; left: 0; background: var(--card); min-width: 8.5rem; }
  .rows thead { display: none; }
  .rows, .rows tbody, .rows tr, .rows th, .rows td { display: block; }
  .rows tbody { padding: 10px 0; border-top: 1px solid var(--line); }
  .rows tr:first-child { display: grid; grid-template-columns: 1fr 1fr 1fr; gap: 6px 12px; padding: 0 16px; }
  .rows tbody tr:first-child > * { padding: 0; border: 0; text-align: left; width: auto; min-width: 0; white-space: normal; }
  .rows tbody th { grid-column: span 2; align-self: end; } .rows .plot { grid-column: span 3; }
  .rows td.plot svg { width: 100%; height: auto; max-height: 26px; } .rows .plot small { width: 100%; }
  .rows td[data-label]::before { content: attr(data-label);
    display: block; font-size: .74rem; font-weight: 400; color: var(--soft); }
  .rows td.plot::before { content: none; } .rows td.none, .rows td:empty { display: none; }
  .rows .more td { padding: 6px 16px 0; }
}
@media print { nav, summary { display: none; } .card { break-inside: avoid; } body { background: none; } }
"""

SCRIPT = """
"use strict";
// Methods, references and rows without a score stay in this order whatever the column says.
const kinds = ["method", "reference", "undefined", "missing"];
const compare = (a, b) => {
  if (a === null || b === null) return (a === null) - (b === null);
  const x = Number(a), y = Number(b);
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
};
for (const table of document.querySelectorAll("table.rows")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "none" ? column > 0 : head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const bodies = [...table.tBodies].map((body) => {
        const cell = body.rows[0].cells[column];
        return { body, kind: kinds.indexOf(body.className), key: cell.getAttribute("data-key") };
      });
      // What was not measured comes last in both directions.
      const known = (a, b) => (a.key === null || b.key === null || !down ? compare(a.key, b.key) : compare(b.key, a.key));
      bodies.sort((a, b) => a.kind - b.kind || known(a, b));
      table.append(...bodies.map((item) => item.body));
    });
  });
}
const field = document.getElementById("filter");
if (field) {
  const shown = document.getElementById("shown");
  const filter = () => {
    const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let visible = 0, all = 0;
    for (const card of document.querySelectorAll("article")) {
      let here = 0;
      for (const body of card.querySelectorAll("tbody")) {
        const text = card.dataset.words + " " + body.dataset.words;
        body.hidden = !words.every((word) => text.includes(word));
        here += !body.hidden;
        all += 1;
      }
      card.hidden = here === 0;
      visible += here;
    }
    for (const section of document.querySelectorAll("section[id]")) {
      section.hidden = !section.querySelector("article:not([hidden])");
    }
    shown.textContent = words.length ? visible + " of " + all + " rows" : "";
  };
  field.hidden = false;
  field.addEventListener("input", filter);
  filter();
}
"""
