"""What a pixel cache has on the disk after a kill, a torn write or a flipped bit, and between two processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.data import pixel_files, pixels
from benchmark.data.pixel_files import RECORD, Appender, Contents, PixelFiles
from benchmark.data.pixels import PixelCache, cache_key
from benchmark.errors import ImageError, UserError
from benchmark.types import InputSpec, Record
from tests import child

SPEC = InputSpec(8)
NAMES = ("pixels.u8", "rows.bin", "failed.jsonl")


@dataclass
class Slow:
    """Images from the record's number, every seventh fails. Writes the uid of each one that it draws into a file."""

    log: Path
    n: int = 40
    seconds: float = 0.0
    name: str = "slow"
    version: str = "1"
    classes: tuple[str, ...] = ()
    mask_names: tuple[str, ...] = ()
    box_classes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @cached_property
    def records(self) -> tuple[Record, ...]:
        return tuple(Record(uid=f"u{n}", patient="p", study="s", split="train", image=str(n)) for n in range(self.n))

    def image(self, record: Record) -> NDArray[np.uint8]:
        with self.log.open("a") as file:
            file.write(f"{record.uid}\n")
        time.sleep(self.seconds)
        if int(record.image) % 7 == 3:
            raise ImageError(record.uid, "every seventh fails")
        return drawn(int(record.image))

    def mask(self, record: Record, name: str) -> NDArray[np.uint8]:
        raise NotImplementedError


def drawn(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)


def build(folder: Path, log: Path, workers: int = 0, n: int = 40, seconds: float = 0.0) -> PixelCache:
    return PixelCache.open(Slow(log, n, seconds), SPEC, folder, workers=workers, progress=False)


def whole(tmp_path: Path, n: int = 40) -> dict[str, bytes]:
    """The bytes of a cache that was built in one go."""
    return contents(build(tmp_path / "whole", tmp_path / "whole.txt", n=n).folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NAMES}


def counted(log: Path) -> int:
    return log.read_text().count("\n") if log.exists() else 0


def check_rows(folder: Path) -> Contents:
    """What the files of a cache hold; each row that is in use is some image's, as it was drawn."""
    files = PixelFiles(folder / cache_key(Slow(folder), SPEC), 8)
    found = files.read()
    rows = files.pixels(len(found.records))
    known = {crc32(drawn(number).tobytes()) for number in range(400)}
    for row in found.rows.values():
        assert crc32(rows[row]) == found.records[row]["checksum"]
        assert crc32(rows[row]) in known
    return found


# ------------------------------------------------------------------------------------------------------- kills


def build_and_die(folder: Path, log: Path, write: int, share: float) -> None:
    """In a child: commits each image at once and is killed in the middle of a write."""
    pixel_files.COMMIT_SECONDS = 0.0
    append, count = pixel_files._Log.append, 0

    def dying(file: pixel_files._Log, data: bytes | bytearray) -> None:
        nonlocal count
        count += 1
        if count == write:
            append(file, data[: round(share * len(data))])
            os.kill(os.getpid(), signal.SIGKILL)
        append(file, data)

    pixel_files._Log.append = dying  # type: ignore[method-assign]
    build(folder, log)


# rows and records in turns; the seventh is a line of failures
@pytest.mark.parametrize(("write", "share"), [(1, 0.4), (2, 0.0), (2, 0.4), (3, 1.0), (4, 1.0), (7, 0.4), (8, 0.6), (40, 0.4)])
def test_killed_in_the_middle_of_a_write_it_keeps_every_whole_row(tmp_path: Path, write: int, share: float) -> None:
    folder, log = tmp_path / "killed", tmp_path / "log.txt"
    assert child.finish(child.start(build_and_die, folder, log, write, share)) == -signal.SIGKILL
    before, found = counted(log), check_rows(folder)
    assert len(found.rows) + len(found.failed) >= before - 1  # the one it was writing, at most, is lost
    cache = build(folder, log)
    assert counted(log) - before == 40 - len(found.rows) - len(found.failed)
    assert contents(cache.folder) == whole(tmp_path)


