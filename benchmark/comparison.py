"""Paired comparison of two methods on what both have run, from result and prediction files alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.plan import catalogue
from benchmark.statistics import paired_difference
from benchmark.store import Store, read_predictions
from benchmark.types import Metric, Predictions, Protocol, RunResult


@dataclass(frozen=True, slots=True)
class Comparison:
    """First minus second on one protocol, fraction and seed."""

    protocol: str
    fraction: float
    seed: int
    metric: str
    first: float | None
    second: float | None
    difference: Metric


def compare(
    out: Path, first: str, second: str, metric: str, draws: int, tasks: Any = None
) -> tuple[list[Comparison], list[str]]:
    """Comparisons of every cell that both methods have finished under the same protocol, rows and seeds.

    Returns:
        The comparisons, and "name@hash" of protocols that this version no longer has and left out.

    Args:
        first, second: method names, or result keys where a method has several configurations.

    Raises:
        UserError: a name that fits several configurations, or predictions of different rows.
    """
    store = Store(out)
    results = [store.read(path.stem) for path in sorted((out / "results").glob("*.json"))]
    finished = [result for result in results if result is not None and result.status == "ok"]
    ours, theirs = _by_cell(finished, first), _by_cell(finished, second)
    if tasks is None:
        from importlib import import_module

        tasks = import_module("tasks").TASKS  # by name: the core imports no task
    made, left_out = [], []
    for cell in sorted(ours.keys() & theirs.keys(), key=repr):
        task = tasks.load(ours[cell].spec.task)()
        protocol = _protocol(task, ours[cell])
        if protocol is None:
            left_out.append(f"{ours[cell].spec.protocol}@{ours[cell].spec.protocol_hash}")
        else:
            made.append(_compare(store, (ours[cell], theirs[cell]), (task, protocol), metric, draws))
    return made, list(dict.fromkeys(left_out))


def _by_cell(results: list[RunResult], name: str) -> dict[tuple[Any, ...], RunResult]:
    found: dict[tuple[Any, ...], RunResult] = {}
    for result in results:
        if name not in (result.spec.method, result.key, result.title):
            continue
        spec = result.spec
        splits = tuple(sorted(spec.splits.items()))
        rows = (spec.dataset, spec.dataset_version, splits)
        cell = (*rows, spec.protocol, spec.protocol_hash, spec.label_fraction, spec.eval_seed, spec.seed)
        if cell in found:
            raise UserError(
                f"{name!r} has several results for {spec.protocol} on {spec.dataset} ({found[cell].title!r} and "
                f"{result.title!r}); give a title or a result key"
            )
        found[cell] = result
    return found


def _compare(store: Store, pair: tuple[RunResult, RunResult], how: tuple[Any, Protocol], metric: str, draws: int) -> Comparison:
    (ours, theirs), (task, protocol) = pair, how
    first, second = (read_predictions(store.predictions_path(result.key)) for result in (ours, theirs))
    first, second = _shared_rows(first, second)
    metric = metric or ours.primary

    def score(predictions: Predictions) -> Any:
        return lambda weights: {metric: task.score(predictions, protocol, weights)[metric]}

    try:
        difference = paired_difference(score(first), score(second), first.patients, draws, ours.spec.eval_seed)[metric]
    except KeyError as error:
        raise UserError(f"{protocol.name} has no metric {metric!r}; it has {', '.join(ours.metrics)}") from error
    one = np.ones((1, len(first.uids)))
    values = [float(task.score(item, protocol, one)[metric][0]) for item in (first, second)]
    left, right = (None if value != value else value for value in values)
    spec = ours.spec
    return Comparison(spec.protocol, spec.label_fraction, spec.seed, metric, left, right, difference)


def _protocol(task: Any, result: RunResult) -> Protocol | None:
    """The literal a result was made under; None where this version has another under its name."""
    return next((item for item in catalogue(task) if item.hash == result.spec.protocol_hash), None)


def _shared_rows(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """Both in the same order of uids; methods that skipped other rows are compared on those that both have."""
    shared, left, right = np.intersect1d(first.uids, second.uids, return_indices=True)
    if len(shared) == 0:
        raise UserError("the two results share no test row")
    return first.take(left), second.take(right)
