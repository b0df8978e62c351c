"""The cache: what goes in comes out, it is built once, survives damage, kills and full disks, and keys on what matters."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.data import pixels
from benchmark.data.geometry import Geometry
from benchmark.data.images import decode_all
from benchmark.data.pixels import PixelCache, cache_key
from benchmark.errors import ImageError, UserError
from benchmark.types import InputSpec, Record

SPEC = InputSpec(16)


@dataclass
class Drawn:
    """Images drawn from the record's number; those named in `broken` fail. Counts what was drawn in this process."""

    n: int = 40
    broken: tuple[int, ...] = (3,)
    name: str = "drawn"
    version: str = "1"
    classes: tuple[str, ...] = ()
    mask_names: tuple[str, ...] = ()
    box_classes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    drawn: list[str] = field(default_factory=list)
    die: bool = False

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(Record(uid=f"u{i}", patient=f"p{i}", study=f"s{i}", split="train", image=str(i)) for i in range(self.n))

    def image(self, record: Record) -> NDArray[np.uint8]:
        self.drawn.append(record.uid)
        number = int(record.image)
        if self.die and number == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        if number in self.broken:
            raise ImageError(record.uid, "drawn broken; draw it again")
        return np.random.default_rng(number).integers(0, 256, (20 + number, 30), dtype=np.uint8)

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        raise NotImplementedError


def good(source: Drawn) -> list[Record]:
    return [record for record in source.records if int(record.image) not in source.broken]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("spec", [SPEC, InputSpec(24, resize="stretch", interpolation="bicubic")])
def test_pixels_come_out_as_the_geometry_puts_them_in(tmp_path: Path, workers: int, spec: InputSpec) -> None:
    source = Drawn()
    cache = PixelCache.open(source, spec, tmp_path, workers=workers, progress=False)
    records = good(source)[::-1]
    taken = cache.take(records)
    assert taken.shape == (39, spec.size, spec.size)
    assert taken.dtype == np.uint8
    for record, image in zip(records, taken):
        geometry = Geometry(20 + int(record.image), 30, spec.size, spec.resize)
        np.testing.assert_array_equal(image, geometry.image_to_canvas(source.image(record), spec.interpolation))
        assert cache.geometry(record.uid) == geometry
    assert cache.failed == {"u3": "drawn broken; draw it again"}
    taken[:] = 0  # a copy
    assert cache.take(records).any()
    assert cache.take([]).shape == (0, spec.size, spec.size)


def test_workers_and_one_process_write_the_same_bytes(tmp_path: Path) -> None:
    for workers in (0, 3):
        PixelCache.open(Drawn(n=70), SPEC, tmp_path / str(workers), workers=workers, progress=False)
    key = cache_key(Drawn(n=70), SPEC)
    for name in ("pixels.u8", "index.json"):
        assert (tmp_path / "0" / key / name).read_bytes() == (tmp_path / "3" / key / name).read_bytes()


def test_failed_and_unknown_records_cannot_be_taken(tmp_path: Path) -> None:
    source = Drawn()
    cache = PixelCache.open(source, SPEC, tmp_path, progress=False)
    with pytest.raises(ImageError, match=r"u3.*drawn broken"):
        cache.take([source.records[3]])
    with pytest.raises(ImageError, match="drawn broken"):
        cache.geometry("u3")
    with pytest.raises(UserError, match="not in the pixel cache"):
        cache.take([replace(source.records[0], uid="stranger")])


def test_a_cache_is_built_once(tmp_path: Path) -> None:
    PixelCache.open(Drawn(), SPEC, tmp_path, progress=False)
    again = Drawn()
    cache = PixelCache.open(again, SPEC, tmp_path, progress=False)
    assert not again.drawn
    assert cache.failed == {"u3": "drawn broken; draw it again"}


def test_whatever_decides_pixels_is_in_the_key() -> None:
    base = Drawn()
    keys = {
        cache_key(source, spec)
        for source, spec in [
            (base, SPEC),
            (Drawn(version="2"), SPEC),
            (Drawn(name="other"), SPEC),
            (Drawn(n=41), SPEC),
            (base, InputSpec(17)),
            (base, InputSpec(16, resize="stretch")),
            (base, InputSpec(16, interpolation="bicubic")),
        ]
    }
    assert len(keys) == 7
    assert cache_key(base, InputSpec(16, channels=3, mean=(0.0,), std=(1.0,))) == cache_key(base, SPEC)


@pytest.mark.parametrize("damage", ["cut", "grown", "index-edited", "index-cut", "index-gone", "pixels-gone", "a-file"])
def test_a_damaged_cache_is_built_anew(tmp_path: Path, damage: str) -> None:
    folder = PixelCache.open(Drawn(), SPEC, tmp_path, progress=False).folder
    data, index = folder / "pixels.u8", folder / "index.json"
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "grown":
        data.write_bytes(data.read_bytes() + b"\0")
    elif damage == "index-edited":
        index.write_text(index.read_text().replace('"u5"', '"u6"', 1))
    elif damage == "index-cut":
        index.write_text(index.read_text()[:100])
    elif damage == "index-gone":
        index.unlink()
    elif damage == "pixels-gone":
        data.unlink()
    else:
        index.write_text('["another", "thing"]')
    source = Drawn()
    PixelCache.open(source, SPEC, tmp_path, progress=False).take(good(source))
    assert len(source.drawn) == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]


