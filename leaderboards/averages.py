"""Means over tasks, by code: over cells that all compared methods have and no other, nothing imputed, the formula printed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count
from statistics import fmean
from typing import Any

from tabulate import tabulate

from leaderboards.row_labels import labels
from leaderboards.rows import Entry, Group, Row
from leaderboards.text import clean, number, percent, task_title


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """Of one data set and split: the mean over tasks of the mean over each task's cells.

    cells: name -> its task, in the order of the board. values: method -> cell -> value of its seeds. left_out: cell -> why.
    """

    dataset: str
    methods: tuple[str, ...]
    cells: Mapping[str, str]
    values: Mapping[str, Mapping[str, float]]
    left_out: Mapping[str, str]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those with a cell, in the order of the board."""
        return tuple(dict.fromkeys(self.cells.values()))

    def of_task(self, method: str, task: str) -> float:
        """The mean over the cells of a task."""
        return fmean(self.values[method][cell] for cell, own in self.cells.items() if own == task)

    def overall(self, method: str) -> float | None:
        """The mean over the tasks; None where no cell is common to all methods."""
        return fmean(self.of_task(method, task) for task in self.tasks) if self.cells else None

    @property
    def formula(self) -> str:
        """How the mean is made."""
        if not self.cells:
            return f"no mean: no cell is common to all {len(self.methods)} methods"
        parts = []
        for task in self.tasks:
            own = [cell for cell, its in self.cells.items() if its == task]
            parts.append(own[0] if len(own) == 1 else f"({' + '.join(own)}) / {len(own)}")
        return f"mean = {parts[0]}" if len(parts) == 1 else f"mean = [{' + '.join(parts)}] / {len(parts)}"


def averages(groups: Sequence[Group], methods: Sequence[str] = ()) -> tuple[Average, ...]:
    """One for each data set, version and split with scores of at least two methods, or of one that is named.

    Args:
        methods: names or titles; empty: every method of the set.
    """
    return _averages(tuple(groups), tuple(methods))


@lru_cache(maxsize=2)  # every format asks for them
def _averages(groups: tuple[Group, ...], methods: tuple[str, ...]) -> tuple[Average, ...]:
    by_set: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        row = group.first
        splits = tuple(f"{name}={digest}" for name, digest in sorted(row.spec["splits"].items()))
        by_set.setdefault((row.dataset, row.dataset_version, *splits), []).append(group)
    found = [_average(key[0], own, methods) for key, own in by_set.items()]
    return tuple(item for item in found if item is not None and len(item.methods) >= (1 if methods else 2))


def _average(dataset: str, groups: Sequence[Group], methods: Sequence[str]) -> Average | None:
    label_of, names = _labels(groups), _names(groups)
    table = {group.first.group_key: _scores(group, label_of, methods) for group in groups}
    competing = tuple(dict.fromkeys(label for scores in table.values() for label in scores))
    cells, left_out, values = {}, {}, {label: dict[str, float]() for label in competing}
    for group in groups:
        key = group.first.group_key
        reason = _refusal(group, table[key], competing)
        if reason:
            left_out[names[key]] = reason
            continue
        cells[names[key]] = group.first.task
        for label in competing:
            values[label][names[key]] = table[key][label]
    return Average(dataset=dataset, methods=competing, cells=cells, values=values, left_out=left_out) if competing else None


def _names(groups: Sequence[Group]) -> dict[tuple[Any, ...], str]:
    """The name of each group by its key, with the version of the task where the name alone would name two."""
    plain = [_name(group) for group in groups]
    told = [
        name if plain.count(name) == 1 else f"{name}, {group.first.task} version {group.first.spec['task_version']}"
        for name, group in zip(plain, groups, strict=True)
    ]
    return {group.first.group_key: name for group, name in zip(groups, _unique(told), strict=True)}


def _name(group: Group) -> str:
    row = group.first
    share = "" if row.label_fraction == 1 else f" at {percent(row.label_fraction)}"
    return f"{row.protocol}@{row.protocol_hash}{share}, {group.metric or 'no score'}"


