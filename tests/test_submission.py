"""Results that are sent as one file: added when their predictions give their metrics, refused in one sentence otherwise."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.__main__ import main
from benchmark.statistics import INTERVAL
from benchmark.store import Store, predictions_to_bytes, read_predictions
from benchmark.types import RunSpec, digest
from tests.finished import PROBE, finish, predictions_of


@pytest.fixture
def packed(tmp_path: Path) -> dict[str, Any]:
    """A submission as parsed JSON."""
    result = finish(tmp_path / "theirs", "mine", predictions_of(0.8, classes=2), PROBE, notes={"draws": 50})
    path = tmp_path / "mine.json"
    assert main(["leaderboard", "pack", result.key, "--out", str(tmp_path / "theirs"), "--to", str(path)]) == 0
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def add(folder: Path, value: object) -> int:
    path = folder / "sent.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return main(["leaderboard", "add", str(path), "--out", str(folder / "ours")])


def test_a_result_that_is_sent_is_scored_again_added_and_shown(
    tmp_path: Path, packed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(tmp_path, packed) == 0
    key = packed["result"]["key"]
    assert f"added {key}: mine, {PROBE.name} on toy, auroc 0." in capsys.readouterr().out
    result = Store(tmp_path / "ours").finished(key)
    assert result is not None
    assert result.flags == ("submitted", "unchecked")
    assert result.notes["interval"] == INTERVAL
    assert result.metrics["auroc"].low is not None
    assert result.metrics["auroc"].value == packed["result"]["metrics"]["auroc"]["value"]
    assert "| mine |" in (tmp_path / "ours" / "leaderboard.md").read_text()
    assert add(tmp_path, packed) == 0
    assert "was there already" in capsys.readouterr().out


def resign(value: dict[str, Any], data: bytes) -> None:
    value["predictions"] = base64.b64encode(data).decode()
    value["result"]["predictions"] = sha256(data).hexdigest()


def other_scores(value: dict[str, Any]) -> None:
    resign(value, predictions_to_bytes(predictions_of(0.5, classes=2)))


def half(value: dict[str, Any]) -> None:
    resign(value, base64.b64decode(value["predictions"])[:500])


def twice(value: dict[str, Any]) -> None:
    rows = predictions_of(0.8, classes=2)
    resign(value, predictions_to_bytes(rows.take(np.r_[np.arange(len(rows.uids)), 0])))


def foreign_arrays(value: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, uids=np.array(["a"]), patients=np.array(["a"]), skipped=np.zeros((0, 2), "U1"))
    resign(value, buffer.getvalue())


def keyed(value: dict[str, Any], **changes: Any) -> None:
    value["result"]["spec"] |= changes
    value["result"]["key"] = RunSpec(**value["result"]["spec"]).key


def setting(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        for name in path[:-1]:
            value = value[name]
        value[path[-1]] = to

    return change


BAD: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a better score": (setting("result", "metrics", "auroc", "value", to=0.99), "states auroc 0.99, and its predictions give"),
    "a metric that predictions do not give": (
        setting("result", "metrics", "dice", to={"value": 0.9, "low": None, "high": None, "n": 60}), "states the metric 'dice'"
    ),
    "a metric less": (lambda value: value["result"]["metrics"].pop("f1"), "states no metric 'f1', which its predictions give"),
    "other predictions": (other_scores, "and its predictions give"),
    "predictions under another digest": (setting("predictions", to="AAAA"), "other predictions than its result names"),
    "no base64": (setting("predictions", to="*"), "lacks its result or its predictions"),
    "half a file": (half, "no .npz file"),
    "arrays of something else": (foreign_arrays, "cannot score"),
    "an image twice": (twice, "several of one image"),
    "a path as key": (setting("result", "key", to="../../x"), "its spec has"),
    "another spec under the key": (setting("result", "spec", "seed", to=5), "the spec was changed"),
    "a newer result": (setting("result", "schema", to=2), "has schema 2, this version reads schema 1"),
    "an older result": (setting("result", "schema", to=0), "has schema 0"),
    "a newer submission": (setting("schema", to=9), "has schema 9"),
    "another file": (setting("kind", to="mail"), "is not a submission"),
    "an unknown protocol": (lambda value: keyed(value, protocol_hash="01234567"), "which this version does not have"),
    "another protocol's name": (lambda value: keyed(value, protocol="chexpert-official"), "and its hash is that of"),
    "another version of the task": (lambda value: keyed(value, task_version=99), "version 99, this suite has version 2"),
    "an infinite note": (setting("result", "notes", "x", to=float("1e999")), "is not complete JSON"),
    "text that is none": (setting("result", "title", to="\ud800"), "text that is none"),
    "an unknown task": (lambda value: keyed(value, task="cooking"), "which this version does not have"),
    "a failed result": (setting("result", "status", to="failed"), "only finished results"),
    "a reference": (setting("result", "role", to="reference"), "only finished results"),
    "another ranking metric": (setting("result", "primary", to="f1"), "ranks by 'f1'"),
    "more rows": (setting("result", "n_used", to=900), "states 900 rows"),
    "a lacking field": (lambda value: value["result"].pop("cost"), "lacks cost in result"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_match_is_refused_in_one_sentence(
    tmp_path: Path, packed: dict[str, Any], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, sentence = BAD[name]
    change(packed)
    assert add(tmp_path, packed) == 1
    (line,) = capsys.readouterr().out.splitlines()[-1:]
    assert line.startswith("refused: sent.json ")
    assert sentence in line
    assert not (tmp_path / "ours" / "results").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"kind": "benchmark submission", "schema": NaN}'])
def test_a_half_written_file_or_nan_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert add(tmp_path, text) == 1
    assert capsys.readouterr().out.startswith("refused: sent.json is not ")


def test_two_results_of_one_key_and_other_content_are_not_mixed(
    tmp_path: Path, packed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    there = finish(tmp_path / "ours", "mine", predictions_of(0.4, classes=2), PROBE)
    assert there.key == packed["result"]["key"]
    assert add(tmp_path, packed) == 1
    assert "with other predictions; add it to another folder" in capsys.readouterr().out
    kept = read_predictions(Store(tmp_path / "ours").predictions_path(there.key))
    assert digest(kept.arrays["scores"].tolist()) == digest(predictions_of(0.4, classes=2).arrays["scores"].tolist())


def test_good_files_are_added_beside_bad_ones(
    tmp_path: Path, packed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "good.json").write_text(json.dumps(packed))
    files = [str(tmp_path / name) for name in ("bad.json", "absent.json", "good.json")]
    assert main(["leaderboard", "add", *files, "--out", str(tmp_path / "ours")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["refused:", "refused:", "added"]


def test_only_finished_results_are_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", "pack", "0123456789abcdef", "--out", str(tmp_path)]) == 2
    assert "no finished result '0123456789abcdef'" in capsys.readouterr().err