def test_rows_are_on_the_disk_before_their_records_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    for name, done in (("append", pixel_files._Log.append), ("sync", pixel_files._Log.sync)):

        def noted(log: pixel_files._Log, *words: bytes, name: str = name, done: Callable[..., None] = done) -> None:
            order.append(f"{name} {Path(log._file.name).name}")
            done(log, *words)

        monkeypatch.setattr(pixel_files._Log, name, noted)
    build(tmp_path, tmp_path / "log.txt", n=3)
    rows = ["append pixels.u8"] * 3
    assert order == [*rows, "sync pixels.u8", "append rows.bin", "sync rows.bin"]


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(tmp_path: Path, workers: int) -> None:
    folder, log, n = tmp_path / "killed", tmp_path / "log.txt", 400
    moments, kept = np.random.default_rng(time.time_ns()), 0
    for _ in range(3):
        running = child.start(build_often, folder, log, workers, n, 0.004)
        wait_until(has_grown, folder / cache_key(Slow(log), SPEC) / "rows.bin", kept)
        running.join(moments.uniform(0.0, 0.15))
        decoders = children_of(running.pid or 0)
        running.kill()
        running.join()
        assert running.exitcode == -signal.SIGKILL  # it died as intended, not of something else
        assert len(decoders) == workers
        wait_until(are_gone, decoders)
        found = check_rows(folder)
        assert len(found.rows) > kept
        kept = len(found.rows)
    assert contents(build(folder, log, n=n).folder) == whole(tmp_path, n)


def build_often(folder: Path, log: Path, workers: int, n: int, seconds: float) -> None:
    """In a child: commits each image at once."""
    pixel_files.COMMIT_SECONDS = 0.0
    build(folder, log, workers, n, seconds)


def has_grown(index: Path, rows: int) -> bool:
    return index.exists() and index.stat().st_size >= (rows + 1) * RECORD.itemsize


def wait_until(done: Callable[..., bool], *words: object) -> None:
    deadline = time.monotonic() + 60
    while not done(*words):
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.02)


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def are_gone(pids: list[str]) -> bool:
    states = []
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            states.append(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0])
    return set(states) <= {"Z"}


# ------------------------------------------------------------------------------------------- torn and flipped