def _unique(names: Sequence[str]) -> list[str]:
    """The names, a second of the same letters with its number."""
    found: dict[str, None] = {}  # in order, and quick to look up
    for name in names:
        numbered = (f"{name} #{place}" for place in count(2))
        found[next(item for item in chain((name,), numbered) if item not in found)] = None
    return list(found)


def _labels(groups: Sequence[Group]) -> Callable[[Entry], str]:
    """Gives the label of a method's line, one for a variant over all groups: its title, with what tells it from its twins."""
    counts = [Counter(entry.first.variant for entry in group.entries if entry.kind == "method") for group in groups]
    # The same seed twice with other weights is two lines of a group: such a variant is told apart by its weights throughout.
    split = {variant for count in counts for variant, lines in count.items() if lines > 1}

    def line(entry: Entry) -> tuple[Any, ...]:
        variant = entry.first.variant
        return variant, tuple(row.spec["weights"] for row in entry.rows) if variant in split else ()

    parts: dict[tuple[Any, ...], dict[int, Row]] = defaultdict(dict)
    for entry in (entry for group in groups for entry in group.entries if entry.kind == "method"):
        parts[line(entry)] |= {row.seed: row for row in entry.rows}
    told = dict(zip(parts, _unique(labels([tuple(rows.values()) for rows in parts.values()])), strict=True))
    return lambda entry: told[line(entry)]


def _scores(group: Group, label: Callable[[Entry], str], methods: Sequence[str]) -> dict[str, float]:
    """The value of each method's line under its label."""
    return {
        label(entry): entry.value
        for entry in group.entries
        if entry.kind == "method"
        and entry.value is not None
        and entry.first.metric == group.metric
        and _wanted(entry, label(entry), methods)
    }


def _wanted(entry: Entry, label: str, methods: Sequence[str]) -> bool:
    return not methods or bool({entry.first.method, entry.first.title, entry.label, label} & set(methods))


def _refusal(group: Group, scores: Mapping[str, float], competing: Sequence[str]) -> str:
    missing = [clean(label) for label in competing if label not in scores]
    if missing:
        return f"not of {', '.join(missing[:3])}{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}"
    if not group.higher_is_better:
        return "lower is better"
    return "" if all(0 <= value <= 1 for value in scores.values()) else "not within 0 and 1"


def average_table(average: Average) -> tuple[tuple[str, ...], list[list[str]]]:
    """Head and lines: the mean of each task and over the tasks by method, the best first. Cells are not escaped."""
    head = ("Method", *(task_title(task) for task in average.tasks), "Mean over tasks")
    ordered = sorted(average.methods, key=lambda label: (-(average.overall(label) or 0.0), label))
    lines = [
        [label, *(number(average.of_task(label, task)) for task in average.tasks), number(average.overall(label))]
        for label in ordered
    ]
    return head, lines


def average_text(average: Average) -> str:
    """A table for the terminal with the formula and what was left out below."""
    head, lines = average_table(average)
    shown = [[clean(cell) for cell in line] for line in lines]
    table = tabulate(shown, headers=head, tablefmt="simple", disable_numparse=True)
    return "\n".join([clean(average.dataset), table, *below(average)])


def average_json(average: Average) -> dict[str, Any]:
    """The same for programs; null where no cell is common."""
    methods = {
        label: {
            "mean": average.overall(label), "tasks": {task: average.of_task(label, task) for task in average.tasks}
        }
        for label in average.methods
    }  # fmt: skip
    shared = {"dataset": average.dataset, "formula": average.formula, "cells": list(average.cells)}
    return {**shared, "left_out": dict(average.left_out), "methods": methods}


def below(average: Average) -> list[str]:
    """The formula, and one line for each cell that was left out."""
    left_out = [f"left out: {clean(cell)}: {reason}" for cell, reason in average.left_out.items()]
    return [clean(average.formula), *left_out]
