"""NIH ChestX-ray14 in its official layouts: what a replica gives, and one sentence for each way it can be broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.nih import BOX_CLASSES, CLASSES, Nih, open_source
from benchmark.errors import ImageError, UserError
from benchmark.types import Box, Source

HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
ROWS = (  # name, findings, follow-up, patient, age, sex, view
    ("00000001_000.png", "Cardiomegaly", 0, 1, 57, "M", "PA"),
    ("00000001_001.png", "Cardiomegaly|Emphysema", 1, 1, 58, "M", "AP"),
    ("00000002_000.png", "No Finding", 0, 2, 411, "F", "PA"),
    ("00000003_000.png", "Pleural_Thickening|Infiltration", 0, 3, 94, "F", "PA"),
    ("00000004_000.png", "Hernia", 0, 4, 1, "M", "AP"),
)
BOXES = (
    "Image Index,Finding Label,Bbox [x,y,w,h],,,",
    "00000003_000.png,Infiltrate,225.084745762712,547.019216763771,86.7796610169491,79.1864406779661",
    "00000003_000.png,Cardiomegaly,0,0,1024,1024,,,",
)


def entries(release: str) -> str:
    lines = [",".join(map(str, row)) + ",2682,2749,0.143,0.143" for row in ROWS]
    if release == "2017":
        return "\n".join([HEADER_2017, *(f"{line}," for line in lines)]) + "\n"
    return "\r\n".join([HEADER_2017.rstrip(",").replace("Gender", "Sex"), *lines]) + "\r\n"


def write(root: Path, release: str = "2017_v2020", parts: bool = False) -> Path:
    root.mkdir(parents=True)
    (root / f"Data_Entry_{release}.csv").write_text(entries(release), newline="")
    (root / "train_val_list.txt").write_text("\n".join(row[0] for row in ROWS[:3]))
    (root / "test_list.txt").write_text("\r\n".join(row[0] for row in ROWS[3:]) + "\r\n", newline="")
    (root / "BBox_List_2017.csv").write_text("\n".join(BOXES) + "\n")
    for number, row in enumerate(ROWS):
        folder = root / (f"images_{min(number, 1) * 11 + 1:03}/images" if parts else "images")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L" if number else "RGBA", (1024, 1024), 40 + number if number else (40, 40, 40, 255)).save(folder / row[0])
    return root


def opened(root: Path, *where: tuple[str, str]) -> Nih:
    return open_source(str(root), SourceOptions(where=where))


@pytest.mark.parametrize("release", ["2017", "2017_v2020"])
@pytest.mark.parametrize("parts", [False, True])
def test_a_replica_gives_every_field(tmp_path: Path, release: str, parts: bool) -> None:
    source = opened(write(tmp_path / "nih", release, parts))
    assert isinstance(source, Source)
    assert (source.name, source.classes, source.mask_names) == ("nih", CLASSES, BOX_CLASSES)
    assert source.version.startswith("v2020-" if release == "2017_v2020" else "v2017-")
    a, b, c, d, e = source.records
    assert (a.uid, a.patient, a.study, a.view, a.sex, a.age) == ("00000001_000", "1", "00000001_000", "PA", "M", 57.0)
    assert a.image == ("images_001/images/00000001_000.png" if parts else "images/00000001_000.png")
    assert b.image == ("images_012/images/00000001_001.png" if parts else "images/00000001_001.png")
    assert {name for name, value in zip(CLASSES, b.labels) if value} == {"Cardiomegaly", "Emphysema"}
    assert set(c.labels) == {0.0}  # No Finding: none of the 14, all known
    assert {name for name, value in zip(CLASSES, d.labels) if value} == {"Pleural_Thickening", "Infiltration"}
    assert (c.age, c.attributes["age"], c.attributes["age_unknown"]) == (None, "411", "yes")
    assert "age_unknown" not in a.attributes
    assert a.split == b.split
    assert a.split in ("train", "val")
    assert (d.split, e.split) == ("test", "test")
    assert a.boxes is None  # not annotated, as most images
    x, y = 225.084745762712, 547.019216763771
    assert d.boxes == (
        Box("Infiltration", x, y, x + 86.7796610169491, y + 79.1864406779661),
        Box("Cardiomegaly", 0.0, 0.0, 1024.0, 1024.0),
    )  # fmt: skip
    assert set(d.masks) == set(BOX_CLASSES)  # its findings without a box, Pleural_Thickening, have no mask at all
    drawn = source.mask(d, "Infiltration")
    assert (drawn.shape, int(drawn.sum())) == ((1024, 1024), (627 - 547) * (312 - 225))  # whole pixels, edges outwards
    assert source.mask(d, "Cardiomegaly").all()
    assert not source.mask(d, "Mass").any()
    assert not a.masks
    assert [int(source.image(record)[0, 0]) for record in source.records] == [40, 41, 42, 43, 44]
    assert Dataset(source).labels(source.records).shape == (5, 14)
    with pytest.raises(ImageError, match=r"has no mask 'lungs'"):
        source.mask(a, "lungs")


def test_val_is_about_an_eighth_of_the_patients_and_a_filter_moves_none(tmp_path: Path) -> None:
    root = write(tmp_path / "nih")
    names = [f"{patient:08}_{follow:03}.png" for patient in range(10, 810) for follow in range(2)]
    lines = [f"{name},No Finding,0,{int(name[:8])},50,{'MF'[int(name[7]) % 2]},PA,9,9,0.1,0.1" for name in names]
    table = root / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text() + "\n".join(lines) + "\n")
    (root / "train_val_list.txt").write_text("\n".join([*(row[0] for row in ROWS[:3]), *names]))
    splits = {record.patient: record.split for record in opened(root).records}
    Dataset(opened(root))
    assert 60 < sum(split == "val" for split in splits.values()) < 140
    women = opened(root, ("Patient Sex", "F"))
    assert 0 < len(women.records) < len(names)
    assert all(splits[record.patient] == record.split for record in women.records)
    assert women.version != opened(root).version


def test_boxes_are_optional_and_tables_decide_the_version(tmp_path: Path) -> None:
    root = write(tmp_path / "nih")
    first = opened(root)
    (root / "images/00000001_000.png").write_bytes(b"other pixels")
    assert opened(root).version == first.version
    (root / "BBox_List_2017.csv").unlink()
    assert opened(root).version != first.version
    assert opened(root).box_classes == ()
    assert all(record.boxes is None for record in opened(root).records)


def test_the_newer_of_two_tables_is_read(tmp_path: Path) -> None:
    root = write(tmp_path / "nih")
    (root / "Data_Entry_2017.csv").write_text("not read")
    assert opened(root).version.startswith("v2020-")


def test_a_missing_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    root = write(tmp_path / "nih")
    (root / "images/00000004_000.png").unlink()
    source = opened(root)
    assert len(source.records) == 5
    with pytest.raises(ImageError, match=r"00000004_000.png cannot be read"):
        source.image(source.records[4])


Change = tuple[str, str, str]  # file, text there, text instead
TABLE = "Data_Entry_2017_v2020.csv"
PLANTED: dict[str, tuple[Change, str]] = {
    "unknown finding": ((TABLE, "Hernia", "Hernias"), r"has the findings 'Hernias' for 00000004_000.png; download it"),
    "finding beside none": ((TABLE, "No Finding", "No Finding|Mass"), r"has the findings 'No Finding\|Mass'"),
    "empty findings": ((TABLE, "Hernia", ""), "has the findings ''"),
    "image twice": ((TABLE, "00000001_001", "00000001_000"), "has image '00000001_000.png' more than once"),
    "path": ((TABLE, "00000004_000.png", "../x.png"), "names '../x.png', which is not a file name"),
    "column": ((TABLE, "Patient Age", "Age"), "lacks the columns Patient Age"),
    "short row": (
        (TABLE, "00000004_000.png,Hernia,0,4,1,M,AP,", "00000004_000.png,Hernia,0,4,1,M,"),
        "cells and the header 11",
    ),
    "in no list": (("test_list.txt", "00000004_000.png", ""), "train_val_list.txt and test_list.txt lack '00000004_000.png'"),
    "in both lists": (
        ("test_list.txt", "00000004_000.png", "00000001_000.png"),
        "'00000001_000.png', which train_val_list.txt",
    ),
    "box label": (("BBox_List_2017.csv", "Cardiomegaly", "Hernia"), "line 3 has the finding 'Hernia'"),
    "box outside": (("BBox_List_2017.csv", "0,0,1024,1024", "1,0,1024,1024"), "line 3 has a box without area or outside 1024"),
    "box without area": (("BBox_List_2017.csv", "0,0,1024,1024", "0,0,0,1024"), "line 3 has a box without area"),
    "box no number": (("BBox_List_2017.csv", "0,0,1024,1024", "0,0,x,1024"), "line 3 is not an image, a finding and four"),
    "box nan": (("BBox_List_2017.csv", "0,0,1024,1024", "0,0,nan,1024"), "line 3 is not an image, a finding and four"),
    "box short": (("BBox_List_2017.csv", "0,0,1024,1024,,,", "0,0,1024"), "line 3 is not an image, a finding and four"),
    "box image": (("BBox_List_2017.csv", "00000003_000.png,Card", "00000009_000.png,Card"), "line 3 names '00000009_000.png'"),
    "box header": (("BBox_List_2017.csv", "Image Index", "Image"), "does not begin with Image Index,Finding Label"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_defects_are_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    (file, old, new), words = PLANTED[name]
    root = write(tmp_path / "nih")
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=words) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "nih")
    (root / TABLE).write_text((root / TABLE).read_text().replace("Hernia,0,4,", "Hernia,0,1,"))
    with pytest.raises(UserError, match=r"patient '1' of dataset 'nih' is in two splits"):
        Dataset(opened(root))


def test_wrong_folders_say_the_way_out(tmp_path: Path) -> None:
    root = write(tmp_path / "data/ChestX-ray14")
    assert len(open_source("", SourceOptions(root=tmp_path / "data")).records) == 5
    for location, words in {
        tmp_path / "data": "one level off; use --data nih:.*ChestX-ray14",
        root / "images": "one level off",
    }.items():
        with pytest.raises(UserError, match=words):
            opened(location)
    (root / TABLE).unlink()
    with pytest.raises(UserError, match=r"lacks Data_Entry_2017_v2020.csv and Data_Entry_2017.csv; download one .*box.com"):
        opened(root)


def test_missing_archives_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "nih")
    shutil.rmtree(root / "images")
    with pytest.raises(UserError, match=r"has none of the 5 images .*; unpack the archives images_001.tar.gz to images_012"):
        opened(root)


def test_resized_and_doubled_images_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "nih")
    Image.new("L", (224, 224)).save(root / "images/00000003_000.png")
    with pytest.raises(UserError, match=r"is 224 x 224 pixels, but BBox_List_2017.csv refers to the published 1024 x 1024"):
        opened(root)
    (root / "BBox_List_2017.csv").unlink()
    assert opened(root).image(opened(root).records[3]).shape == (224, 224)
    (root / "images_001/images").mkdir(parents=True)
    shutil.copy(root / "images/00000001_000.png", root / "images_001/images")
    with pytest.raises(UserError, match=r"keep one copy of the images"):
        opened(root)


def test_links_stay_inside(tmp_path: Path) -> None:
    root = write(tmp_path / "nih")
    (root / "images/00000001_000.png").unlink()
    (root / "images/00000001_000.png").symlink_to(root / "images/00000001_001.png")
    assert np.all(opened(root).image(opened(root).records[0]) == 41)
    (root / "images/00000001_000.png").unlink()
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    (root / "images/00000001_000.png").symlink_to(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"a link that leads out of"):
        opened(root)
