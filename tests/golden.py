"""The recorded arrays of reference implementations, found by BENCHMARK_REFERENCE; where it is not set, their tests skip."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

REFERENCE = Path(os.environ.get("BENCHMARK_REFERENCE", "/nonexistent"))
needs_golden = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="set BENCHMARK_REFERENCE to the folder of recorded reference arrays"
)


class Case:
    """One recorded case: inputs, weights, settings, outputs and gradients by their names in the file."""

    def __init__(self, name: str) -> None:
        with np.load(REFERENCE / f"{name}.npz") as file:
            self.arrays = {key: file[key] for key in file.files}

    def __getitem__(self, key: str) -> Tensor:
        return torch.as_tensor(self.arrays[key])

    def leaf(self, key: str) -> Tensor:
        """A float tensor that collects its gradient."""
        return self[key].clone().requires_grad_()

    def number(self, key: str) -> float:
        return float(self.arrays[key])

    def weights(self, prefix: str = "") -> dict[str, Tensor]:
        """The tensors under w/<prefix>, without that prefix."""
        start = f"w/{prefix}"
        return {key[len(start) :]: self[key] for key in self.arrays if key.startswith(start)}


def assert_output(found: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    """Within 1e-5 absolute and relative; losses at temperature 0.01 need relative=1e-4."""
    torch.testing.assert_close(found.detach().to(expected.dtype), expected, atol=1e-5, rtol=relative)


def assert_gradient(found: Tensor | None, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Within 1e-4 of the largest entry."""
    assert found is not None
    torch.testing.assert_close(found.to(expected.dtype), expected, atol=tolerance * float(expected.abs().max()), rtol=0)
