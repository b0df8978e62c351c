"""Logistic regression with an L2 penalty chosen on val: by scikit-learn, or, for large sets, the same optimum on the GPU."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import softplus

from benchmark.context import Context
from benchmark.types import Protocol
from tasks.heads.fit import in_chunks
from tasks.heads.supervised import AREA, Decide, Labelled, value_on

LARGE = 2**24  # rows x width from which a CUDA device solves: 21,845 rows of 768
ROWS = 2**16  # of a Hessian's sum at once
Floats = NDArray[np.float64]


def fit_logistic(train: Labelled, val: Labelled, protocol: Protocol, context: Context) -> Decide:
    """One regression a class; one strength of the penalty for all, the best macro AUROC on val, the strongest of equals.

    Where no class of val has both values, the strongest penalty is taken.

    Returns:
        Features (N, W) -> log-odds (N, K) float64.
    """
    on_device = context.device.type == "cuda" and train.features.size > LARGE
    grid = [float(value) for value in protocol.setting("grid").split(",")]
    context.notes["configurations_tried"] = len(grid)
    best, found = -np.inf, (np.zeros((0, 0)), np.zeros(0))
    for penalty in grid:
        weight, bias = solve_torch(train, penalty, context.device) if on_device else solve_scikit(train, penalty)
        area = float(np.nan_to_num(value_on(val.features @ weight.T + bias, val.labels, AREA), nan=0.5))
        if area > best:
            best, found = area, (weight, bias)
            context.notes["l2_c"] = penalty
    weight, bias = found
    return lambda values: np.asarray(values @ weight.T + bias)


def solve_scikit(train: Labelled, penalty: float) -> tuple[Floats, Floats]:
    """The optimum at a strength C: weight (K, W) and bias (K,)."""
    classes, width = train.labels.shape[1], train.features.shape[1]
    weight, bias = np.zeros((classes, width)), np.zeros(classes)
    for k in range(classes):
        known = ~np.isnan(train.labels[:, k])
        # Newton's method: exact in a dozen steps for the few hundred to two thousand features of a pooled vector
        head = LogisticRegression(C=penalty, solver="newton-cholesky", tol=1e-8, max_iter=100)
        head.fit(train.features[known].astype(np.float64), train.labels[known, k] > 0.5)
        weight[k], bias[k] = head.coef_[0], head.intercept_[0]
    return weight, bias


def solve_torch(train: Labelled, penalty: float, device: torch.device) -> tuple[Floats, Floats]:
    """As `solve_scikit`, by damped Newton steps in float64 on a device."""
    features = torch.from_numpy(np.asarray(train.features, np.float64)).to(device)
    features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    solutions = []
    for k in range(train.labels.shape[1]):
        labels = torch.from_numpy(np.asarray(train.labels[:, k], np.float64)).to(device)
        known = ~torch.isnan(labels)
        solutions.append(_newton(features, labels.nan_to_num(0.0), known.double(), penalty))
    stacked = torch.stack(solutions).cpu().numpy()
    return np.asarray(stacked[:, :-1]), np.asarray(stacked[:, -1])


def _newton(features: Tensor, labels: Tensor, known: Tensor, penalty: float) -> Tensor:
    """The minimum of |w|^2 / 2 + C * (sum of the losses of known rows); the last feature is 1, its weight not penalised."""
    solution = features.new_zeros(features.shape[1])
    ridge = features.new_ones(features.shape[1])
    ridge[-1] = 0.0

    def value(candidate: Tensor) -> Tensor:
        logits = features @ candidate
        return (ridge * candidate**2).sum() / 2 + penalty * (known * (softplus(logits) - labels * logits)).sum()

    for _ in range(100):
        chances = torch.sigmoid(features @ solution)
        gradient = ridge * solution + penalty * (features.T @ (known * (chances - labels)))
        curvature = penalty * known * chances * (1 - chances)
        hessian = torch.diag(ridge)
        for rows in in_chunks(len(features), ROWS):
            part = features[rows.start : rows.stop]
            hessian = hessian + part.T @ (part * curvature[rows.start : rows.stop, None])
        step = torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(hessian))[:, 0]
        decrement, before, length = float(gradient @ step), value(solution), 1.0
        while value(solution - length * step) > before - 1e-4 * length * decrement and length > 1e-8:
            length /= 2
        solution = solution - length * step
        if decrement <= 1e-14 * max(1.0, float(before)):
            break
    return solution
