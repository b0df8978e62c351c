"""Seeds that are the same everywhere, global generators that are put back, and an import that changes nothing global."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmark.repro import deterministic, environment, seed_of, seeded


def states() -> tuple[object, ...]:
    return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_depends_on_every_part_and_on_its_type() -> None:
    cases = [(), (0,), (1,), ("0",), (0, "mask", 12), (0, "mask", 1, 2), (0, "mask", "12"), ("mask", 0, 12), (None,), (0.0,)]
    seeds = [seed_of(*case) for case in cases]
    assert len(set(seeds)) == len(cases)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_in_every_process() -> None:
    code = "from benchmark.repro import seed_of; print(seed_of(0, 'mask', 12), seed_of(3, 'ü', None, (1.5, True)))"
    expected = [str(seed_of(0, "mask", 12)), str(seed_of(3, "ü", None, (1.5, True)))]
    environment = os.environ | {"PYTHONHASHSEED": "42"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True, timeout=120
    )
    assert done.stdout.split() == expected
    assert expected[0] == "7470051419960321098"  # a change would change every result under an unchanged key


def test_a_numpy_number_seeds_like_the_number() -> None:
    assert seed_of(np.int64(3), "a", np.float64(0.5), np.str_("b")) == seed_of(3, "a", 0.5, "b")


def test_a_seeded_block_repeats_and_leaves_the_generators_as_they_were() -> None:
    before = states()
    with seeded(0, "init"):
        first = draws()
    assert states() == before
    random.random(), np.random.rand(), torch.rand(5)
    with seeded(0, "init"):
        assert draws() == first
    with seeded(1, "init"):
        other = draws()
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_a_seeded_block_that_fails_leaves_the_generators_as_they_were() -> None:
    before = states()

    def fail() -> None:
        draws()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), seeded(0):
        fail()
    assert states() == before


def test_seeded_blocks_nest() -> None:
    with seeded("outer"):
        draws()
        expected = draws()
    with seeded("outer"):
        draws()
        with seeded("inner"):
            draws()
        assert draws() == expected


def test_deterministic_mode_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    try:
        deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"  # what the caller set stays
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def test_the_environment_names_what_decides_a_number() -> None:
    found = environment(torch.device("cpu"))
    assert torch.__version__.startswith(found["torch"])
    assert found["numpy"] == np.__version__
    assert found["device"] == "cpu"
    assert found["threads"] == str(torch.get_num_threads())
    assert found["machine"]
    assert "gpu" not in found
    assert all(isinstance(value, str) for value in found.values())


IMPORTS = """
import importlib, pkgutil, warnings
warnings.simplefilter("ignore")
import numpy as np, torch

def states():  # not that of `random`: scikit-learn draws from it when it is imported
    switches = torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
    return switches, str(np.random.get_state()), torch.random.get_rng_state().tolist()

before = states()
for name in ("benchmark", "methods", "tasks", "leaderboards"):
    for module in pkgutil.walk_packages(importlib.import_module(name).__path__, name + "."):
        if module.name != "benchmark.__main__":
            importlib.import_module(module.name)
import torchxrayvision
from PIL import Image, ImageFile
assert ImageFile.LOAD_TRUNCATED_IMAGES is False
assert Image.MAX_IMAGE_PIXELS is not None
assert states() == before
"""


def test_importing_everything_changes_no_global_state_and_no_image_is_repaired_in_silence() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
