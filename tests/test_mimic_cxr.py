"""MIMIC-CXR-JPG on a miniature replica: what a good download gives, and one sentence for each way it can be wrong."""

from __future__ import annotations

import csv
import gzip
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data.dataset import Dataset
from benchmark.data.sources import SourceOptions
from benchmark.data.sources.chexpert import CLASSES
from benchmark.data.sources.mimic_cxr import MimicCxr, open_source
from benchmark.errors import ImageError, UserError
from benchmark.types import Source

# Names and order of the published columns. Labels are alphabetical here, unlike those of CheXpert.
METADATA = [
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns", "StudyDate",
    "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
]  # fmt: skip
SPLIT = ["dicom_id", "study_id", "subject_id", "split"]
LABELS = ["subject_id", "study_id", *sorted(CLASSES)]
Row = dict[str, str]
Tables = dict[str, list[Row]]
ROWS = [  # dicom, subject, study, split, ViewPosition, coded view
    ("02aa804e-bde0afdd-112c0b34-7bc16630-4e384014", "10000032", "50414267", "train", "PA", "postero-anterior"),
    ("174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962", "10000032", "50414267", "train", "LATERAL", "lateral"),
    ("2a2277a9-b0ded155-c0de8eb9-c124d10e-82c5caab", "10000032", "53189527", "train", "", "antero-posterior"),
    ("68b5c4b1-227d0485-9cc38c3f-7b84ab51-4b472714", "11000011", "53911762", "validate", "AP LLD", "antero-posterior"),
    ("ea030e7a-2e3b1346-bc518786-7a8fd698-f673b44c", "19999999", "56699142", "test", "LL", "left lateral"),
    ("fffabebf-74fd3a1f-673b6b41-96ec0ac9-2ab69818", "19999999", "56699142", "test", "AP", "antero-posterior"),
    ("d000000a-00000000-00000000-00000000-00000000", "19999999", "57777777", "test", "LAO", "left anterior oblique"),
]
REPORTS = {
    (
        "10000032",
        "50414267",
    ): "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n FINDINGS: \n \n "
    "Clear lungs,\n no effusion.\n \n IMPRESSION: \n \n Normal.\n",
    ("10000032", "53189527"): "                                 FINAL REPORT\n HISTORY:  Cough.\n \n No change from ___.\n",
    ("11000011", "53911762"): "",
    ("19999999", "56699142"): "                                 FINAL REPORT\n IMPRESSION:  Small effusion.\n",
}


def tables() -> Tables:
    labels = [
        {"subject_id": "10000032", "study_id": "50414267", "No Finding": "1.0"},
        {"subject_id": "10000032", "study_id": "53189527", "Edema": "-1.0", "Atelectasis": "1.0", "Fracture": "0.0"},
        {"subject_id": "19999999", "study_id": "56699142", "Pleural Effusion": "1.0"},
    ]
    other = [dict(row) for row in labels]
    other[1] |= {"Edema": "1.0", "Fracture": "", "Pneumonia": "-1.0"}
    metadata = [
        {"dicom_id": dicom, "subject_id": subject, "study_id": study, "ViewPosition": view, "Rows": "16", "Columns": "20",
         "StudyDate": "21800506", "PerformedProcedureStepDescription": "CHEST (PA AND LAT)",
         "ViewCodeSequence_CodeMeaning": coded}
        for dicom, subject, study, _, view, coded in ROWS
    ]  # fmt: skip
    split = [
        {"dicom_id": dicom, "subject_id": subject, "study_id": study, "split": part} for dicom, subject, study, part, *_ in ROWS
    ]
    return {"metadata": metadata, "split": split, "chexpert": labels, "negbio": other}


