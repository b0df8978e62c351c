"""Simulated cohorts with a known true score, and candidate intervals; `python -m tests.coverage` prints their coverage.

A cohort has P patients with 4 images each. Label and most of the noise (1 of 1.1 of its variance) are the patient's. Every
statistic here takes weights (R, P) of the patients, as all images of a patient are drawn together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binom, norm, t

from benchmark.statistics import Resampled, bounds, p_value, resample

Floats = NDArray[np.float64]
IMAGES, DRAWS = 4, 1000
PREVALENCE = {"macro AUROC": (0.4, 0.3, 0.2, 0.1, 0.1), "high macro AUROC": (0.4, 0.3, 0.2, 0.1, 0.1),
              "AUROC": (0.4,), "AUROC of a rare class": (0.05,)}  # fmt: skip
EFFECT = {"high macro AUROC": 2.2, "recall@10": 2.6, "low recall@10": 1.5}  # of the means, in deviations; else 1


@dataclass(frozen=True)
class Cohort:
    """A statistic with its standard error (infinitesimal jackknife) by weights (R, P), the truth, and (P,) a rare class."""

    score: Callable[[Floats], tuple[Floats, Floats]]
    truth: float
    rare: NDArray[np.bool_] | None = None


def cohort(name: str, patients: int, generator: np.random.Generator) -> Cohort:
    """A drawn cohort of one of the scenarios."""
    effect = EFFECT.get(name, 1.0)
    if "recall" in name:
        return _recall(effect, patients, generator)
    share = np.array(PREVALENCE[name])
    targets = np.repeat(generator.random((patients, 1, len(share))) < share, IMAGES, axis=1)
    noise = generator.normal(size=(patients, 1, len(share))) + np.sqrt(0.1) * generator.normal(size=targets.shape)
    return Cohort(areas(targets, effect * targets + noise), norm.cdf(effect / np.sqrt(2.2)), targets[:, 0, share.argmin()])


def areas(targets: NDArray[np.bool_], scores: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Macro AUROC (Mann-Whitney, by pairs of patients) of (P, images, K), nan where no class has both values."""
    parts = []
    for k in range(targets.shape[2]):
        positive, negative = (np.where(side, scores[..., k], np.nan) for side in (targets[..., k], ~targets[..., k]))
        wins = (positive[:, :, None, None] > negative[None, None]).sum(axis=(1, 3)).astype(float)  # (P, P)
        parts.append((wins, targets[..., k].sum(axis=1).astype(float), (~targets[..., k]).sum(axis=1).astype(float)))

    def score(weights: Floats) -> tuple[Floats, Floats]:
        values, influence = [], np.zeros_like(weights)
        with np.errstate(all="ignore"):
            for wins, positives, negatives in parts:
                left, above, below = weights @ wins, weights @ positives, weights @ negatives
                area = (left * weights).sum(axis=1) / (above * below)
                share = positives / above[:, None] + negatives / below[:, None]
                influence += np.nan_to_num((left + weights @ wins.T) / (above * below)[:, None] - area[:, None] * share)
                values.append(area)
            stacked = np.stack(values)
            known = (~np.isnan(stacked)).sum(axis=0)
            value = np.where(known > 0, np.nansum(stacked, axis=0) / known, np.nan)
        return value, np.sqrt((weights * (influence / len(parts)) ** 2).sum(axis=1))

    return score


def _recall(effect: float, patients: int, generator: np.random.Generator) -> Cohort:
    """Recall@10 of pairs among all pairs: the right similarity is normal, shared by patient, the others standard normal."""
    others = patients * IMAGES - 1
    right = (
        effect + np.sqrt(0.7) * generator.normal(size=(patients, 1)) + np.sqrt(0.3) * generator.normal(size=(patients, IMAGES))
    )
    found = (generator.binomial(others, norm.sf(right)) < 10).mean(axis=1)
    grid = np.linspace(-8, 8, 4001)
    truth = np.trapezoid(binom.cdf(9, others, norm.sf(effect + grid)) * norm.pdf(grid), grid)

    def score(weights: Floats) -> tuple[Floats, Floats]:
        total = weights.sum(axis=1)
        value = weights @ found / total
        influence = (found[None] - value[:, None]) / total[:, None]
        return value, np.sqrt((weights * influence**2).sum(axis=1))

    return Cohort(score, float(truth))


