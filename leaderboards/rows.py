"""Result files -> rows -> groups of rows that may be compared.

Rows that differ in dataset, split, task, protocol hash or label fraction are never in one group, so never in one ranking.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from leaderboards.row_labels import labels
from leaderboards.standings import Lines, Standing, by_group, lines_of, reasons_of, standing

TASKS = ("retrieval", "zeroshot", "classification", "segmentation", "detection")
BANNERS = {
    "phantom": "PHANTOM: synthetic data, never comparable with published numbers",
    "development": "DEVELOPMENT: data for checks, never comparable with published numbers",
}
_FROM_RESULT = (
    *("key", "status", "role", "title", "higher_is_better", "n_used", "n_expected", "metrics", "cost", "pretraining"),
    *("spec", "environment", "notes", "predictions", "command", "finished"),
)
_FROM_SPEC = (
    "task",
    "dataset",
    "dataset_version",
    "protocol",
    "protocol_hash",
    "label_fraction",
    "method",
    "seed",
    "eval_seed",
)
_COST_MAXIMA = frozenset({"peak_allocated_mib", "peak_reserved_mib", "peak_device_mib", "peak_host_mib", "params"})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result, as the board shows it. None is undefined or not measured, never 0."""

    key: str
    status: str
    role: str
    title: str
    task: str
    dataset: str
    dataset_version: str
    protocol: str
    protocol_hash: str
    label_fraction: float
    method: str
    seed: int
    eval_seed: int
    metric: str
    higher_is_better: bool
    value: float | None
    low: float | None
    high: float | None
    n: int  # patients behind the value
    n_used: int
    n_expected: int
    metrics: Mapping[str, Mapping[str, Any]]  # name -> value, low, high, n
    cost: Mapping[str, Any]  # fields of benchmark.types.Cost
    pretraining: Mapping[str, Any] | None
    flags: tuple[str, ...]
    reason: str  # why there is no score, one line
    spec: Mapping[str, Any]
    environment: Mapping[str, Any]
    notes: Mapping[str, Any]
    skipped: int
    predictions: str
    command: str
    finished: str

    @property
    def seconds(self) -> float | None:
        """The sum over the phases of the evaluation; None where none was measured."""
        return total_seconds(self.cost)

    @cached_property
    def group_key(self) -> tuple[Any, ...]:
        """What two rows must share to be compared."""
        spec = self.spec
        splits = tuple(sorted(spec["splits"].items()))
        names = (self.task, self.dataset, self.dataset_version, self.protocol, self.protocol_hash)
        return (*names, self.label_fraction, spec["task_version"], splits)

    @cached_property
    def variant(self) -> tuple[str, ...]:
        """What the seeds of one method share: all that names it but the seeds and the weights that follow from them."""
        spec = self.spec
        weights = spec["weights"]
        kind = weights if weights in ("seed", "none") or weights.startswith("file:") else "pretrained"
        config = json.dumps(spec["config"], sort_keys=True)
        return (self.role, self.method, str(spec["method_version"]), self.title, config, spec["precision"], kind)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a group: one row, or the seeds of one method together."""

    label: str
    rows: tuple[Row, ...]  # by seed
    standing: Standing | None = None  # None: not analysed

    @property
    def first(self) -> Row:
        """The row of the lowest seed; it gives whatever does not depend on the seed."""
        return self.rows[0]

    @property
    def kind(self) -> str:
        """ "method" | "reference" | "undefined" | "missing": the order in a group; only the first is sorted as a contest."""
        if self.first.status != "ok":
            return "missing"
        return "undefined" if self.value is None else self.first.role

    @cached_property
    def value(self) -> float | None:
        """The primary metric, the mean over the seeds."""
        values = [row.value for row in self.rows if row.value is not None]
        return fmean(values) if values else None

    @cached_property
    def spread(self) -> float | None:
        """Standard deviation over the seeds (n - 1 below the line); None for one seed."""
        values = [row.value for row in self.rows if row.value is not None]
        return stdev(values) if len(values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of a single run; None for several seeds, whose intervals stand in the JSON one by one."""
        row = self.first
        return (row.low, row.high) if len(self.rows) == 1 and row.low is not None and row.high is not None else None

    @cached_property
    def flags(self) -> tuple[str, ...]:
        """Those of any row, without those that the banner of the group says."""
        return tuple(dict.fromkeys(flag for row in self.rows for flag in row.flags if flag not in BANNERS))

    def cost(self, name: str, phase: str = "cost") -> float | None:
        """A field of Cost, or "total" seconds: the largest over the seeds for memory, else the mean. None: not measured."""
        costs = [row.pretraining if phase == "pretraining" else row.cost for row in self.rows]
        kept = [cost for cost in costs if cost is not None]
        found = [total_seconds(cost) if name == "total" else cost[name] for cost in kept]
        known = [float(item) for item in found if item is not None]
        if not known:
            return None
        return max(known) if name in _COST_MAXIMA else fmean(known)


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Rows that may be compared, in the order of the board. Equal only to itself, so that what is made of it can be kept."""

    rows: tuple[Row, ...]
    entries: tuple[Entry, ...]
    reasons: tuple[str, ...] = ()  # why it has no ranking

    @property
    def first(self) -> Row:
        """Any row; it gives whatever the group shares."""
        return self.rows[0]

    @cached_property
    def metric(self) -> str:
        """The primary metric; "" where nothing was measured."""
        return next((row.metric for row in self.rows if row.metric), "")

    @cached_property
    def higher_is_better(self) -> bool:
        """The direction of the primary metric."""
        return next((row.higher_is_better for row in self.rows if row.metric), True)

    @cached_property
    def banners(self) -> tuple[str, ...]:
        """Warnings over the whole group."""
        flags = {flag for row in self.rows for flag in row.flags}
        return tuple(text for flag, text in BANNERS.items() if flag in flags)

    @cached_property
    def ranked(self) -> bool:
        """Whether any line has a rank."""
        return any(entry.standing is not None and entry.standing.text for entry in self.entries)

    @cached_property
    def several_seeds(self) -> bool:
        """Whether any line is a mean over seeds."""
        return any(len(entry.rows) > 1 for entry in self.entries)

    @cached_property
    def leaders(self) -> frozenset[str]:
        """Labels of the first rank group; none where fewer than two methods are ranked."""
        ranked = [entry for entry in self.entries if entry.standing is not None and entry.standing.rank is not None]
        first = [entry.label for entry in ranked if entry.standing is not None and entry.standing.rank == 1]
        return frozenset(first if len(ranked) > 1 else ())


def total_seconds(cost: Mapping[str, Any]) -> float | None:
    """The sum over the phases; None where none was measured."""
    seconds = cost["seconds"]
    return float(sum(seconds.values())) if seconds else None


def make_row(result: Mapping[str, Any]) -> Row:
    """The row of one result that `load` gave."""
    spec, primary = result["spec"], result["primary"]
    score = result["metrics"].get(primary, {}) if result["status"] == "ok" else {}
    flags = list(result["flags"])
    if result["n_used"] < result["n_expected"] and result["status"] == "ok" and "partial" not in flags:
        flags.append("partial")
    return Row(
        **{name: result[name] for name in _FROM_RESULT},
        **{name: spec[name] for name in _FROM_SPEC},
        metric=primary,
        value=score.get("value"),
        low=score.get("low"),
        high=score.get("high"),
        n=score.get("n", 0),
        flags=tuple(flags),
        reason="" if result["status"] == "ok" else first_line(result["error"]),
        skipped=len(result["skipped"]),
    )


def first_line(error: str | None) -> str:
    """The line of an error that says what happened: of a traceback the line of the exception, else the first one."""
    lines = [line for line in (error or "").splitlines() if line.strip()]
    if not lines:
        return "no reason recorded"
    frames = [number for number, line in enumerate(lines) if line.startswith("  File ")]
    after = lines[frames[-1] :] if frames else []
    return next((line for line in after if not line.startswith(" ")), lines[0]).strip()


def group_rows(rows: Iterable[Row]) -> tuple[Group, ...]:
    """Rows by what may be compared: tasks in the order of the suite, then dataset, protocol and label fraction."""
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[row.group_key].append(row)
    order = {task: number for number, task in enumerate(TASKS)}
    keys = sorted(found, key=lambda key: (order.get(key[0], len(order)), key))
    return tuple(_group(found[key]) for key in keys)


def with_standings(groups: Iterable[Group], analysis: Mapping[str, Any] | None) -> tuple[Group, ...]:
    """The groups with the ranks of an analysis of the same folder; those whose results have changed since get none."""
    analysed = by_group(analysis)
    return tuple(
        _ranked(group, analysed, reasons_of(analysis, group.first.group_key)) if analysed else group for group in groups
    )


def _ranked(group: Group, analysed: Mapping[str, Lines], reasons: tuple[str, ...]) -> Group:
    measured = (row.key for row in group.rows if row.status == "ok" and row.value is not None)
    lines = lines_of(analysed, group.first.group_key, measured)
    entries = (replace(entry, standing=standing(lines.get(entry.first.key))) for entry in group.entries)
    return Group(rows=group.rows, entries=tuple(entries), reasons=reasons) if lines else group


def _group(rows: Sequence[Row]) -> Group:
    higher = next((row.higher_is_better for row in rows if row.metric), True)
    place = {"method": 0, "reference": 1, "undefined": 2, "missing": 3}

    def order(entry: Entry) -> tuple[int, float, str, str]:
        value = entry.value or 0.0
        return (place[entry.kind], -value if higher else value, entry.label, entry.first.key)

    entries = tuple(sorted(_entries(rows), key=order))
    return Group(rows=tuple(row for entry in entries for row in entry.rows), entries=entries)


def _entries(rows: Sequence[Row]) -> Iterator[Entry]:
    """Seeds of one method together; those without a score too, where they lack it for one reason."""
    variants: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.seed, row.eval_seed, row.key)):
        scored = row.status == "ok" and row.value is not None
        variants[(*row.variant, *(("scored",) if scored else (row.status, row.reason)))].append(row)
    parts: list[tuple[Row, ...]] = []
    for seeds in variants.values():
        distinct = len({(row.seed, row.eval_seed) for row in seeds}) == len(seeds)
        # The same seed twice with other weights is another recipe, not another seed: such rows are never averaged.
        parts.extend([tuple(seeds)] if distinct else [(row,) for row in seeds])
    for part, label in zip(parts, labels(parts)):
        yield Entry(label=label, rows=part)
