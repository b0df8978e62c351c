"""The only place that reads a checkpoint: safetensors, or torch files with weights_only, and nothing else."""

from __future__ import annotations

import io
import pickle  # noqa: TID251  (for the name of an error only; nothing is unpickled)
import struct
import warnings
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from benchmark import store
from benchmark.errors import UserError

DAMAGED = (  # what torch's restricted unpickler raises on a file that was cut, changed or made up
    OSError, EOFError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError, LookupError, OverflowError,
    struct.error, zipfile.BadZipFile, pickle.UnpicklingError, SafetensorError,
)  # fmt: skip


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, read in pieces."""
    found = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def load(path: Path, expect_sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Raises:
        UserError: no such file, cut short, another kind of file, one that needs unpickling, another sha256 than
            expected, no tensors in it, or a tensor that holds NaN or infinity or not its own values.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} is not a file; give the path of a .safetensors or .pt file")
    if expect_sha256 is not None and file_sha256(path) != expect_sha256:
        raise UserError(f"checkpoint {path} is not the file that was recorded (sha256 differs); restore it or train again")
    state = _safetensors(path) if path.suffix == ".safetensors" else _weights_only(path)
    if not state:
        raise UserError(f"checkpoint {path} holds no tensors by name; it is not a checkpoint of a model")
    for name, tensor in state.items():
        if not _is_plain(tensor):
            raise UserError(f"checkpoint {path} holds no plain tensor in {name!r}; save it dense, whole and on the CPU")
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"checkpoint {path} holds NaN or infinity in {name!r}; it cannot be used")
    return state


def _is_plain(tensor: Tensor) -> bool:
    """Dense, and with a value of its own for each entry: neither sparse nor without data nor blown up from a few."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint {path} is damaged or no safetensors file: {error}") from error
    return found


def _weights_only(path: Path) -> dict[str, Tensor]:
    try:
        found = _read(path, path.stat().st_size)
    except DAMAGED as error:
        raise UserError(
            f"checkpoint {path} cannot be read without running code that it carries, or is damaged; "
            "turn it into safetensors, without running any of it, by `python -m benchmark convert OLD NEW.safetensors`"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _read(file: Path | io.BytesIO, size: int) -> object:
    """A torch file of so many bytes, nothing in it executed. Raises one of DAMAGED."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > size:  # torch never compresses: this would unpack to more than it is
            raise ValueError(f"{file} is a compressed archive")
    if isinstance(file, io.BytesIO):
        file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an odd pickle protocol: what matters is whether it can be read
        return torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251


def apply(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Loads every tensor into the module of the same name and shape, all or nothing.

    Args:
        where: what the state came from, for the message.

    Raises:
        UserError: a missing or unexpected key, or another shape.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise UserError(
            f"{where} does not fit: {len(missing)} keys are missing{_first(missing)}, {len(unexpected)} are "
            f"unexpected{_first(unexpected)}; it belongs to another method or configuration"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise UserError(
                f"{where} does not fit: {name!r} has shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}; "
                "it belongs to another configuration (see --set)"
            )
        if (tensor.is_floating_point(), tensor.is_complex()) != (state[name].is_floating_point(), state[name].is_complex()):
            raise UserError(
                f"{where} does not fit: {name!r} holds {str(state[name].dtype)[6:]}, expected {str(tensor.dtype)[6:]}; "
                "it was quantized or changed, give the original"
            )
    module.load_state_dict(dict(state))


def _first(names: list[str]) -> str:
    return f" (first {names[0]!r})" if names else ""


def state_sha256(module: nn.Module) -> str:
    """The sha256 over a module's tensors by name, wherever they lie: what `save_module` would give its file."""
    return sha256(_state_bytes(module)).hexdigest()


def _state_bytes(module: nn.Module) -> bytes:
    return bytes(save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}))


def save_module(path: Path, module: nn.Module) -> str:
    """Writes a module's tensors as safetensors, atomically; returns the sha256 of the file."""
    data = _state_bytes(module)
    store.write(path, data)
    return sha256(data).hexdigest()


def save_state(path: Path, state: Mapping[str, object]) -> None:
    """Writes a training state of tensors and plain values, atomically, so that `load_state` can read it."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    store.write(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, object]:
    """A training state that `save_state` wrote; nothing in it is executed. Raises UserError if it is damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"training state {path} is damaged or cannot be read ({error.strerror})") from error
    return read_state(data, str(path))


def read_state(data: bytes, where: str) -> dict[str, object]:
    """As `load_state`, of the bytes of such a file. where: what they came from, for the message."""
    try:
        found = _read(io.BytesIO(data), len(data))
        if not isinstance(found, dict):
            raise TypeError(f"{where} holds {type(found).__name__}")
    except DAMAGED as error:
        raise UserError(f"training state {where} is damaged; delete it to train from the state before it") from error
    return found
