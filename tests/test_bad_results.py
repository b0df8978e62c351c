"""A folder of results with anything wrong in it: one sentence for each bad file, the other rows appear in every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import leaderboards
from benchmark.__main__ import main
from benchmark.store import Store
from benchmark.types import plain
from tests.finished import noisy
from tests.test_leaderboards import HOSTILE


def spoil(out: Path, name: str, **changes: Any) -> None:
    """A copy of a result with other fields, under its own key unless that is changed."""
    value = plain(noisy(out, "spoiled", 0.7, seed=len(name)))
    (out / "results" / f"{value['key']}.json").unlink()
    value |= changes
    (out / "results" / f"{name}.json").write_text(json.dumps(value))


def report(out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    """What was printed, and the lines of the board's part "Left out"."""
    assert main(["report", "--out", str(out), "--draws", "20"]) == 0
    text = (out / "leaderboard.md").read_text()
    head, _, tail = text.partition("## Left out")
    assert "| good |" in head
    return capsys.readouterr().out, [line for line in tail.splitlines() if line.startswith("- ")]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schema": 2}, "has schema 2, this version reads schema 1"),
        ({"schema": 0}, "has schema 0, this version reads schema 1"),
        ({"metrics": {"auroc": {"value": float("nan"), "low": None, "high": None, "n": 1}}}, "is not complete JSON"),
        ({"metrics": {"f1": {"value": 0.5, "low": None, "high": None, "n": 1}}}, "without its primary metric"),
        ({"status": "great"}, "has the unknown status"),
    ],
)
def test_a_bad_result_is_left_out_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy(tmp_path, "good", 0.5)
    spoil(tmp_path, "bad", **changes)
    _, (line,) = report(tmp_path, capsys)
    assert line.startswith("- bad.json ")
    assert sentence in line


def planted(tmp_path: Path, where: tuple[str, ...], text: str) -> None:
    """The result "bad" with some JSON text in the place of a value."""
    spoil(tmp_path, "bad")
    path = tmp_path / "results" / "bad.json"
    value = part = json.loads(path.read_text())
    for name in where[:-1]:
        part = part[name]
    part[where[-1]] = "@@"
    path.write_text(json.dumps(value).replace('"@@"', text))


