"""Files that were lost, damaged, edited or come from elsewhere must not change who is first on the board, nor stop a report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark import analysis_rows, draws
from benchmark.__main__ import main
from benchmark.statistics import Resampled
from benchmark.store import Store
from tests.finished import PROBE, finish, noisy, predictions_of
from tests.test_analysis import analyse, boards


def test_a_worse_method_is_not_first_because_the_best_cannot_be_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = noisy(tmp_path, "best", 0.3)
    for name, noise in (("middle", 1.0), ("worst", 4.0)):
        noisy(tmp_path, name, noise)
    Store(tmp_path).predictions_path(best.key).unlink()
    (group,) = analyse(tmp_path)["groups"]
    assert (group["best"], group["pairs"]) == (None, [])
    for line in group["entries"].values():
        assert set(line.values()) == {None}
    text = boards(tmp_path)["md"]
    assert "> not ranked: best cannot be scored from its predictions" in text
    assert "**0." not in text
    assert "not ranked: best cannot be scored from its predictions" in boards(tmp_path)["html"]
    assert "not ranked: best cannot be scored from its predictions" in boards(tmp_path)["csv"]
    (tmp_path / "results" / "half.json").write_text("{")
    assert main(["report", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "not ranked: best cannot be scored from its predictions" in printed
    assert "half.json is not complete JSON, perhaps half-written; remove it and run the cell again." in printed


def test_a_score_that_was_edited_is_named_and_gives_no_ranking(tmp_path: Path) -> None:
    noisy(tmp_path, "good", 0.3)
    bad = noisy(tmp_path, "bad", 3.0)
    assert analyse(tmp_path)["groups"][0]["reasons"] == []  # and kept in the file, which must not hide what comes
    path = Store(tmp_path).result_path(bad.key)
    whole = json.loads(path.read_text())
    whole["metrics"]["auroc"] |= {"value": 0.9999, "low": 0.999, "high": 1.0}
    path.write_text(json.dumps(whole))
    text = boards(tmp_path)["md"]
    (group,) = analyse(tmp_path)["groups"]
    assert {line["rank"] for line in group["entries"].values()} == {None}
    assert f"bad states auroc 0.9999, its predictions give {bad.metrics['auroc'].value}" in group["reasons"]
    assert "bad states auroc 0.9999, its predictions give 0." in text


def test_a_file_that_was_repaired_is_analysed_again(tmp_path: Path) -> None:
    good = finish(tmp_path, "good", predictions_of(0.5), PROBE)
    finish(tmp_path, "bad", predictions_of(3.0), PROBE)
    path = Store(tmp_path).predictions_path(good.key)
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    damaged = analyse(tmp_path)
    assert damaged["groups"][0]["best"] is None
    assert good.key not in damaged["calibration"]
    path.write_bytes(whole)
    found = analyse(tmp_path)
    assert found["groups"][0]["best"] == good.key
    assert good.key in found["calibration"]


def test_draws_of_an_earlier_version_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy(tmp_path, "good", 0.3)
    analyse(tmp_path)
    scored: list[str] = []
    own = analysis_rows.resample_metric
    monkeypatch.setattr(analysis_rows, "resample_metric", lambda *words: scored.append(words[2]) or own(*words))
    monkeypatch.setattr(draws, "VERSION", draws.VERSION + 1)
    analyse(tmp_path)
    assert scored == ["auroc"]


def test_a_strange_fingerprint_in_an_old_analysis_is_no_crash(tmp_path: Path) -> None:
    good = noisy(tmp_path, "good", 0.3)
    analyse(tmp_path)
    path = tmp_path / "analysis.json"
    for strange in ([1], {"a": 1}, None, 7):
        whole = json.loads(path.read_text())
        whole["groups"][0]["fingerprint"] = strange
        path.write_text(json.dumps(whole))
        assert analyse(tmp_path)["groups"][0]["best"] == good.key


@pytest.mark.parametrize("patients", [120, 50, 60])
def test_one_result_with_other_patients_breaks_no_report_and_is_not_paired(tmp_path: Path, patients: int) -> None:
    """120: more patients; 50: fewer; 60: as many, in another order. All have the same rows."""
    rows = predictions_of(0.5)
    splits = finish(tmp_path, "good", rows).spec.splits
    names = np.array([f"q{row % patients:03d}" for row in range(len(rows.uids))])
    finish(tmp_path, "other", replace(predictions_of(0.9), patients=names), splits=splits)
    text = boards(tmp_path)["md"]
    (group,) = analyse(tmp_path)["groups"]
    assert group["reasons"] == ["not ranked: other and good share no test row or name different patients"]
    assert group["best"] is None
    assert {item for line in group["entries"].values() for item in line.values()} == {None}
    assert "name different patients" in text


def test_a_difference_of_different_patients_is_refused() -> None:
    first, second = (Resampled(0.5, np.zeros(3), np.zeros(patients), patients) for patients in (4, 5))
    with pytest.raises(ValueError, match="different patients"):
        _ = first - second
