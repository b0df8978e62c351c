"""Paired comparison of two finished runs by patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.__main__ import main
from benchmark.comparison import compare
from benchmark.errors import UserError
from benchmark.store import Store
from benchmark.types import Metric, Predictions, RunResult, RunSpec
from tasks import TASKS


def save(out: Path, method: str, noise: float, patients: int = 60, title: str = "", hash_: str = "") -> None:
    """A finished zero-shot cell whose scores are the truth plus noise."""
    protocol = TASKS.load("zeroshot")().protocols("quick")[0]
    spec = RunSpec(
        method=method, method_version=1, config={"noise": noise}, weights="seed", task="zeroshot", task_version=1,
        protocol=protocol.name, protocol_hash=hash_ or protocol.hash, dataset="toy", dataset_version="1",
        splits={"test": str(patients)}, label_fraction=1.0, seed=0, eval_seed=0, precision="fp32",
    )  # fmt: skip
    generator = np.random.default_rng(7)
    targets = (generator.random((2 * patients, 1)) < 0.5).astype(float)
    scores = targets + noise * generator.normal(size=targets.shape)
    names = np.array([f"p{row // 2:03d}" for row in range(2 * patients)])
    uids = np.array([f"{name}-{row % 2}" for row, name in enumerate(names)])
    arrays = {"scores": scores, "predicted": (scores > 0.5).astype(float), "targets": targets}
    store = Store(out)
    sha256 = store.save_predictions(spec.key, Predictions(uids, names, arrays, {"classes": ("Edema",)}))
    result = RunResult(
        key=spec.key, status="ok", spec=spec, title=title or method, primary="auroc", metrics={"auroc": Metric(0.5)},
        predictions=sha256,
    )  # fmt: skip
    store.save(result)


def test_a_better_method_is_told_from_noise_and_equal_ones_are_not(tmp_path: Path) -> None:
    save(tmp_path, "good", 0.3)
    save(tmp_path, "bad", 3.0)
    save(tmp_path, "same", 0.3)
    ((row,), _) = compare(tmp_path, "good", "bad", "", 200)
    assert row.difference.low is not None
    assert row.difference.low > 0
    assert row.first is not None
    assert row.second is not None
    assert row.difference.value == pytest.approx(row.first - row.second)
    ((equal,), _) = compare(tmp_path, "good", "same", "", 200)
    assert (equal.difference.value, equal.difference.low, equal.difference.high) == (0.0, 0.0, 0.0)


def test_runs_on_other_rows_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, "good", 0.3)
    save(tmp_path, "bad", 3.0, patients=50)
    assert compare(tmp_path, "good", "bad", "", 50) == ([], [])
    assert main(["compare", "good", "bad", "--out", str(tmp_path)]) == 2
    assert "share no finished cell" in capsys.readouterr().err


def test_a_metric_that_is_not_there_and_a_name_that_fits_two_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "good", 0.3)
    save(tmp_path, "bad", 3.0)
    with pytest.raises(UserError, match="no metric 'dice'"):
        compare(tmp_path, "good", "bad", "dice", 10)
    save(tmp_path, "good", 0.4, title="good again")
    with pytest.raises(UserError, match="several results"):
        compare(tmp_path, "good", "bad", "", 10)
    assert len(compare(tmp_path, "good again", "bad", "", 10)[0]) == 1


def test_results_of_an_earlier_protocol_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, noise in (("good", 0.3), ("bad", 3.0)):
        save(tmp_path, name, noise, hash_="01234567")
    assert main(["compare", "good", "bad", "--out", str(tmp_path)]) == 2
    assert "@01234567: protocols that this version no longer has" in capsys.readouterr().err
    for name, noise in (("good", 0.3), ("bad", 3.0)):
        save(tmp_path, name, noise)
    assert main(["compare", "good", "bad", "--out", str(tmp_path)]) == 0
    assert "left out: zeroshot-prompt-pairs@01234567" in capsys.readouterr().out


def test_the_table_says_whether_the_interval_excludes_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, "good", 0.3)
    save(tmp_path, "bad", 3.0)
    assert main(["compare", "good", "bad", "--out", str(tmp_path), "--draws", "100"]) == 0
    assert "excludes 0" in capsys.readouterr().out
