"""What a row of the board says beside its score: flags of the data, of the predictions and of the weights."""

from __future__ import annotations

from benchmark.data.dataset import Dataset
from benchmark.data.families import overlaps, saw_test
from benchmark.plan import Cell
from benchmark.types import Predictions, Protocol, Scalar


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
