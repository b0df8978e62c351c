"""SIIM-ACR in its layout, with real DICOM files and runs: masks by an independent decoder, and a sentence for each defect."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.siim import IMAGES, TABLE, Siim, decode_runs, open_source
from benchmark.errors import ImageError, UserError
from benchmark.types import Source, digest

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset as Dicom  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402

H, W = 48, 32  # not square, so that a transposed mask shows


def uid(number: int) -> str:
    return f"1.2.276.0.7230010.3.1.4.8323329.{300 + number}.1517875162.{number}"


def blob(top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
    mask = np.zeros((H, W), np.uint8)
    mask[top : top + height, left : left + width] = 1
    mask[top + height // 2, left : left + width] = 0  # a hole, so that columns have two runs
    return mask


def runs(mask: NDArray[np.uint8]) -> str:
    """The challenge's encoding, one pixel at a time: down the columns, starts from the end of the run before."""
    parts, gap, length = [], 0, 0
    for value in [*mask.T.ravel().tolist(), 0]:
        if value:
            length += 1
        elif length:
            parts += [gap, length]
            gap, length = 1, 0
        else:
            gap += 1
    return " ".join(map(str, parts))


MASKS = {1: [blob(3, 4, 10, 6)], 2: [blob(20, 1, 9, 9), blob(0, 20, 30, 12), blob(25, 5, 20, 5)], 3: [blob(0, 0, H, W)]}


def rows() -> list[str]:
    lines = []
    for number in range(8):
        lines += [f"{uid(number)}, {runs(mask)}" for mask in MASKS.get(number, [])] or [f"{uid(number)}, -1"]
    return lines


def write_image(root: Path, number: int) -> Path:
    made = Dicom()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid(number)
    made.Rows, made.Columns = H, W
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.PixelData = np.full((H, W), 10 * number, np.uint8).tobytes()
    made["PixelData"].VR = "OB"
    path = root / IMAGES / f"{uid(number)}.9" / f"{uid(number)}.8" / f"{uid(number)}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "siim"
    for number in range(9):  # the last has no row: it is not annotated
        write_image(folder, number)
    (folder / TABLE).write_text("ImageId, EncodedPixels\n" + "\n".join(rows()) + "\n")
    return folder


def opened(root: Path, **where: str) -> Siim:
    return open_source(str(root), SourceOptions(where=tuple(where.items())))


def test_records(root: Path) -> None:
    source = opened(root)
    assert isinstance(source, Source)
    assert [record.uid for record in source.records] == [uid(number) for number in range(8)]
    assert [record.labels for record in source.records] == [(float(number in MASKS),) for number in range(8)]
    assert all(record.boxes is None for record in source.records)
    assert source.records[5].image == f"{IMAGES}/{uid(5)}.9/{uid(5)}.8/{uid(5)}.dcm"
    assert source.flags == ("patients-unknown",)
    assert (source.image(source.records[5]) == 50).all()
    Dataset(source)


def test_masks_unite_the_rows_of_an_image(root: Path) -> None:
    for number, record in enumerate(opened(root).records):
        expected = np.zeros((H, W), np.uint8)
        for mask in MASKS.get(number, []):
            expected |= mask
        found = opened(root).mask(record, "Pneumothorax")
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.uint8


