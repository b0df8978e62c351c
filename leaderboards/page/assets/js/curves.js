// How the pretrainings went: one line a run, from the log of every step.
const curvesPanel = () => {
  const terms = [...new Set(board.curves.flatMap((run) => Object.keys(run.series)))];
  if (!terms.length) return null;
  const first = terms.includes("total") ? "total" : terms[0];
  const select = options(
    h("select", { id: "curve-term" }),
    terms.map((name) => [name, name.replaceAll("_", " ")]),
    first,
  );
  const card = panel({
    id: "curves",
    title: "Pretraining curves",
    how: "Means over stretches of steps. The highlighted methods are in colour; every seed is a line.",
    controls: h("div", { class: "controls" }, field("Term", select)),
    build: (width) => drawCurves(width, select.value),
  });
  select.addEventListener("change", changed);
  return card;
};

const drawCurves = (width, term) => {
  const runs = board.curves.filter((run) => (run.series[term] || []).length);
  if (!runs.length) return nothing("No pretraining logged this term.");
  const ordered = [...runs].sort((a, b) => strong(a) - strong(b)); // the highlighted ones are drawn last
  const points = ordered.flatMap((run, place) => run.series[term].map(([x, y]) => ({ run, place, x, y })));
  const drawn = plot(`${term} of ${plural(runs.length, "pretraining")} over the steps`, {
    width,
    height: 300,
    marginLeft: 56,
    marginBottom: 42,
    marginTop: 28,
    x: { label: "step →", labelAnchor: "right", ticks: Math.min(7, width / 80) },
    y: { label: term.replaceAll("_", " "), grid: true, nice: true, ticks: 6 },
    marks: [
      ...ordered.map((run, place) =>
        Plot.line(
          points.filter((point) => point.place === place),
          { x: "x", y: "y", stroke: colour(run), strokeWidth: strong(run) ? 2 : 1.1, strokeOpacity: strong(run) ? 1 : 0.6 },
        ),
      ),
      Plot.tip(
        points,
        Plot.pointer({
          x: "x",
          y: "y",
          title: (point) => `${point.run.label}\n${number(point.y)} at step ${point.x}`,
          fill: "var(--card)",
          stroke: "var(--line)",
        }),
      ),
    ],
  });
  const ends = (run) => [run.series[term][0], run.series[term][run.series[term].length - 1]];
  const rows = runs.map((run) => [run.label, ...ends(run).flatMap(([step, value]) => [String(step), number(value)])]);
  return [drawn, asTable("Pretraining curves", ["Pretraining", "First step shown", term, "Last step shown", term], rows)];
};
