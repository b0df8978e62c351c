"""What tells predictions that do not look at the image: (almost) the same answer for (almost) every row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ALMOST = 0.99  # of the rows
FLAT = 1e-6  # of scores beside their size: no difference


def almost(share: float) -> bool:
    """Whether a share of the rows is as good as all of them."""
    return share >= ALMOST


def commonest_share(values: NDArray[np.float64], tolerance: float = 0.0) -> float:
    """The share of the rows (N, ...) that are equal to the commonest of three of them, each entry within the tolerance.

    A row that 99 of 100 are equal to is the first, the middle or the last one, or its neighbour is.
    """
    rows = values.reshape(len(values), -1)
    tried = rows[np.unique([0, len(rows) // 2, len(rows) - 1])]
    equal = [np.isclose(rows, one, rtol=0, atol=tolerance, equal_nan=True).all(axis=1).mean() for one in tried]
    return float(max(equal))


def flat_scores(scores: NDArray[np.float64]) -> bool:
    """Whether no class of scores (N, K) tells rows apart; one row alone tells nothing."""
    if len(scores) < 2:
        return False
    return all(_flat(column) for column in scores.T)


def _flat(column: NDArray[np.float64]) -> bool:
    """Equal but for the rounding of float32, beside the size of the scores themselves: small scores are not flat for that."""
    sizes = np.abs(column)
    return bool(np.ptp(column) <= FLAT * sizes.max()) or almost(commonest_share(column, FLAT * float(np.median(sizes))))


REFERENCE_KINDS = {
    "majority class": "constant",
    "all positive": "constant",
    "prevalence": "prevalence",
    "uniform guess": "random",
    "random ranking": "random",
    "frequent reports first": "prevalence",
    "empty mask": "constant",
    "all foreground": "constant",
    "mean training mask": "prevalence",
    "whole lungs": "anatomy",
    "no box": "constant",
    "center box": "constant",
    "mean training box": "prevalence",
    "oracle (true findings)": "oracle",
}  # what the trivial rows of all families know: nothing, the training split's shares, or the truth