def encoded(kind: str, rows: list[Row], end: str = "\n") -> bytes:
    header = {"metadata": METADATA, "split": SPLIT}.get(kind, LABELS)
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, header, restval="", lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def write(root: Path, content: Tables | None = None, plain: tuple[str, ...] = ()) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for kind, rows in (content or tables()).items():
        raw = encoded(kind, rows)
        path = root / f"mimic-cxr-2.0.0-{kind}.csv{'' if kind in plain else '.gz'}"
        path.write_bytes(raw if kind in plain else gzip.compress(raw, mtime=0))
    for number, (dicom, subject, study, *_) in enumerate(ROWS):
        path = root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 20), 8 * number, np.uint8)).save(path, quality=95)
    return root


def reports(folder: Path) -> Path:
    """As mimic-cxr-reports.zip unpacks: a text beside the folder of its study."""
    for (subject, study), text in REPORTS.items():
        path = folder / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def opened(root: Path | str, **where: str) -> MimicCxr:
    return open_source(str(root), SourceOptions(where=tuple(where.items())))


def test_a_whole_download_gives_every_field(tmp_path: Path) -> None:
    source = opened(reports(write(tmp_path)))
    assert isinstance(source, Source)
    assert (source.name, source.flags, source.classes) == ("mimic-cxr", ("partial-reports",), CLASSES)
    assert source.version.startswith("2.0.0-")
    first, lateral, second, val, left, ap, oblique = source.records
    assert (first.uid, first.patient, first.study, first.split) == (ROWS[0][0], "10000032", "50414267", "train")
    assert first.image == f"files/p10/p10000032/s50414267/{ROWS[0][0]}.jpg"
    assert first.sections["findings"] == "Clear lungs, no effusion."
    assert first.sections["impression"] == "Normal."
    assert lateral.sections is first.sections
    assert second.sections == {"history": "Cough.", "report": "No change from ___."}
    assert [record.view for record in source.records] == ["PA", "LATERAL", "OTHER", "OTHER", "LATERAL", "AP", "OTHER"]
    assert oblique.attributes["ViewPosition"] == "LAO"
    named = dict(zip(CLASSES, second.labels))
    assert (named["Atelectasis"], named["Fracture"]) == (1.0, 0.0)
    assert math.isnan(named["Edema"])
    assert second.attributes["uncertain"] == "Edema"
    assert second.attributes["negbio_disagrees"] == "Edema;Pneumonia;Fracture"
    assert "negbio_disagrees" not in first.attributes
    assert dict(zip(CLASSES, first.labels))["No Finding"] == 1.0
    assert all(math.isnan(value) for value in val.labels + oblique.labels)
    assert [record.attributes.get("report", "") for record in (first, val, oblique)] == ["", "empty", "missing"]
    assert (left.attributes["StudyDate"], left.attributes["procedure"]) == ("21800506", "CHEST (PA AND LAT)")
    assert source.image(ap).tolist() == np.full((16, 20), 40).tolist()
    with pytest.raises(ImageError, match="has no mask 'lungs'"):
        source.mask(first, "lungs")


def test_the_official_split_is_kept(tmp_path: Path) -> None:
    data = Dataset(opened(write(tmp_path)))
    assert {split: len(data.rows(split)) for split in ("train", "val", "test")} == {"train": 3, "val": 1, "test": 3}


@pytest.mark.parametrize("plain", [(), ("metadata", "split", "chexpert", "negbio"), ("split",), ("metadata", "chexpert")])
def test_tables_may_be_packed_or_not(tmp_path: Path, plain: tuple[str, ...]) -> None:
    source = opened(write(tmp_path / "mimic-cxr-jpg", plain=plain))
    assert [record.uid for record in source.records] == [row[0] for row in ROWS]
    assert open_source("", SourceOptions(root=tmp_path)).records[0].uid == ROWS[0][0]


def test_negbio_and_reports_may_be_absent(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "mimic-cxr-2.0.0-negbio.csv.gz").unlink()
    source = opened(root)
    assert source.flags == ("no-reports",)
    assert not any(record.sections or "report" in record.attributes for record in source.records)
    assert not any("negbio_disagrees" in record.attributes for record in source.records)