def resampled(own: Cohort, patients: int, seed: int) -> Resampled:
    """As the product draws it."""
    return resample(lambda weights: {"score": own.score(weights)[0]}, names(patients), DRAWS, seed)["score"]


def names(patients: int) -> NDArray[np.str_]:
    """(P,) one name a patient."""
    return np.array([f"p{index:04d}" for index in range(patients)])


def intervals(own: Cohort, patients: int, generator: np.random.Generator) -> Iterator[tuple[str, tuple[float, float]]]:
    """Candidates by name."""
    drawn = resampled(own, patients, int(generator.integers(2**31)))
    low, high = bounds(drawn)
    assert low is not None and high is not None  # noqa: PT018
    yield "BCa", (low, high)
    draws = drawn.draws[~np.isnan(drawn.draws)]
    first, last = np.quantile(draws, [0.025, 0.975])
    yield "percentile", (first, last)
    yield "basic", (2 * drawn.value - last, 2 * drawn.value - first)
    width = t.ppf(0.975, patients - 1) * np.std(_log_odds(draws), ddof=1)
    yield "t of log-odds", tuple(expit(_log_odds(np.array(drawn.value)) + width * np.array([-1, 1])))
    weights = generator.multinomial(patients, np.full(patients, 1 / patients), size=DRAWS).astype(float)
    (error,) = own.score(np.ones((1, patients)))[1]
    values, errors = own.score(weights)
    with np.errstate(all="ignore"):
        away = (values - drawn.value) / errors
    quantiles = np.quantile(away[np.isfinite(away)], [0.975, 0.025])
    yield "bootstrap-t", tuple(drawn.value - error * quantiles)
    if own.rare is not None and 1 < own.rare.sum() < patients - 1:
        for stratum in (own.rare, ~own.rare):
            size = int(stratum.sum())
            weights[:, stratum] = generator.multinomial(size, np.full(size, 1 / size), size=DRAWS)
        stratified = Resampled(drawn.value, own.score(weights)[0], drawn.left_out, patients)
        yield "percentile, stratified", tuple(np.quantile(stratified.draws, [0.025, 0.975]))
        yield "BCa, stratified", bounds(stratified)  # type: ignore[misc]


def _log_odds(values: Floats) -> Floats:
    return np.asarray(logit(np.clip(values, 1e-4, 1 - 1e-4)))


def coverage(name: str, patients: int, simulations: int) -> Mapping[str, float]:
    """The part of simulated cohorts whose interval holds the truth, by candidate; cohorts without a score are passed over."""
    generator = np.random.default_rng([len(name), patients, 7])
    hits: dict[str, list[bool]] = {}
    for _ in range(simulations):
        own = cohort(name, patients, generator)
        if np.isnan(own.score(np.ones((1, patients)))[0][0]):
            continue
        for candidate, (low, high) in intervals(own, patients, generator):
            hits.setdefault(candidate, []).append(bool(low <= own.truth <= high))
    return {candidate: float(np.mean(found)) for candidate, found in hits.items()}


def false_alarms(patients: int, simulations: int) -> float:
    """How often two equally good methods differ at p < 0.05: macro AUROC, half of the noise is common to both."""
    generator, alarms = np.random.default_rng([patients, 11]), 0
    share = np.array(PREVALENCE["macro AUROC"])
    for seed in range(simulations):
        targets = np.repeat(generator.random((patients, 1, len(share))) < share, IMAGES, axis=1)
        shared, *own = (generator.normal(size=(patients, 1, len(share))) for _ in range(3))
        scores = [targets + np.sqrt(0.5) * (shared + part) + 0.3 * generator.normal(size=targets.shape) for part in own]
        first, second = (resampled(Cohort(areas(targets, item), 0.0), patients, seed) for item in scores)
        p = p_value(first - second)
        alarms += p is not None and p < 0.05
    return alarms / simulations


def main(simulations: int = 2000) -> None:
    """Prints the table."""
    scenarios = [(name, 150) for name in (*PREVALENCE, "recall@10", "low recall@10")] + [("macro AUROC", 60)]
    for name, patients in scenarios:
        found = coverage(name, patients, simulations)
        print(f"{name}, {patients} patients:", {key: f"{100 * value:.1f}" for key, value in found.items()}, flush=True)
    for patients in (150, 60):
        print(f"false alarms, {patients} patients: {100 * false_alarms(patients, simulations):.1f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
