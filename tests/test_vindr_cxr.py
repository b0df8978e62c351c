"""VinDr-CXR in its layout, with real DICOM files: the vote of radiologists, their boxes, and one sentence for each defect."""

from __future__ import annotations

import csv
import io
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.vindr_cxr import CLASSES, TABLES, VinDrCxr, _record, open_source, unite, vote
from benchmark.errors import ImageError, UserError
from benchmark.types import Box, Source, digest

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset as Dicom  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402

Row = dict[str, str]
READERS = ("R1", "R8", "R10")
ROWS, COLUMNS = 60, 50


def uid(number: int) -> str:
    return f"{number:032x}"


def answers(image: int, reader: str | None, *positive: str) -> Row:
    """A row of image_labels; the tables of test have no reader and another name for a column."""
    names = [name if reader else {"Other diseases": "Other disease"}.get(name, name) for name in CLASSES]
    head = {"image_id": uid(image)} | ({"rad_id": reader} if reader else {})
    return head | {name: str(int(name in positive)) for name in names}


def drawn(image: int, reader: str | None, name: str, corners: tuple[float, ...] = ()) -> Row:
    head = {"image_id": uid(image)} | ({"rad_id": reader} if reader else {})
    cells = [str(value) for value in corners] or [""] * 4
    return head | {"class_name": name} | dict(zip(("x_min", "y_min", "x_max", "y_max"), cells))


def tables() -> dict[str, list[Row]]:
    train = [answers(n, reader, "No finding") for n in (0, 1, 2) for reader in READERS]
    train += [answers(3, "R1", "Cardiomegaly", "Edema"), answers(3, "R8", "Cardiomegaly"), answers(3, "R10", "No finding")]
    boxes = [drawn(n, reader, "No finding") for n in (0, 1, 2) for reader in READERS]
    boxes += [
        drawn(3, "R1", "Cardiomegaly", (10, 10, 30, 30)), drawn(3, "R8", "Cardiomegaly", (12, 10, 32, 30)),
        drawn(3, "R8", "Cardiomegaly", (40, 40, 50.5, 55)), drawn(3, "R1", "Edema", (1, 1, 5, 5)),
        drawn(3, "R10", "No finding"),
    ]  # fmt: skip
    test = [answers(10, None, "Pneumonia", "Consolidation"), answers(11, None, "Other disease")]
    test[1]["Edema"] = ""
    test_boxes = [drawn(10, None, "Consolidation", (5, 5, 20, 20)), drawn(10, None, "Consolidation", (6, 6, 20, 20)),
                  drawn(11, None, "No finding")]  # fmt: skip
    return {"image_labels_train": train, "annotations_train": boxes, "image_labels_test": test, "annotations_test": test_boxes}


