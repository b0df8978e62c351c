"""`python -m benchmark verify`: exit status, what is printed and written, and refusals of sources in one sentence."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from benchmark.data.manifest import read_manifest
from benchmark.verify.findings import CHECKS, Finding, Report, SetFacts
from benchmark.verify.report import markdown, terminal, to_json
from tests import test_chexpert
from tests.conftest import Command
from tests.small_sets import chexpert_source, picture, table, write_csv

COUNTS = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}
FOUR = {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4}
TEXTS = {"type": "array", "items": {"type": "string"}}


def exactly(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
FINDING = exactly(
    check={"enum": list(CHECKS)}, severity={"enum": ["error", "warning", "note"]}, dataset=TEXT, count={**NUMBER, "minimum": 1},
    what=TEXT, remedy=TEXT, examples=TEXTS,
)  # fmt: skip
DATASET = exactly(
    dataset=TEXT, version=TEXT, root=TEXT, flags=TEXTS, counts=COUNTS, known=COUNTS, decoded={"type": ["integer", "null"]},
    lengths={"type": "array", "items": exactly(section=TEXT, studies=NUMBER, words=FOUR, sentences=FOUR)},
    splits={"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{16}$"}}, manifest=TEXT,
)  # fmt: skip
SCHEMA = exactly(
    schema={"const": 1}, command=TEXT, started=TEXT, seconds={"type": "number"}, datasets={"type": "array", "items": DATASET},
    findings={"type": "array", "items": FINDING}, totals=exactly(error=NUMBER, warning=NUMBER, note=NUMBER),
)  # fmt: skip


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "report"


def run(command: Command, out: Path, *words: str) -> int:
    return command("verify", *words, "--out", str(out), "--workers", "0", "--no-progress")


def report(out: Path) -> dict[str, object]:
    found = json.loads((out / "report.json").read_text())
    jsonschema.validate(found, SCHEMA)
    return found  # type: ignore[no-any-return]


def test_a_whole_folder_is_status_0_with_a_report_and_a_manifest(command: Command, tmp_path: Path, out: Path) -> None:
    folder = write_csv(tmp_path / "mine")
    assert run(command, out, f"csv:{folder}") == 0
    assert "12 images, 6 patients, 12 studies, 12 reports, 12 boxes, 12 images with masks" in command.output
    assert "train 4, val 4, test 4; 12 of 12 images decoded" in command.output
    assert "no errors, no warnings and no notes in csv:mine" in command.output
    assert command.error == ""
    found = report(out)
    assert found["totals"] == {"error": 0, "warning": 0, "note": 0}
    manifest = read_manifest(out / "csv-mine" / "manifest.parquet")
    assert len(manifest.records) == 12
    assert found["datasets"][0]["splits"] == manifest.facts.splits  # type: ignore[index]
    assert "# Report of verify" in (out / "report.md").read_text()


def test_an_error_is_status_1_and_named_before_the_notes(command: Command, tmp_path: Path, out: Path) -> None:
    folder = write_csv(tmp_path / "mine")
    (folder / "images/i03.png").write_bytes(b"")
    Image.fromarray(picture(70)).save(folder / "more.png")
    assert run(command, out, f"csv:{folder}") == 1
    assert command.output.index("ERRORS") < command.output.index("image-unreadable") < command.output.index("NOTES")
    assert "i03" in command.output
    assert report(out)["totals"] == {"error": 1, "warning": 0, "note": 1}
    shutil.copy(folder / "more.png", folder / "images/i03.png")  # mended; the report is of now
    assert run(command, out, f"csv:{folder}") == 0


def test_a_file_name_of_odd_bytes_is_shown(command: Command, tmp_path: Path, out: Path) -> None:
    folder = write_csv(tmp_path / "mine")
    Path(os.fsdecode(bytes(folder) + b"/odd\xff.png")).write_bytes(b"x")
    assert run(command, out, f"csv:{folder}") == 0
    assert "odd\\udcff.png" in command.output
    command.output.encode()
    assert run(command, out, f"csv:{folder}", "--json") == 0
    assert json.loads(command.output)["findings"][0]["check"] == "image-surplus"


def test_json_is_printed_alone_on_request(command: Command, tmp_path: Path, out: Path) -> None:
    run(command, out, f"csv:{write_csv(tmp_path / 'mine')}", "--json")
    printed = json.loads(command.output)
    jsonschema.validate(printed, SCHEMA)
    assert printed == report(out)


def test_a_filter_and_no_images(command: Command, tmp_path: Path, out: Path) -> None:
    folder = write_csv(tmp_path / "mine")
    (folder / "images/i03.png").write_bytes(b"")
    assert run(command, out, f"csv:{folder}", "--no-images", "--where", "sex=F") == 0
    assert "images not looked at" in command.output
    assert report(out)["datasets"][0]["counts"]["images"] == 6  # type: ignore[index]


def test_a_split_of_a_paper_or_of_ones_own_is_looked_at(command: Command, tmp_path: Path, out: Path) -> None:
    data = f"csv:{write_csv(tmp_path / 'mine')}"
    assert run(command, out, data, "--no-images", "--split", "prior-622:0") == 0, command.output
    drawn = report(out)
    assert run(command, out, data, "--no-images") == 0
    assert drawn["datasets"][0]["splits"] != report(out)["datasets"][0]["splits"]  # type: ignore[index]
    assert run(command, out, data, "--no-images", "--split", "prior-5fold:0") == 2
    command.refused("--split prior-5fold:0", "no such rule", "prior-622")
    assert run(command, out, data, "--no-images", "--label-policy", "mgca") == 2
    command.refused("--label-policy mgca", "need no policy")


def test_sets_named_together_and_against_are_compared(command: Command, tmp_path: Path, out: Path) -> None:
    rows = [{**row, "patient_id": f"q{row['patient_id']}"} for row in table()]
    one, other = write_csv(tmp_path / "one"), write_csv(tmp_path / "two", rows, first=50)
    shutil.copy(one / "images/i00.png", other / "images/i10.png")
    for words in ((f"csv:{one},csv:{other}",), (f"csv:{other}", "--against", f"csv:{one}")):
        assert run(command, out, *words) == 0
        assert [item["check"] for item in report(out)["findings"]] == ["pixels-across-sets"]  # type: ignore[attr-defined]
        assert "i00 = i10 (test)" in command.output


def test_two_folders_of_one_name_are_two_sets(command: Command, tmp_path: Path, out: Path) -> None:
    folders = write_csv(tmp_path / "a" / "mine"), write_csv(tmp_path / "b" / "mine", first=50)
    run(command, out, ",".join(f"csv:{folder}" for folder in folders))
    assert [item["dataset"] for item in report(out)["datasets"]] == ["csv:mine", f"csv:{folders[1]}"]  # type: ignore[attr-defined]
    assert len(list(out.glob("*/manifest.parquet"))) == 2


# --------------------------------------------------------------- what sources refuse when they are opened


def rewrite(folder: Path, **cells: str) -> None:
    rows = table()
    rows[3] |= cells
    with (folder / "records.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"split": "val"}, "give all images of a patient the same split"),
        ({"study_id": "s0", "patient_id": "p1", "split": "train"}, "make study ids unique over patients"),
        ({"id": "i00"}, "make ids unique"),
        ({"image": "../i03.png"}, "write paths inside the folder"),
        ({"boxes": '[{"label": "x", "x": 1, "y": 1, "w": 0, "h": 2}]'}, "has no area"),
    ],
)
def test_a_table_that_its_source_refuses_is_that_sentence_and_status_2(
    command: Command, tmp_path: Path, out: Path, cells: dict[str, str], words: str
) -> None:
    folder = write_csv(tmp_path / "mine")
    rewrite(folder, **cells)
    assert run(command, out, f"csv:{folder}") == 2
    command.refused(words)
    assert not (out / "report.json").exists()


def test_two_versions_mixed_a_level_off_and_a_partial_download(command: Command, tmp_path: Path, out: Path) -> None:
    chexpert_source(tmp_path)
    folder = tmp_path / "CheXpert-v1.0-small"
    assert run(command, out, f"chexpert:{tmp_path}") == 2
    command.refused("is one level off; use --data chexpert:")
    moved = folder / "train" / "patient00050"
    moved.rename(tmp_path / "gone")
    assert run(command, out, "chexpert", "--data-root", str(tmp_path)) == 1
    assert "partial-download" in command.output
    assert "image-missing" in command.output
    test_chexpert.table(folder / "valid.csv", test_chexpert.valid("CheXpert-v1.0/"))
    assert run(command, out, f"chexpert:{folder}") == 2
    command.refused("mix the releases")


def test_unknown_names_missing_folders_and_a_folder_that_cannot_be_written(command: Command, tmp_path: Path, out: Path) -> None:
    assert run(command, out, "chexprt") == 2
    command.refused("did you mean chexpert?")
    assert run(command, out, "rsna,siim", "--data-root", str(tmp_path / "none")) == 2
    command.refused("is not a folder")
    (tmp_path / "file").write_text("")
    assert run(command, tmp_path / "file", f"csv:{write_csv(tmp_path / 'mine')}") == 2
    command.refused("--out")


def test_it_needs_no_torch(tmp_path: Path) -> None:
    folder = write_csv(tmp_path / "mine")
    code = (
        "import sys; from benchmark.__main__ import main; "
        f"status = main(['verify', 'csv:{folder}', '--out', '{tmp_path / 'out'}', '--workers', '2']); "
        "sys.exit(status or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], timeout=120).returncode == 0


# ------------------------------------------------------------------------------------------ the report


def made(count: int, *examples: str) -> Report:
    finding = Finding(check="near-duplicates", dataset="a|b", count=count, what="pairs <b>look</b> the same", examples=examples)
    names = (
        "images",
        "patients",
        "studies",
        "reports",
        "boxes",
        "images with masks",
        "images/train",
        "images/val",
        "images/test",
    )
    facts = SetFacts(dataset="a|b", version="1", root="", flags=(), counts=dict.fromkeys(names, 1), known={"images": 2})
    return Report(command="verify", started="2030-01-01", seconds=1.0, datasets=(facts,), findings=(finding,))


def test_a_narrow_terminal_is_never_left_by_a_line() -> None:
    for width in (80, 120, 200):
        lines = terminal(
            made(5000, *(f"image-{number:04d} (train) ~ other-{number:04d} (test)" for number in range(1000))), width
        )
        assert max(map(len, lines.splitlines())) <= width
        assert "4,997 more" in " ".join(lines.split())


def test_ids_break_no_table_of_the_document() -> None:
    text = markdown(made(1, "x|y\nz <script>"))
    (row,) = [line for line in text.splitlines() if line.startswith("| near-duplicates")]
    assert row.replace("\\|", "").count("|") == 7
    assert "<script>" not in text
    assert "| images" in text


def test_odd_bytes_of_file_names_are_written(out: Path) -> None:
    from benchmark.verify.report import write_report

    write_report(made(1, os.fsdecode(b"a\xff.png")), out)
    assert to_json(made(1, "x"))["findings"][0]["remedy"] == CHECKS["near-duplicates"].remedy
    assert json.loads((out / "report.json").read_text())["findings"][0]["count"] == 1