@pytest.mark.parametrize(
    ("where", "text", "sentence"),
    [
        (("notes", "x"), "1e999", "has a number that is not finite"),
        (("notes", "x"), '[{"y": -1e999}]', "has a number that is not finite"),
        (("spec", "config"), '{"a": 1e999}', "has a number that is not finite"),
        (("metrics", "auroc", "value"), "1e999", "has a number that is not finite"),
        (("metrics", "auroc", "value"), "1" + 400 * "0", "of more than 300 digits in metrics"),
        (("cost", "seconds"), '{"fit": 1' + 400 * "0" + "}", "of more than 300 digits in cost"),
        (("cost", "peak_allocated_mib"), "1" + 400 * "0", "of more than 300 digits in cost"),
        (("n_used",), "1" + 400 * "0", "of more than 300 digits in n"),
        (("metrics", "auroc", "low"), "0.25", "has half an interval"),
        (("metrics", "auroc", "high"), "0.25", "has half an interval"),
        (("spec", "method"), '"\\ud800"', "no Unicode"),
    ],
)
def test_what_json_reads_and_python_cannot_use_keeps_one_file_away(
    tmp_path: Path, where: tuple[str, ...], text: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy(tmp_path, "good", 0.5)
    planted(tmp_path, where, text)
    _, (line,) = report(tmp_path, capsys)
    assert sentence in line
    assert main(["report", "--out", str(tmp_path), "--draws", "20", "--format", "hf"]) == 0


@pytest.mark.parametrize(("part", "text"), [("notes", '{"x": 1e999}'), ("n_used", "1" + 400 * "0"), ("method", '"\\ud800"')])
def test_what_python_cannot_use_is_not_added(tmp_path: Path, part: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    key = noisy(tmp_path / "theirs", "theirs", 0.5).key
    path = tmp_path / "sent.json"
    assert main(["leaderboard", "pack", key, "--out", str(tmp_path / "theirs"), "--to", str(path)]) == 0
    value = json.loads(path.read_text())
    (value["result"]["spec"] if part == "method" else value["result"])[part] = "@@"
    path.write_text(json.dumps(value).replace('"@@"', text))
    assert main(["leaderboard", "add", str(path), "--out", str(tmp_path / "ours")]) == 1
    assert "refused: sent.json" in capsys.readouterr().out
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("text", ["1e999", "-1e999", "1" + 400 * "0"])
def test_an_analysis_with_a_number_that_is_not_finite_keeps_no_board_away(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy(tmp_path, "good", 0.5)
    report(tmp_path, capsys)
    path = tmp_path / "analysis.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"level": "@@"}).replace('"@@"', text))
    leaderboards.write_board(tmp_path)
    assert "| good |" in (tmp_path / "leaderboard.md").read_text()
    report(tmp_path, capsys)


def test_half_written_files_and_temporaries_keep_nothing_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = noisy(tmp_path, "good", 0.5)
    whole = (tmp_path / "results" / f"{good.key}.json").read_text()
    (tmp_path / "results" / "half.json").write_text(whole[: len(whole) // 2])
    (tmp_path / "results" / ".tmp-0123.json-x").write_text(whole)
    (tmp_path / "predictions" / "stray.npz").write_bytes(b"PK")
    (tmp_path / "analysis.json").write_text('{"schema": 1, "groups"')
    _, lines = report(tmp_path, capsys)
    assert [line.split()[1] for line in lines] == ["half.json"]


def test_of_two_files_with_one_key_that_of_its_name_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = noisy(tmp_path, "good", 0.5)
    value = plain(good)
    (tmp_path / "results" / "a-copy.json").write_text(json.dumps(value))
    (tmp_path / "results" / "zz-other.json").write_text(json.dumps({**value, "title": "forged"}))
    _, lines = report(tmp_path, capsys)
    assert "the same content as it; remove the copy" in lines[0].replace("\\", "")
    assert "other content than it; remove the copy" in lines[1].replace("\\", "")
    assert "forged" not in (tmp_path / "leaderboard.md").read_text()


def test_a_result_whose_predictions_do_not_give_its_metric_is_shown_and_nothing_beside_it_is_ranked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, noise in (("good", 0.5), ("better", 0.4)):
        noisy(tmp_path, name, noise)
    strange = plain(noisy(tmp_path, "strange", 0.5))
    strange["primary"] = "dice"
    strange["metrics"]["dice"] = {"value": 0.3, "low": None, "high": None, "n": 3}
    Store(tmp_path).result_path(strange["key"]).write_text(json.dumps(strange))
    report(tmp_path, capsys)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| strange | 0.300 |" in text
    assert "not ranked: strange" in text
    for name in ("good", "better", "strange"):
        assert f"| — | {name} |" in text or f"\n| {name} |" in text  # a dash, or no column of ranks


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_escaped_in_ranked_tables_too(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    noisy(tmp_path, "good", 0.5)
    noisy(tmp_path, "hostile", 0.6, title=name)
    printed, lines = report(tmp_path, capsys)
    assert lines == []
    assert "<script" not in (tmp_path / "leaderboard.md").read_text()
    assert r"\input" not in (tmp_path / "leaderboard.tex").read_text()
    assert "\x1b" not in printed
    assert main(["compare", "good", "hostile", "--out", str(tmp_path), "--draws", "10"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["leaderboard", "average", "--out", str(tmp_path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_an_empty_folder_gives_a_friendly_board(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").mkdir()
    assert main(["report", "--out", str(tmp_path)]) == 0
    assert "No results yet" in capsys.readouterr().out
    assert leaderboards.load(tmp_path / "results") == ([], [])
    assert main(["report", "--out", str(tmp_path / "nowhere")]) == 2
    assert "has no results" in capsys.readouterr().err
