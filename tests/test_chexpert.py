"""CheXpert on miniature replicas of its releases: what a good download gives, and one sentence for each way it can be wrong."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.chexpert import CLASSES, POLICIES, CheXpert, open_source
from benchmark.errors import ImageError, UserError
from benchmark.types import Source

# The columns of train.csv in their published order, which is not that of MIMIC-CXR-JPG.
HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CLASSES]
BATCHES = ("CheXpert-v1.0 batch 1 (validate & csv)", "CheXpert-v1.0 batch 2 (train 1)", "CheXpert-v1.0 batch 3 (train 2)")
PLUS = [
    "path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id", "patient_report_date_order", "report",
    "section_narrative", "section_clinical_history", "section_history", "section_comparison", "section_technique",
    "section_procedure_comments", "section_findings", "section_impression", "section_end_of_impression", "section_summary",
    "section_accession_number", "age", "sex", "race", "ethnicity", "interpreter_needed", "insurance_type", "recent_bmi",
    "deceased", "split",
]  # fmt: skip
Row = dict[str, str]


def row(path: str, view: str = "AP", sex: str = "Female", age: str = "68", **labels: str) -> Row:
    names = {name.replace("_", " "): value for name, value in labels.items()}
    lateral = "Lateral" if path.endswith("lateral.jpg") else "Frontal"
    return {"Path": path, "Sex": sex, "Age": age, "Frontal/Lateral": lateral, "AP/PA": view, **names}


def train(prefix: str = "CheXpert-v1.0-small/") -> list[Row]:
    base = [
        row("train/patient00001/study1/view1_frontal.jpg", No_Finding="1.0", Pneumothorax="0.0", Support_Devices="1.0"),
        row(
            "train/patient00002/study1/view1_frontal.jpg", "PA", "Male", "87", Edema="-1.0", Atelectasis="-1.0", Fracture="-1.0"
        ),
        row("train/patient00002/study1/view2_lateral.jpg", "", "Male", "87", Edema="-1.0", Atelectasis="-1.0", Fracture="-1.0"),
        row("train/patient00002/study2/view1_frontal.jpg", "LL", "Male", "88", Edema="1.0"),
        row("train/patient32368/study1/view1_frontal.jpg", "AP", "Unknown", "0"),
        *(row(f"train/patient{number:05d}/study1/view1_frontal.jpg", Cardiomegaly="0.0") for number in range(50, 57)),
    ]
    return [item | {"Path": prefix + item["Path"]} for item in base]


def valid(prefix: str = "CheXpert-v1.0-small/") -> list[Row]:
    zeros = dict.fromkeys((name.replace(" ", "_") for name in CLASSES), "0.0")
    return [
        row(prefix + "valid/patient64541/study1/view1_frontal.jpg", "AP", "Male", "73", **zeros | {"Cardiomegaly": "1.0"}),
        row(prefix + "valid/patient64542/study1/view2_lateral.jpg", "", "Male", "70", **zeros),
    ]


def table(path: Path, rows: list[Row], header: list[str] = HEADER, end: str = "\n", encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, header, restval="", lineterminator=end)
        writer.writeheader()
        writer.writerows(rows)


def images(root: Path, rows: list[Row], size: tuple[int, int] = (20, 16)) -> None:
    for number, item in enumerate(rows):
        path = root / item["Path"].partition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(size[::-1], 8 * number, np.uint8)).save(path, quality=95)


def write(root: Path, prefix: str = "CheXpert-v1.0-small/", **options: str) -> Path:
    table(root / "train.csv", train(prefix), **options)  # type: ignore[arg-type]
    table(root / "valid.csv", valid(prefix), **options)  # type: ignore[arg-type]
    images(root, [*train(), *valid()])
    return root


def opened(root: Path | str, **where: str) -> CheXpert:
    return open_source(str(root), SourceOptions(where=tuple(where.items())))


def label(record: object, name: str) -> float:
    return float(record.labels[CLASSES.index(name)])  # type: ignore[attr-defined]


def test_the_small_release_gives_every_field(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "CheXpert-v1.0-small"))
    assert isinstance(source, Source)
    assert (source.name, source.flags, source.mask_names) == ("chexpert", (), ())
    assert source.version.startswith("v1.0-small-")
    first, frontal, lateral, decubitus, unknown, *_ = source.records
    assert (first.uid, first.image) == ("train/patient00001/study1/view1_frontal.jpg",) * 2
    assert (first.patient, first.study, first.view) == ("patient00001", "patient00001/study1", "AP")
    assert (first.sex, first.age) == ("F", 68.0)
    assert [label(first, name) for name in ("No Finding", "Pneumothorax", "Support Devices")] == [1.0, 0.0, 1.0]
    assert math.isnan(label(first, "Edema"))
    assert "uncertain" not in first.attributes
    assert frontal.attributes == {"official_split": "train", "projection": "PA", "uncertain": "Edema;Atelectasis;Fracture"}
    assert all(math.isnan(value) for value in frontal.labels)
    assert [record.view for record in (frontal, lateral, decubitus)] == ["PA", "LATERAL", "FRONTAL"]
    assert frontal.study == lateral.study != decubitus.study
    assert (unknown.sex, unknown.age) == ("", None)
    assert source.image(decubitus).tolist() == np.full((16, 20), 24).tolist()
    with pytest.raises(ImageError, match="has no mask 'lungs'"):
        source.mask(first, "lungs")


def test_valid_is_the_test_split_and_val_comes_from_train_by_patient(tmp_path: Path) -> None:
    source = opened(write(tmp_path))
    data = Dataset(source)  # refuses patients in two splits
    assert [record.uid.split("/")[0] for record in data.rows("test")] == ["valid", "valid"]
    assert {record.attributes["official_split"] for record in data.rows("val")} == {"train"}
    assert len({record.patient for record in data.rows("val")}) == 1
    assert len(data.rows("train")) + len(data.rows("val")) == len(train())
    assert [record.split for record in opened(tmp_path, split="val").records] == ["val"] * len(data.rows("val"))


def test_validation_is_the_published_share_whatever_the_order_of_rows_and_columns(tmp_path: Path) -> None:
    rows = [row(f"train/patient{number:05d}/study1/view1_frontal.jpg", Edema="1.0") for number in range(1, 2001)]
    table(write(tmp_path, "") / "train.csv", rows)
    splits = {record.uid: record.split for record in opened(tmp_path).records}
    assert sum(split == "val" for split in splits.values()) == 45  # 5,000 of 223,414
    table(tmp_path / "train.csv", rows[::-1], HEADER[::-1])
    source = opened(tmp_path)
    assert {record.uid: record.split for record in source.records} == splits
    assert {label(record, "Edema") for record in source.records} == {1.0, 0.0}


def test_both_releases_and_renamed_folders_give_the_same_ids_and_splits(tmp_path: Path) -> None:
    small = opened(write(tmp_path / "small"))
    full = opened(write(tmp_path / "full", "CheXpert-v1.0/"))
    bare = opened(write(tmp_path / "bare", ""))
    assert [record.uid for record in small.records] == [record.uid for record in full.records]
    assert [record.split for record in small.records] == [record.split for record in bare.records]
    assert (full.version[:5], bare.version[:5]) == ("v1.0-", "v1.0-")
    assert len({source.version for source in (small, full, bare)}) == 3


@pytest.mark.parametrize("options", [{"end": "\r\n"}, {"encoding": "utf-8-sig"}])
def test_windows_line_ends_and_byte_order_marks_are_fine(tmp_path: Path, options: dict[str, str]) -> None:
    assert len(opened(write(tmp_path, **options)).records) == 14


def unpack(root: Path) -> Path:
    """As the archives of v1.0 unpack: train images in several folders without "train"."""
    table(root / BATCHES[0] / "train.csv", train("CheXpert-v1.0/"))
    table(root / BATCHES[0] / "valid.csv", valid("CheXpert-v1.0/"))
    images(root / BATCHES[0], valid())
    for folder, rows in ((BATCHES[1], train()[:1]), (BATCHES[2], train()[1:])):
        images(root / folder, [item | {"Path": item["Path"].replace("train/", "")} for item in rows])
    return root


def test_the_full_release_as_its_archives_unpack(tmp_path: Path) -> None:
    root = unpack(tmp_path / "chexpertchestxrays-u20210408")
    source = opened(root)
    assert source.flags == ()
    assert source.records[0].uid == "train/patient00001/study1/view1_frontal.jpg"
    assert source.records[0].image == f"{BATCHES[1]}/patient00001/study1/view1_frontal.jpg"
    for record in source.records:
        assert source.image(record).shape == (16, 20)
    assert opened(root / BATCHES[0]).records == source.records
    assert open_source("", SourceOptions(root=tmp_path)).records == source.records


def test_the_data_root_holds_either_release(tmp_path: Path) -> None:
    write(tmp_path / "CheXpert-v1.0-small")
    assert open_source("", SourceOptions(root=tmp_path)).version.startswith("v1.0-small-")
    write(tmp_path / "CheXpert-v1.0", "CheXpert-v1.0/")
    assert open_source("", SourceOptions(root=tmp_path)).root.name == "CheXpert-v1.0"


def test_reports_of_chexpert_plus_are_joined_by_path(tmp_path: Path) -> None:
    write(tmp_path)
    before = opened(tmp_path).version
    study = {"report": "x", "section_findings": 'Clear\n lungs, "old".', "section_impression": "Normal.",
             "section_clinical_history": "Cough."}  # fmt: skip
    report = "NARRATIVE:\r\nRADIOGRAPHIC EXAMINATION\r\nIMPRESSION:\r\n \r\n1. Stable."
    rows = [
        {"path_to_image": "train/patient00002/study1/view1_frontal.jpg"} | study,
        {"path_to_image": "train/patient00002/study1/view2_lateral.jpg"} | study,
        {"path_to_image": "valid/patient64541/study1/view1_frontal.jpg", "report": report},
        {"path_to_image": "train/patient99999/study1/view1_frontal.jpg", "report": "of no image here"},
    ]  # fmt: skip
    table(tmp_path / "df_chexpert_plus_240401.csv", rows, PLUS)
    source = opened(tmp_path)
    texts = {record.uid: record.sections for record in source.records}
    assert texts["train/patient00002/study1/view1_frontal.jpg"] == {
        "findings": 'Clear lungs, "old".', "impression": "Normal.", "history": "Cough.",
    }  # fmt: skip
    assert texts["train/patient00002/study1/view2_lateral.jpg"] is texts["train/patient00002/study1/view1_frontal.jpg"]
    assert texts["valid/patient64541/study1/view1_frontal.jpg"]["impression"] == "1. Stable."
    assert texts["train/patient00001/study1/view1_frontal.jpg"] == {}
    assert source.version != before
    assert "+plus" in source.version
    table(tmp_path / "df_chexpert_plus_240402.csv", rows, PLUS)
    with pytest.raises(UserError, match=r"several tables of CheXpert Plus .*; keep one"):
        opened(tmp_path)
    (tmp_path / "df_chexpert_plus_240402.csv").unlink()
    table(tmp_path / "df_chexpert_plus_240401.csv", [{"path_to_image": "a"}], ["path_to_image", "report"])
    with pytest.raises(UserError, match=r"lacks the columns section_findings.* CheXpert Plus has; download it again"):
        opened(tmp_path)


def test_policies_settle_what_is_blank_and_what_is_uncertain(tmp_path: Path) -> None:
    source = opened(write(tmp_path))
    want = {
        "unknown": (math.nan, math.nan, math.nan), "ignore": (math.nan, math.nan, 0.0), "zeros": (0.0, 0.0, 0.0),
        "ones": (1.0, 1.0, 0.0), "mgca": (1.0, math.nan, 0.0),
    }  # fmt: skip
    assert want.keys() == POLICIES.keys()
    for policy, values in want.items():
        settled = source.with_policy(policy)
        record = settled.records[1]
        found = tuple(label(record, name) for name in ("Edema", "Fracture", "Pneumonia"))
        np.testing.assert_array_equal(found, values)
        assert label(settled.records[0], "Support Devices") == 1.0  # what is known stays
        assert record.attributes == source.records[1].attributes
        assert settled.version == f"{source.version}+{policy}"
    with pytest.raises(UserError, match="'mgcaa'; did you mean mgca"):
        source.with_policy("mgcaa")


def test_where_takes_columns_of_the_table(tmp_path: Path) -> None:
    root = write(tmp_path)
    assert {record.view for record in opened(root, **{"AP/PA": "PA"}).records} == {"PA"}
    assert opened(root, Sex="Male").version != opened(root).version
    splits = {record.uid: record.split for record in opened(root).records}
    assert all(splits[record.uid] == record.split for record in opened(root, Sex="Female").records)
    with pytest.raises(UserError, match=r"unknown column .*'Sexx'; did you mean Sex"):
        opened(root, Sexx="Male")


BAD: dict[str, tuple[str, Row, str]] = {
    "label": ("train.csv", {"Edema": "2.0"}, "train.csv entry 2 has Edema '2.0', .*download it again"),
    "label of words": ("valid.csv", {"Fracture": "yes"}, "valid.csv entry 2 has Fracture 'yes'"),
    "sex": ("train.csv", {"Sex": "Femal"}, "has Sex 'Femal'"),
    "age": ("train.csv", {"Age": "old"}, "has Age 'old'"),
    "negative age": ("train.csv", {"Age": "-3"}, "has Age '-3'"),
    "view": ("train.csv", {"Frontal/Lateral": "Oblique"}, "has Frontal/Lateral 'Oblique'"),
    "swapped tables": ("train.csv", {"Path": "CheXpert-v1.0/valid/patient1/study1/view1_frontal.jpg"}, "has Path .*train/p"),
    "path out": ("train.csv", {"Path": "CheXpert-v1.0-small/train/../../x/study1/view1_frontal.jpg"}, "has Path "),
    "absolute path": ("train.csv", {"Path": "/train/patient1/study1/view1_frontal.jpg"}, "has Path "),
    "two releases": ("train.csv", {"Path": "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg"}, "mix the releases "
                     "'CheXpert-v1.0' and 'CheXpert-v1.0-small'; take both"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    file, change, words = BAD[name]
    root = write(tmp_path)
    rows = train() if file == "train.csv" else valid()
    rows[0] |= change
    table(root / file, rows)
    with pytest.raises(UserError, match=words) as caught:
        opened(root)
    assert "\n" not in str(caught.value)
    assert "stanford.edu" in str(caught.value)


def test_an_image_listed_twice_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path)
    table(root / "train.csv", [*train(), train()[0]])
    with pytest.raises(UserError, match="1 duplicate ids, the first is 'train/patient00001"):
        Dataset(opened(root))


def test_bad_folders_are_refused_with_the_way_out(tmp_path: Path) -> None:
    root = write(tmp_path / "above" / "CheXpert-v1.0-small")
    (tmp_path / "other").mkdir()
    (tmp_path / "zip").mkdir()
    (tmp_path / "zip" / "CheXpert-v1.0-small.zip").write_bytes(b"PK")
    for folder, words in {
        root / "train": f"one level off; use --data chexpert:{root}",
        root.parent: f"one level off; use --data chexpert:{root}",
        tmp_path / "other": "lacks train.csv, valid.csv; the download is not complete",
        tmp_path / "zip": "lacks train.csv, valid.csv; unpack CheXpert-v1.0-small.zip there",
        tmp_path / "zip" / "CheXpert-v1.0-small.zip": "is a file; unpack it",
        tmp_path / "none": "there is no folder",
    }.items():
        with pytest.raises(UserError, match=words):
            opened(folder)
    with pytest.raises(UserError, match="write --data chexpert:DIR"):
        opened("")
    (root / "valid.csv").write_bytes((root / "valid.csv").read_bytes().replace(b"Male", b"M\xe4le"))
    with pytest.raises(UserError, match=r"valid.csv is not UTF-8"):
        opened(root)


def test_a_partial_download_is_flagged_or_refused(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "train").rename(root / "elsewhere")
    source = opened(root)
    assert source.flags == ("partial-download",)
    assert opened(root, split="test").flags == ()
    with pytest.raises(ImageError, match="cannot be read"):
        source.image(source.records[0])
    (root / "valid").rename(root / "gone")
    with pytest.raises(UserError, match="has a folder of none of 12 patients in train or valid; unpack the images there"):
        opened(root)


def test_links_out_of_the_root_and_in_circles_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "root")
    outside = tmp_path / "outside.jpg"
    Image.new("L", (8, 8)).save(outside)
    image = root / "train/patient00001/study1/view1_frontal.jpg"
    image.unlink()
    image.symlink_to(outside)
    source = opened(root)
    with pytest.raises(ImageError, match="a link that leads out of"):
        source.image(source.records[0])
    (root / "train").rename(tmp_path / "train")
    (root / "train").symlink_to(tmp_path / "train")
    with pytest.raises(UserError, match=r"a link that leads out of .*; copy"):
        opened(root)
    (root / "train").unlink()
    (root / "train").symlink_to(root / "train")
    with pytest.raises(UserError, match="a link that leads in a circle"):
        opened(root)
