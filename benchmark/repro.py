"""Seeds, deterministic mode, and the record of the environment."""

from __future__ import annotations

import hashlib
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "accelerate",
    "segmentation-models-pytorch", "mmdet", "mmengine", "mmcv-lite", "mmcv", "pycocotools", "pillow", "torchxrayvision",
)  # fmt: skip


def seed_of(*parts: object) -> int:
    """A 63-bit seed from numbers and texts, the same in every process: seed_of(0, "mask", 12)."""
    plain = tuple(part.item() if isinstance(part, np.generic) else part for part in parts)  # np.int64(3) seeds like 3
    return int.from_bytes(hashlib.sha256(repr(plain).encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Runs a block on its own streams of the global generators, which are put back afterwards."""
    seed = seed_of(*parts)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def generators() -> dict[str, Any]:
    """The states of the global generators of torch, Python and numpy, as tensors and plain values."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
    }


def restore_generators(state: Mapping[str, Any]) -> None:
    """Puts back what `generators` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))


def deterministic() -> None:
    """Asks torch for deterministic algorithms; must run before CUDA starts. Operators without one only warn."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    full_fp32()


def full_fp32() -> None:
    """Switches TF32 off, so that "fp32" in a key or a row means it; torch has it on for convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _git(*words: str) -> str:
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        done = subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, timeout=10)  # noqa: S603, S607
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@cache
def _fixed_environment() -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "machine": _processor(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    commit = _git("rev-parse", "HEAD")
    if commit:
        found["commit"] = commit + ("-dirty" if _git("status", "--porcelain") else "")
    return found


def environment(device: torch.device) -> dict[str, str]:
    """Versions, machine and commit, for the record: not part of any key."""
    found = {**_fixed_environment(), "threads": str(torch.get_num_threads()), "device": str(device)}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = str(torch.version.cuda)
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor() or sys.platform} x {os.cpu_count()}"
