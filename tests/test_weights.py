"""Checkpoints that are hostile, damaged, of another kind or of another model: refused in one sentence, nothing executed."""

from __future__ import annotations

import io
import pickle  # noqa: TID251  (to make the files that must be refused)
import random
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from benchmark import weights
from benchmark.errors import UserError


class Model(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, width)
        self.register_buffer("steps", torch.tensor(7))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {name: tensor.clone() for name, tensor in Model().state_dict().items()}


def torch_bytes(value: object, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refusal(path: Path, expect_sha256: str | None = None) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(UserError) as caught:
        weights.load(path, expect_sha256)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --------------------------------------------------------------------------------------------- accepted


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", ["", "state_dict", "model"])
def test_torch_files_of_tensors_are_read(tmp_path: Path, state: dict[str, Tensor], legacy: bool, wrap: str) -> None:
    value: object = {wrap: state, "epoch": 3} if wrap else state
    assert equal(weights.load(put(tmp_path / "model.pt", torch_bytes(value, legacy))), state)


def test_safetensors_are_read_and_what_was_saved_comes_back(tmp_path: Path, state: dict[str, Tensor]) -> None:
    model, path = Model(), tmp_path / "sub" / "model.safetensors"
    model.load_state_dict(state)
    written = weights.save_module(path, model)
    assert written == weights.file_sha256(path) == sha256(path.read_bytes()).hexdigest()
    found = weights.load(path, written)
    assert equal(found, state)
    other = Model()
    weights.apply(other, found, "checkpoint")
    assert equal(other.state_dict(), state)


def test_tied_tensors_and_views_are_saved_as_their_own(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias = nn.Parameter(torch.arange(6.0)[::2])
    weights.save_module(tmp_path / "model.safetensors", model)
    assert equal(weights.load(tmp_path / "model.safetensors"), dict(model.state_dict()))


def test_half_precision_and_empty_tensors_are_read(tmp_path: Path) -> None:
    state = {"half": torch.ones(2, dtype=torch.bfloat16), "none": torch.zeros(0, 3), "flag": torch.tensor(True)}
    assert equal(weights.load(put(tmp_path / "a.pt", torch_bytes(state))), state)
    assert equal(weights.load(put(tmp_path / "a.safetensors", save(state))), state)


def test_a_training_state_comes_back(tmp_path: Path, state: dict[str, Tensor]) -> None:
    weights.save_state(tmp_path / "state.pt", {"model": state, "step": 3, "rates": [0.1, 0.2], "name": "mcr"})
    found: Any = weights.load_state(tmp_path / "state.pt")
    assert equal(found.pop("model"), state)
    assert found == {"step": 3, "rates": [0.1, 0.2], "name": "mcr"}


# ---------------------------------------------------------------------------------------------- hostile


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.marker, "executed")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pkl", ".safetensors"])
def test_a_payload_is_never_executed(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    marker = tmp_path / "marker"
    value = {**state, "payload": Payload(marker)}
    for index, data in enumerate([pickle.dumps(value), torch_bytes(value), torch_bytes(value, legacy=True)]):
        path = put(tmp_path / f"{index}{suffix}", data)
        message = refusal(path)
        assert "safetensors" in message
        with pytest.raises(UserError):
            weights.load_state(path)
        assert not marker.exists()
    pickle.loads(pickle.dumps(value))
    assert marker.exists()  # the payload does work where somebody unpickles it


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    assert "running code" in refusal(put(tmp_path / "model.pt", torch_bytes(Model())))


def test_an_archive_that_would_unpack_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", pickle.dumps({"a": 1}))
        archive.writestr("bomb/data/0", bytes(20_000_000))
        archive.writestr("bomb/version", "3\n")
    assert path.stat().st_size < 100_000
    assert "damaged" in refusal(path)


def test_a_tensor_blown_up_from_a_few_values_is_refused(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(10**12)
    assert "'w'" in refusal(put(tmp_path / "model.pt", torch_bytes({"w": huge})))


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_a_tensor_without_plain_values_is_refused(tmp_path: Path, kind: str) -> None:
    tensor = torch.eye(3).to_sparse() if kind == "sparse" else torch.empty(2, device="meta")
    assert "'w'" in refusal(put(tmp_path / "model.pt", torch_bytes({"w": tensor})))


# ---------------------------------------------------------------------------------------------- damaged


@pytest.mark.parametrize("name", ["model.pt", "legacy.pt", "model.safetensors"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, state: dict[str, Tensor], name: str) -> None:
    data = save(state) if name.endswith("safetensors") else torch_bytes(state, legacy=name.startswith("legacy"))
    for length in [*range(0, len(data) - 1, 61), len(data) - 1]:
        refusal(put(tmp_path / name, data[:length]))


@pytest.mark.parametrize("name", ["model.pt", "legacy.pt", "model.safetensors"])
def test_changed_bytes_end_in_tensors_or_in_a_refusal(tmp_path: Path, state: dict[str, Tensor], name: str) -> None:
    data = save(state) if name.endswith("safetensors") else torch_bytes(state, legacy=name.startswith("legacy"))
    dice, refused = random.Random(0), 0
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(dice.choice([1, 3, 20])):
            changed[dice.randrange(len(data))] = dice.randrange(256)
        try:
            assert weights.load(put(tmp_path / name, bytes(changed)))
        except UserError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "data", [b"", b"PK", b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n", bytes(1000), b"\x80\x02}q\x00."]
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, suffix: str, data: bytes) -> None:
    refusal(put(tmp_path / f"model{suffix}", data))


def test_another_archive_and_another_array_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "report.pt", "w") as archive:
        archive.writestr("report.txt", "no acute findings")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("report.pt", "arrays.npz", "array.npy"):
        refusal(tmp_path / name)


@pytest.mark.parametrize("value", [{}, [1, 2], torch.ones(3), "text", {"epoch": 3}, {0: torch.ones(2)}, {"state_dict": {}}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, value: object) -> None:
    assert "no tensors by name" in refusal(put(tmp_path / "model.pt", torch_bytes(value)))
    assert "no tensors by name" in refusal(put(tmp_path / "model.safetensors", save({})))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, state: dict[str, Tensor], suffix: str, bad: float, kind: torch.dtype
) -> None:
    changed = {**state, "encoder.bias": torch.tensor([0, bad, 0, 0], dtype=kind)}
    data = save(changed) if suffix == ".safetensors" else torch_bytes(changed)
    assert "'encoder.bias'" in refusal(put(tmp_path / f"model{suffix}", data))


def test_another_file_than_the_recorded_one_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = put(tmp_path / "model.safetensors", save(state))
    recorded = weights.file_sha256(path)
    assert equal(weights.load(path, recorded), state)
    put(path, save({**state, "encoder.bias": state["encoder.bias"] + 1e-6}))
    assert "sha256" in refusal(path, recorded)


@pytest.mark.parametrize("name", ["absent.pt", "absent.safetensors", "folder"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    assert "is not a file" in refusal(tmp_path / name)


@pytest.mark.parametrize("data", [b"", b"PK", b"text", torch_bytes([1, 2]), torch_bytes(torch.ones(2))])
def test_a_damaged_training_state_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UserError, match=r"training state .*state\.pt is damaged; delete it"):
        weights.load_state(put(tmp_path / "state.pt", data))
    with pytest.raises(UserError, match="is damaged"):
        weights.load_state(tmp_path / "absent.pt")


# ---------------------------------------------------------------------------------------- another model


def changed_states(state: dict[str, Tensor]) -> dict[str, tuple[dict[str, Tensor], str]]:
    renamed = {name.replace("encoder.bias", "encoder.offset"): tensor for name, tensor in state.items()}
    missing = {name: tensor for name, tensor in state.items() if name != "steps"}
    return {
        "renamed": (renamed, "1 keys are missing (first 'encoder.bias'), 1 are unexpected (first 'encoder.offset')"),
        "missing": (missing, "1 keys are missing (first 'steps'), 0 are unexpected"),
        "unexpected": ({**state, "head": torch.ones(1)}, "0 keys are missing, 1 are unexpected (first 'head')"),
        "other shape": ({**state, "encoder.weight": torch.ones(5, 3)}, "'encoder.weight' has shape (5, 3), expected (4, 3)"),
        "transposed": ({**state, "encoder.weight": torch.ones(3, 4)}, "'encoder.weight' has shape (3, 4), expected (4, 3)"),
        "scalar": ({**state, "encoder.bias": torch.tensor(1.0)}, "'encoder.bias' has shape (), expected (4,)"),
    }


@pytest.mark.parametrize("case", ["renamed", "missing", "unexpected", "other shape", "transposed", "scalar"])
def test_weights_of_another_model_are_refused_whole(state: dict[str, Tensor], case: str) -> None:
    changed, words = changed_states({name: tensor + 1 for name, tensor in state.items()})[case]
    model = Model()
    model.load_state_dict(state)
    with pytest.raises(UserError) as caught:
        weights.apply(model, changed, "checkpoint x.pt")
    assert str(caught.value).startswith("checkpoint x.pt does not fit: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert equal(dict(model.state_dict()), state)  # all or nothing