@pytest.mark.parametrize("name", NAMES)
def test_a_tail_torn_at_any_byte_is_cut_off(tmp_path: Path, name: str) -> None:
    expected = whole(tmp_path)
    longest = {"pixels.u8": 64, "rows.bin": 2 * RECORD.itemsize, "failed.jsonl": 80}[name]
    for bytes_lost in range(1, longest + 1):
        folder, log = tmp_path / "torn", tmp_path / "log.txt"
        cache = build(folder, log)
        path = cache.folder / name
        os.truncate(path, len(expected[name]) - bytes_lost)
        before = counted(log)
        build(folder, log)
        size = {"pixels.u8": 64, "rows.bin": RECORD.itemsize}.get(name, len(expected[name].splitlines()[-1]) + 1)
        assert counted(log) - before == -(-bytes_lost // size), bytes_lost
        assert contents(cache.folder) == expected, bytes_lost


@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_follow_the_last_whole_row_are_cut_off(tmp_path: Path, name: str) -> None:
    expected, log = whole(tmp_path, 50), tmp_path / "log.txt"
    for more in (1, 31, 63, 64, 200):
        folder = tmp_path / str(more)
        with (build(folder, log).folder / name).open("ab") as file:
            file.write(b"\xa5" * more)
        check_rows(folder)
        cache = build(folder, log, n=50)
        if name != "rows.bin" or more < RECORD.itemsize:  # whole records of rubbish stay, and are nobody's
            assert contents(cache.folder) == expected
        assert len(check_rows(folder).rows) == 43


def test_any_flipped_bit_of_the_index_takes_one_image_out_of_use(tmp_path: Path) -> None:
    folder, log = tmp_path / "flipped", tmp_path / "log.txt"
    files = PixelFiles(build(folder, log, n=5).folder, 8)
    raw, before = files.index.read_bytes(), files.read()
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        files.index.write_bytes(changed)
        found = files.read()
        lost = bit // 8 // RECORD.itemsize
        assert found.rows == {key: row for key, row in before.rows.items() if row != lost}
    files.index.write_bytes(raw)
    assert files.read().rows == before.rows


def test_a_flipped_bit_of_the_failures_is_no_other_failure(tmp_path: Path) -> None:
    files = PixelFiles(build(tmp_path, tmp_path / "log.txt", n=12).folder, 8)
    raw, before = files.failures.read_bytes(), files.read().failed
    assert len(before) == 2
    for bit in range(0, 8 * len(raw), 3):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        files.failures.write_bytes(changed)
        found = files.read().failed
        assert found.items() < before.items()
        assert len(found) >= 1 or raw[bit // 8] == ord("\n")


def test_a_flipped_bit_of_the_pixels_is_refused_and_its_image_decoded_again(tmp_path: Path) -> None:
    log, expected = tmp_path / "log.txt", [drawn(number) for number in range(3)]
    for place in range(0, 3 * 64, 5):
        folder = tmp_path / str(place)
        data = PixelFiles(build(folder, log, n=3).folder, 8).data
        raw = bytearray(data.read_bytes())
        raw[place] ^= 0x10
        data.write_bytes(raw)
        with pytest.raises(UserError, match="damaged"):
            build(folder, log, n=3).take(Slow(log, 3).records)
        before = counted(log)
        np.testing.assert_array_equal(build(folder, log, n=3).take(Slow(log, 3).records), expected)
        assert counted(log) == before + 1


def test_the_files_are_what_they_are_said_to_be(tmp_path: Path) -> None:
    cache = build(tmp_path, tmp_path / "log.txt", n=5)
    records = np.frombuffer((cache.folder / "rows.bin").read_bytes(), RECORD)
    rows = np.frombuffer((cache.folder / "pixels.u8").read_bytes(), np.uint8).reshape(4, 8, 8)
    assert (records["height"] == 8).all()
    assert (records["width"] == 8).all()
    for record, row, number in zip(records, rows, (0, 1, 2, 4), strict=True):
        np.testing.assert_array_equal(row, drawn(number))
        assert record["checksum"] == crc32(row)
        assert record["seal"] == crc32(record.tobytes()[:28])
    assert (cache.folder / "failed.jsonl").read_text().count("every seventh fails") == 1


# ------------------------------------------------------------------------------------------------ two processes


def test_two_processes_that_open_a_cache_at_once_decode_each_image_once(tmp_path: Path) -> None:
    folder, logs = tmp_path / "shared", [tmp_path / f"{number}.txt" for number in range(2)]
    running = [child.start(build_often, folder, log, 0, 40, 0.01) for log in logs]
    assert [child.finish(process) for process in running] == [0, 0]
    assert sum(counted(log) for log in logs) == 40
    assert contents(folder / cache_key(Slow(logs[0]), SPEC)) == whole(tmp_path)


def test_who_waits_for_another_process_says_so_and_appends_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, log, mine = tmp_path / "shared", tmp_path / "log.txt", tmp_path / "mine.txt"
    other = child.start(build_often, folder, log, 0, 40, 0.02)
    wait_until(has_grown, folder / cache_key(Slow(log), SPEC) / "rows.bin", 1)
    cache = build(folder, mine, n=45)
    assert child.finish(other) == 0
    assert "waiting for another process" in capsys.readouterr().err
    assert mine.read_text().split() == ["u40", "u41", "u42", "u43", "u44"]
    assert len(cache) == 45


def test_rows_that_are_there_are_read_while_another_appends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.txt"
    early = build(tmp_path, log)
    with Appender(PixelFiles(early.folder, 8), "pixels") as appender:
        for number in range(100, 120):
            appender.add(bytes([number]) * 16, drawn(number), 8, 8)
        monkeypatch.setattr(pixels, "Appender", None)  # whoever wants to append now would fail
        late = build(tmp_path, log)
        appender.commit()
        later = build(tmp_path, log)
    monkeypatch.undo()
    records = [record for record in Slow(log).records if record.uid not in early.failed]
    expected = [drawn(int(record.image)) for record in records]
    for cache in (early, late, later, build(tmp_path, log)):
        np.testing.assert_array_equal(cache.take(records), expected)
    assert len(check_rows(tmp_path).rows) == len(records) + 20
