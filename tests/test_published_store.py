"""The published numbers: what the store of the package holds and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from leaderboards.published_schema import FOLDER, SCHEMA_NAME, Published, vocabulary
from leaderboards.published_store import Fault, PublishedStore, read_store, shipped
from leaderboards.published_text import published_table

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = vocabulary().columns
SOUND = {
    "method": "MyMethod", "dataset": "RSNA", "task": "classification", "setting": "linear", "finding": "", "protocol": "mgca",
    "fraction": "0.01", "metric": "AUROC", "value": "87.4", "spread": "0.3", "spread_kind": "std", "unit": "percent",
    "kind": "paper", "measured_by": "authors", "citation": "MyMethod, MICCAI 2030", "url": "https://example.org/paper",
    "table": "Table 2", "remark": "",
}  # fmt: skip
Change = dict[str, str]


def text_of(*changes: Change) -> str:
    """A file whose lines are the sound one with changes; the head is line 1."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**SOUND, **change} for change in changes)
    return buffer.getvalue()


def check(folder: Path, *changes: Change, name: str = "paper.csv") -> PublishedStore:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text_of(*changes))
    return read_store(folder)


def typed(row: Published) -> dict[str, Any]:
    return {name: getattr(row, name) for name in COLUMNS}


@pytest.fixture(scope="module")
def validator() -> Any:
    return jsonschema.Draft202012Validator(json.loads((FOLDER / SCHEMA_NAME).read_text()))


# ------------------------------------------------------------------------------------------ what the store holds


def test_the_store_of_the_package_has_no_fault_and_keeps_every_number() -> None:
    store = shipped()
    assert store.faults == ()
    assert Counter(row.file for row in store.rows) == {
        "arxiv-2411.15611.csv": 18, "asg.csv": 168, "benchx.csv": 400, "eclip.csv": 5, "egma.csv": 132, "factmm-rag.csv": 5,
        "g2d.csv": 279, "gloria.csv": 22, "hip-infonce.csv": 1, "lovt.csv": 290, "maco.csv": 69, "mavl.csv": 105,
        "medcta.csv": 32, "medkco.csv": 2, "patch-ib-cxr.csv": 6, "wizwand.csv": 22,
    }  # fmt: skip
    kinds = {"paper": 471, "README": 89, "reprint": 907, "second hand": 67, "aggregator": 22}
    assert Counter(row.kind for row in store.rows) == kinds
    assert round(sum(row.value for row in store.rows), 2) == 90437.75
    assert round(sum(row.spread or 0 for row in store.rows), 2) == 490.9


def test_every_number_satisfies_the_json_schema(validator: Any) -> None:
    # Lines that differ in nothing but names and values of one kind are one case.
    cases = {(row.file, row.metric, row.unit, row.kind, row.spread is None, row.remark): row for row in shipped().rows}
    assert len(cases) > 100
    for row in cases.values():
        validator.validate(typed(row))


def test_every_number_has_a_source_and_only_papers_and_readmes_have_own_ones() -> None:
    rows = shipped().rows
    assert all(row.citation for row in rows)
    assert {row.kind for row in rows if row.measured_by} == {"paper", "README"}
    assert {row.method for row in rows if row.measured_by == "authors"} == {
        "ASG-R50", "ASG-ViT", "BiomedCLIP fine-tuned (Model A)", "EGMA", "G2D", "G2D (encoder + decoder)", "LoVT",
        "LoVT (30 % of MIMIC)", "MAVL", "MaCo",
    }  # fmt: skip
    assert {row.file for row in rows if row.measured_by == "source"} == {"benchx.csv"}


def test_what_was_not_available_is_absent_with_a_reason() -> None:
    store = shipped()
    assert not [row for row in store.rows if row.method == "MCR"]
    assert {row.measured_by for row in store.rows if row.method == "PRIOR"} == {""}
    reasons = {gap.method: gap.reason for gap in store.absent if not gap.dataset and not gap.task}
    assert "abstract" in reasons["MCR"]
    assert "not available" in reasons["PRIOR"]


