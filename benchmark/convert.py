"""Torch files, old ones too, as plain tensors by name, for `python -m benchmark convert`; benchmark.unpickle follows them."""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from struct import unpack

import torch
from safetensors.torch import save
from torch import Tensor

from benchmark.errors import UserError
from benchmark.unpickle import Machine, Placeholder, Sketch, Storage
from benchmark.weights import DAMAGED

WRAPPERS = ("state_dict", "model")  # as benchmark.weights unwraps them
MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001  # the two pickles that begin a file of torch before 1.6
MOST_COPIES = 4  # of the file's size in tensors: tied weights lie there once and are written each, but never more often
DEEPEST = 16  # of dicts in dicts
NAMELESS = Placeholder("under a key that is no text")
RESERVED = "__metadata__"  # a name that safetensors keeps for itself


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds.

    state: name -> tensor (dense, on the CPU, with memory of its own). wrapper: the entry they lay under, "" at the top.
    left_out: the other entries, each with what it is. placeholders: classes and functions that the file names.
    """

    state: dict[str, Tensor]
    wrapper: str
    left_out: tuple[str, ...]
    placeholders: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        return bytes(save(self.state))


@dataclass(slots=True)
class _File:
    """An opened file: its value, with sketches for tensors, and the bytes of a storage by key."""

    value: object
    machine: Machine
    size: int
    stored: Callable[[str], bytes]
    read: dict[str, Tensor] = field(default_factory=dict)  # storage key -> (bytes,) uint8


def read(path: Path) -> Found:
    """The tensors of a torch file; those of "state_dict" or "model" where there is one, of nested dicts with dotted names.

    Raises:
        UserError: no such file, damaged, no torch file, no tensors by name, a tensor with NaN or infinity, or one that
            is larger than what the file stores for it.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the path of the old checkpoint")
    if path.suffix == ".safetensors":
        raise UserError(f"{path} is a safetensors file already; give it to --checkpoint as it is")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    return _found(path, _zip(archive, len(data)))
            return _found(path, _legacy(data))
    except DAMAGED as error:
        raise UserError(
            f"{path} is damaged or no file of torch.save ({type(error).__name__}); get it again and compare its sha256"
        ) from error


def _zip(archive: zipfile.ZipFile, size: int) -> _File:
    """The format of torch 1.6 and later: data.pkl and a member for each storage, none compressed."""
    members = archive.infolist()
    if any(item.compress_type != zipfile.ZIP_STORED for item in members) or sum(item.file_size for item in members) > size:
        raise ValueError("a compressed archive")
    (main,) = (name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"])
    folder = main.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("the other order of bytes")
    machine = Machine()
    value = machine.follow(BytesIO(archive.read(main)))
    return _File(value, machine, size, lambda key: archive.read(f"{folder}data/{key}"))


def _legacy(data: mmap.mmap) -> _File:
    """The format before 1.6: five pickles (magic, version, system, value, keys of storages), then the storages in turn."""
    machine = Machine()
    if (machine.follow(data), machine.follow(data)) != (MAGIC, LEGACY_VERSION):
        raise ValueError("another file")
    system = machine.follow(data)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("the other order of bytes")
    value, keys = machine.follow(data), machine.follow(data)
    places: dict[str, slice] = {}
    for key in keys if isinstance(keys, list) else []:
        (count,) = unpack("<q", data.read(8))
        start = data.tell()
        places[key] = slice(start, start + count * machine.storages[key].kind.itemsize)
        data.seek(places[key].stop)  # ValueError beyond the end
    return _File(value, machine, len(data), lambda key: data[places[key]])


def _found(path: Path, file: _File) -> Found:
    value, wrapper = file.value, ""
    others: list[str] = []
    for name in WRAPPERS:
        inner = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, dict) and isinstance(inner, dict):
            others += [_described(key, item) for key, item in value.items() if key != name]
            value, wrapper = inner, f"{wrapper}.{name}".lstrip(".")
    sketches: dict[str, Sketch] = {}
    for key, item in _flat(value):
        if isinstance(item, Sketch) and key not in sketches and _can_be_named(key):
            sketches[key] = item
        else:
            others.append(_described(key, item))
    placeholders = tuple(file.machine.placeholders)
    if not sketches:
        named = f"; it names {placeholders[0]!a}, which is not looked up" if placeholders else ""
        raise UserError(f"{path} holds no tensors by name{named}: save the state_dict of the model alone where it was made")
    _check_sizes(path, sketches, file.size)
    state = {key: _tensor(file, sketch) for key, sketch in sketches.items()}
    odd = [key for key, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if odd:
        raise UserError(f"{path} holds NaN or infinity in {odd[0]!r}; it cannot be used")
    return Found(state, wrapper, tuple(others), placeholders)


def _flat(value: object) -> Iterator[tuple[str, object]]:
    """Entries of nested dicts with dotted names, in order; each dict once, however often it is referred to."""
    waiting: list[tuple[str, object, int]] = [("", value, 0)]
    seen = set[int]()
    while waiting:
        name, item, depth = waiting.pop()
        if not isinstance(item, dict) or id(item) in seen or depth > DEEPEST:
            yield name, item
            continue
        seen.add(id(item))
        inner = [(key, part) if isinstance(key, str) else (repr(key), NAMELESS) for key, part in item.items()]
        waiting += [(f"{name}.{key}" if name else key, part, depth + 1) for key, part in reversed(inner)]


def _can_be_named(key: str) -> bool:
    """Whether safetensors can hold a tensor of that name."""
    return key not in ("", RESERVED) and key.encode(errors="ignore").decode() == key


def _described(key: object, item: object) -> str:
    kind = (
        ascii(item.name)[1:-1]
        if isinstance(item, Placeholder)
        else "tensor"
        if isinstance(item, Sketch)
        else type(item).__name__
    )
    return f"{str(key)!a} ({kind})"


def _check_sizes(path: Path, sketches: Mapping[str, Sketch], size: int) -> None:
    """Raises UserError where tensors would take far more memory than the file has: a few values blown up to many."""
    blown = [key for key, item in sketches.items() if item.count * item.kind.itemsize > item.storage.bytes]
    total = sum(item.count * item.kind.itemsize for item in sketches.values())
    if blown or total > MOST_COPIES * size:
        name = blown[0] if blown else next(iter(sketches))
        raise UserError(f"{path} holds larger tensors than it stores values for, as in {name!r}; save them whole")


def _tensor(file: _File, sketch: Sketch) -> Tensor:
    storage: Storage = sketch.storage
    if storage.key not in file.read:
        data = bytearray(file.stored(storage.key))
        file.read[storage.key] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)
    start = storage.start * storage.kind.itemsize
    whole = file.read[storage.key][start : start + storage.bytes]
    if len(whole) != storage.bytes:
        raise ValueError("a storage cut short")
    values = whole[: len(whole) // sketch.kind.itemsize * sketch.kind.itemsize].view(sketch.kind)
    return values.as_strided(sketch.size, sketch.stride, values.storage_offset() + sketch.offset).clone().contiguous()
