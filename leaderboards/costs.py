"""Costs beyond the columns that every table has; a column stands where some line has a figure. Cells are not escaped yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean

from leaderboards.rows import Entry, Group, Row
from leaderboards.text import NONE, duration, number, rate

DEVICES = "Costs of this table were measured on different devices: compare them only where the device is the same."


def device(entry: Entry) -> str:
    """Where a line was evaluated and pretrained; "" where nothing was measured."""
    found = [cost["device"] for row in entry.rows for cost in (row.cost, row.pretraining) if cost is not None]
    return " + ".join(sorted({name for name in found if name}))


def several_devices(group: Group) -> bool:
    """Whether the costs of a group cannot be compared throughout."""
    return len({device(entry) for entry in group.entries} - {""}) > 1


def gpu_hours(entry: Entry) -> float | None:
    """Hours of GPUs for pretraining and this evaluation, the mean over the seeds.

    None where no GPU was used or not for all of it, and where weights came from elsewhere, at an unknown cost.
    """
    found = [_gpu_hours(row) for row in entry.rows]
    known = [hours for hours in found if hours is not None]
    return fmean(known) if known and len(known) == len(found) else None


def _gpu_hours(row: Row) -> float | None:
    if row.pretraining is None and not str(row.spec["weights"]).startswith(("seed", "none")):
        return None
    costs = [cost for cost in (row.cost, row.pretraining) if cost is not None]
    seconds = sum(sum(cost["seconds"].values()) for cost in costs)
    return seconds / 3600 if seconds and all(cost["device"] not in ("", "cpu") for cost in costs) else None


def score_per_gpu_hour(entry: Entry) -> float | None:
    """The score by the GPU hours; None without a GPU, and where lower is better."""
    hours = gpu_hours(entry)
    return None if hours is None or entry.value is None or not entry.first.higher_is_better else entry.value / hours


def _search(entry: Entry) -> str:
    found = {str(row.notes["configurations_tried"]) for row in entry.rows if "configurations_tried" in row.notes}
    return ", ".join(sorted(found)) or NONE


_COLUMNS: Mapping[str, Callable[[Entry], str]] = {
    "Step": lambda entry: duration_of_step(entry.cost("step_seconds", "pretraining")),
    "GPU hours": lambda entry: number(gpu_hours(entry)),
    "Score / GPU hour": lambda entry: rate(score_per_gpu_hour(entry)),
    "Search": _search,
    "Device": lambda entry: device(entry) or NONE,
}


def duration_of_step(seconds: float | None) -> str:
    """Milliseconds below a second."""
    return NONE if seconds is None else f"{1000 * seconds:.3g} ms" if seconds < 1 else duration(seconds)


def cost_columns(group: Group) -> tuple[str, ...]:
    """Names of the further columns that a table of a group has; the device stands where it differs."""
    shown = [name for name, cell in _COLUMNS.items() if any(cell(entry) != NONE for entry in group.entries)]
    return tuple(name for name in shown if name != "Device" or several_devices(group))


def cost_cells(entry: Entry, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The cells of a line under them."""
    return tuple(_COLUMNS[name](entry) for name in columns)