@pytest.mark.parametrize(
    ("method", "dataset", "metric", "value", "words"),
    [
        ("EGMA", "RSNA", "F1", 43.49, "constant answer"),
        ("PRIOR", "SIIM", "F1", 33.33, "constant answer"),
        ("CLIP", "CheXpert 5x200", "Accuracy", 20.1, "chance"),
        ("BioViL", "NIH CXR14", "F1", 66.2, "misprint"),
        ("PTUnifier", "MIMIC 5x200", "H@10", 100.0, "pool of 8"),
        ("REFERS", "COVIDx CXR-4", "F1", 66.7, "always gives F1 66.67"),
        ("MedKLIP", "all", "AUROC", 82.77, "whose mean is 82.10"),
        ("ConVIRT", "RSNA", "AUROC", 88.6, "other sources print 81.3"),
        ("ImageNet", "RSNA", "mAP", 15.7, ""),
    ],
)
def test_known_faults_stand_on_their_cells(method: str, dataset: str, metric: str, value: float, words: str) -> None:
    found = [
        row
        for row in shipped().rows
        if (row.method, row.dataset, row.metric, row.value) == (method, dataset, metric, value) and row.kind != "aggregator"
    ]
    assert found
    assert any(words in row.remark for row in found)


# ------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"citation": ""}, "a number without its source is refused"),
        ({"method": ""}, "method is empty"),
        ({"method": "two\nlines"}, "method has a line end"),
        ({"remark": "turned \u202e round"}, "cannot be printed"),
        ({"method": " MyMethod"}, "has spaces around it"),
        ({"remark": "x" * 301}, "301 characters, more than 300"),
        ({"url": "javascript:alert(1)"}, "is not an address"),
        ({"dataset": "Chexpert"}, "did you mean CheXpert"),
        ({"dataset": ""}, "dataset is empty"),
        ({"task": "clasification"}, "did you mean classification"),
        ({"metric": "AUC"}, "metric 'AUC' is not a name"),
        ({"protocol": "MGCA"}, "did you mean mgca"),
        ({"setting": "probe"}, "setting 'probe'"),
        ({"finding": "Cold"}, "finding 'Cold'"),
        ({"kind": "blog"}, "kind 'blog' is not a name"),
        ({"measured_by": "us"}, "measured_by 'us'"),
        ({"value": ""}, "a line that is not there"),
        ({"value": "nan"}, "not a plain decimal number"),
        ({"value": "87,4"}, "not a plain decimal number"),
        ({"value": "-1"}, "not a plain decimal number"),
        ({"value": "8e1"}, "not a plain decimal number"),
        ({"value": "٨٧"}, "not a plain decimal number"),
        ({"value": "100.1"}, "outside 1 to 100 percent of AUROC"),
        ({"value": "0.874"}, "a fraction is multiplied by 100"),
        ({"metric": "mean rank", "value": "2.5"}, "unit of mean rank is rank, not 'percent'"),
        ({"metric": "RSUM", "unit": "points", "value": "601"}, "outside 0 to 600"),
        ({"fraction": "10%"}, "fraction '10%'"),
        ({"fraction": "10"}, "1 % is 0.01"),
        ({"fraction": "0"}, "lies outside (0, 1]"),
        ({"spread": "-0.3"}, "spread '-0.3'"),
        ({"spread": "101"}, "above 100"),
        ({"spread": ""}, "spread and spread_kind come together"),
        ({"spread_kind": ""}, "spread and spread_kind come together"),
        ({"measured_by": ""}, "says that the source measured it"),
        ({"kind": "reprint"}, "not the authors' own"),
        ({"kind": "second hand"}, "not the authors' own"),
        ({"kind": "aggregator", "measured_by": "source"}, "not the authors' own"),
    ],
)
def test_each_violation_is_one_sentence_with_file_and_line(tmp_path: Path, change: Change, sentence: str) -> None:
    store = check(tmp_path, {"table": "Table 1"}, change, {"table": "Table 3"})
    (fault,) = store.faults
    assert (fault.file, fault.line) == ("paper.csv", 3)
    assert sentence in fault.sentence
    assert "\n" not in str(fault)
    assert [row.table for row in store.rows] == ["Table 1", "Table 3"]  # the others still appear


@pytest.mark.parametrize(
    "change",
    [
        {"citation": ""}, {"dataset": "Chexpert"}, {"kind": "reprint"}, {"measured_by": ""}, {"spread": None},
        {"spread_kind": ""}, {"value": 0.874}, {"value": 101.0}, {"fraction": 10.0}, {"unit": "rank"}, {"url": "ftp://x"},
        {"method": " x"}, {"remark": "x" * 301}, {"metric": "mean rank"}, {"further": 1},
    ],
)  # fmt: skip
def test_the_json_schema_refuses_the_same(validator: Any, change: dict[str, Any]) -> None:
    sound = {**SOUND, "value": 87.4, "fraction": 0.01, "spread": 0.3}
    validator.validate(sound)
    assert not validator.is_valid({**sound, **change})


