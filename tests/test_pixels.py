"""The cache: what goes in comes out, it grows by what is missing, survives damage and full disks, and keys on what matters."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.data import decoding, pixels
from benchmark.data.decoding import decode_all
from benchmark.data.geometry import Geometry
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


@dataclass
class Chosen(Drawn):
    chosen: tuple[Record, ...] = ()

    @property
    def records(self) -> tuple[Record, ...]:
        return self.chosen


def replace_records(source: Drawn, *records: Record) -> Chosen:
    return Chosen(source.n, source.broken, chosen=records)


def good(source: Drawn) -> list[Record]:
    return [record for record in source.records if int(record.image) not in source.broken]


def assert_right(cache: PixelCache, source: Drawn) -> None:
    """Every image of a source at 16 pixels is in the cache as a fresh one would be drawn."""
    records = good(source)
    for record, image in zip(records, cache.take(records), strict=True):
        geometry = Geometry(20 + int(record.image), 30, 16)
        assert cache.geometry(record.uid) == geometry
        np.testing.assert_array_equal(image, geometry.image_to_canvas(source.image(record)))


@contextmanager
def without_root() -> Iterator[None]:
    """Permissions bind this process for a while, also where tests run as root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


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
        PixelCache.open(Drawn(n=300), SPEC, tmp_path / str(workers), workers=workers, progress=False)
    key = cache_key(Drawn(n=300), SPEC)
    for name in ("pixels.u8", "rows.bin", "failed.jsonl"):
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
    assert len(cache) == 40


def test_whatever_decides_the_pixels_of_all_rows_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Drawn()
    keys = [
        cache_key(source, spec)
        for source, spec in [
            (base, SPEC),
            (Drawn(version="2"), SPEC),
            (Drawn(name="other"), SPEC),
            (base, InputSpec(17)),
            (base, InputSpec(16, resize="stretch")),
            (base, InputSpec(16, interpolation="bicubic")),
        ]
    ]
    monkeypatch.setattr(pixels, "FORMAT", pixels.FORMAT + 1)
    keys.append(cache_key(base, SPEC))
    monkeypatch.undo()
    monkeypatch.setattr(decoding.PIL, "__version__", "0")
    keys.append(cache_key(base, SPEC))
    monkeypatch.undo()
    assert len(set(keys)) == len(keys)
    for same in (Drawn(n=41), Drawn(broken=())):
        assert cache_key(same, SPEC) == keys[0]
    assert cache_key(base, InputSpec(16, channels=3, mean=(0.0,), std=(1.0,))) == keys[0]


