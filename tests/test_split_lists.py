"""Lists of images as `--split FILE`: every form, with the defects that published lists have, each reported or refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.data.dataset import Dataset
from benchmark.data.opening import open_source
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.chexpert import CLASSES
from benchmark.errors import UserError
from benchmark.types import Source
from tests.split_sets import BUILDERS, rsna_uid, write_table
from tests.test_mimic_cxr import ROWS as MIMIC
from tests.test_mimic_cxr import write as write_mimic

pytest.importorskip("pydicom")
HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CLASSES]


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., str]:
    """The `--data` value of a small replica."""

    def make(dataset: str, images: int = 60, **options: bool) -> str:
        return BUILDERS[dataset](tmp_path / dataset, images, **options)

    return make


def opened(text: str, split: Path | str = "") -> Source:
    return open_source(text, SourceOptions(), str(split))


def splits(source: Source) -> dict[str, str]:
    return {record.uid: record.split for record in source.records}


def by_patient(source: Source) -> dict[str, str]:
    """uid -> a split that keeps patients together: 3 train, 1 val, 1 test."""
    order = sorted({record.patient for record in source.records})
    return {
        record.uid: ("train", "train", "train", "val", "test")[order.index(record.patient) % 5] for record in source.records
    }


def folder(
    path: Path, rows: dict[str, str], names: tuple[str, str, str] = ("train", "val", "test"), ending: str = ".txt"
) -> Path:
    """One list a split."""
    path.mkdir(parents=True, exist_ok=True)
    for split, name in zip(("train", "val", "test"), names):
        lines = [image for image, other in rows.items() if other == split]
        (path / f"{name}{ending}").write_text("".join(f"{line}\n" for line in (["ID"] if ending == ".csv" else []) + lines))
    return path


# ------------------------------------------------------------------------------------------------------ own lists


@pytest.mark.parametrize("header", ["id,split", "uid,split", "Split,ID"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_of_ids_and_splits(header: str, end: str, made: Callable[..., str], tmp_path: Path) -> None:
    text = made("rsna")
    want = by_patient(opened(text))
    names = {"val": "validation", "train": "Train"}
    pairs = [(uid, names.get(split, split)) for uid, split in want.items()]
    lines = [header, *(f"{two},{one}" if header.startswith("Split") else f"{one},{two}" for one, two in pairs)]
    path = tmp_path / "mine.csv"
    path.write_bytes(("﻿" + end.join(lines) + end).encode())
    source = opened(text, path)
    assert splits(source) == want
    assert "+list-" in source.version
    Dataset(source)


def test_a_json_of_three_lists_and_the_table_are_the_same_split(made: Callable[..., str], tmp_path: Path) -> None:
    text = made("rsna")
    want = by_patient(opened(text))
    groups = {split: [uid for uid in want if want[uid] == split] for split in ("train", "val", "test")}
    (tmp_path / "mine.json").write_text(json.dumps(groups))
    write_table(tmp_path / "mine.csv", ["id", "split"], [list(item) for item in want.items()])
    one, other = opened(text, tmp_path / "mine.json"), opened(text, tmp_path / "mine.csv")
    assert splits(one) == splits(other) == want
    assert one.version == other.version
    del groups["val"]
    (tmp_path / "mine.json").write_text(json.dumps(groups))
    assert opened(text, tmp_path / "mine.json").version != one.version


def test_images_are_found_by_path_and_by_a_name_that_is_their_own(made: Callable[..., str], tmp_path: Path) -> None:
    text = made("chexpert")
    want = by_patient(opened(text))
    ways = [lambda uid: uid, lambda uid: f"CheXpert-v1.0-small/{uid}", lambda uid: f"C:\\data\\{uid}".replace("/", "\\"),
            lambda uid: uid.removesuffix(".jpg"), lambda uid: f"some/where/{uid.removesuffix('.jpg')}.png"]  # fmt: skip
    rows = [[ways[place % 5](uid), split] for place, (uid, split) in enumerate(want.items())]
    write_table(tmp_path / "list.csv", ["id", "split"], rows)
    assert splits(opened(text, tmp_path / "list.csv")) == want
    rows[0][0] = "view1_frontal.jpg"  # many images have this name
    write_table(tmp_path / "list.csv", ["id", "split"], rows)
    assert len(opened(text, tmp_path / "list.csv").records) == len(want) - 1


def test_the_official_table_of_mimic_is_a_list_too(tmp_path: Path) -> None:
    text = f"mimic-cxr:{write_mimic(tmp_path / 'mimic', plain=('split',))}"
    source = opened(text, tmp_path / "mimic/mimic-cxr-2.0.0-split.csv")
    assert splits(source) == splits(opened(text))


# ------------------------------------------------------------------------------------------------- published lists


def test_a_folder_of_lists_as_benchx_publishes(made: Callable[..., str], tmp_path: Path) -> None:
    text = made("nih")
    want = by_patient(opened(text))
    path = folder(tmp_path / "benchx", {f"{uid}.png": split for uid, split in want.items()})
    assert splits(opened(text, path)) == want
    object_cxr = made("object-cxr")
    numbers = {uid.removesuffix(".jpg").rpartition("/")[2]: split for uid, split in splits(opened(object_cxr)).items()}
    assert splits(opened(object_cxr, folder(tmp_path / "objects", numbers))) == splits(opened(object_cxr))


def test_fractions_that_are_not_nested_are_reported(
    made: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = made("nih")
    want = by_patient(opened(text))
    path = folder(tmp_path / "benchx", want)
    train = [uid for uid in want if want[uid] == "train"]
    (path / "train_10.txt").write_text("\n".join(train[:10]))
    (path / "train_1.txt").write_text("\n".join([*train[8:10], *train[11:14]]))
    opened(text, path)
    told = capsys.readouterr().err
    assert "train_1 is not within train_10: 3 of its 5 images are not there" in told
    assert "train_10 is not within" not in told
    assert "fractions are drawn by patient" in told
    (path / "train_1.txt").write_text("\n".join(train[8:10]))
    opened(text, path)
    assert "not within" not in capsys.readouterr().err


def test_rows_that_stand_twice_and_rows_of_no_image_are_counted(
    made: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = made("covidx")
    source = opened(text)
    want = {uid: record.split for uid, record in ((record.uid, record) for record in source.records)}
    rows = [(uid.rpartition(".")[0] + ".png", split) for uid, split in want.items()]  # BenchX makes PNG of all
    path = folder(tmp_path / "benchx", {})
    for split in ("train", "val", "test"):
        lines = [image for image, other in rows if other == split]
        lines += {"train": [*lines[:7], "train/never.png"], "val": lines[:2], "test": []}[split]
        (path / f"{split}.txt").write_text("\n".join(lines))
    found = opened(text, path)
    assert splits(found) == want
    told = capsys.readouterr().err
    assert "9 rows of the list name an image again" in told
    train = sum(split == "train" for split in want.values())
    assert f"1 of the {train + 8:,} train rows name no image of covidx, the first is 'train/never.png'" in told
    assert Dataset(found).notes["split_notes"] == "; ".join(line.partition(f"{path}: ")[2] for line in told.splitlines())


def test_a_folder_of_tables_as_lovt_publishes(
    made: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = made("nih", 120)
    source = opened(text)
    want = by_patient(source)
    some = [record for record in source.records if record.boxes or not any(record.labels)][:50]
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = [[record.uid, "10;10;50;60" if record.boxes else "", "4" if record.boxes else ""] for record in some
                if want[record.uid] == split]  # fmt: skip
        write_table(tmp_path / f"lovt/{name}.csv", ["ID", "boxes", "classes"], rows)
    found = opened(text, tmp_path / "lovt")
    assert splits(found) == {record.uid: want[record.uid] for record in some}
    clear = [record for record in found.records if not any(record.labels)]
    assert {record.boxes for record in clear} == {()}  # LoVT's table states that they have none
    assert f"{120 - 50} of 120 images of the set are not in the list and are left out" in capsys.readouterr().err


def prior_list(uids: list[str]) -> str:
    entries = {
        str(place): {"image_path": uid, "label": [int(place % 5 == n) for n in range(5)]} for place, uid in enumerate(uids)
    }
    return json.dumps(entries, indent=4)


def test_the_test_that_prior_publishes_takes_its_patients_along(
    made: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = made("chexpert")
    default = splits(opened(text))
    test = [uid for uid in default if uid.startswith("train/")][::7]
    (tmp_path / "chexpert_5x200.json").write_text(prior_list(test))
    found = splits(opened(text, tmp_path / "chexpert_5x200.json"))
    assert {uid for uid, split in found.items() if split == "test"} == set(test)
    patients = {uid.split("/")[1] for uid in test}
    kept = {uid: split for uid, split in default.items() if uid.split("/")[1] not in patients and split != "test"}
    assert {uid: split for uid, split in found.items() if split != "test"} == kept
    lost = sum(uid.split("/")[1] in patients for uid in default) - len(test)
    assert f"{lost} other images of the {len(patients)} test patients are left out of train and val" in capsys.readouterr().err


def test_tables_of_convirt_and_of_glorias_code_are_a_test(made: Callable[..., str], tmp_path: Path) -> None:
    text = made("chexpert")
    test = [uid for uid in splits(opened(text)) if uid.startswith("train/")][3:30:4]
    paths = [f"CheXpert-v1.0-small/{uid}" for uid in test]
    write_table(tmp_path / "candidate.csv", HEADER, [[path, "Male", "50", "Frontal", "AP", *["0.0"] * 14] for path in paths])
    write_table(tmp_path / "query.csv", ["Variable", "Path"], [["Edema", path] for path in paths])
    write_table(tmp_path / "gloria.csv", ["", *HEADER, "Report Impression"], [["1", path, *[""] * 19] for path in paths])
    found = [opened(text, tmp_path / name) for name in ("candidate.csv", "query.csv", "gloria.csv")]
    assert [{uid for uid, split in splits(source).items() if split == "test"} for source in found] == [set(test)] * 3
    assert len({source.version for source in found}) == 1


def test_the_ids_of_benchx_for_mimic_are_a_test(tmp_path: Path) -> None:
    text = f"mimic-cxr:{write_mimic(tmp_path / 'mimic')}"
    dicom, subject, study, *_ = MIMIC[0]
    write_table(
        tmp_path / "ids.csv",
        ["Path", "dicom_id", "subject_id", "study_id", "Report"],
        [["a/b", dicom, subject, study, "None."]],
    )
    assert Counter(splits(opened(text, tmp_path / "ids.csv")).values()) == {"test": 1, "val": 1}


# --------------------------------------------------------------------------------------------------- refused lists


def test_a_patient_in_two_splits_is_refused_and_counted_as_images_only_if_asked_for(
    made: Callable[..., str], tmp_path: Path
) -> None:
    text = made("rsna")
    source = opened(text)
    want = by_patient(source)
    patients = Counter(record.patient for record in source.records)
    moved = [record for record in source.records if patients[record.patient] > 1 and want[record.uid] == "train"][:1]
    want[moved[0].uid] = "test"
    path = folder(tmp_path / "list", want)
    with pytest.raises(UserError) as caught:
        opened(text, path)
    words = str(caught.value)
    assert f"1 of {len(patients)} patients are in two splits, the first is {moved[0].patient!r} in train and test" in words
    assert f"write --split {path}:by-image" in words
    asked = opened(text, f"{path}:by-image")
    assert splits(asked) == want
    assert "split-by-image" in asked.flags
    Dataset(asked)
    unmapped = BUILDERS["rsna"](tmp_path / "unmapped", 60, mapped=False)  # type: ignore[call-arg]
    assert splits(opened(unmapped, path)) == want
    assert "patients-unknown" in opened(unmapped, path).flags


UID = rsna_uid(1)
BAD: dict[str, tuple[str, str, str]] = {  # name and text of a file, words of the refusal
    "another set": (
        "list.csv",
        "id,split\na,train\nb,val\nc,test\n",
        "1 of the 1 train rows name no image of rsna, the first is 'a'",
    ),
    "an image in two splits": (
        "list.csv",
        f"id,split\n{UID},train\n{UID}.dcm,test\n",
        f"image '{UID}.dcm' is in train and test",
    ),
    "an unknown split": ("list.csv", f"id,split\n{UID},dev\n", f"has the split 'dev' for '{UID}'; use train, val or test"),
    "no split": (
        "list.csv",
        f"id,set\n{UID},train\n",
        "has the columns id, set and 1 rows; give a CSV with the columns id,split",
    ),
    "no header": ("list.csv", f"{UID},train\n", f"has the columns {UID}, train and 0 rows; give"),
    "no rows": ("list.csv", "id,split\n", "has the columns id, split and 0 rows"),
    "an empty file": ("list.csv", "", "has the columns none and 0 rows"),
    "a short row": ("list.csv", f"id,split\n{UID}\n", "its row 2 has 1 cells and its header 2"),
    "a JSON of something else": (
        "list.json",
        '{"a": 1}',
        "its JSON is neither of train, val and test nor of entries with image",
    ),
    "a JSON list": ("list.json", "[1]", "its JSON is neither"),
    "a JSON of numbers": ("list.json", '{"train": [1]}', "'train' is no list of texts"),
    "half a JSON": ("list.json", '{"train": [', "it is no JSON"),
    "PRIOR with two labels": (
        "p.json",
        '{"1": {"image_path": "a", "label": [1, 1, 0, 0, 0]}}',
        "not one 1 and four 0 as PRIOR's",
    ),
    "queries in words": ("query.csv", "Variable,Text\nEdema,Edema is seen.\n", "holds ConVIRT's queries in words, no images"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_list_of_another_form_or_set_is_refused_in_a_sentence(name: str, made: Callable[..., str], tmp_path: Path) -> None:
    file, content, words = BAD[name]
    path = tmp_path / file
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        opened(made("rsna"), path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_another_copy_of_siim_are_refused(made: Callable[..., str], tmp_path: Path) -> None:
    path = folder(tmp_path / "SIIM", {"15_train_1_": "train", "7_train_0_": "val", "3_test_0_": "test"})
    with pytest.raises(
        UserError, match=r"1 of the 1 train rows name no image of siim, the first is '15_train_1_'; take the list"
    ):
        opened(made("siim"), path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: (path / "test.txt").unlink(), "it lacks a list of test"),
        (lambda path: (path / "train.txt").unlink(), "it lacks a list of train"),
        (lambda path: (path / "valid.txt").write_text("a"), "it has val.txt and valid.txt, two lists of val; keep one"),
        (lambda path: (path / "test.txt").rename(path / "test.csv"), "1 rows; ID is expected"),
        (lambda path: (path / "val.txt").write_bytes(b"\xff\xfe"), "it is no text in UTF-8"),
    ],
)
def test_a_folder_without_its_lists_is_refused(
    change: Callable[[Path], None], words: str, made: Callable[..., str], tmp_path: Path
) -> None:
    path = folder(tmp_path / "list", {rsna_uid(0): "train", rsna_uid(1): "val", "x,y\n1,2": "test"})
    change(path)
    with pytest.raises(UserError, match=words):
        opened(made("rsna"), path)


def test_a_test_alone_by_image_is_refused(made: Callable[..., str], tmp_path: Path) -> None:
    write_table(tmp_path / "test.csv", ["id", "split"], [[UID, "test"]])
    with pytest.raises(UserError, match="is a test alone, whose patients leave train and val; take :by-image away"):
        opened(made("rsna"), f"{tmp_path / 'test.csv'}:by-image")