def write_table(path: Path, rows: list[Row]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(exist_ok=True)
    path.write_text(buffer.getvalue())


def write_image(path: Path, number: int) -> None:
    """14 bits, MONOCHROME1, with a window: as many of the set are."""
    made = Dicom()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
    made.Rows, made.Columns = ROWS, COLUMNS
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME1", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 14, 13
    made.WindowCenter, made.WindowWidth = 1000, 2000
    made.PixelData = np.full((ROWS, COLUMNS), 100 * number, np.uint16).tobytes()
    made["PixelData"].VR = "OW"
    path.parent.mkdir(exist_ok=True)
    made.save_as(path, enforce_file_format=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "1.0.0"
    folder.mkdir()
    for name, rows in tables().items():
        write_table(folder / TABLES[name], rows)
    for number in (0, 1, 2, 3, 10, 11):
        write_image(folder / ("test" if number > 9 else "train") / f"{uid(number)}.dicom", number)
    return folder


def opened(root: Path, **where: str) -> VinDrCxr:
    return open_source(str(root), SourceOptions(where=tuple(where.items())))


def named(labels: tuple[float, ...]) -> set[str]:
    return {name for name, value in zip(CLASSES, labels) if value == 1}


def test_records(root: Path) -> None:
    source = opened(root)
    assert isinstance(source, Source)
    records = {record.uid: record for record in source.records}
    assert len(source.classes) == 28
    assert named(records[uid(0)].labels) == {"No finding"}
    assert named(records[uid(3)].labels) == {"Cardiomegaly"}  # 2 of 3; edema and no finding have 1
    assert named(records[uid(10)].labels) == {"Pneumonia", "Consolidation"}
    assert named(records[uid(11)].labels) == {"Other diseases"}  # under its other name
    assert math.isnan(records[uid(11)].labels[CLASSES.index("Edema")])
    assert records[uid(3)].boxes == (Box("Cardiomegaly", 11, 10, 31, 30), Box("Cardiomegaly", 40, 40, 50.5, 55))
    assert records[uid(0)].boxes == ()
    assert records[uid(10)].boxes == (Box("Consolidation", 5, 5, 20, 20), Box("Consolidation", 6, 6, 20, 20))  # a consensus
    assert records[uid(10)].split == records[uid(11)].split == "test"
    assert {records[uid(number)].split for number in range(4)} <= {"train", "val"}
    assert source.flags == ("patients-unknown",)
    Dataset(source)


def test_pixels(root: Path) -> None:
    record = next(record for record in opened(root).records if record.uid == uid(10))
    image = opened(root).image(record)
    assert image.shape == (ROWS, COLUMNS)
    assert set(image.ravel().tolist()) == {127}  # 1000 is the middle of the window, turned
    with pytest.raises(ImageError, match="use its boxes"):
        opened(root).mask(record, "lungs")


def test_votes() -> None:
    unknown = math.nan
    found = vote([(1, 1, 0, unknown, unknown, 1), (1, 0, 0, 1, unknown, 0), (0, 0, 0, 1, unknown, unknown)])
    assert found[:4] == (1, 0, 0, 1)
    assert math.isnan(found[4])
    assert found[5] == 0  # a tie is no majority


def test_boxes_unite_over_readers_and_never_within_one() -> None:
    one, other = Box("Edema", 0, 0, 10, 10), Box("Edema", 1, 0, 11, 10)
    far = Box("Edema", 50, 50, 60, 60)
    assert unite([("a", one), ("a", other)]) == (one, other)
    assert unite([("a", one), ("b", other), ("c", far)]) == (Box("Edema", 0.5, 0, 10.5, 10), far)
    half, less = Box("Edema", 0, 0, 5, 10), Box("Edema", 0, 0, 4.9, 10)
    assert len(unite([("a", one), ("b", half)])) == 1
    assert len(unite([("a", one), ("b", less)])) == 2
    readings = [(reader, Box("Edema", x, 0, x + 10, 10)) for reader in "abc" for x in (0, 2, 4, 30)]
    expected = unite(readings)
    for seed in range(5):
        random.Random(seed).shuffle(readings)
        assert unite(readings) == expected


def test_rule_never_drifts() -> None:
    rows = [{"image_id": uid(number), "official_split": "train"} for number in range(15000)]
    splits = [_record(row, (), ()).split for row in rows]
    assert Counter(splits)["val"] / 15000 == pytest.approx(0.2, abs=0.01)
    assert digest(splits) == "f9f4feab5513384a"


def test_where_and_column_names(root: Path) -> None:
    assert len(opened(root, official_split="test").records) == 2
    for name in ("image_labels_train", "annotations_train"):
        text = (root / TABLES[name]).read_text()
        (root / TABLES[name]).write_text(text.replace("rad_id", "rad_ID", 1))
    assert named(opened(root).records[3].labels) == {"Cardiomegaly"}


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / TABLES[name]).read_text()
        assert old in text
        (root / TABLES[name]).write_text(text.replace(old, new, 1))

    return change


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "value": (edit("image_labels_train", "R1,0", "R1,2"), "Aortic enlargement '2'"),
    "column": (edit("image_labels_test", "Other disease", "Others"), "Other diseases 'missing'"),
    "path": (edit("image_labels_train", uid(0), "../x"), "that no file has"),
    "reader twice": (edit("image_labels_train", f"{uid(0)},R8", f"{uid(0)},R1"), "twice by radiologist 'R1'"),
    "in both": (edit("image_labels_test", uid(10), uid(0)), "of train and of test"),
    "unknown finding": (edit("annotations_train", "Edema,", "Oedema,"), "no box of a known finding"),
    "empty box": (edit("annotations_train", "10,10,30,30", "10,10,10,30"), "no box of a known finding"),
    "text box": (edit("annotations_train", "10,10,30,30", "10,10,x,30"), "no box of a known finding"),
    "infinite box": (edit("annotations_test", "5,5,20,20", "5,5,inf,20"), "no box of a known finding"),
    "unknown image": (edit("annotations_test", uid(10), uid(99)), "which the table of labels lacks"),
    "no images": (lambda root: [path.unlink() for path in (root / "test").iterdir()] and None, "none of the 2 images"),
    "no table": (lambda root: (root / TABLES["annotations_test"]).unlink(), "lacks annotations/annotations_test.csv"),
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
    for near in (root.parent, root / "train"):
        with pytest.raises(UserError, match=f"--data vindr-cxr:{root}"):
            opened(near)