def test_a_byte_that_changed_on_the_disk_is_noticed(tmp_path: Path) -> None:
    source = Drawn()
    data = PixelCache.open(source, SPEC, tmp_path, progress=False).folder / "pixels.u8"
    raw = bytearray(data.read_bytes())
    raw[5 * 256 + 100] ^= 1
    data.write_bytes(raw)
    cache = PixelCache.open(source, SPEC, tmp_path, progress=False)
    cache.take(source.records[:3])
    with pytest.raises(UserError, match=f"'u5' are damaged; delete .*{data.parent.name}"):
        cache.take(source.records[4:6])


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: BinaryIO) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pixels, "_sync", full)
    with pytest.raises(UserError, match=r"No space left on device.*BENCHMARK_CACHE") as caught:
        PixelCache.open(Drawn(), SPEC, tmp_path, progress=False)
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_really_full_device_is_the_same_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this platform has no /dev/full")
    with (
        Path("/dev/full").open("wb", buffering=0) as file,
        pytest.raises(UserError, match=r"No space left on device.*BENCHMARK_CACHE"),
    ):
        pixels._fill(file, Drawn(), SPEC, 0, False)  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="BENCHMARK_CACHE"):
        PixelCache.open(Drawn(), SPEC, tmp_path / "file" / "cache", progress=False)


def test_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rows"):
        PixelCache.open(Drawn(n=0), SPEC, tmp_path, progress=False)


def test_another_builder_that_was_faster_wins(tmp_path: Path) -> None:
    class Slow(Drawn):
        def image(self, record: Record) -> NDArray[np.uint8]:
            if record.uid == "u39":  # the other one finishes while this one draws its last image
                PixelCache.open(Drawn(), SPEC, tmp_path, progress=False)
            return super().image(record)

    source = Slow()
    cache = PixelCache.open(source, SPEC, tmp_path, progress=False)
    assert cache.take(good(source)).any()
    assert [path.name for path in tmp_path.iterdir()] == [cache_key(Drawn(), SPEC)]


def test_an_error_that_is_no_image_error_is_raised_and_leaves_nothing(tmp_path: Path) -> None:
    class Wrong(Drawn):
        def image(self, record: Record) -> NDArray[np.uint8]:
            raise PermissionError("a source's own error, not the cache's")

    for workers in (0, 2):
        with pytest.raises(PermissionError, match="own error"):
            PixelCache.open(Wrong(), SPEC, tmp_path, workers=workers, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_worker_that_is_killed_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was killed"):
        PixelCache.open(Drawn(die=True), SPEC, tmp_path, workers=2, progress=False)
    assert not list(tmp_path.iterdir())


def test_decoding_can_be_stopped_early() -> None:
    source = Drawn()
    decoded = decode_all(source, SPEC, 0)
    assert next(decoded).height == 20
    decoded.close()
    assert source.drawn == ["u0"]


BUILD = """
import sys, time
from pathlib import Path
from benchmark.data.pixels import PixelCache
from benchmark.types import InputSpec, Record
import numpy as np

class Slow:
    name, version = "drawn", "1"
    classes = mask_names = box_classes = flags = ()
    records = tuple(Record(uid=f"u{i}", patient="p", study="s", split="train", image=str(i)) for i in range(2000))

    def image(self, record):
        if record.uid == "u100":
            print("half", flush=True)
        time.sleep(0.005)
        return np.zeros((8, 8), np.uint8)

PixelCache.open(Slow(), InputSpec(16), Path(sys.argv[1]), workers=int(sys.argv[2]), progress=False)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_build_leaves_no_cache_and_no_process(tmp_path: Path, workers: int) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path), str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        children = [int(pid) for pid in children_of(child.pid)]
        assert len(children) == workers
        child.kill()
        assert child.wait() == -signal.SIGKILL  # it died as intended, not of something else
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() and not is_zombie(pid) for pid in children):
            assert time.monotonic() < deadline, "workers outlive their parent"
            time.sleep(0.1)
    assert all(path.name.startswith(".tmp-") for path in tmp_path.iterdir())
    stray = next(tmp_path.iterdir())
    for path in (*stray.iterdir(), stray):
        os.utime(path, (0, 0))
    key = stray.name.removeprefix(".tmp-").split("-")[0]
    pixels._sweep(tmp_path / key)
    assert not list(tmp_path.iterdir())


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_index_is_plain_json(tmp_path: Path) -> None:
    folder = PixelCache.open(Drawn(), SPEC, tmp_path, progress=False).folder
    index = json.loads((folder / "index.json").read_text())["index"]
    assert index["uids"][:2] == ["u0", "u1"]
    assert (index["heights"][:5], index["widths"][:5]) == ([20, 21, 22, 0, 24], [30, 30, 30, 0, 30])
    assert (folder / "pixels.u8").stat().st_size == 40 * 16 * 16
