// Everything behind one line, in a dialog: closed by Escape, and the focus goes back to where it was.
const details = h("dialog", { class: "details", "aria-labelledby": "details-title" });

const shared = (place) => board.table[place];

const showDetails = (entry) => {
  const { group } = entry;
  const close = h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => details.close() }, "×");
  fill(
    details,
    h(
      "div",
      { class: "top" },
      h("div", {}, h("p", { class: "kicker" }, group.name), h("h2", { id: "details-title" }, entry.label)),
      close,
    ),
    h("p", { class: "headline" }, h("b", {}, scoreText(entry)), ` ${arrow(group)} `, h("span", {}, detailRange(entry))),
    entry.reason ? h("p", { class: "reason" }, entry.reason) : null,
    entry.flags.length
      ? h(
          "p",
          {},
          entry.flags.map((flag) => h("span", { class: "flag" }, flag)),
        )
      : null,
    publishedBlock(entry.published),
    differenceLine(entry),
    known(entry.gpu_hours)
      ? h(
          "p",
          {},
          `${number(entry.gpu_hours)} GPU hours for pretraining and evaluation${group.higher && known(entry.value) ? `, ${rate(entry.value / entry.gpu_hours)} ${group.metric} for a GPU hour` : ""}.`,
        )
      : null,
    costBlock(entry),
    runBlocks(entry),
  );
  if (!details.open) details.showModal();
  details.scrollTop = 0;
  history.replaceState(null, "", `#result=${entry.keys[0]}`);
};

const detailRange = (entry) => {
  const parts = [];
  if (entry.interval) parts.push(`95 % interval ${range(...entry.interval)}`);
  if (known(entry.spread)) parts.push(`± ${number(entry.spread)} over ${plural(entry.keys.length, "seed")}`);
  if (entry.standing && known(entry.standing.rank)) parts.push(`rank ${rankText(entry.standing)}`);
  parts.push(`${entry.used} of ${entry.expected} rows`);
  return parts.join(" · ");
};

const publishedBlock = (published) =>
  published
    ? h(
        "div",
        { class: "box" },
        h("h3", {}, "Published"),
        h(
          "p",
          {},
          h("b", {}, published.text),
          " ",
          published.badges.map((badge) => h("span", { class: "badge" }, badge)),
        ),
        h(
          "ul",
          {},
          published.sources.map((source) => h("li", {}, source)),
        ),
      )
    : null;

const differenceLine = (entry) => {
  const gap = entry.standing && entry.standing.difference;
  if (!gap) return null;
  const adjusted = known(entry.standing.p_holm) ? `, p (Holm) ${number(entry.standing.p_holm)}` : "";
  return h(
    "p",
    {},
    `Paired difference to the best: ${signed(gap.value)} ${range(gap.low, gap.high)} over ${plural(gap.n, "patient")}${adjusted}`,
  );
};

const costPairs = (cost) => [
  ["device", cost.device],
  ["time", duration(cost.total)],
  ["step", known(cost.step_seconds) ? duration(cost.step_seconds) : null],
  ["images/s", rate(cost.images_per_second)],
  ["GPU GiB allocated", gib(cost.peak_allocated_mib)],
  ["GPU GiB reserved", gib(cost.peak_reserved_mib)],
  ["GPU GiB device", gib(cost.peak_device_mib)],
  ["host GiB", gib(cost.peak_host_mib)],
  ["parameters", count(cost.params)],
  ["GMACs", rate(cost.gmacs)],
  ["batch size", cost.batch_size],
];

const costBlock = (entry) => {
  const boxes = [
    ["Cost of the evaluation", costPairs(entry.cost)],
    ["Cost of the pretraining", costPairs(entry.pretraining || {})],
  ];
  return h(
    "div",
    { class: "boxes" },
    boxes.map(([title, list]) => {
      const found = pairs(list);
      return found ? h("section", { class: "box" }, h("h3", {}, title), found) : null;
    }),
  );
};

const runBlocks = (entry) => {
  if (!entry.runs)
    return h(
      "p",
      { class: "hint" },
      `Key ${entry.keys.join(", ")}. The details of single results stand in `,
      h("a", { href: "leaderboard.json" }, "leaderboard.json"),
      ", because this page would be too large with them.",
    );
  return entry.runs.map((run, place) =>
    h("details", { class: "run", open: place === 0 }, h("summary", {}, `Seed ${run.seed}`), runBody(entry, run)),
  );
};

const runBody = (entry, run) => {
  const spec = shared(run.spec);
  const split = Object.entries(shared(entry.group.splits)).map(([name, digest]) => [`${name} split`, digest]);
  const facts = [
    ["key", run.key],
    ["predictions sha256", run.predictions],
    ["weights", run.weights],
    ["seed", run.seed],
    ["evaluation seed", run.eval_seed],
    ["skipped rows", run.skipped],
    ["finished", run.finished],
  ];
  const specification = [
    ...Object.entries(spec),
    ["protocol", `${entry.group.protocol}@${entry.group.protocol_hash}`],
    ["data", `${entry.group.dataset} ${entry.group.dataset_version}`],
    ["labels", percent(entry.group.label_fraction)],
    ...split,
  ];
  const metrics = entry.group.metrics.map((name, place) => [name, metricText(run.metrics[place])]);
  const phases = Object.entries(run.seconds).map(([name, seconds]) => [`${name} time`, duration(seconds)]);
  const command = shared(run.command);
  const boxes = [
    ["Metrics", metrics],
    ["Specification", specification],
    ["Configuration", Object.entries(shared(run.config))],
    ["Result", facts],
    ["Phases", phases],
    ["Notes", Object.entries(shared(run.notes))],
    ["Environment", Object.entries(shared(run.environment))],
  ];
  return [
    command ? h("div", { class: "command" }, h("h3", {}, "Repeat it"), h("code", {}, command), copyButton(command)) : null,
    h(
      "div",
      { class: "boxes" },
      boxes.map(([title, list]) => {
        const found = pairs(list);
        return found ? h("section", { class: "box" }, h("h3", {}, title), found) : null;
      }),
    ),
  ];
};

const metricText = (item) => (Array.isArray(item) ? `${number(item[0])} ${range(item[1], item[2])}` : number(item));

const copyButton = (text) => {
  const button = h(
    "button",
    {
      type: "button",
      class: "quiet",
      onclick: async () => {
        try {
          await navigator.clipboard.writeText(text);
          button.textContent = "Copied";
        } catch {
          button.textContent = "Select and copy it by hand";
        }
      },
    },
    "Copy",
  );
  return button;
};

details.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
details.addEventListener("click", (event) => {
  if (event.target === details) details.close();
});
