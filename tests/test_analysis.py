"""What a board says beyond single results: rank groups, differences by patient, subgroups, calibration."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import leaderboards
from benchmark import analysis_rows
from benchmark.__main__ import main
from benchmark.analysis import write_analysis
from benchmark.scoring import score_of, scorer
from benchmark.statistics import resample
from benchmark.store import Store, read_analysis
from benchmark.subjects import write_subjects
from benchmark.types import Cost, Record, RunResult
from tests.finished import PROBE, finish, noisy, predictions_of
from tests.test_layering import ROOT


def analyse(out: Path, draws: int = 200) -> dict[str, Any]:
    results, refused = leaderboards.load(out / "results")
    assert refused == []
    return write_analysis(out, leaderboards.group_rows(map(leaderboards.make_row, results)), draws)


def test_equal_methods_share_a_rank_and_a_worse_one_stands_behind_both(tmp_path: Path) -> None:
    good, bad = noisy(tmp_path, "good", 0.6), noisy(tmp_path, "bad", 3.0)
    same = finish(tmp_path, "same", predictions_of(0.62, seed=2))
    (group,) = analyse(tmp_path)["groups"]
    ranks = {key: (line["rank"], line["rank_low"], line["rank_high"]) for key, line in group["entries"].items()}
    assert good.metrics["auroc"].value != same.metrics["auroc"].value
    assert ranks == {good.key: (1, 1, 2), same.key: (1, 1, 2), bad.key: (3, 3, 3)}
    assert group["best"] in (good.key, same.key)
    assert group["entries"][group["best"]]["difference_to_best"] is None
    assert group["entries"][bad.key]["difference_to_best"]["high"] < 0
    assert group["entries"][bad.key]["p_holm"] == pytest.approx(min(1, 2 * group["entries"][bad.key]["p"]))
    assert len(group["pairs"]) == 3


def test_the_difference_to_the_best_is_the_paired_bootstrap(tmp_path: Path) -> None:
    noisy(tmp_path, "good", 0.4)
    bad = noisy(tmp_path, "bad", 0.8)
    (group,) = analyse(tmp_path, 300)["groups"]
    how = scorer("zeroshot", bad.spec.protocol_hash)
    assert how is not None
    first, second = (score_of(predictions_of(noise), how) for noise in (0.8, 0.4))
    drawn = [resample(score, predictions_of(0.8).patients, 300, 0)["auroc"] for score in (first, second)]
    expected = (drawn[0] - drawn[1]).metric
    found = group["entries"][bad.key]["difference_to_best"]
    assert [found[name] for name in ("value", "low", "high")] == pytest.approx(
        [expected.value, expected.low, expected.high], rel=1e-5
    )
    assert found["n"] == 60


def test_a_second_report_scores_nothing_again_and_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, noise in (("good", 0.3), ("bad", 3.0)):
        finish(tmp_path, name, predictions_of(noise), PROBE)
    analyse(tmp_path)
    before = (tmp_path / "analysis.json").read_bytes()
    scored: list[str] = []
    own = analysis_rows.resample_metric
    monkeypatch.setattr(analysis_rows, "resample_metric", lambda *words: scored.append(words[2]) or own(*words))
    analyse(tmp_path)
    assert (tmp_path / "analysis.json").read_bytes() == before
    assert scored == []
    finish(tmp_path, "new", predictions_of(1.0), PROBE)
    analyse(tmp_path)
    assert scored == ["auroc"]  # of the new one alone


def test_seeds_are_averaged_within_each_draw(tmp_path: Path) -> None:
    """Two seeds with opposite errors: their mean has a narrower difference than either."""
    rows = predictions_of(0.5)
    for seed, sign in ((0, 1.0), (1, -1.0)):
        error = sign * np.random.default_rng(3).normal(size=rows.arrays["scores"].shape)
        scores = rows.arrays["targets"] + error
        finish(tmp_path, "two", replace(rows, arrays={**rows.arrays, "scores": scores}), seed=seed)
    one = noisy(tmp_path, "one", 0.2)
    (group,) = analyse(tmp_path)["groups"]
    lines = [line for key, line in group["entries"].items() if key != one.key]
    assert lines[0] == lines[1]
    values = [result.metrics["auroc"].value for result in (Store(tmp_path).read(key) for key in group["entries"]) if result]
    mean = np.mean([value for value, key in zip(values, group["entries"], strict=True) if key != one.key and value])
    assert lines[0]["difference_to_best"]["value"] == pytest.approx(mean - one.metrics["auroc"].value, abs=1e-5)


def test_without_predictions_or_draws_nothing_is_ranked_and_nothing_breaks(tmp_path: Path) -> None:
    _, bad = noisy(tmp_path, "good", 0.3), noisy(tmp_path, "bad", 3.0)
    (group,) = analyse(tmp_path, 0)["groups"]
    assert {line["rank"] for line in group["entries"].values()} == {None}
    path = Store(tmp_path).predictions_path(bad.key)
    path.write_bytes(path.read_bytes()[:100])
    (group,) = analyse(tmp_path)["groups"]
    assert group["best"] is None
    assert {line["rank"] for line in group["entries"].values()} == {None}
    path.unlink()
    noisy(tmp_path, "old", 0.1, protocol_hash="01234567")
    assert len(analyse(tmp_path)["groups"]) == 2


def test_rows_that_one_method_lost_are_left_out_of_the_difference(tmp_path: Path) -> None:
    splits = noisy(tmp_path, "good", 0.3).spec.splits
    part = finish(tmp_path, "bad", predictions_of(3.0).take(np.arange(100)), splits=splits)
    (group,) = analyse(tmp_path)["groups"]
    found = group["entries"][part.key]["difference_to_best"]
    assert found["n"] == 50
    assert found["high"] < 0


def subjects(result: RunResult, out: Path) -> None:
    records = [
        Record(uid=f"p{patient:03d}-{image}", patient=f"p{patient:03d}", study="", split="test", image="",
               sex="FM"[patient % 2], age=None if patient < 3 else 20.0 + patient, view="PA" if image else "AP")
        for patient in range(60) for image in range(2)
    ]  # fmt: skip
    write_subjects(out, result.spec, records)


def test_subgroups_are_the_metric_on_their_rows(tmp_path: Path) -> None:
    good = noisy(tmp_path, "good", 0.8)
    assert analyse(tmp_path)["subgroups"] == {}
    subjects(good, tmp_path)
    found = analyse(tmp_path)["subgroups"][good.key]
    table = {(line["by"], line["value"]): line for line in found}
    assert table["sex", "F"]["patients"] == table["sex", "M"]["patients"] == 30
    assert {value for by, value in table if by == "age"} == {"0 to 39", "40 to 59", "60 to 79"}
    assert table["view", "PA"]["rows"] == 60
    rows = predictions_of(0.8)
    women = rows.take(np.flatnonzero([int(name[1:]) % 2 == 0 for name in rows.patients]))
    how = scorer("zeroshot", good.spec.protocol_hash)
    assert how is not None
    value = score_of(women, how)(np.ones((1, len(women.uids))))["auroc"][0]
    score = table["sex", "F"]["score"]
    assert score["value"] == pytest.approx(value, rel=1e-5)
    assert score["low"] < score["value"] < score["high"]


def test_a_subgroup_of_few_patients_has_no_score(tmp_path: Path) -> None:
    good = noisy(tmp_path, "good", 0.8)
    records = [Record(uid=f"p{row:03d}-0", patient="", study="", split="test", image="", sex="F") for row in range(9)]
    write_subjects(tmp_path, good.spec, records)
    (line,) = analyse(tmp_path)["subgroups"][good.key]
    assert (line["patients"], line["score"]) == (9, {"value": None, "low": None, "high": None, "n": 9})


def test_calibration_is_of_probabilities_alone_and_equals_a_loop(tmp_path: Path) -> None:
    rows = predictions_of(2.0, classes=2)
    probed, prompted = finish(tmp_path, "probe", rows, PROBE), finish(tmp_path, "prompt", rows)
    found = analyse(tmp_path)["calibration"]
    assert set(found) == {probed.key}
    assert prompted.key not in found
    chances, targets = 1 / (1 + np.exp(-rows.arrays["scores"].ravel())), rows.arrays["targets"].ravel()
    expected = 0.0
    for number, line in enumerate(found[probed.key]["bins"]):
        inside = (chances >= number / 10) & (chances < (number + 1) / 10)
        assert line["count"] == inside.sum()
        if inside.any():
            assert line["observed"] == pytest.approx(targets[inside].mean(), rel=1e-5)
            expected += inside.mean() * abs(chances[inside].mean() - targets[inside].mean())
    ece = found[probed.key]["ece"]
    assert ece["value"] == pytest.approx(expected, rel=1e-5)
    assert ece["low"] is not None


def test_classes_are_those_of_the_result(tmp_path: Path) -> None:
    probed = finish(tmp_path, "probe", predictions_of(2.0, classes=2), PROBE)
    found = analyse(tmp_path)["per_class"][probed.key]
    assert found["auroc"]["Edema"]["value"] == probed.metrics["auroc/Edema"].value
    assert set(found["auroc"]) == {"Edema", "Pneumonia"}


def test_report_writes_the_analysis_without_torch(tmp_path: Path) -> None:
    noisy(tmp_path, "good", 0.3)
    code = (
        "import sys; from benchmark.__main__ import main\n"
        "assert main(['report', '--out', sys.argv[1], '--draws', '50']) == 0; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = read_analysis(tmp_path)
    assert found is not None
    assert found["draws"] == 50
    json.dumps(found, allow_nan=False)


def test_the_analysis_follows_its_schema(tmp_path: Path) -> None:
    schema = json.loads((Path(leaderboards.__file__).parent / "analysis.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for seed in (0, 1):
        probed = finish(tmp_path, "probe", predictions_of(2.0, classes=2), PROBE, seed=seed)
    noisy(tmp_path, "prompts", 1.0)
    finish(tmp_path, "other", predictions_of(1.0, classes=2), PROBE)
    subjects(probed, tmp_path)
    found = analyse(tmp_path)
    assert found["subgroups"] and found["calibration"] and found["per_class"]  # noqa: PT018
    assert any(group["pairs"] for group in found["groups"])
    jsonschema.Draft202012Validator(schema).validate(found)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "groups": [1], "sources": []}']
)
def test_a_damaged_or_other_analysis_is_made_again(tmp_path: Path, text: str) -> None:
    noisy(tmp_path, "good", 0.3)
    (tmp_path / "analysis.json").write_text(text)
    assert len(analyse(tmp_path)["groups"]) == 1


def boards(out: Path) -> dict[str, str]:
    analyse(out)
    return {name: path.read_text() for name, path in leaderboards.write_board(out).items()}


def test_every_format_shows_shared_ranks_and_bold_stands_for_the_first_rank_group_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy(tmp_path, "good", 0.6)
    finish(tmp_path, "same", predictions_of(0.62, seed=2))
    noisy(tmp_path, "bad", 3.0)
    noisy(tmp_path, "guess", 0.1, role="reference")
    text = boards(tmp_path)
    assert "| Rank | Method | auroc ↑ |" in text["md"]
    lines = {name: next(line for line in text["md"].splitlines() if f"| {name} |" in line) for name in ("good", "same", "bad")}
    assert all(lines[name].startswith(f"| 1–2 | {name} | **0.") for name in ("good", "same"))
    assert lines["bad"].startswith("| 3 | bad | 0.")
    assert "| — | *guess* | 1.000 |" in text["md"]
    tex = [line for line in text["tex"].splitlines() if line.endswith(r"\\")]
    assert [r"\textbf{" in line for line in tex] == [False, True, True, False, False]
    assert tex[1].startswith(r"1\textendash{}2 & ")
    rows = {row["title"]: row for row in csv.DictReader(io.StringIO(text["csv"]))}
    assert [rows[name]["rank"] for name in ("good", "same", "bad", "guess")] == ["1", "1", "3", ""]
    assert float(rows["bad"]["difference_high"]) < 0
    entries = {entry["label"]: entry for entry in json.loads(text["json"])["groups"][0]["entries"]}
    assert (entries["same"]["standing"]["low"], entries["same"]["standing"]["high"]) == (1, 2)
    assert entries["bad"]["standing"]["p_holm"] < 0.05
    assert main(["report", "--out", str(tmp_path)]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    places = {word: line[line.index(word) - 1] for line in shown for word in ("good", "same", "bad") if word in line}
    assert places == {"good": "1–2", "same": "1–2", "bad": "3"}


def test_a_single_method_is_not_bold_and_ranks_of_other_results_are_not_shown(tmp_path: Path) -> None:
    noisy(tmp_path, "good", 0.6)
    assert "**0." not in boards(tmp_path)["md"]
    noisy(tmp_path, "later", 0.1)  # not analysed
    text = leaderboards.write_board(tmp_path)["md"].read_text()
    assert "Rank" not in text.splitlines()[6]


def test_costs_of_other_devices_are_marked_and_a_gpu_hour_needs_a_gpu(tmp_path: Path) -> None:
    cost = Cost(seconds={"fit": 1800.0}, device="NVIDIA H100")
    noisy(tmp_path, "gpu", 0.6, cost=cost, pretraining=replace(cost, step_seconds=0.25))
    noisy(tmp_path, "cpu", 0.5, cost=replace(cost, device="cpu"), notes={"configurations_tried": 9})
    text = boards(tmp_path)["md"]
    assert "measured on different devices" in text
    lines = {name: next(line for line in text.splitlines() if f"| {name} |" in line) for name in ("gpu", "cpu")}
    assert "| 250 ms | 1.000 | " in lines["gpu"]
    assert "| — | — | — | 9 | cpu |" in lines["cpu"]
    assert "measured on different devices" in boards(tmp_path)["tex"]


def test_gpu_hours_are_unknown_where_a_part_of_them_is(tmp_path: Path) -> None:
    cost = Cost(seconds={"fit": 1800.0}, device="NVIDIA H100")
    noisy(tmp_path, "fetched", 0.6, cost=cost, weights="hub:some/model")
    noisy(tmp_path, "half", 0.6, cost=cost, pretraining=replace(cost, device="cpu"), weights="0123456789abcdef")
    assert "GPU hours" not in boards(tmp_path)["md"]
    noisy(tmp_path, "drawn", 0.6, cost=cost)
    assert "| 0.500 | 1.86 |" in next(line for line in boards(tmp_path)["md"].splitlines() if "| drawn |" in line)
