"""`convert`: old pickled checkpoints become safetensors, and nothing that they carry is imported, called or set."""

from __future__ import annotations

import io
import pickle  # noqa: TID251  (to make the files that must do no harm)
import random
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark import weights
from benchmark.convert import read
from benchmark.errors import UserError
from tests.conftest import Command

STATE = {
    "gloria.img_encoder.weight": torch.arange(12.0).reshape(3, 4),
    "gloria.img_encoder.steps": torch.tensor(7),
    "gloria.text_encoder.half": torch.ones(2, 2, dtype=torch.bfloat16),
}


def torch_bytes(value: object, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def archive_bytes(pickled: bytes, storage: bytes = bytes(48)) -> bytes:
    """The zip format around a pickle written by hand."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", storage)
        archive.writestr("a/version", "3\n")
    return buffer.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype for name in first
    )


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# --------------------------------------------------------------------------------------------- what is kept


class DictConfig:
    """What OmegaConf would put into a file."""

    def __init__(self, content: object) -> None:
        self.content = content

    def __setstate__(self, state: object) -> None:
        raise AssertionError("somebody set the state")


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """A class of a module that is there when the file is written, and gone when it is read."""
    module = types.ModuleType("omegaconf_like.dictconfig")
    setattr(module, "DictConfig", DictConfig)  # noqa: B010
    monkeypatch.setattr(DictConfig, "__module__", module.__name__)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf_like", types.ModuleType("omegaconf_like"))
        patch.setitem(sys.modules, module.__name__, module)
        yield DictConfig


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_with_settings_as_objects_is_converted(
    configured: Any, legacy: bool, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"state_dict": OrderedDict(STATE), "hyper_parameters": configured({"lr": 1e-4}), "epoch": 3, "callbacks": {int: 1}}
    old, new = put(tmp_path / "gloria.ckpt", torch_bytes(file, legacy)), tmp_path / "out" / "gloria.safetensors"
    monkeypatch.delitem(sys.modules, "omegaconf_like")
    monkeypatch.delitem(sys.modules, "omegaconf_like.dictconfig")
    with pytest.raises(UserError, match="without running code"):
        weights.load(old)
    assert command("convert", str(old), str(new)) == 0, command.error
    assert "omegaconf_like" not in sys.modules
    assert equal(weights.load(new), STATE)
    for words in (
        f"sha256 {sha256(old.read_bytes()).hexdigest()}", f"sha256 {sha256(new.read_bytes()).hexdigest()}",
        "kept     3 tensors of 'state_dict'", "in 2 of 'gloria.img_encoder'", "omegaconf_like.dictconfig.DictConfig",
        "'epoch' (int)", "'hyper_parameters' (omegaconf_like.dictconfig.DictConfig)", "none was imported or called",
    ):  # fmt: skip
        assert words in command.output


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model"])
def test_what_weights_load_reads_is_read_the_same(tmp_path: Path, legacy: bool, wrapper: str) -> None:
    base = torch.randn(6, 4, dtype=torch.float64)
    state = {
        "whole": base, "transposed": base.T, "rows": base[2:4], "column": base[:, 1], "tied": base,
        "parameter": nn.Parameter(torch.randn(3)), "frozen": nn.Parameter(torch.ones(2, dtype=torch.int32), False),
        "flag": torch.tensor([True, False]), "none": torch.zeros(0, 3), "scalar": torch.tensor(2, dtype=torch.uint8),
        "half": torch.randn(2).half(), "complex": torch.randn(2, dtype=torch.complex64), "short": torch.ones(2).short(),
    }  # fmt: skip
    path = put(tmp_path / "a.pt", torch_bytes({wrapper: OrderedDict(state), "epoch": 1} if wrapper else state, legacy))
    found = read(path)
    assert equal(found.state, weights.load(path))
    assert equal(found.state, {name: item.detach() for name, item in state.items()})
    assert found.wrapper == wrapper
    assert found.placeholders == ()
    put(tmp_path / "a.safetensors", found.to_bytes())
    assert equal(weights.load(tmp_path / "a.safetensors"), found.state)


def test_newer_types_and_tensors_with_attributes_are_read(tmp_path: Path) -> None:
    marked = torch.ones(3)
    marked.note = "text"  # type: ignore[attr-defined]
    state = {"wide": torch.tensor([1, 2], dtype=torch.uint32), "marked": marked}
    assert equal(read(put(tmp_path / "a.pt", torch_bytes(state))).state, state)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_pickle_is_followed(tmp_path: Path, protocol: int) -> None:
    value = {"a": [1, -70000, 2**70, 0.5, None, True, "ä", b"x", (1, 2, 3, 4), {1, 2}, frozenset([1])], "b": defaultdict(int)}
    value["b"]["c"] = 1  # type: ignore[index]
    path = put(tmp_path / "a.pt", archive_bytes(pickle.dumps(value, protocol)))
    assert "no tensors by name" in refusal(path)
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2), **value}, buffer, pickle_protocol=max(protocol, 2))
    assert equal(read(put(path, buffer.getvalue())).state, {"w": torch.ones(2)})


def test_nested_dicts_get_dotted_names_and_the_rest_is_listed(tmp_path: Path) -> None:
    file = {"net": {"a": {"w": torch.ones(2)}, "b": torch.zeros(1)}, "optimizer": {"state": {0: {"m": torch.ones(1)}}, "lr": 1}}
    found = read(put(tmp_path / "a.pt", torch_bytes(file)))
    assert equal(found.state, {"net.a.w": torch.ones(2), "net.b": torch.zeros(1)})
    assert found.left_out == ("'optimizer.state.0' (under a key that is no text)", "'optimizer.lr' (int)")


def test_a_pickled_model_or_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    for legacy in (False, True):
        assert "'torch.nn.modules.linear.Linear'" in refusal(put(tmp_path / "a.pt", torch_bytes(nn.Linear(2, 2), legacy)))
        for value in ({}, [torch.ones(1)], torch.ones(1), "text", {"epoch": 1}, {0: torch.ones(1)}, {"state_dict": {}}, None):
            assert "holds no tensors by name" in refusal(put(tmp_path / "a.pt", torch_bytes(value, legacy)))


# -------------------------------------------------------------------------------------------- what is damaged


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, legacy: bool) -> None:
    data = torch_bytes({"state_dict": STATE}, legacy)
    for length in [*range(0, len(data) - 1, 61), len(data) - 1]:
        assert "is damaged" in refusal(put(tmp_path / "a.pt", data[:length]))


@pytest.mark.parametrize("legacy", [False, True])
def test_changed_bytes_end_in_tensors_or_in_a_refusal(tmp_path: Path, legacy: bool) -> None:
    data, dice, refused = torch_bytes({"state_dict": STATE}, legacy), random.Random(0), 0
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(dice.choice([1, 3, 20])):
            changed[dice.randrange(len(data))] = dice.randrange(256)
        try:
            assert read(put(tmp_path / "a.pt", bytes(changed))).state
        except UserError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(command: Command, tmp_path: Path, bad: float) -> None:
    old = put(tmp_path / "a.pt", torch_bytes({**STATE, "bias": torch.tensor([0, bad])}))
    assert command("convert", str(old), str(tmp_path / "a.safetensors")) == 2
    command.refused("'bias'", "NaN or infinity")
    assert not (tmp_path / "a.safetensors").exists()


def test_other_requests_are_refused_in_one_sentence(command: Command, tmp_path: Path) -> None:
    old, there = put(tmp_path / "a.pt", torch_bytes(STATE)), put(tmp_path / "there.safetensors", b"kept")
    cases = {
        (old, there): "is there already",
        (old, tmp_path / "b.pt"): "does not end in .safetensors",
        (old, there / "in" / "b.safetensors"): "cannot be written",
        (tmp_path / "none.pt", tmp_path / "b.safetensors"): "is not a file",
        (tmp_path, tmp_path / "b.safetensors"): "is not a file",
        (there, tmp_path / "b.safetensors"): "is a safetensors file already",
        (put(tmp_path / "c.pt", b""), tmp_path / "b.safetensors"): "is damaged or no file of torch.save",
        (put(tmp_path / "d.pt", b"<html>404</html>"), tmp_path / "b.safetensors"): "is damaged or no file of torch.save",
    }
    for (source, target), words in cases.items():
        assert command("convert", str(source), str(target)) == 2
        command.refused(words)
    assert there.read_bytes() == b"kept"
    assert not (tmp_path / "b.safetensors").exists()


def test_names_that_safetensors_cannot_hold_are_left_out(tmp_path: Path) -> None:
    found = read(
        put(tmp_path / "a.pt", torch_bytes({"w": torch.ones(1), "__metadata__": torch.ones(1), "\ud800": torch.ones(1)}))
    )
    assert list(found.state) == ["w"]
    assert found.left_out == ("'__metadata__' (tensor)", "'\\ud800' (tensor)")


def test_the_help_says_why_it_is_a_command_of_its_own(command: Command) -> None:
    assert command("convert", "--help") == 0
    assert "python -m benchmark convert gloria.ckpt gloria.safetensors" in command.output
    assert "why a command of its own" in command.output