def test_one_cell_of_one_table_is_printed_once(tmp_path: Path) -> None:
    other = {"value": "90.0"}
    check(tmp_path, {"table": "Table 4"}, {"fraction": "0.1"}, name="another.csv")
    store = check(tmp_path, {}, {"table": "Table 3", **other}, {"fraction": "0.1"}, other)
    assert [(fault.file, fault.line) for fault in store.faults] == [("paper.csv", 4), ("paper.csv", 5)]
    assert "repeats line 3 of another.csv" in store.faults[0].sentence
    assert "repeats line 2 of paper.csv" in store.faults[1].sentence
    assert len(store.rows) == 4


def test_a_file_of_fractions_is_refused_and_small_percentages_are_not(tmp_path: Path) -> None:
    dice = {"task": "segmentation", "metric": "Dice", "setting": ""}
    store = check(tmp_path, {**dice, "value": "0.62"}, {**dice, "value": "0.7", "fraction": "1"})
    assert [fault.line for fault in store.faults] == [2, 3]
    assert "reads as a fraction" in store.faults[0].sentence
    assert check(tmp_path, {**dice, "value": "0.5"}, {**dice, "value": "7.0", "fraction": "1"}).faults == ()


@pytest.mark.parametrize(
    ("content", "line", "sentence"),
    [
        (b"", 1, "first line must name the columns"),
        (b"method,value\nx,1\n", 1, "first line must name the columns"),
        (text_of({}).encode() + b"a,b\n", 3, "2 cells instead of 18"),
        (text_of({}).encode() + b"\xff\n", 3, "not UTF-8"),
        (text_of({}).encode() + b'"never closed\n', 3, "not CSV"),
        (b"x" * (1 << 21), 1, "larger than"),
    ],
)
def test_a_file_that_is_no_table_is_named_with_its_line(tmp_path: Path, content: bytes, line: int, sentence: str) -> None:
    check(tmp_path, {"citation": "Another"}, name="good.csv")
    (tmp_path / "paper.csv").write_bytes(content)
    store = read_store(tmp_path)
    assert store.faults == (Fault("paper.csv", line, store.faults[0].sentence),)
    assert sentence in store.faults[0].sentence
    assert store.rows


def test_files_of_spreadsheets_are_read_and_lines_are_counted_in_the_file(tmp_path: Path) -> None:
    broken = {"table": "Table 9", "remark": "in two\nlines"}
    (tmp_path / "paper.csv").write_bytes(b"\xef\xbb\xbf" + text_of({}, broken, {"value": "x"}).replace("\n", "\r\n").encode())
    store = read_store(tmp_path)
    assert len(store.rows) == 1
    assert [fault.line for fault in store.faults] == [3, 5]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", r"\input{x}", "a | *b*", "../../x", "=HYPERLINK(A1)", "é 方法"])
def test_names_are_text_that_those_who_show_it_escape(tmp_path: Path, name: str) -> None:
    store = check(tmp_path, {"method": name})
    assert [row.method for row in store.rows] == [name]
    assert name in published_table(store.rows)


def test_a_gap_needs_a_reason(tmp_path: Path) -> None:
    (tmp_path / "absent.csv").write_text("method,dataset,task,what,reason\nMCR,,,all,\nMCR,XRAY,,all,no paper\n")
    assert [fault.sentence.partition(" is")[0] for fault in read_store(tmp_path).faults] == ["reason", "dataset 'XRAY'"]


def test_the_example_of_the_document_passes_and_lists_every_column(tmp_path: Path) -> None:
    document = (ROOT / "docs/published.md").read_text()
    (example,) = re.findall(r"```csv\n(.*?)```", document, re.S)
    (tmp_path / "paper.csv").write_text(example)
    store = read_store(tmp_path)
    assert store.faults == ()
    assert len(store.rows) == 2
    words = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", document, flags=re.S)))
    assert {*COLUMNS, *filter(None, vocabulary().names["protocol"]), *vocabulary().names["kind"]} <= words
