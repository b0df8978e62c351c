// What of the results is shown: words, task, data set, protocol, share of labels, cost.
const filters = { words: "", task: "", dataset: "", protocol: "", labels: "", memory: "", time: "", references: true };

const memoryOf = (entry) => (known(entry.cost.peak_allocated_mib) ? entry.cost.peak_allocated_mib : entry.cost.peak_host_mib);

const groupFits = (group) =>
  (!filters.task || group.task === filters.task) &&
  (!filters.dataset || `${group.dataset} ${group.dataset_version}` === filters.dataset) &&
  (!filters.protocol || `${group.protocol}@${group.protocol_hash}` === filters.protocol) &&
  (!filters.labels || percent(group.label_fraction) === filters.labels);

const within = (value, most) => most === "" || (known(value) && value <= Number(most));

const entryFits = (entry) => {
  if (!filters.references && entry.kind === "reference") return false;
  if (!within(memoryOf(entry), filters.memory === "" ? "" : filters.memory * 1024)) return false;
  if (!within(entry.cost.total, filters.time === "" ? "" : filters.time * 60)) return false;
  const text =
    `${entry.label} ${entry.status} ${entry.kind} ${entry.flags.join(" ")} ${entry.group.name} ${entry.group.protocol_hash}`.toLowerCase();
  return filters.words
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
};

const filterForm = (redraw) => {
  const form = h("form", {
    class: "filters",
    role: "search",
    "aria-label": "Filter the results",
    onsubmit: (event) => event.preventDefault(),
  });
  const set =
    (name, read = (control) => control.value) =>
    (event) => {
      filters[name] = read(event.target);
      redraw();
    };
  const choice = (name, label, values) => {
    const found = [...new Set(values)];
    const select = h("select", { id: `filter-${name}`, onchange: set(name) });
    return field(
      label,
      options(select, [["", "all"], ...found.map((value) => (Array.isArray(value) ? value : [value, value]))], ""),
    );
  };
  const tasks = new Map(board.groups.map((group) => [group.task, group.task_title]));
  const limit = (name, label, hint) =>
    field(
      label,
      h("input", {
        id: `filter-${name}`,
        type: "number",
        min: 0,
        step: "any",
        inputmode: "decimal",
        placeholder: "any",
        title: hint,
        oninput: set(name),
      }),
    );
  const references = h("input", {
    id: "filter-references",
    type: "checkbox",
    checked: true,
    onchange: set("references", (control) => control.checked),
  });
  form.append(
    field("Search", h("input", { id: "filter-words", type: "search", placeholder: "method, flag …", oninput: set("words") })),
    choice("task", "Task", [...tasks]),
    choice(
      "dataset",
      "Data set",
      board.groups.map((group) => `${group.dataset} ${group.dataset_version}`),
    ),
    choice(
      "protocol",
      "Protocol",
      board.groups.map((group) => `${group.protocol}@${group.protocol_hash}`),
    ),
    choice(
      "labels",
      "Labels",
      board.groups.map((group) => percent(group.label_fraction)),
    ),
    limit("memory", "Memory ≤ GiB", "peak GPU memory, or memory of the process where there was no GPU"),
    limit("time", "Time ≤ min", "sum over the phases of the evaluation"),
    h("label", { class: "check" }, references, "references"),
    h(
      "button",
      {
        type: "reset",
        class: "quiet",
        onclick: () =>
          setTimeout(() => {
            Object.assign(filters, {
              words: "",
              task: "",
              dataset: "",
              protocol: "",
              labels: "",
              memory: "",
              time: "",
              references: true,
            });
            redraw();
          }),
      },
      "Reset",
    ),
  );
  return form;
};
