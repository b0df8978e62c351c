"""Uncertainty by patient: bootstrap intervals and paired differences, from the same scoring functions as the values.

Patients are drawn with replacement, never images. Intervals are BCa (Efron, JASA 1987): percentiles of the draws, moved by the
bias of the draws and by the acceleration that a jackknife over patients gives. docs/statistics.md says why, with coverage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from benchmark.types import Metric

Array = NDArray[np.float64]
Score = Callable[[Array], Mapping[str, Array]]
LEVEL = 0.95
INTERVAL = "BCa bootstrap over patients"
CHUNK = 4_000_000  # weights held at once
SMALLEST_P = 1e-6  # the normal tail is not to be believed further out
SAME = 1e-12  # values no further apart are equal: what is left is rounding
BLOCKS = 200  # groups of patients at most that the jackknife leaves out in turn


@dataclass(frozen=True, slots=True)
class Resampled:
    """One metric of some rows: its value, and what it is under other weights of the patients.

    draws: (R,) of the bootstrap. left_out: (J,) without each patient, or each of J groups of them. nan where undefined.
    patients: how many there are.
    """

    value: float
    draws: Array
    left_out: Array
    patients: int

    def __sub__(self, other: Resampled) -> Resampled:
        """The difference on the same draws; both must be of the same patients with the same seed."""
        if self.left_out.shape != other.left_out.shape:
            raise ValueError("a difference of different patients")
        value = float(_difference(np.array(self.value), np.array(other.value)))
        draws, left_out = _difference(self.draws, other.draws), _difference(self.left_out, other.left_out)
        return Resampled(value, draws, left_out, self.patients)

    @property
    def metric(self) -> Metric:
        """The value with its interval."""
        low, high = bounds(self)
        return Metric(None if np.isnan(self.value) else float(self.value), low, high, self.patients)


def _difference(first: Array, second: Array) -> Array:
    """The difference, exactly 0 where the two are equal but for rounding."""
    return np.where(_same(first, second), 0.0, first - second)


def _same(first: Array, second: Array | float) -> NDArray[np.bool_]:
    return np.isclose(first, second, rtol=SAME, atol=SAME)


def patient_weights(patients: NDArray[np.str_], draws: int, seed: int) -> Iterator[Array]:
    """How often each row counts when patients are drawn with replacement: pieces of (R, N) float64, `draws` rows in all."""
    names, index = np.unique(patients, return_inverse=True)
    generator = np.random.default_rng([seed, 20231226])
    chance = np.full(len(names), 1 / len(names))
    piece = max(1, CHUNK // max(1, len(patients)))
    for start in range(0, draws, piece):
        counts = generator.multinomial(len(names), chance, size=min(piece, draws - start))
        yield counts[:, index].astype(float)


def _without_each(patients: NDArray[np.str_]) -> Iterator[Array]:
    """Weights that leave out each patient in turn, or each of BLOCKS groups where there are more."""
    names, index = np.unique(patients, return_inverse=True)
    groups = min(len(names), BLOCKS)
    group = (np.arange(len(names)) % groups)[index]
    piece = max(1, CHUNK // max(1, len(patients)))
    for start in range(0, groups, piece):
        yield (group[None] != np.arange(start, min(start + piece, groups))[:, None]).astype(float)


def resample(score: Score, patients: NDArray[np.str_], draws: int, seed: int) -> dict[str, Resampled]:
    """Each metric under `draws` bootstrap weights and under the jackknife; without draws the value alone.

    Args:
        score: (R, N) weights -> name -> (R,). patients: (N,).
    """
    values = score(np.ones((1, len(patients))))
    drawn = _all(score, patient_weights(patients, draws, seed))
    left_out = _all(score, _without_each(patients)) if draws else {}
    none, n = np.zeros(0), len(np.unique(patients))
    return {
        name: Resampled(float(value[0]), drawn.get(name, none), left_out.get(name, none), n) for name, value in values.items()
    }


def _all(score: Score, weights: Iterator[Array]) -> dict[str, Array]:
    pieces = [score(piece) for piece in weights]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]} if pieces else {}


def average(parts: Sequence[Resampled]) -> Resampled:
    """The mean of several seeds, draw by draw: all of the same patients with the same seed of the bootstrap."""
    draws, left_out = (np.mean([getattr(part, name) for part in parts], axis=0) for name in ("draws", "left_out"))
    return Resampled(float(np.mean([part.value for part in parts])), draws, left_out, parts[0].patients)


def bounds(resampled: Resampled) -> tuple[float | None, float | None]:
    """The 95 % BCa interval; None where the value or more than half of the draws are undefined, and of a single patient."""
    draws = _defined(resampled)
    if draws is None:
        return None, None
    bias, acceleration = _bias(resampled.value, draws), _acceleration(resampled.left_out)
    around = bias + ndtri(np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    low, high = np.quantile(draws, ndtr(bias + around / (1 - acceleration * around)))
    return float(low), float(high)


def p_value(difference: Resampled) -> float | None:
    """Two-sided p of a difference of 0: one less the level of the BCa interval that 0 bounds; None where it is undefined.

    Draws of exactly 0 count against rejection, as they do in the interval: the lower end passes 0 only beyond all of them, and
    so does the upper end. Where no draw lies beyond 0, the normal tail goes on where the draws end.
    """
    draws = _defined(difference)
    if draws is None:
        return None
    if _same(draws, difference.value).all():
        return 1.0 if abs(difference.value) <= SAME else SMALLEST_P
    above = 2 * ndtr(_at_zero(difference, draws, float((draws <= SAME).mean())))
    below = 2 * ndtr(-_at_zero(difference, draws, float((draws < -SAME).mean())))
    return float(min(1.0, max(SMALLEST_P, min(above, below))))


def _at_zero(difference: Resampled, draws: Array, share: float) -> float:
    """The normal deviate whose BCa bound is 0, if this share of the draws lies below 0."""
    edge, spread = ndtri(1 / (len(draws) + 1)), float(np.std(draws, ddof=1))
    if share in (0.0, 1.0) and spread > 0:
        place = np.sign(share - 0.5) * max(-edge, abs(difference.value) / spread)
    else:
        place = np.clip(ndtri(share), edge, -edge)
    bias, acceleration = _bias(difference.value, draws), _acceleration(difference.left_out)
    moved = place - bias
    return float(moved / max(1 + acceleration * moved, 1e-6) - bias)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Scand. J. Statist. 1979) of several p, in the order given."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda item: p_values[item])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected


def _defined(resampled: Resampled) -> Array | None:
    draws = resampled.draws[~np.isnan(resampled.draws)]
    few = len(draws) < max(2, len(resampled.draws) // 2)  # a class that most draws lack has no interval
    return None if few or resampled.patients < 2 or np.isnan(resampled.value) else draws  # one patient does not vary


def _bias(value: float, draws: Array) -> float:
    tied = _same(draws, value)
    below = ((draws[~tied] < value).sum() + tied.sum() / 2) / len(draws)
    return float(ndtri(np.clip(below, 1 / (len(draws) + 1), len(draws) / (len(draws) + 1))))


def _acceleration(left_out: Array) -> float:
    """A sixth of the skewness of the jackknife's influences, 0 where nothing changes the value."""
    known = left_out[~np.isnan(left_out)]
    if len(known) < 3:
        return 0.0
    away = known.mean() - known
    power = float((away**2).sum()) ** 1.5
    return float((away**3).sum()) / (6 * power) if power > 0 else 0.0


def with_intervals(score: Score, patients: NDArray[np.str_], draws: int, seed: int) -> dict[str, Metric]:
    """Each metric with its 95 % interval over resampled patients.

    Args:
        score: (R, N) weights -> name -> (R,). patients: (N,). draws: 0 gives values without intervals.
    """
    return {name: found.metric for name, found in resample(score, patients, draws, seed).items()}
