"""The coverage of the interval in use, and the false alarms of the paired test, in 2,000 simulated cohorts each.

Nominal 95 %, 150 patients with 4 images each; docs/statistics.md has the figures of all candidates.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmark import metrics
from tests.coverage import IMAGES, areas, cohort, coverage, false_alarms, names, resampled


def test_the_areas_of_the_simulation_are_those_of_the_metrics() -> None:
    generator = np.random.default_rng(0)
    targets = np.repeat(generator.random((12, 1, 2)) < 0.4, IMAGES, axis=1)
    scores = targets + generator.normal(size=targets.shape)
    weights = generator.multinomial(12, np.full(12, 1 / 12), size=20).astype(float)
    by_image = np.repeat(weights, IMAGES, axis=1)
    flat = [item.reshape(-1, 2).astype(float) for item in (targets, scores)]
    expected = metrics.macro([metrics.auroc(flat[1][:, k], flat[0][:, k], by_image) for k in range(2)])
    assert areas(targets, scores)(weights)[0] == pytest.approx(expected)
    drawn = resampled(cohort("macro AUROC", 40, generator), 40, 0)
    assert len(drawn.left_out) == len(names(40))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["macro AUROC", "recall@10"])
def test_the_interval_in_use_covers_at_least_93_percent(name: str) -> None:
    found = coverage(name, 150, 2000)
    assert 0.93 <= found["BCa"] <= 0.97, found


@pytest.mark.slow
def test_equal_methods_seldom_differ() -> None:
    assert false_alarms(150, 2000) <= 0.07
