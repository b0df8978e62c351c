"""Files of a set that changed on the disk are seen: by the pixel cache and by the version that results carry."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.images import read_image
from benchmark.data.pixels import PixelCache, cache_key
from benchmark.types import InputSpec, Record

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
            Record(uid=f"u{n}", patient=f"p{n}", study=f"s{n}", split=split, image=f"{n}.png")
            for n, split in enumerate(("train", "val", "test"))
        )
    )

    def image(self, record: Record) -> NDArray[np.uint8]:
        return read_image(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        raise NotImplementedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(3):
        Image.fromarray(np.full((8, 8), 40 * n, np.uint8)).save(tmp_path / f"{n}.png")
    return tmp_path


def test_a_file_that_was_missing_is_read_once_it_is_there(folder: Path, tmp_path: Path) -> None:
    data = (folder / "1.png").read_bytes()
    (folder / "1.png").unlink()
    before = Dataset(OnDisk(folder)).version
    assert set(PixelCache.open(OnDisk(folder), SPEC, tmp_path / "cache", progress=False).failed) == {"u1"}
    (folder / "1.png").write_bytes(data)
    assert PixelCache.open(OnDisk(folder), SPEC, tmp_path / "cache", progress=False).failed == {}
    assert Dataset(OnDisk(folder)).version != before


def test_another_copy_of_a_set_has_its_own_pixels_and_the_same_version(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "copy"
    other.mkdir()
    for n in range(3):
        (other / f"{n}.png").write_bytes((folder / f"{n}.png").read_bytes())
    assert cache_key(OnDisk(folder), SPEC) != cache_key(OnDisk(other), SPEC)
    assert Dataset(OnDisk(folder)).version == Dataset(OnDisk(other)).version


def test_a_file_of_the_same_size_and_another_time_is_decoded_again(folder: Path) -> None:
    before = cache_key(OnDisk(folder), SPEC)
    os.utime(folder / "2.png", ns=(1, 1))
    assert cache_key(OnDisk(folder), SPEC) != before
