"""How numbers and names read in every format, and the columns that the formats share. Cells here are not escaped yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from leaderboards.rows import TASKS, Entry, Group

NONE = "—"  # not measured or undefined; never 0
EMPTY = "No results yet: run `python -m benchmark run --method mcr --task all` first, then `python -m benchmark report`."
MEMORY = "peak GPU memory: allocated / reserved / device"
COLUMNS = (
    "95 % interval",
    "Seeds",
    "Rows",
    "GPU GiB",
    "Host MiB",
    "Time",
    "Images/s",
    "Parameters",
    "GMACs",
    "Pretraining",
    "Flags",
)
_TITLES = dict(zip(TASKS, ("Retrieval", "Zero-shot classification", "Linear classification", "Segmentation", "Detection")))


def clean(value: object) -> str:
    """One printable line: control characters, line ends, direction marks and lone surrogates become spaces."""
    text = str(value)
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def number(value: float | None) -> str:
    """Three decimals below 10, one below 1,000, none above."""
    if value is None:
        return NONE
    size = abs(value)
    if size < 10:
        return f"{value:.3f}"
    return f"{value:.1f}" if size < 1000 else f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """Seconds below two minutes, minutes below two hours, then hours."""
    if seconds is None:
        return NONE
    if seconds < 119.95:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 119.95 else f"{minutes / 60:.1f} h"


def count(value: float | None) -> str:
    """A count with its metric prefix: 85.8 M."""
    if value is None:
        return NONE
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {prefix}"
    return f"{value:.0f}"


def rate(value: float | None) -> str:
    """Images per second, or GMACs: three digits are enough."""
    return NONE if value is None else f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def mib(value: float | None) -> str:
    """Whole MiB."""
    return NONE if value is None else f"{value:.0f}"


def gib(value: float | None) -> str:
    """MiB as GiB with two decimals."""
    return NONE if value is None else f"{value / 1024:.2f}"


def gpu_memory(entry: Entry, phase: str = "cost") -> str:
    """allocated / reserved / device in GiB; one dash where there was no GPU."""
    peaks = [entry.cost(f"peak_{name}_mib", phase) for name in ("allocated", "reserved", "device")]
    return NONE if all(peak is None for peak in peaks) else " / ".join(gib(peak) for peak in peaks)


def interval(entry: Entry) -> str:
    """[low, high] of a single run."""
    return f"[{number(entry.interval[0])}, {number(entry.interval[1])}]" if entry.interval else NONE


def seeds(entry: Entry) -> str:
    """Standard deviation and number of seeds."""
    return f"{len(entry.rows)}" if entry.spread is None else f"±{number(entry.spread)} ({len(entry.rows)})"


def score(entry: Entry) -> str:
    """The value; the status of a row that has none; "undefined" where the metric is."""
    if entry.first.status != "ok":
        return entry.first.status
    return "undefined" if entry.value is None else number(entry.value)


def pretraining(entry: Entry) -> str:
    """Time and peak allocated GPU memory of the pretraining."""
    parts = [duration(entry.cost("total", "pretraining")), gib(entry.cost("peak_allocated_mib", "pretraining"))]
    known = [part for part in parts if part != NONE]
    return NONE if not known else known[0] if len(known) == 1 else f"{known[0]} ({known[1]} GiB)"


def remarks(entry: Entry) -> str:
    """Flags, then why there is no score."""
    return "; ".join([*entry.flags, *([entry.first.reason] if entry.first.reason else [])])


def cells(entry: Entry) -> tuple[str, ...]:
    """The line of an entry under (method, metric, *COLUMNS)."""
    used, expected = (sum(getattr(row, name) for row in entry.rows) for name in ("n_used", "n_expected"))
    rows = NONE if not expected else f"{used // len(entry.rows)}" if used == expected else f"{used} of {expected}"
    cost = (count(entry.cost("params")), rate(entry.cost("gmacs")), pretraining(entry))
    work = (
        gpu_memory(entry),
        mib(entry.cost("peak_host_mib")),
        duration(entry.cost("total")),
        rate(entry.cost("images_per_second")),
    )
    return (entry.label, score(entry), interval(entry), seeds(entry), rows, *work, *cost, remarks(entry))


def rank(entry: Entry) -> str:
    """The shared rank of a method; a dash where it has none."""
    return (entry.standing.text if entry.standing is not None else "") or NONE


def ranked(group: Group) -> bool:
    """Whether any line has a rank."""
    return group.ranked


def arrow(group: Group) -> str:
    """The primary metric with the direction that is better."""
    return f"{group.metric} {'↑' if group.higher_is_better else '↓'}" if group.metric else "score"


def task_title(task: str) -> str:
    """The task's name for people."""
    return _TITLES.get(task, task)


def percent(fraction: float) -> str:
    """A label fraction: 0.01 -> 1 %."""
    return f"{100 * fraction:.4g} %"


def subtitle(group: Group) -> str:
    """What the rows of a group share."""
    row = group.first
    return (
        f"{row.dataset} {row.dataset_version}, {row.protocol}@{row.protocol_hash}, {percent(row.label_fraction)} of the labels"
    )


def notes(groups: Sequence[Group]) -> list[str]:
    """How to read the tables."""
    lines = [
        "Rows are compared only within one table: the same dataset, split, protocol hash and label fraction. "
        "They are sorted by value; where intervals overlap, the order may be noise.",
        "Intervals are 95 % over patients; the notes of each result name their kind. "
        "References (trivial rows and oracles) stand in italics after the methods.",
        f"GPU GiB is the {MEMORY}; {NONE} means not measured or undefined, never 0. "
        "Time is the sum over the phases of the evaluation.",
    ]
    if any(ranked(group) for group in groups):
        lines.append(
            "Methods share a rank where their difference from the best of them, paired by patient, may be noise (Holm's p of "
            "0.05 or more); 1–3 is one rank of three. Bold scores are of the first rank group."
        )
    if any(group.several_seeds for group in groups):
        lines.append(
            "Rows of several seeds show the mean, under Seeds ± the standard deviation and the number of seeds; "
            "the interval of each seed stands in leaderboard.json. Their memory is the largest, their time the mean."
        )
    return lines


def left_out(refused: Sequence[tuple[str, str]]) -> list[str]:
    """One sentence for each file that could not be shown."""
    return [f"{PurePath(path).name} {reason}." for path, reason in refused]
