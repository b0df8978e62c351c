"""Files of a set that changed on the disk are seen: by the pixel cache and by the version that results carry."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.data.images import read_image
from benchmark.data.pixels import PixelCache, cache_key
from benchmark.data.stamps import FileStamps
from benchmark.types import InputSpec, Record, digest

SPEC = InputSpec(8)


@dataclass
class OnDisk:
    root: Path
    name: str = "set"
    version: str = "1"
    classes: tuple[str, ...] = ()
    mask_names: tuple[str, ...] = ()
    box_classes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    records: tuple[Record, ...] = field(
        default_factory=lambda: tuple(
            Record(uid=f"u{n}", patient=f"p{n}", study=f"s{n}", split=split, image=f"{n}.png", masks={"m": f"{n}.png"})
            for n, split in enumerate(("train", "val", "test"))
        )
    )
    read: list[str] = field(default_factory=list)

    def image(self, record: Record) -> NDArray[np.uint8]:
        self.read.append(record.uid)
        return read_image(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        raise NotImplementedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for n in range(3):
        save(folder / f"{n}.png", 40 * n)
    return folder


def save(path: Path, gray: int) -> None:
    Image.fromarray(np.full((8, 8), gray, np.uint8)).save(path)


def opened(folder: Path, source: OnDisk | None = None) -> PixelCache:
    return PixelCache.open(source or OnDisk(folder), SPEC, folder.parent / "cache", progress=False)


def test_a_file_that_was_missing_is_read_once_it_is_there(folder: Path) -> None:
    data = (folder / "1.png").read_bytes()
    (folder / "1.png").unlink()
    before = Dataset(OnDisk(folder)).version
    assert set(opened(folder).failed) == {"u1"}
    source = OnDisk(folder)
    assert set(opened(folder, source).failed) == {"u1"}
    assert source.read == []  # the failure is kept
    (folder / "1.png").write_bytes(data)
    assert opened(folder, source).failed == {}
    assert source.read == ["u1"]
    assert Dataset(OnDisk(folder)).version != before


def test_a_damaged_file_is_tried_again_when_it_was_replaced_and_not_before(folder: Path) -> None:
    data = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(data[:50])
    source = OnDisk(folder)
    for _ in range(2):
        assert set(opened(folder, source).failed) == {"u1"}
    assert source.read == ["u0", "u1", "u2"]
    (folder / "1.png").write_bytes(data)
    cache = opened(folder, source)
    assert cache.failed == {}
    assert source.read[3:] == ["u1"]
    assert (cache.take(source.records) == np.array([0, 40, 80]).reshape(3, 1, 1)).all()


def test_another_copy_of_a_set_has_its_own_pixels_and_the_same_version(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "copy"
    other.mkdir()
    for n in range(3):
        (other / f"{n}.png").write_bytes((folder / f"{n}.png").read_bytes())
    assert cache_key(OnDisk(folder), SPEC) != cache_key(OnDisk(other), SPEC)
    assert Dataset(OnDisk(folder)).version == Dataset(OnDisk(other)).version


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_of_another_size_or_time_is_decoded_again_and_its_old_row_is_never_read(folder: Path, change: str) -> None:
    path = folder / "2.png"
    opened(folder)
    before = path.stat()
    save(path, 200)
    if change == "size":
        path.write_bytes(path.read_bytes() + b"\0")  # what follows a PNG is not read
        os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    else:
        assert path.stat().st_size == before.st_size
        os.utime(path, ns=(before.st_mtime_ns + 1, before.st_mtime_ns + 1))
    source = OnDisk(folder)
    cache = opened(folder, source)
    assert source.read == ["u2"]
    assert (cache.take(source.records) == np.array([0, 40, 200]).reshape(3, 1, 1)).all()


def test_a_file_that_changes_while_it_is_decoded_is_not_cached(folder: Path) -> None:
    class Written(OnDisk):
        def image(self, record: Record) -> NDArray[np.uint8]:
            if record.uid == "u1":
                save(self.root / record.image, 90)
                os.utime(self.root / record.image, ns=(5, 5))
            return super().image(record)

    cache = opened(folder, Written(folder))
    assert list(cache.failed) == ["u1"]
    assert "changed after the set was opened" in cache.failed["u1"]
    source = OnDisk(folder)
    assert (opened(folder, source).take(source.records) == np.array([0, 90, 80]).reshape(3, 1, 1)).all()
    assert source.read == ["u1"]


def test_without_a_file_the_version_decides(folder: Path) -> None:
    class Built(OnDisk):
        def image(self, record: Record) -> NDArray[np.uint8]:
            self.read.append(record.uid)
            return np.full((8, 8), 7, np.uint8)

    for n in range(3):
        (folder / f"{n}.png").unlink()
    for version, read in (("1", 3), ("1", 0), ("2", 3)):
        source = Built(folder, version=version)
        opened(folder, source)
        assert len(source.read) == read


def test_the_version_is_that_of_the_sizes_in_the_order_of_records(folder: Path) -> None:
    sizes = [(folder / f"{n}.png").stat().st_size for n in range(3) for _ in ("image", "mask")]
    assert Dataset(OnDisk(folder)).version == f"1-{digest(sizes, 8)}"
    (folder / "1.png").unlink()
    sizes[2:4] = [-1, -1]
    assert Dataset(OnDisk(folder)).version == f"1-{digest(sizes, 8)}"
    assert Dataset(OnDisk(folder, name="csv:set")).version == "1"


def test_the_disk_is_asked_once_for_each_file_however_often_its_pixels_are_wanted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (8, 16):
        PixelCache.open(OnDisk(folder), InputSpec(size), folder.parent / "cache", progress=False)
    asked: list[str] = []
    ask = FileStamps._ask

    def counting(stamps: FileStamps, file: str) -> tuple[int, int]:
        asked.append(file)
        return ask(stamps, file)

    monkeypatch.setattr(FileStamps, "_ask", counting)
    data = Dataset(OnDisk(folder))
    context = Context(torch.device("cpu"), folder.parent / "cache", progress=False)
    for size in (8, 16):
        assert data.pixels(InputSpec(size), context).take(data.source.records).shape == (3, size, size)
    assert asked == ["0.png", "1.png", "2.png"]