@pytest.mark.parametrize("place", [".", "mimic-cxr-reports", "../mimic-cxr-reports", "../../mimic-cxr/2.0.0"])
def test_reports_are_found_where_archives_and_mirrors_put_them(tmp_path: Path, place: str) -> None:
    root = write(tmp_path / "physionet.org/files/mimic-cxr-jpg/2.1.0")
    reports((root / place).resolve())
    assert opened(root).records[0].sections["impression"] == "Normal."


def test_the_version_covers_tables_filter_and_reports(tmp_path: Path) -> None:
    root = write(tmp_path)
    versions = [opened(root).version]
    reports(root)
    versions.append(opened(root).version)
    assert opened(root).version == versions[-1]
    (root / "files/p19/p19999999/s56699142.txt").write_text(" IMPRESSION: Large effusion.\n")
    versions.append(opened(root).version)
    versions.append(opened(root, split="test").version)
    content = tables()
    content["chexpert"][0]["Edema"] = "0.0"
    write(root, content)
    versions.append(opened(root).version)
    (root / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text("study_id\n")
    versions.append(opened(root).version)
    assert len(set(versions)) == len(versions)
    assert versions[-1].startswith("2.1.0-")


def test_where_takes_the_columns_of_metadata_and_split(tmp_path: Path) -> None:
    root = write(tmp_path)
    assert [record.uid for record in opened(root, ViewPosition="AP").records] == [ROWS[5][0]]
    assert len(opened(root, split="test").records) == 3
    with pytest.raises(UserError, match=r"unknown column .*'ViewPositon'; did you mean ViewPosition"):
        opened(root, ViewPositon="AP")


def test_a_policy_settles_labels(tmp_path: Path) -> None:
    source = opened(write(tmp_path)).with_policy("mgca")
    named = dict(zip(CLASSES, source.records[2].labels))
    assert (named["Edema"], named["Atelectasis"], named["Fracture"], named["Pneumonia"]) == (1.0, 1.0, 0.0, 0.0)


def bad(kind: str, row: int, **cells: str) -> Tables:
    content = tables()
    content[kind][row] |= {name.replace("_id_", "_id"): value for name, value in cells.items()}
    return content


def without(kind: str, row: int) -> Tables:
    content = tables()
    del content[kind][row]
    return content


def twice(kind: str, **cells: str) -> Tables:
    content = tables()
    content[kind].append(content[kind][0] | cells)
    return content


BAD: dict[str, tuple[Tables, str]] = {
    "unknown split": (bad("split", 0, split="val"), "has the split 'val', not one of train, validate, test; take both"),
    "image only in metadata": (without("split", 0), "has the image 02aa804e.* twice, or .*split.csv.gz lacks it; take both"),
    "image only in split": (
        without("metadata", 6),
        "has 1 images that .*metadata.csv.gz lacks, such as 'd000000a.*; take both",
    ),
    "image twice in split": (twice("split"), "split.csv.gz has the image 02aa804e.* twice; take both"),
    "image twice in metadata": (twice("metadata"), "metadata.csv.gz has the image 02aa804e.* twice"),
    "another subject": (bad("split", 0, subject_id="10000033"), "study 50414267 is of another study or subject .*; take both"),
    "study of two subjects": (
        {**bad("metadata", 6, study_id="50414267"), "split": bad("split", 6, study_id="50414267")["split"]},
        "study 50414267 is of another study or subject",
    ),
    "subject with a path": (bad("metadata", 0, subject_id="../1"), r"names subject '../1', .*not two numbers"),
    "image with a path": (
        {**bad("metadata", 0, dicom_id="../../x"), "split": bad("split", 0, dicom_id="../../x")["split"]},
        r"image '../../x', not two numbers and an identifier",
    ),
    "label": (bad("chexpert", 0, Edema="2.0"), "has the label '2.0' for study 50414267, not 1.0, 0.0, -1.0 or blank; download"),
    "study labelled twice": (twice("chexpert", Edema="0.0"), "has study 50414267 twice with other labels; download"),
    "no rows": ({**tables(), "metadata": [], "split": []}, "has 0 images that .* lacks, such as 'all'; take both"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    content, words = BAD[name]
    with pytest.raises(UserError, match=words) as caught:
        opened(write(tmp_path, content))
    assert "\n" not in str(caught.value)
    assert "physionet.org" in str(caught.value)


def test_a_study_labelled_twice_alike_is_fine(tmp_path: Path) -> None:
    assert len(opened(write(tmp_path, twice("chexpert"))).records) == len(ROWS)


def test_packed_tables_that_are_cut_or_no_archives_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path)
    path = root / "mimic-cxr-2.0.0-metadata.csv.gz"
    whole = path.read_bytes()
    for raw, words in {
        whole[: len(whole) // 2]: "cannot be read to its end",
        b"<html>log in</html>": r"cannot be read to its end \(Not a gzipped file",
        b"": "lacks the columns dicom_id",
        gzip.compress(encoded("split", tables()["split"])): "lacks the columns PerformedProcedureStepDescription, ViewPosition",
        gzip.compress(encoded("metadata", tables()["metadata"]) + b"a,b\n"): "line 9 has 2 cells, the header 12",
        gzip.compress("dicom_id,é".encode("latin-1")): "is not UTF-8",
    }.items():
        path.write_bytes(raw)
        with pytest.raises(UserError, match=words) as caught:
            opened(root)
        assert "download it again from https://physionet.org" in str(caught.value)
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + encoded("metadata", tables()["metadata"], "\r\n")))
    assert len(opened(root).records) == len(ROWS)


def test_bad_folders_are_refused_with_the_way_out(tmp_path: Path) -> None:
    root = write(tmp_path / "above/2.0.0")
    (tmp_path / "other").mkdir()
    for folder, words in {
        root.parent: f"one level off; use --data mimic-cxr:{root}",
        root / "files": f"one level off; use --data mimic-cxr:{root}",
        tmp_path / "other": "lacks mimic-cxr-2.0.0-metadata.csv.gz, mimic-cxr-2.0.0-split.csv.gz, files; the download is not",
        tmp_path / "none": "there is no folder",
    }.items():
        with pytest.raises(UserError, match=words):
            opened(folder)
    (root / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    with pytest.raises(UserError, match=r"lacks mimic-cxr-2.0.0-chexpert.csv.gz; download it from https"):
        opened(root)


def test_reports_left_in_their_archive_or_of_another_encoding_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "jpg")
    (tmp_path / "mimic-cxr-reports.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"holds mimic-cxr-reports.zip and no reports; unpack it there"):
        opened(root)
    reports(root)
    path = root / "files/p10/p10000032/s50414267.txt"
    path.write_bytes("IMPRESSION: naïve".encode("latin-1"))
    with pytest.raises(UserError, match=r"s50414267.txt is not UTF-8 \(byte 14\); unpack"):
        opened(root)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"s50414267.txt cannot be read"):
        opened(root)


def test_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    root = reports(write(tmp_path / "root"))
    source = opened(root)
    shutil.move(root / "files/p19", tmp_path / "p19")
    (root / "files/p19").symlink_to(tmp_path / "p19")
    with pytest.raises(ImageError, match="a link that leads out of"):
        source.image(source.records[-1])
    with pytest.raises(UserError, match="a link that leads out of"):
        opened(root)


def test_missing_images_are_named_when_they_are_read(tmp_path: Path) -> None:
    root = write(tmp_path)
    shutil.rmtree(root / "files/p11")
    source = opened(root)
    with pytest.raises(ImageError, match=r"68b5c4b1.*cannot be read"):
        source.image(source.records[3])
