"""Uncertainty by patient: bootstrap intervals and paired differences, from the same scoring functions as the values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from benchmark.types import Metric

Array = NDArray[np.float64]
Score = Callable[[Array], Mapping[str, Array]]
LEVEL = 0.95
CHUNK = 4_000_000  # weights held at once


def patient_weights(patients: NDArray[np.str_], draws: int, seed: int) -> Iterator[Array]:
    """How often each row counts when patients are drawn with replacement: pieces of (R, N) float64, `draws` rows in all."""
    names, index = np.unique(patients, return_inverse=True)
    generator = np.random.default_rng([seed, 20231226])
    chance = np.full(len(names), 1 / len(names))
    piece = max(1, CHUNK // max(1, len(patients)))
    for start in range(0, draws, piece):
        counts = generator.multinomial(len(names), chance, size=min(piece, draws - start))
        yield counts[:, index].astype(float)


def _resample(score: Score, patients: NDArray[np.str_], draws: int, seed: int) -> dict[str, Array]:
    pieces = [score(weights) for weights in patient_weights(patients, draws, seed)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]} if pieces else {}


def _bounds(values: Array) -> tuple[float | None, float | None]:
    defined = values[~np.isnan(values)]
    if len(defined) < max(2, len(values) // 2):  # a class that most draws lack has no interval
        return None, None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def with_intervals(score: Score, patients: NDArray[np.str_], draws: int, seed: int) -> dict[str, Metric]:
    """Each metric with its 95 % percentile interval over resampled patients.

    Args:
        score: (R, N) weights -> name -> (R,). patients: (N,). draws: 0 gives values without intervals.
    """
    values = score(np.ones((1, len(patients))))
    resampled = _resample(score, patients, draws, seed)
    n = len(np.unique(patients))
    found = {}
    for name, value in values.items():
        low, high = _bounds(resampled[name]) if name in resampled else (None, None)
        found[name] = Metric(None if np.isnan(value[0]) else float(value[0]), low, high, n)
    return found


def paired_difference(first: Score, second: Score, patients: NDArray[np.str_], draws: int, seed: int) -> dict[str, Metric]:
    """First minus second on the same drawn patients, with its 95 % interval; both must score the same rows in order."""
    return with_intervals(lambda weights: _minus(first(weights), second(weights)), patients, draws, seed)


def _minus(first: Mapping[str, Array], second: Mapping[str, Array]) -> dict[str, Array]:
    return {name: first[name] - second[name] for name in first if name in second}
