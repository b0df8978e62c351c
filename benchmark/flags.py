"""What a row of the board says beside its score: flags of the data, of the predictions and of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark.data.families import overlaps, saw_test
from benchmark.types import Predictions, Protocol, RunResult, Scalar

if TYPE_CHECKING:
    from benchmark.data.dataset import Dataset
    from benchmark.plan import Cell


def flags_of(cell: Cell, data: Dataset, predictions: Predictions) -> tuple[str, ...]:
    """The flags of a cell: those of its data set and protocol, "degenerate", "partial", "overlap", "labels" where they hold.

    A family's `flags(protocol)`, where it has that, are those of the protocol.
    """
    degenerate, of_protocol = (getattr(cell.task, name, None) for name in ("degenerate", "flags"))
    found = list(data.source.flags)
    if of_protocol is not None:
        found += of_protocol(cell.protocol)
    if degenerate is not None and degenerate(predictions, cell.protocol):
        found.append("degenerate")
    if predictions.skipped:
        found.append("partial")
    return tuple(found + _weight_flags(cell, data))


def trivial_row(result: RunResult, references: Sequence[RunResult]) -> str:
    """The title of the best trivial row that a result is not better than within its interval; "" where it is better.

    References whose note "kind" is "oracle" are not trivial. Without an interval nothing is said.
    """
    metric, sign = result.metrics.get(result.primary), 1 if result.higher_is_better else -1
    bound = None if metric is None else (metric.low if result.higher_is_better else metric.high)
    found = [
        (sign * value, row.title)
        for row in references
        if row.notes.get("kind") != "oracle" and result.primary in row.metrics
        if (value := row.metrics[result.primary].value) is not None
    ]
    if bound is None or not found:
        return ""
    best, title = max(found)
    return title if sign * bound <= best else ""


def with_trivial_flag(result: RunResult, references: Sequence[RunResult]) -> RunResult:
    """The result with the flag "trivial" and the note "no_better_than", or without both where they do not hold."""
    title = trivial_row(result, references)
    flags = tuple(flag for flag in result.flags if flag != "trivial") + (("trivial",) if title else ())
    notes = {name: value for name, value in result.notes.items() if name != "no_better_than"}
    return replace(result, flags=flags, notes=notes | ({"no_better_than": title} if title else {}))


def split_note(protocol: Protocol, data: Dataset) -> dict[str, Scalar]:
    """The note "split_differs" where a protocol states the rule of `--split` that its paper used, and the rows have another."""
    wanted = str(dict(protocol.settings).get("split", ""))
    rule = data.split.rpartition("-")[0]  # of RULE-DIGEST or RULE-NUMBER-DIGEST
    name, _, number = rule.rpartition("-")
    if not wanted or wanted == rule or (wanted == name and number.isdecimal()):
        return {}
    return {"split_differs": f"{protocol.name} is of --split {wanted}"}


def _weight_flags(cell: Cell, data: Dataset) -> list[str]:
    """ "overlap": weights that saw images of this set, perhaps its test rows. "labels": trained on all its labels."""
    entrant, found = cell.entrant, []
    fetched = entrant.checkpoint is None and entrant.pretraining is None and not entrant.weights.startswith("seed")
    published = entrant.layout is not None or fetched
    if published and overlaps(entrant.method.card.pretraining_data, data.name):
        found.append("overlap")
    if entrant.pretraining is not None and saw_test(entrant.corpus, data):
        found.append("overlap")
    own = entrant.pretraining is not None and entrant.corpus.name == data.name
    if own and getattr(entrant.method, "learns_from_labels", False) and cell.task.name in ("classification", "zeroshot"):
        found.append("labels")
    return found
