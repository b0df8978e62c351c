"""Keys change with every field of a specification and with nothing else."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from benchmark.types import PretrainSpec, RunSpec, plain

RUN = RunSpec(
    method="mcr", method_version=1, config={"width": 64, "stream": "single", "tied": False, "scale": 0.5}, weights="seed",
    task="retrieval", task_version=2, protocol="retrieval-exact", protocol_hash="0123abcd", dataset="phantom",
    dataset_version="1", splits={"train": "aa", "val": "bb", "test": "cc"}, label_fraction=0.1, seed=0, eval_seed=0,
    precision="fp32",
)  # fmt: skip
PRETRAINING = PretrainSpec(
    method="mcr", method_version=1, config={"width": 64}, recipe={"steps": 10, "rate": 0.1}, dataset="phantom",
    dataset_version="1", split="aa", seed=0,
)  # fmt: skip


def other_values(value: Any) -> list[Any]:
    """Values that differ from the given one, also those that a careless key would take for the same."""
    if isinstance(value, dict):
        changed = [value | {name: other} for name, item in value.items() for other in other_values(item)]
        return [*changed, {**value, "new": None}, *({k: v for k, v in value.items() if k != name} for name in value)]
    if isinstance(value, bool):
        return [not value, int(value), str(value)]
    if isinstance(value, str):
        return [value + " ", value.upper() if value.upper() != value else value + "x", ""]
    return [value + 1, str(value), math.nextafter(value, 9), None]


@pytest.mark.parametrize("spec", [RUN, PRETRAINING], ids=["RunSpec", "PretrainSpec"])
def test_every_field_is_in_the_key(spec: Any) -> None:
    flipped = [replace(spec, **{item.name: other}) for item in fields(spec) for other in other_values(getattr(spec, item.name))]
    keys = [changed.key for changed in flipped]
    assert len(flipped) >= 3 * len(fields(spec))
    assert spec.key not in keys  # 0 hits
    assert len(set(keys)) == len({repr(changed) for changed in flipped})


@pytest.mark.parametrize("spec", [RUN, PRETRAINING], ids=["RunSpec", "PretrainSpec"])
def test_the_key_is_the_same_in_every_process(spec: Any) -> None:
    code = (
        "import json, sys; from benchmark import types; "
        "print(getattr(types, sys.argv[1])(**json.loads(sys.argv[2])).key, 'torch' in sys.modules)"
    )
    backwards = {name: plain(getattr(spec, name)) for name in reversed([item.name for item in fields(spec)])}
    backwards["config"] = dict(reversed(backwards["config"].items()))
    for seed in ("1", "77"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, type(spec).__name__, json.dumps(backwards)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
        assert done.stdout.split() == [spec.key, "False"]
    assert len(spec.key) == 16
