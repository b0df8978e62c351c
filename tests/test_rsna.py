"""RSNA Pneumonia in its layout, with real DICOM files: what is read, the splits, and one sentence for each defect."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.rsna import CLASSES, IMAGES, LABELS, MAPPING, Rsna, open_source, split_of_patient
from benchmark.errors import ImageError, UserError
from benchmark.types import Box, Source, digest

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset as Dicom  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402

SIDE = 64
Row = dict[str, str]


def uid(number: int) -> str:
    return f"{number:08x}-36f6-443a-abce-a6a6f3c1a1e9"


def labels() -> list[Row]:
    rows = [{"patientId": uid(n), "x": "", "y": "", "width": "", "height": "", "Target": "0"} for n in range(6)]
    for number, x in ((6, "4.0"), (6, "30.0"), (7, "10.5")):  # two rows of image 6
        rows.append({"patientId": uid(number), "x": x, "y": "8.0", "width": "20.0", "height": "30.0", "Target": "1"})
    return rows


def kinds() -> list[Row]:
    found = {row["patientId"]: row["Target"] for row in labels()}
    names = {"0": ("Normal", "No Lung Opacity / Not Normal"), "1": ("Lung Opacity", "Lung Opacity")}
    rows = [{"patientId": name, "class": names[target][index % 2]} for index, (name, target) in enumerate(found.items())]
    return [*rows, rows[6]]  # the published table repeats rows as the labels do


def table(rows: list[Row]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def picture(number: int) -> NDArray[np.uint8]:
    return (np.add.outer(np.arange(SIDE), 2 * np.arange(SIDE)) + number).astype(np.uint8)


def write_image(path: Path, number: int) -> None:
    """JPEG baseline, 8 bits, MONOCHROME2, as in the challenge."""
    stream = io.BytesIO()
    Image.fromarray(picture(number)).save(stream, "JPEG", quality=95)
    made = Dicom()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"1.2.276.0.{number}"
    made.PatientID, made.PatientSex, made.ViewPosition = uid(number), "F", "PA"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.PatientAge = "51"  # as the challenge has it; the standard wants 051Y
    made.Rows = made.Columns = SIDE
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.PixelData = encapsulate([stream.getvalue()])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(path, enforce_file_format=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "rsna"
    (folder / IMAGES).mkdir(parents=True)
    for number in range(8):
        write_image(folder / IMAGES / f"{uid(number)}.dcm", number)
    (folder / LABELS).write_text(table(labels()))
    (folder / CLASSES).write_text(table(kinds()))
    return folder


def mapping(root: Path) -> None:
    items = [{"subset_img_id": uid(n), "img_id": f"{n // 2:08d}_{n:03d}.png", "SOPInstanceUID": f"1.2.{n}"} for n in range(9)]
    (root / MAPPING).write_text(json.dumps(items))


def opened(root: Path, **where: str) -> Rsna:
    return open_source(str(root), SourceOptions(where=tuple(where.items())))


def test_records(root: Path) -> None:
    source = opened(root)
    assert isinstance(source, Source)
    assert source.flags == ("patients-unknown",)
    assert len(source.records) == 8
    records = {record.uid: record for record in source.records}
    two, one, none = records[uid(6)], records[uid(7)], records[uid(0)]
    assert two.boxes == (Box("Pneumonia", 4, 8, 24, 38), Box("Pneumonia", 30, 8, 50, 38))
    assert one.boxes == (Box("Pneumonia", 10.5, 8, 30.5, 38),)
    assert none.boxes == ()
    assert [record.labels for record in (two, one, none)] == [(1.0,), (1.0,), (0.0,)]
    assert none.attributes == {"class": "Normal"}
    assert none.patient == none.uid
    Dataset(source)  # ids and patients


def test_pixels_and_masks(root: Path) -> None:
    source = opened(root)
    by_uid = {record.uid: record for record in source.records}
    image = source.image(by_uid[uid(3)])
    assert (image.shape, image.dtype) == ((SIDE, SIDE), np.uint8)
    assert np.abs(image.astype(int) - picture(3)).mean() < 8  # JPEG
    mask = source.mask(by_uid[uid(6)], "Pneumonia")
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[8:38, 4:24] = expected[8:38, 30:50] = 1
    np.testing.assert_array_equal(mask, expected)
    assert source.mask(by_uid[uid(7)], "Pneumonia")[:, [9, 10, 30, 31]].max(0).tolist() == [0, 1, 1, 0]  # whole pixels
    assert not source.mask(by_uid[uid(0)], "Pneumonia").any()


def test_patients_of_nih(root: Path) -> None:
    mapping(root)
    source = opened(root)
    assert source.flags == ()
    assert {record.uid: record.patient for record in source.records} == {uid(n): f"{n // 2:08d}" for n in range(8)}
    splits: dict[str, set[str]] = {}
    for record in source.records:
        splits.setdefault(record.patient, set()).add(record.split)
    assert all(len(found) == 1 for found in splits.values())


def test_rule_by_patient_never_drifts() -> None:
    patients = [f"{number:08d}" for number in range(20000)]
    splits = [split_of_patient(patient) for patient in patients]
    shares = {split: count / len(splits) for split, count in Counter(splits).items()}
    assert shares == pytest.approx({"train": 0.6, "val": 0.2, "test": 0.2}, abs=0.01)
    assert digest(splits) == "be1cdcbf0a83eba6"


def test_where_keeps_boxes_and_splits(root: Path) -> None:
    whole = {record.uid: record for record in opened(root).records}
    kept = opened(root, Target="1").records
    assert {record.uid for record in kept} == {uid(6), uid(7)}
    assert all(record == whole[record.uid] for record in kept)
    assert len(opened(root, **{"class": "Normal"}).records) == 3
    with pytest.raises(UserError, match="leaves no row"):
        opened(root, Target="2")


def test_a_missing_image_is_named_when_it_is_read(root: Path) -> None:
    (root / IMAGES / f"{uid(2)}.dcm").unlink()
    source = opened(root)
    record = next(record for record in source.records if record.uid == uid(2))
    with pytest.raises(ImageError, match="cannot be read"):
        source.image(record)


def edit(name: str, old: str, new: str, count: int = -1) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, count))

    return change


def no_images(root: Path) -> None:
    for path in (root / IMAGES).iterdir():
        path.unlink()
    (root / IMAGES / "stage_2_train_images.zip").touch()


def leave(root: Path) -> None:
    (root.parent / "else.dcm").touch()
    path = root / IMAGES / f"{uid(1)}.dcm"
    path.unlink()
    path.symlink_to(root.parent / "else.dcm")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "target": (edit(LABELS, f"{uid(0)},,,,,0", f"{uid(0)},,,,,2"), "Target '2'"),
    "two targets": (edit(LABELS, f"{uid(0)},,,,,0", f"{uid(7)},,,,,0"), "Target 0 and 1"),
    "path": (edit(LABELS, uid(0), "../../etc/passwd"), "passwd"),
    "no box": (edit(LABELS, "10.5,8.0,20.0,30.0", ",,,"), "the box"),
    "empty box": (edit(LABELS, "10.5,8.0,20.0,30.0", "10.5,8.0,0.0,30.0"), "the box"),
    "infinite box": (edit(LABELS, "10.5,8.0,20.0,30.0", "10.5,8.0,inf,30.0"), "the box"),
    "negative box": (edit(LABELS, "10.5,8.0", "-1,8.0"), "the box"),
    "box of a negative": (edit(LABELS, f"{uid(0)},,,,,0", f"{uid(0)},1,1,1,1,0"), "for Target 1 alone"),
    "column": (edit(LABELS, "Target", "target"), "lacks the columns Target"),
    "class": (edit(CLASSES, "Normal", "normal", 1), "'normal'"),
    "class of another": (edit(CLASSES, "Lung Opacity\n", "Normal\n", 2), "Target"),
    "image without class": (edit(CLASSES, f"{uid(0)},Normal\n", ""), "lacks image"),
    "class without image": (edit(CLASSES, uid(0), uid(99)), "which stage_2_train_labels.csv lacks"),
    "no images": (no_images, "unpack stage_2_train_images.zip"),
    "a link out": (leave, "leads out"),
    "mapping": (lambda root: (root / MAPPING).write_text('{"a": 1}') and None, "take it away"),
    "mapping without an image": (lambda root: (root / MAPPING).write_text("[]") and None, "no NIH file"),
    "no table": (lambda root: (root / CLASSES).unlink(), "lacks stage_2_detailed_class_info.csv"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(root: Path, name: str) -> None:
    change, reason = BAD[name]
    change(root)
    with pytest.raises(UserError) as caught:
        opened(root)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_root_one_level_off(root: Path) -> None:
    for near in (root.parent, root / IMAGES):
        with pytest.raises(UserError, match=f"--data rsna:{root}"):
            opened(near)
    (root.parent / "rsna-pneumonia-detection-challenge").symlink_to(root)
    assert open_source("", SourceOptions(root=root.parent)).records
