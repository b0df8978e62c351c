"""Results for the Hugging Face hub: a model card with a model-index for each method, and `.eval_results` files.

Formats: the model-index of a card (huggingface_hub.EvalResult) and `.eval_results/*.yaml` (huggingface_hub.EvalResultEntry),
both written by huggingface_hub itself. Nothing is uploaded.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]

from benchmark.errors import UserError
from benchmark.store import write
from leaderboards.markdown import escape
from leaderboards.rows import Entry, Group, group_rows, make_row
from leaderboards.schema import load
from leaderboards.text import arrow, clean, number, percent, task_title

FOLDER = "huggingface"
_TASK_TYPES = {  # task names of the hub, where it has one
    "retrieval": "image-text-retrieval",
    "zeroshot": "zero-shot-image-classification",
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
Lines = Sequence[tuple[Group, Entry]]


def write_huggingface(out: Path, hub_datasets: Mapping[str, str]) -> list[Path]:
    """Writes `<out>/huggingface/<method>/README.md` and `.eval_results/<task>.yaml` for every method with a score.

    Args:
        hub_datasets: our data set -> id of its benchmark on the hub (OWNER/NAME). A result of another data set stands in the
            card alone: `.eval_results` names a data set of the hub, and none is guessed.

    Returns:
        The paths, sorted.

    Raises:
        UserError: no score to export, an id that is none, or a folder that cannot be written.
    """
    for name, identifier in hub_datasets.items():
        if not _HUB_ID.fullmatch(identifier):
            raise UserError(f"--hub-dataset {name}={identifier}: an id on the hub reads OWNER/NAME")
    groups = group_rows(map(make_row, load(out / "results")[0]))
    files = huggingface_files(groups, hub_datasets)
    if not files:
        raise UserError(f"{out} has no result with a score of a method; `run` makes some, `report` shows what there is")
    paths = sorted(out / FOLDER / name for name in files)
    for name, text in files.items():
        write(out / FOLDER / name, text.encode())
    return paths


def huggingface_files(groups: Sequence[Group], hub_datasets: Mapping[str, str]) -> dict[str, str]:
    """Path below `<out>/huggingface` -> text, for every method of the board; references are not exported."""
    methods: dict[tuple[str, ...], list[tuple[Group, Entry]]] = defaultdict(list)
    for group in groups:
        for entry in group.entries:
            if entry.kind == "method":
                methods[entry.first.variant].append((group, entry))
    files: dict[str, str] = {}
    for lines in methods.values():
        folder = _folder(lines[0][1].first.method, files)
        files[f"{folder}/README.md"] = model_card(lines)
        for task in dict.fromkeys(group.first.task for group, _ in lines):
            chosen = [(group, entry) for group, entry in lines if group.first.task == task]
            if found := eval_results(chosen, hub_datasets):
                files[f"{folder}/.eval_results/{_slug(task)}.yaml"] = found
    return files


def model_card(lines: Lines) -> str:
    """A model card of one method: metadata with its model-index, and the same figures as a table.

    A licence, a base model and a language are not known here and are left out.
    """
    title = clean(lines[0][1].first.title)
    data = ModelCardData(
        model_name=title or "unnamed",
        tags=["chest-x-ray", "vision-language-pretraining", "medical"],
        eval_results=[found for group, entry in lines for found in _model_index(group, entry)],
    )
    head = ("Task", "Data", "Protocol", "Labels", "Metric", "Value", "95 % interval", "Seeds", "Flags")
    table = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    table += [f"| {' | '.join(escape(text) for text in _card_line(group, entry))} |" for group, entry in lines]
    banners = dict.fromkeys(banner for group, _ in lines for banner in group.banners)
    commands = dict.fromkeys(clean(row.command) for _, entry in lines for row in entry.rows if row.command)
    parts = [f"---\n{data.to_yaml()}\n---", f"# {escape(title)}", *(f"> **{escape(banner)}**" for banner in banners)]
    parts += [
        "Results of the chest X-ray vision-language benchmark. Intervals are over patients; values of several seeds are means."
    ]
    parts += ["\n".join(table), "Values are comparable only under the same protocol hash, data version and share of labels."]
    if commands:
        parts += ["## Repeat it", "\n".join(f"    {command}" for command in commands)]
    return "\n\n".join(parts) + "\n"


def eval_results(lines: Lines, hub_datasets: Mapping[str, str]) -> str:
    """One `.eval_results` file: the primary metric of every line whose data set has a benchmark on the hub; "" for none.

    Results on the phantom and on development data are never in it.
    """
    entries = [
        EvalResultEntry(
            dataset_id=hub_datasets[group.first.dataset],
            task_id=_slug(f"{group.first.protocol}-{percent(group.first.label_fraction)}"),
            value=_short(entry.value),
            date=max(row.finished for row in entry.rows) or None,
            notes=_notes(group, entry),
        )
        for group, entry in lines
        if group.first.dataset in hub_datasets and not group.banners and entry.value is not None
    ]
    return yaml_dump(eval_result_entries_to_yaml(entries)) if entries else ""


def _notes(group: Group, entry: Entry) -> str:
    row = group.first
    parts = [f"{group.metric} under {row.protocol}@{row.protocol_hash}, {percent(row.label_fraction)} of the labels"]
    if entry.interval:
        parts.append(f"95 % interval {number(entry.interval[0])} to {number(entry.interval[1])}")
    if entry.spread is not None:
        parts.append(f"mean of {len(entry.rows)} seeds, standard deviation {number(entry.spread)}")
    return clean("; ".join([*parts, *entry.flags]))


def _model_index(group: Group, entry: Entry) -> list[EvalResult]:
    """One EvalResult a metric over all findings: the primary one from the line, others as the mean over the seeds."""
    row = entry.first
    names = [name for name in row.metrics if "/" not in name]
    found = []
    for name in sorted(names, key=lambda name: name != row.metric):
        values = [item.metrics.get(name, {}).get("value") for item in entry.rows]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            continue
        found.append(
            EvalResult(
                task_type=_TASK_TYPES.get(row.task, clean(row.task)),
                task_name=task_title(clean(row.task)),
                dataset_type=clean(row.dataset),
                dataset_name=clean(" ".join([row.dataset, row.dataset_version, *(f"({text})" for text in group.banners)])),
                # Results under another protocol, share or split are another data set to the hub, or it would join them.
                dataset_config=clean(f"{row.protocol}@{row.protocol_hash}, {percent(row.label_fraction)} of the labels"),
                dataset_split="test",
                dataset_args={"splits": {clean(key): clean(digest) for key, digest in sorted(row.spec["splits"].items())}},
                metric_type=clean(name),
                metric_value=_short(sum(known) / len(known)),
                metric_args=_metric_args(entry, name),
            )
        )
    return found


def _metric_args(entry: Entry, name: str) -> dict[str, float | int]:
    """The 95 % interval of a single run, or the number of seeds."""
    metric = entry.first.metrics[name]
    if len(entry.rows) > 1:
        return {"seeds": len(entry.rows)}
    bounds = {"low": _short(metric["low"]), "high": _short(metric["high"])} if metric["low"] is not None else {}
    return {**bounds, "patients": metric["n"]}


def _short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


def _card_line(group: Group, entry: Entry) -> tuple[str, ...]:
    row = group.first
    interval = "" if entry.interval is None else f"[{number(entry.interval[0])}, {number(entry.interval[1])}]"
    seeds = f"{len(entry.rows)}" if entry.spread is None else f"{len(entry.rows)} (±{number(entry.spread)})"
    shared = (task_title(row.task), f"{row.dataset} {row.dataset_version}", f"{row.protocol}@{row.protocol_hash}")
    return (*shared, percent(row.label_fraction), arrow(group), number(entry.value), interval, seeds, " ".join(entry.flags))


def _folder(method: str, files: Mapping[str, str]) -> str:
    """A folder name of its own that is safe on every file system."""
    taken = {name.partition("/")[0] for name in files}
    stem = _slug(method)
    return next(name for name in (stem, *(f"{stem}-{place}" for place in range(2, len(taken) + 3))) if name not in taken)


def _slug(text: str) -> str:
    """Small letters, digits and hyphens only: no path can hide in it."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "unnamed"
