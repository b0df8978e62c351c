"""The scan: each image decoded once, kept through a kill, and looked at again when its file changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmark.data.stamps import FileStamps
from benchmark.errors import UserError
from benchmark.types import Box, Record
from benchmark.verify.scan import ImageScan, scan
from tests.small_sets import Rows, by_hand, picture


@dataclass(frozen=True, kw_only=True)
class Counted(Rows):
    """Rows that remember which images were decoded."""

    decoded: list[str] = field(default_factory=list)

    def image(self, record: Record) -> NDArray[np.uint8]:
        self.decoded.append(record.uid)
        return super().image(record)


@pytest.fixture
def rows(tmp_path: Path) -> Counted:
    return Counted(root=tmp_path / "set", records=by_hand(tmp_path / "set").records)


def look(source: Counted, path: Path, workers: int = 0) -> dict[str, ImageScan]:
    source.decoded.clear()
    return scan(source, FileStamps(source), path, workers, progress=False)


def uids(source: Rows) -> list[str]:
    return [record.uid for record in source.records]


def test_a_second_scan_decodes_nothing_and_says_the_same(rows: Counted, tmp_path: Path) -> None:
    path = tmp_path / "out" / "scan.jsonl"
    first = look(rows, path)
    assert rows.decoded == uids(rows) == list(first)
    assert look(rows, path) == first
    assert rows.decoded == []
    assert (first["i00"].height, first["i00"].width) == (48, 48)
    assert first["i00"].masks["lung"].structure == 32 * 24


def test_workers_see_what_one_process_sees(rows: Counted, tmp_path: Path) -> None:
    assert look(rows, tmp_path / "two", workers=2) == look(rows, tmp_path / "one")


def test_a_file_with_another_size_or_time_is_looked_at_again_and_no_other(rows: Counted, tmp_path: Path) -> None:
    path = tmp_path / "scan.jsonl"
    before = look(rows, path)
    Image.fromarray(picture(77)).save(rows.root / "images/i04.png")
    os.utime(rows.root / "images/i05.png", ns=(1, 1))
    os.utime(rows.root / "masks/i06.png", ns=(1, 1))
    after = look(rows, path)
    assert sorted(rows.decoded) == ["i04", "i05", "i06"]
    assert after["i04"].sha256 != before["i04"].sha256
    assert after["i05"].sha256 == before["i05"].sha256
    (rows.root / "images/i07.png").unlink()
    assert "i07" not in look(rows, path)
    assert rows.decoded == []


def test_what_could_not_be_read_is_tried_again(rows: Counted, tmp_path: Path) -> None:
    (rows.root / "images/i04.png").write_bytes(b"not an image")
    (rows.root / "masks/i06.png").write_bytes(b"not a mask")
    path = tmp_path / "scan.jsonl"
    first = look(rows, path)
    assert look(rows, path) == first
    assert rows.decoded == ["i04", "i06"]


def test_boxes_that_masks_are_drawn_from_are_under_the_key(rows: Counted, tmp_path: Path) -> None:
    look(rows, tmp_path / "scan.jsonl")
    changed = rows.change("i03", boxes=(Box("lung", 1, 2, 3, 4),))
    assert isinstance(changed, Counted)
    look(changed, tmp_path / "scan.jsonl")
    assert changed.decoded == ["i03"]


def test_another_copy_of_a_set_is_decoded_for_itself(rows: Counted, tmp_path: Path) -> None:
    look(rows, tmp_path / "scan.jsonl")
    other = replace(rows, root=rows.root.rename(tmp_path / "moved"))
    look(other, tmp_path / "scan.jsonl")
    assert len(other.decoded) == len(rows.records)


@pytest.mark.parametrize("keep", [0, 1, 300, 2500])
def test_a_scan_file_that_was_cut_anywhere_is_read_up_to_the_cut(rows: Counted, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "scan.jsonl"
    whole = look(rows, path)
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    lines = data[:keep].count(b"\n")
    assert look(rows, path) == whole
    assert rows.decoded == uids(rows)[lines:]
    assert look(rows, path) == whole
    assert rows.decoded == []


def test_a_damaged_line_is_decoded_again_and_the_others_are_kept(rows: Counted, tmp_path: Path) -> None:
    path = tmp_path / "scan.jsonl"
    whole = look(rows, path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"height":48', b'"height":49')
    lines[5] = b"\xff\xfe\n"
    lines[7] = b'4f53cda1 ["not an image"]\n'
    path.write_bytes(b"".join(lines))
    assert look(rows, path) == whole
    assert rows.decoded == ["i02", "i05", "i07"]


def test_a_line_of_another_version_with_a_good_checksum_is_left(rows: Counted, tmp_path: Path) -> None:
    from zlib import crc32

    path = tmp_path / "scan.jsonl"
    for value in ([], {"key": "x"}, {"key": "x", "masks": {}, "looks": {"odd": 1}}, 3):
        text = json.dumps(value).encode()
        path.write_bytes(b"%08x %s\n" % (crc32(text), text))
        assert len(look(rows, path)) == len(rows.records)


CHILD = """
import sys, time
from pathlib import Path
from importlib import import_module
from benchmark.data.sources import SourceOptions, csv_folder
from benchmark.data.stamps import FileStamps
from tests.small_sets import Rows
module = import_module("benchmark.verify.scan")
module.CHUNK = 2
class Slow(Rows):
    def image(self, record):
        time.sleep(0.25)
        return super().image(record)
root, out = Path(sys.argv[1]), Path(sys.argv[2])
rows = Slow(root=root, records=csv_folder.open_source(str(root), SourceOptions()).records)
module.scan(rows, FileStamps(rows), out, int(sys.argv[3]), False)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_started_again_it_goes_on(rows: Counted, tmp_path: Path, workers: int) -> None:
    path = tmp_path / "scan.jsonl"
    words = [sys.executable, "-c", CHILD, str(rows.root), str(path), str(workers)]
    child = subprocess.Popen(words, cwd=Path(__file__).resolve().parent.parent)
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline and (not path.exists() or path.stat().st_size == 0):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait(30) == -signal.SIGKILL  # it was killed, and had not finished
    done = path.read_bytes().count(b"\n")
    assert 0 < done < len(rows.records)
    whole = look(rows, path)
    assert len(rows.decoded) == len(rows.records) - done
    assert whole == look(rows, tmp_path / "fresh.jsonl")


def test_a_folder_that_cannot_be_written_is_one_sentence(rows: Counted, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"scan\.jsonl cannot be written .* choose another folder by --out"):
        look(rows, tmp_path / "file" / "scan.jsonl")


def test_without_files_the_version_decides(tmp_path: Path) -> None:
    from tests.toy import ToySource

    path = tmp_path / "scan.jsonl"
    scan(ToySource(6), FileStamps(ToySource(1)), path, 0, progress=False)
    size = path.stat().st_size
    scan(ToySource(6), FileStamps(ToySource(1)), path, 0, progress=False)
    assert path.stat().st_size == size
    scan(ToySource(6, version="2"), FileStamps(ToySource(1)), path, 0, progress=False)
    assert path.stat().st_size == 2 * size
