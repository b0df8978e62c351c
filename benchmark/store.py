"""Files of a run: written whole or not at all, one JSON a cell and one .npz of its predictions. Imports no torch.

Scope: local file systems. A write goes to a temporary file in the same folder, is synced, replaces the target in one
step, and the folder is synced; a reader ignores temporaries, so a kill at any moment leaves old or new, never half.
"""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout

from benchmark.errors import UserError
from benchmark.types import Cost, Metric, Predictions, RunResult, RunSpec, plain

TEMPORARY = ".tmp-"
ANALYSIS, ANALYSIS_SCHEMA = "analysis.json", 1
FIXED = ("uids", "patients", "skipped")
DAMAGED = (  # what reading an .npz that was cut or changed raises
    OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def write(path: Path, data: bytes) -> None:
    """Replaces a file by the given bytes, atomically and durably; parents are made.

    Raises:
        UserError: the folder cannot be written, or the disk is full; an older file stays as it was.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise _explain(path, error) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def sync_folder(folder: Path) -> None:
    """Makes a rename inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other process that asks is at work on a folder; the lock goes with the process, however that ends.

    Waits, and says so. Processes of one launch (RANK, WORLD_SIZE) count as one: the first of them asks, and waits for nobody.

    Raises:
        UserError: another launch is at work there, or the folder cannot be written.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if several:
                raise UserError(f"another process is at work on {folder}; start again when it has ended") from None
            print(f"waiting for another process that works on {folder}", file=sys.stderr, flush=True)
            lock.acquire(poll_interval=1.0)
    except NotImplementedError:  # a file system without locks: what is written is whole all the same
        yield
        return
    except OSError as error:
        raise _explain(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _explain(path: Path, error: OSError) -> UserError:
    if error.errno == errno.ENOSPC:
        return UserError(f"no space left to write {path}; free some, or choose another folder with --out")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"{path.parent} cannot be written; choose another folder with --out")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return UserError(f"{path.parent} is not a folder; choose another one with --out")
    return UserError(f"{path} cannot be written ({error.strerror}); choose another folder with --out")


def write_json(path: Path, value: object) -> None:
    """Writes a value as readable JSON; NaN is refused (ValueError), None stands for undefined."""
    text = json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write(path, text.encode(errors="backslashreplace"))  # the odd bytes of a file name come as \udcXX, JSON's own escape


def predictions_to_bytes(predictions: Predictions) -> bytes:
    """An .npz without pickled objects: the same predictions give the same bytes. Raises ValueError for an array of objects."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"uids": np.asarray(predictions.uids, str), "patients": np.asarray(predictions.patients, str)}
    arrays |= {f"array/{name}": array for name, array in sorted(predictions.arrays.items())}
    arrays |= {f"names/{name}": np.array(names, str) for name, names in sorted(predictions.names.items())}
    arrays["skipped"] = np.array(predictions.skipped, str).reshape(-1, 2)
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:
        raise ValueError(f"predictions hold Python objects in {objects[0]!r}; give numbers or strings")
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def read_predictions(path: Path) -> Predictions:
    """The predictions of a cell. Raises UserError if the file is damaged or not there."""
    try:
        with path.open("rb") as file:
            return _read_npz(file)
    except DAMAGED as error:
        raise UserError(f"{path} is not a readable file of predictions; delete it and run the cell again") from error


def predictions_from_bytes(data: bytes) -> Predictions:
    """What `predictions_to_bytes` wrote. Raises UserError."""
    try:
        return _read_npz(io.BytesIO(data))
    except DAMAGED as error:
        raise UserError("has predictions that cannot be read; run the cell again") from error


def _read_npz(file: IO[bytes]) -> Predictions:
    with np.load(file, allow_pickle=False) as stored:
        strange = [name for name in stored.files if name not in FIXED and not name.startswith(("array/", "names/"))]
        if strange:
            raise ValueError(f"unknown member {strange[0]!r}")
        arrays = {name.removeprefix("array/"): stored[name] for name in stored.files if name.startswith("array/")}
        names = {
            name.removeprefix("names/"): tuple(map(str, stored[name])) for name in stored.files if name.startswith("names/")
        }
        skipped = tuple((str(uid), str(reason)) for uid, reason in stored["skipped"])
        return Predictions(stored["uids"], stored["patients"], arrays, names, skipped)


def fingerprint(value: object) -> str:
    """16 hexadecimal digits of a value of JSON; as types.digest, but for any text, lone surrogates included."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def strict_json(text: str | bytes) -> Any:
    """What a JSON text holds. Raises ValueError, also for NaN and for numbers that are read as infinite (1e999)."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def read_analysis(out: Path) -> dict[str, Any] | None:
    """What benchmark.analysis wrote to a folder of results; None where there is none of its schema that can be read."""
    try:
        found = strict_json((out / ANALYSIS).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("schema") != ANALYSIS_SCHEMA:
        return None
    groups = found.get("groups")
    whole = isinstance(groups, list) and all(isinstance(item, dict) and {"group", "entries"} <= item.keys() for item in groups)
    parts = [found.get(name) for name in ("sources", "subgroups", "calibration", "per_class")]
    return found if whole and all(isinstance(part, dict) for part in parts) else None


def result_from_json(value: Mapping[str, Any]) -> RunResult:
    """The result that `plain` turned into JSON. Raises KeyError, TypeError or AttributeError if it is of another layout."""
    changed: dict[str, Any] = {
        "spec": RunSpec(**value["spec"]),
        "metrics": {name: Metric(**metric) for name, metric in value["metrics"].items()},
        "cost": Cost(**value["cost"]),
        "pretraining": None if value["pretraining"] is None else Cost(**value["pretraining"]),
        "skipped": tuple((uid, reason) for uid, reason in value["skipped"]),
        "flags": tuple(value["flags"]),
    }
    return RunResult(**{**value, **changed})


class Store:
    """The folder of a run.

    Args:
        root: the folder of --out; made when first written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def result_path(self, key: str) -> Path:
        """Where the JSON of a cell lies."""
        return self.root / "results" / f"{key}.json"

    def predictions_path(self, key: str) -> Path:
        """Where the predictions of a cell lie."""
        return self.root / "predictions" / f"{key}.npz"

    def fit_path(self, key: str) -> Path:
        """Where the state of a cell's fit lies until the cell has a result."""
        return self.root / "results" / f"{key}.fit.pt"

    def examples_path(self, key: str) -> Path:
        """Where a few answers of a cell lie to be looked at, texts and images included; of synthetic data only."""
        return self.root / "examples" / f"{key}.json"

    def pretrained_folder(self, key: str) -> Path:
        """Where pretrained weights and their resumable state lie."""
        return self.root / "pretrained" / key

    def check_writable(self) -> None:
        """Raises UserError now rather than after an hour of work."""
        write(self.root / ".writable", b"")
        (self.root / ".writable").unlink(missing_ok=True)

    def finished(self, key: str) -> RunResult | None:
        """The result of a cell that need not run again: it is ok, its predictions are there and are what it says."""
        result = self.read(key)
        if result is None or result.status != "ok" or result.key != key or result.spec.key != key:
            return None
        path = self.predictions_path(key)
        if not path.is_file() or sha256(path.read_bytes()).hexdigest() != result.predictions:
            return None
        return result

    def read(self, key: str) -> RunResult | None:
        """The result of a cell, or None if there is none that can be read."""
        try:
            return result_from_json(strict_json(self.result_path(key).read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save_predictions(self, key: str, predictions: Predictions) -> str:
        """Writes the predictions; returns the sha256 that belongs into the result, which must be written after them."""
        return self.save_predictions_bytes(key, predictions_to_bytes(predictions))

    def save_predictions_bytes(self, key: str, data: bytes) -> str:
        """As `save_predictions`, of an .npz that is made already."""
        write(self.predictions_path(key), data)
        return sha256(data).hexdigest()

    def save(self, result: RunResult) -> None:
        """Writes a result; a cell counts as done from this moment on."""
        write_json(self.result_path(result.key), result)