def test_runs_of_the_challenge() -> None:
    """Offsets are relative, count from 0 and run down the columns; every number from the definition."""
    found = decode_runs("1 2 3 4", 5, 3)  # pixels 1-2 and 6-9 of columns of 5
    expected = np.array([[0, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_runs_round_trip(height: int, width: int, draw: object) -> None:
    mask = np.array([[draw.random() < 0.4 for _ in range(width)] for _ in range(height)], np.uint8)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(decode_runs(runs(mask), height, width), mask)


def test_rule_never_drifts(root: Path) -> None:
    from benchmark.data.sources.siim import _record

    splits = [_record(uid(number), (), {}).split for number in range(12047)]
    shares = {split: count / len(splits) for split, count in Counter(splits).items()}
    assert shares == pytest.approx({"train": 0.6, "val": 0.2, "test": 0.2}, abs=0.015)
    assert digest(splits) == "f219eb7a0ad41bca"


def test_digest_of_splits_covers_the_masks(root: Path) -> None:
    before = opened(root)
    text = (root / TABLE).read_text()
    (root / TABLE).write_text(text.replace(runs(MASKS[1][0]), runs(blob(4, 4, 10, 6))))
    after = opened(root)
    assert after.version != before.version
    assert Dataset(after).splits != Dataset(before).splits


def test_where(root: Path) -> None:
    assert [record.uid for record in opened(root, positive="1").records] == [uid(1), uid(2), uid(3)]
    with pytest.raises(UserError, match="leaves no row"):
        opened(root, positive="2")


def test_a_missing_image_is_named_when_it_is_read(root: Path) -> None:
    write_image(root, 2).unlink()
    source = opened(root)
    for read in (source.image, lambda record: source.mask(record, "Pneumothorax")):
        with pytest.raises(ImageError, match="cannot be read"):
            read(source.records[2])


def test_runs_that_leave_the_image(root: Path) -> None:
    (root / TABLE).write_text(f"ImageId, EncodedPixels\n{uid(1)}, {H * W - 3} 4\n{uid(2)}, {H * W - 4} 4\n")
    source = opened(root)
    with pytest.raises(ImageError, match=r"runs that end at pixel 1,537 of an image of 1,536; download"):
        source.mask(source.records[0], "Pneumothorax")
    assert source.mask(source.records[1], "Pneumothorax")[-4:, -1].all()
    with pytest.raises(ImageError, match="use Pneumothorax"):
        source.mask(source.records[0], "lungs")


def test_windows_line_ends_and_a_mark(root: Path) -> None:
    before = opened(root).records
    (root / TABLE).write_bytes(b"\xef\xbb\xbf" + (root / TABLE).read_text().replace("\n", "\r\n").encode())
    assert opened(root).records == before


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / TABLE).read_text()
        assert old in text
        (root / TABLE).write_text(text.replace(old, new, 1))

    return change


def twice(root: Path) -> None:
    other = root / IMAGES / "other" / f"{uid(1)}.dcm"
    other.parent.mkdir()
    other.write_bytes(write_image(root, 1).read_bytes())


def leave(root: Path) -> None:
    path = write_image(root, 1)
    path.rename(root.parent / "else.dcm")
    path.symlink_to(root.parent / "else.dcm")


def circle(root: Path) -> None:
    path = write_image(root, 1)
    path.unlink()
    path.symlink_to(path)


def empty(root: Path) -> None:
    for number in range(9):
        write_image(root, number).unlink()


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "text": (edit(f"{uid(0)}, -1", f"{uid(0)}, none"), "pairs of start and length"),
    "odd count": (edit(f"{uid(0)}, -1", f"{uid(0)}, 1 2 3"), "pairs of start and length"),
    "negative": (edit(f"{uid(0)}, -1", f"{uid(0)}, -5 2"), "pairs of start and length"),
    "huge": (edit(f"{uid(0)}, -1", f"{uid(0)}, 1 99999999999999999999"), "pairs of start and length"),
    "both": (edit(f"{uid(0)}, -1", f"{uid(1)}, -1"), "runs and -1"),
    "path": (edit(f"{uid(0)}, -1", "../../a, -1"), "no name of a file"),
    "column": (edit(" EncodedPixels", " Pixels"), "lacks the columns EncodedPixels"),
    "cells": (edit(f"{uid(0)}, -1", f"{uid(0)}, -1, 7"), "3 cells"),
    "two files": (twice, "two files of one image"),
    "a link out": (leave, "leads out"),
    "a circle": (circle, "circle"),
    "no images": (empty, "has none of the 8 images"),
    "no table": (lambda root: (root / TABLE).unlink(), "lacks train-rle.csv"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(root: Path, name: str) -> None:
    change, reason = BAD[name]
    change(root)
    with pytest.raises(UserError) as caught:
        opened(root)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_circle_of_folders_ends(root: Path) -> None:
    (root / IMAGES / "again").symlink_to(root / IMAGES)
    assert len(opened(root).records) == 8
