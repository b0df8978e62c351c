"""Images a second from the pixel cache, beside JPEG files of CheXpert-small's size that Pillow decodes and torchvision resizes.

The cache is read by one process, the files by two. `ratio` in the report is the cache against the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmark.data.images import read_image
from benchmark.data.phantom import open_source
from benchmark.data.pixel_files import Appender, PixelFiles
from benchmark.data.pixels import PixelCache, cache_key, row_key
from benchmark.data.sources import SourceOptions
from benchmark.data.stamps import FileStamps
from benchmark.types import InputSpec, Record

SIZE, BATCH, ROWS = 224, 64, 377_000
IMAGES = 4096  # 206 MB of the cache: more than a processor's own memory
DECODED = 1024  # of them, in a round
HEIGHT, WIDTH = 320, 390  # of most frontal images of CheXpert-v1.0-small


class Files:
    """Gray JPEG files drawn by the phantom."""

    name, version = "files", "1"
    classes = mask_names = box_classes = flags = ()

    def __init__(self, root: Path, n: int) -> None:
        self.root = root
        self.records = tuple(
            Record(uid=f"u{i}", patient=f"p{i}", study=f"s{i}", split="train", image=f"{i:06d}.jpg") for i in range(n)
        )

    def image(self, record: Record) -> NDArray[np.uint8]:
        return read_image(self.root / record.image, record.uid)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        raise NotImplementedError


class Decoded(Dataset[torch.Tensor]):
    """What the cache replaces: (1, S, S) uint8 from a file, each time."""

    def __init__(self, source: Files, order: NDArray[np.intp]) -> None:
        self._paths = [source.root / source.records[row].image for row in order]
        self._resize = v2.Compose([v2.Resize((SIZE, SIZE), antialias=True), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        with Image.open(self._paths[row]) as image:
            resized: torch.Tensor = self._resize(image.convert("L"))
        return resized


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("jpeg")
    phantom = open_source(f"train=64,val=1,test=1,size={WIDTH}", SourceOptions())
    drawn = [Image.fromarray(phantom.image(record)[:HEIGHT]) for record in phantom.records[:64]]
    files = Files(root, IMAGES)
    for number, record in enumerate(files.records):
        drawn[number % len(drawn)].save(root / record.image, quality=90)
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def opened(source: Files, folder: Path, workers: int = 2) -> PixelCache:
    return PixelCache.open(source, InputSpec(SIZE, resize="stretch"), folder, workers=workers, progress=False)


def shuffled(seed: int) -> NDArray[np.intp]:
    return np.random.default_rng(seed).permutation(IMAGES)


def from_cache(cache: PixelCache, source: Files, order: NDArray[np.intp]) -> None:
    for start in range(0, len(order), BATCH):
        cache.take([source.records[row] for row in order[start : start + BATCH]])


def from_files(source: Files, order: NDArray[np.intp]) -> float:
    """Images a second of two processes, from their first batch on, so that their start does not count."""
    loader = iter(DataLoader(Decoded(source, order), batch_size=BATCH, num_workers=2, generator=torch.Generator()))
    next(loader)
    begin = perf_counter()
    for _ in loader:
        pass
    return (len(order) - BATCH) / (perf_counter() - begin)


def rates(work: Callable[[NDArray[np.intp]], float | None], rounds: int) -> Iterator[float]:
    for seed in range(rounds):
        order = shuffled(seed)
        begin = perf_counter()
        yield work(order) or IMAGES / (perf_counter() - begin)


def test_batches_in_shuffled_order_against_decoding_files(source: Files, folder: Path, benchmark: BenchmarkFixture) -> None:
    opened(source, folder)
    first, cached, decoded = [], [], []
    for _ in range(5):  # in turns, so that a slow moment of the machine hits all
        cache = opened(source, folder)
        first += rates(lambda order, cache=cache: from_cache(cache, source, order), 1)  # type: ignore[misc]
        cached += rates(lambda order, cache=cache: from_cache(cache, source, order), 5)  # type: ignore[misc]
        decoded += rates(lambda order: from_files(source, order[:DECODED]), 1)
    found = {"first_pass": np.median(first), "later_passes": np.median(cached), "files": np.median(decoded)}
    benchmark.extra_info |= {f"{name}_images_a_second": round(float(rate)) for name, rate in found.items()}
    benchmark.extra_info["ratio"] = round(float(found["later_passes"] / found["files"]), 1)
    print(benchmark.extra_info)
    benchmark(from_cache, cache, source, shuffled(0))


def test_decoding_into_a_new_cache_with_two_processes(source: Files, tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    fresh = iter(range(3))
    benchmark.pedantic(lambda: opened(source, tmp_path / str(next(fresh))), rounds=3)
    benchmark.extra_info["images_a_second"] = round(IMAGES / benchmark.stats.stats.median)
    print(benchmark.extra_info)


def test_opening_a_cache_of_many_rows(tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    """MIMIC-CXR's number of images, without the files: what asking a disk for their sizes takes is the disk's."""
    source, spec = Files(tmp_path / "nowhere", ROWS), InputSpec(1)
    files, stamps = PixelFiles(tmp_path / cache_key(source, spec), 1), FileStamps(source)
    with Appender(files, "rows") as appender:
        for record in source.records:
            appender.add(row_key(record, source, stamps), np.zeros((1, 1), np.uint8), HEIGHT, WIDTH)
    benchmark.pedantic(files.read, rounds=3)
    begin = perf_counter()
    assert len(PixelCache.open(source, spec, tmp_path, progress=False, stamps=stamps)) == ROWS
    benchmark.extra_info["open_seconds"] = round(perf_counter() - begin, 2)
    print(benchmark.extra_info)