@pytest.mark.parametrize(("image", "other"), [("a.png", False), ("a.dcm", True), ("a.DICOM", True)])
def test_another_decoder_of_dicom_is_another_cache_of_dicom(image: str, other: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    source = replace_records(Drawn(), Record(uid="u", patient="p", study="s", split="train", image=image))
    before = cache_key(source, SPEC)
    monkeypatch.setattr(decoding, "_version", lambda package: f"{package} of tomorrow")
    assert (cache_key(source, SPEC) != before) == other


# ------------------------------------------------------------------------------------------ it grows by appending


def test_rows_that_are_new_are_appended_and_the_others_stay(tmp_path: Path) -> None:
    old = PixelCache.open(Drawn(n=10), SPEC, tmp_path, progress=False)
    before = (old.folder / "pixels.u8").read_bytes()
    source = Drawn(n=40)
    cache = PixelCache.open(source, SPEC, tmp_path, progress=False)
    assert source.drawn == [f"u{number}" for number in range(10, 40)]
    assert (old.folder / "pixels.u8").read_bytes().startswith(before)
    assert_right(cache, source)
    assert_right(old, Drawn(n=10))  # who opened it before sees what was there then
    with pytest.raises(UserError, match="not in the pixel cache"):
        old.take([source.records[20]])


def test_a_filter_and_another_split_or_order_decode_nothing_again(tmp_path: Path) -> None:
    PixelCache.open(Drawn(), SPEC, tmp_path, progress=False)
    rows = Drawn().records
    for records in (rows[::3], rows[::-1], tuple(replace(record, split="test", labels=(1.0,)) for record in rows[5:9])):
        source = replace_records(Drawn(), *records)
        cache = PixelCache.open(source, SPEC, tmp_path, progress=False)
        assert source.drawn == []
        assert len(cache) == len(records)
        assert_right(cache, source)
    assert [folder.name for folder in tmp_path.iterdir()] == [cache_key(Drawn(), SPEC)]


def test_records_that_share_an_image_share_its_row(tmp_path: Path) -> None:
    twins = [replace(record, uid=f"{record.uid}-{twin}") for record in Drawn(n=5).records for twin in "ab"]
    source = replace_records(Drawn(), *twins)
    cache = PixelCache.open(source, SPEC, tmp_path, progress=False)
    assert len(source.drawn) == 5
    assert set(cache.failed) == {"u3-a", "u3-b"}
    assert_right(cache, source)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_failure_of_the_machine_is_not_kept(tmp_path: Path, code: int) -> None:
    class Locked(Drawn):
        def image(self, record: Record) -> NDArray[np.uint8]:
            if record.uid == "u7":
                raise ImageError(record.uid, "cannot be read") from OSError(code, os.strerror(code))
            return super().image(record)

    cache = PixelCache.open(Locked(), SPEC, tmp_path, progress=False)
    assert cache.failed == {"u3": "drawn broken; draw it again", "u7": "cannot be read"}
    later = Drawn()
    assert set(PixelCache.open(later, SPEC, tmp_path, progress=False).failed) == {"u3"}
    assert later.drawn == ["u7"]


# ------------------------------------------------------------------------------------------------- bad disks


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        ("pixels-cut", ["u39"]),
        ("pixels-grown", []),
        ("pixels-gone", [f"u{number}" for number in range(40) if number != 3]),
        ("index-flipped", ["u6"]),
        ("index-cut", ["u38", "u39"]),
        ("index-gone", [f"u{number}" for number in range(40) if number != 3]),
        ("index-rubbish", [f"u{number}" for number in range(40) if number != 3]),
        ("failures-flipped", ["u3"]),
        ("failures-gone", ["u3"]),
    ],
)
def test_what_a_damage_took_is_decoded_again_and_nothing_else(tmp_path: Path, damage: str, again: list[str]) -> None:
    folder = PixelCache.open(Drawn(), SPEC, tmp_path, progress=False).folder
    name, kind = damage.split("-")
    path = folder / {"pixels": "pixels.u8", "index": "rows.bin", "failures": "failed.jsonl"}[name]
    raw = path.read_bytes()
    if kind == "gone":
        path.unlink()
    else:
        at = 5 * 32 + 17 if name == "index" else 30
        flipped = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        changed = {"cut": raw[:-33], "grown": raw + b"\0", "flipped": flipped, "rubbish": b'["another", "thing"]' * 99}
        path.write_bytes(changed[kind])
    source = Drawn()
    assert_right(PixelCache.open(source, SPEC, tmp_path, progress=False), source)
    drawn = Drawn()
    assert set(PixelCache.open(drawn, SPEC, tmp_path, progress=False).failed) == {"u3"}
    assert drawn.drawn == []
    assert source.drawn[: len(again)] == again  # and then those that were drawn to compare


def test_a_byte_that_changed_on_the_disk_is_noticed_and_decoded_again(tmp_path: Path) -> None:
    source = Drawn()
    data = PixelCache.open(source, SPEC, tmp_path, progress=False).folder / "pixels.u8"
    raw = bytearray(data.read_bytes())
    raw[4 * 256 + 100] ^= 1  # u3 failed and has no row
    data.write_bytes(raw)
    cache = PixelCache.open(source, SPEC, tmp_path, progress=False)
    cache.take(source.records[:3])
    for _ in range(2):
        with pytest.raises(UserError, match=f"'u5' are damaged; run again .*delete .*{data.parent.name}"):
            cache.take(source.records[4:6])
    again = Drawn()
    assert_right(PixelCache.open(again, SPEC, tmp_path, progress=False), again)
    assert again.drawn[0] == "u5"
    last = Drawn()
    PixelCache.open(last, SPEC, tmp_path, progress=False)
    assert last.drawn == []


