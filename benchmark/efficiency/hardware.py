"""What a machine can do at most, what it does in a plain matrix product, and the energy that its GPU has used."""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import Any

import torch

from benchmark.context import DTYPES

# 10^12 operations a second without sparsity, by the exact name that torch gives, so that a slice of a card (MIG) has none.
# H100, A100, V100, T4: NVIDIA's data sheets, as collected in Lightning-AI/pytorch-lightning@0810121 (fabric/utilities/
# throughput.py; printed with sparsity there halved). H200: the die and the clocks of the H100 SXM; 989 dense in
# https://itkb.uw.cz/2026/06/nvidia-h200-vs-b300-precisions-cores.html. fp32 is without TF32, which measurements switch off.
_H100_SXM = {"bf16": 989.5, "fp16": 989.5, "fp32": 67.0}
_A100 = {"bf16": 312.0, "fp16": 312.0, "fp32": 19.5}
_V100_SXM = {"fp16": 125.0, "fp32": 15.7}
_V100_PCIE = {"fp16": 112.0, "fp32": 14.0}
PEAK_TFLOPS: dict[str, dict[str, float]] = {
    "NVIDIA H200": _H100_SXM,
    "NVIDIA H100 80GB HBM3": _H100_SXM,
    "NVIDIA H100 PCIe": {"bf16": 756.5, "fp16": 756.5, "fp32": 51.0},
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "Tesla V100-SXM2-16GB": _V100_SXM,
    "Tesla V100-SXM2-32GB": _V100_SXM,
    "Tesla V100-PCIE-16GB": _V100_PCIE,
    "Tesla V100-PCIE-32GB": _V100_PCIE,
    "Tesla T4": {"fp16": 65.0, "fp32": 8.1},
}


def peak_tflops(name: str, precision: str) -> float | None:
    """The data sheet's 10^12 operations a second of a GPU at a precision; None for one that is not in the table."""
    return PEAK_TFLOPS.get(name, {}).get(precision)


def matmul_tflops(device: torch.device, precision: str, repeats: int = 10) -> float:
    """10^12 operations a second (2 a multiply-add) in the fastest of a few square products: of 8192 on a GPU, 1024 on a CPU."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.ones(side, side, dtype=DTYPES[precision], device=device) for _ in range(2))
    fastest = float("inf")
    for _ in range(repeats + 1):  # the first warms up
        begin = _now(device)
        torch.mm(left, right)
        fastest = min(fastest, _now(device) - begin)
    return 2 * side**3 / fastest / 1e12


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


class EnergyCounter:
    """Joules of a GPU between `start` and `stop`, by nvmlDeviceGetTotalEnergyConsumption (Volta and later, the whole card)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._handle: Any = None
        self._begin = 0

    def start(self) -> None:
        """Reads the counter of the card; where there is none, `stop` gives None."""
        if self.device.type != "cuda":
            return
        import pynvml

        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(self.device).uuid}")
            self._begin = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
            return
        self._handle = None

    def stop(self) -> float | None:
        """Joules since `start`; None on a CPU, on a slice of a card, or where the driver keeps no count."""
        if self._handle is None:
            return None
        import pynvml

        with suppress(pynvml.NVMLError):
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._begin) / 1000
        return None
