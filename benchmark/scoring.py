"""Scores results again from their stored predictions, without torch, a method or data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.draws import SEED
from benchmark.errors import UserError
from benchmark.statistics import Resampled, Score, resample
from benchmark.store import read_predictions
from benchmark.types import PRESETS, Predictions, Protocol

Scorer = Callable[[Predictions, Protocol, NDArray[np.float64]], Mapping[str, NDArray[np.float64]]]


@cache
def families() -> Any:
    """The module with the scoring half of the suite's own families, by name: the core imports no task."""
    return import_module("tasks.scoring")


def scorer(task: str, protocol_hash: str) -> tuple[Scorer, Protocol] | None:
    """How results of a family and protocol are scored; None where this version no longer has them.

    A family of another package is imported whole, perhaps with torch.
    """
    own = families()
    if task in own.SCORES:
        protocol = own.protocols().get(protocol_hash)
        return None if protocol is None else (own.SCORES[task], protocol)
    try:
        family = import_module("tasks").TASKS.load(task)()
    except UserError:
        return None
    literals = (item for preset in (*PRESETS, "published") for item in family.protocols(preset))
    protocol = next((item for item in literals if item.hash == protocol_hash), None)
    return None if protocol is None else (family.score, protocol)


@cache
def checks() -> Any:
    """The module that says of the suite's own families what a result from elsewhere is checked by."""
    return import_module("tasks.checks")


def task_version(task: str) -> int:
    """The current version of a family, of this suite or of another package. Raises UserError: it is not known."""
    versions = checks().VERSIONS
    return int(versions[task] if task in versions else import_module("tasks").TASKS.load(task)().version)


def flags_of_scores(task: str, predictions: Predictions, protocol: Protocol) -> tuple[str, ...]:
    """The flags of a protocol, and "degenerate" and "partial" where predictions are."""
    if task in checks().VERSIONS:
        found, same = checks().flags(task, protocol), checks().degenerate(task, predictions, protocol)
    else:
        family = import_module("tasks").TASKS.load(task)()
        found = family.flags(protocol) if hasattr(family, "flags") else ()
        same = hasattr(family, "degenerate") and family.degenerate(predictions, protocol)
    return (*found, *(("degenerate",) if same else ()), *(("partial",) if predictions.skipped else ()))


def score_of(predictions: Predictions, how: tuple[Scorer, Protocol], metric: str = "") -> Score:
    """The metrics of predictions as a function of the weights (R, N); one of them alone where it is named."""
    score, protocol = how

    def found(weights: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64]]:
        scored = score(predictions, protocol, weights)
        return {metric: scored[metric]} if metric else scored

    return found


def resample_metric(predictions: Predictions, how: tuple[Scorer, Protocol], metric: str, draws: int) -> Resampled | None:
    """One metric with its draws; None where the predictions do not give it.

    The seed is the same for all results, so that differences of results of the same rows are paired by patient.
    """
    if len(predictions.uids) == 0:
        return None
    try:
        return resample(score_of(predictions, how, metric), predictions.patients, draws, SEED)[metric]
    except (KeyError, ValueError, IndexError):  # arrays of another layout
        return None


def verified_predictions(path: Path, expected: str) -> Predictions | None:
    """The predictions of a file whose sha256 is the expected one; None where it is not there, damaged or another one."""
    try:
        if not expected or sha256(path.read_bytes()).hexdigest() != expected:
            return None
        return read_predictions(path)
    except (OSError, UserError):
        return None


def in_order(predictions: Predictions) -> Predictions:
    """The rows in the order of their uids, so that the same weights fall on the same rows."""
    return predictions.take(np.argsort(predictions.uids, kind="stable"))


def shared_rows(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """Both in the same order of uids; methods that skipped other rows are compared on those that both have.

    Raises:
        UserError: they share none, or name another patient for one.
    """
    shared, left, right = np.intersect1d(first.uids, second.uids, return_indices=True)
    if len(shared) == 0:
        raise UserError("the two results share no test row")
    other = np.flatnonzero(first.patients[left] != second.patients[right])
    if len(other):
        raise UserError(f"the two results name different patients for {len(other)} test rows, as {shared[other[0]]}")
    return first.take(left), second.take(right)
