"""A result from elsewhere beside those that lie here: the same rows, patients and truth, and the flags of its group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.comparison import cell_of
from benchmark.errors import UserError
from benchmark.flags import with_trivial_flag
from benchmark.scoring import checks, verified_predictions
from benchmark.store import Store
from benchmark.types import Predictions, RunResult, RunSpec

FLAG = "unchecked"  # nothing of its group was here to compare its rows, patients and truth with
OF_DATA = ("phantom", "development")
OF_RESULT = ("degenerate", "partial", "trivial", FLAG, "submitted", "overlap", "labels")  # all others are of the data


def beside_peers(store: Store, result: RunResult, predictions: Predictions) -> RunResult:
    """The result with the flags of its data set, "trivial" beside the references of its group, and "unchecked" where alone.

    Raises:
        UserError: a result of its group has other rows, patients or truth, in words that follow a file's name.
    """
    alone, flags, references = True, [*result.flags], []
    for peer in _peers(store, result.spec):
        if peer.key == result.key:
            continue
        rows = verified_predictions(store.predictions_path(peer.key), peer.predictions)
        if rows is not None:
            _same(predictions, rows, peer)
            alone = alone and FLAG in peer.flags
        if peer.role == "reference":
            references.append(peer)
        flags += [flag for flag in peer.flags if flag in OF_DATA or (peer.role == "reference" and flag not in OF_RESULT)]
    kind = result.spec.dataset.partition(":")[0]
    flags += [*([kind] if kind in OF_DATA else []), *([FLAG] if alone else [])]
    return with_trivial_flag(replace(result, flags=tuple(dict.fromkeys(flags))), references)


def _peers(store: Store, spec: RunSpec) -> Iterator[RunResult]:
    """Finished results and references that may be compared with a spec."""
    for path in sorted((store.root / "results").glob("*.json")):
        found = store.read(path.stem)
        if found is None or found.status != "ok" or not isinstance(found.spec.splits, dict):
            continue
        if cell_of(found.spec) == cell_of(spec):
            yield found


def _same(own: Predictions, other: Predictions, peer: RunResult) -> None:
    """Raises UserError where rows, patients or truth differ. Of a reference, rows that its donor skipped may lack."""
    ours, theirs = ({*map(str, item.uids), *(uid for uid, _ in item.skipped)} for item in (own, other))
    if not theirs <= ours or (ours != theirs and peer.role != "reference"):
        raise _differs("test rows", f"{len(ours)} with those that were skipped, not these {len(theirs)}", peer)
    shared, left, right = np.intersect1d(own.uids, other.uids, return_indices=True)
    if (own.patients[left] != other.patients[right]).any():
        raise _differs("patients", "its rows belong to others", peer)
    whole = len(shared) == len(own.uids) == len(other.uids)
    truths = [checks().truth(item, whole) for item in (own, other)]
    for name in truths[0].keys() & truths[1].keys():
        first, second = truths[0][name], truths[1][name]
        fitting = (len(first), len(second)) == (len(own.uids), len(other.uids))
        if not fitting or not _equal(first[left], second[right]):
            raise _differs("truth", f"its array {name!r}", peer)


def _differs(what: str, how: str, peer: RunResult) -> UserError:
    return UserError(f"has other {what} ({how}) than {peer.key} ({peer.title}) of the same data here; nothing can be compared")


def _equal(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two arrays (N, ...) are equal, nan where nan; boxes (N, G, 5) are padded by nan to different G."""
    if first.ndim == second.ndim == 3 and first.shape[1] != second.shape[1]:
        most = max(first.shape[1], second.shape[1])
        first, second = (
            np.pad(item.astype(float), ((0, 0), (0, most - item.shape[1]), (0, 0)), constant_values=np.nan)
            for item in (first, second)
        )
    return first.shape == second.shape and bool(np.allclose(first, second, rtol=0, atol=1e-9, equal_nan=True))
