"""What is sent is compared with what lies here: rows, patients and truth must be the same, flags are made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark.__main__ import main
from benchmark.store import Store
from benchmark.types import Metric, Predictions, RunResult
from tests.finished import PROBE, finish, predictions_of

HERE = predictions_of(0.8, classes=2)
ARRAYS = HERE.arrays


def send(folder: Path, predictions: Predictions, text: Callable[[str], str] = str, **changes: object) -> tuple[int, RunResult]:
    """The exit status of adding a result of the test set of HERE, and the result as it was sent."""
    splits = finish(folder / "unused", "x", HERE, PROBE).spec.splits
    given = {"splits": splits, "notes": {"draws": 50}, **changes}
    skipped = len(predictions.skipped)
    n = {"n_used": len(predictions.uids), "n_expected": len(predictions.uids) + skipped}
    result = finish(folder / "theirs", "sent", predictions, PROBE, **given, **n)
    path = folder / "sent.json"
    assert main(["leaderboard", "pack", result.key, "--out", str(folder / "theirs"), "--to", str(path)]) == 0
    path.write_text(text(path.read_text()))
    return main(["leaderboard", "add", str(path), "--out", str(folder / "ours")]), result


FORGED = {
    "targets": (lambda: replace(HERE, arrays=ARRAYS | {"targets": ARRAYS["predicted"]}), "other truth"),
    "easy rows alone": (lambda: HERE.take(np.arange(60)), "other test rows"),
    "each row its own patient": (lambda: replace(HERE, patients=HERE.uids), "other patients"),
    "fewer patients": (lambda: replace(HERE, patients=np.array([f"p{row % 50}" for row in range(120)])), "other patients"),
}


@pytest.mark.parametrize("role", ["method", "reference"])
@pytest.mark.parametrize("name", FORGED)
def test_other_rows_patients_or_truth_than_here_are_refused(
    tmp_path: Path, name: str, role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, sentence = FORGED[name]
    here = finish(tmp_path / "ours", "here", HERE, PROBE, role=role)
    assert send(tmp_path, make())[0] == 1
    (line,) = capsys.readouterr().out.splitlines()[-1:]
    assert line.startswith(f"refused: sent.json has {sentence} (")
    assert here.key in line
    assert len(list((tmp_path / "ours" / "predictions").iterdir())) == 1


def test_the_same_rows_are_added_without_a_mark_and_a_skipped_one_is_partial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path / "ours", "here", HERE, PROBE)
    status, sent = send(tmp_path, predictions_of(0.5, classes=2))
    added = Store(tmp_path / "ours").finished(sent.key)
    assert (status, added and added.flags) == (0, ("submitted",))
    assert "unchecked" not in capsys.readouterr().out
    lost = replace(HERE.take(np.arange(119)), skipped=((str(HERE.uids[119]), "unreadable"),))
    status, sent = send(tmp_path, lost, seed=1)
    added = Store(tmp_path / "ours").finished(sent.key)
    assert (status, added and added.flags) == (0, ("partial", "submitted"))


def test_what_nothing_can_be_compared_with_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert send(tmp_path, HERE)[0] == 0
    assert "; unchecked: nothing here to compare" in capsys.readouterr().out
    status, sent = send(tmp_path, HERE, seed=1)  # beside an unchecked one alone
    added = Store(tmp_path / "ours").finished(sent.key)
    assert (status, added and added.flags) == (0, ("submitted", "unchecked"))


def test_flags_that_were_stripped_are_made_again(tmp_path: Path) -> None:
    reference = finish(tmp_path / "ours", "guess", HERE, PROBE, role="reference", flags=("patients-unknown",))
    metrics = {**reference.metrics, "auroc": Metric(0.5, n=60)}
    Store(tmp_path / "ours").save(replace(reference, metrics=metrics))
    flat = replace(HERE, arrays=ARRAYS | {"scores": np.zeros((120, 2)), "predicted": np.zeros((120, 2))})
    status, sent = send(tmp_path, flat)
    added = Store(tmp_path / "ours").finished(sent.key)
    assert added is not None
    assert (status, added.flags) == (0, ("degenerate", "submitted", "patients-unknown", "trivial"))
    assert added.notes["no_better_than"] == "guess"


def test_the_phantom_stays_the_phantom(tmp_path: Path) -> None:
    status, sent = send(tmp_path, HERE, dataset="phantom")
    added = Store(tmp_path / "ours").finished(sent.key)
    assert (status, added and added.flags) == (0, ("submitted", "phantom", "unchecked"))


def test_a_note_without_end_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def endless(text: str) -> str:
        whole = json.loads(text)
        whole["result"]["notes"]["x"] = "@@"
        return json.dumps(whole).replace('"@@"', "1e999")

    assert send(tmp_path, HERE, endless)[0] == 1
    assert "refused: sent.json has a number that is not finite" in capsys.readouterr().out
    assert not (tmp_path / "ours" / "predictions").exists()