def test_a_full_disk_is_one_sentence_and_keeps_what_was_decoded(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * 256 + 100, before[1]))  # files end in the middle of a row
    try:
        with pytest.raises(
            UserError, match=r"'drawn' \(40 of 40 images .*File too large.*make room .*BENCHMARK_CACHE"
        ) as caught:
            PixelCache.open(Drawn(), SPEC, tmp_path, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(tmp_path) in str(caught.value)
    source = Drawn()
    cache = PixelCache.open(source, SPEC, tmp_path, progress=False)
    assert source.drawn == [f"u{number}" for number in range(11, 40)]
    assert_right(cache, source)


def test_a_really_full_device_is_the_same_sentence(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this platform has no /dev/full")
    folder = tmp_path / cache_key(Drawn(), SPEC)
    folder.mkdir()
    (folder / "pixels.u8").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"No space left on device.*BENCHMARK_CACHE"):
        PixelCache.open(Drawn(), SPEC, tmp_path, progress=False)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="BENCHMARK_CACHE"):
        PixelCache.open(Drawn(), SPEC, tmp_path / "file" / "cache", progress=False)


def test_a_folder_that_may_only_be_read_serves_what_it_has() -> None:
    with TemporaryDirectory() as name:  # not in tmp_path, which nobody but its owner may enter
        folder = Path(name)
        cache = PixelCache.open(Drawn(), SPEC, folder, progress=False)
        for path, mode in [(folder, 0o555), (cache.folder, 0o555), *((file, 0o444) for file in cache.folder.iterdir())]:
            path.chmod(mode)
        try:
            with without_root():
                assert_right(PixelCache.open(Drawn(n=30), SPEC, folder, progress=False), Drawn(n=30))
                with pytest.raises(
                    UserError, match=r"2 of 42 images .*Permission denied.*can be written or set BENCHMARK_CACHE"
                ):
                    PixelCache.open(Drawn(n=42), SPEC, folder, progress=False)
                for file in cache.folder.iterdir():
                    assert file.read_bytes()
        finally:
            cache.folder.chmod(0o755)
            folder.chmod(0o755)


def test_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rows"):
        PixelCache.open(Drawn(n=0), SPEC, tmp_path, progress=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_that_is_no_image_error_is_raised_and_keeps_what_was_decoded(tmp_path: Path, workers: int) -> None:
    class Wrong(Drawn):
        def image(self, record: Record) -> NDArray[np.uint8]:
            if record.uid == "u35":
                raise PermissionError("a source's own error, not the cache's")
            return super().image(record)

    with pytest.raises(PermissionError, match="own error"):
        PixelCache.open(Wrong(), SPEC, tmp_path, workers=workers, progress=False)
    source = Drawn()
    PixelCache.open(source, SPEC, tmp_path, progress=False)
    assert source.drawn == [f"u{number}" for number in range(32 if workers else 35, 40)]  # workers hand over 16 at once


def test_a_worker_that_is_killed_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was killed"):
        PixelCache.open(Drawn(die=True), SPEC, tmp_path, workers=2, progress=False)
    source = Drawn()
    assert_right(PixelCache.open(source, SPEC, tmp_path, progress=False), source)


@pytest.mark.parametrize("workers", [0, 2])
def test_decoding_can_be_stopped_early(workers: int) -> None:
    decoded = decode_all(Drawn(), SPEC, range(4, 40), workers)
    assert next(decoded).height == 24
    decoded.close()
    with pytest.raises(StopIteration):
        next(decoded)
