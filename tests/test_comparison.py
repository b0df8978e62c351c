"""Paired comparison of two finished runs by patient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.__main__ import main
from benchmark.comparison import compare
from benchmark.errors import UserError
from benchmark.types import Cost, RunResult
from tests.finished import finish, predictions_of


def save(
    out: Path, method: str, noise: float, patients: int = 60, title: str = "", hash_: str = "", **changes: Any
) -> RunResult:
    """A finished zero-shot cell whose scores are the truth plus noise."""
    of_hash = {"protocol_hash": hash_} if hash_ else {}
    config = {"noise": noise}
    return finish(out, method, predictions_of(noise, patients), title=title or method, config=config, **of_hash, **changes)


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


def test_two_folders_are_compared_method_by_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, noise in (("a", 0.5), ("b", 1.0)):
        save(tmp_path / folder, "mine", noise)
        save(tmp_path / folder, "other", 2 * noise)
    rows, _ = compare(tmp_path, str(tmp_path / "a"), str(tmp_path / "b"), "", 100)
    assert [row.titles for row in rows] == [("mine", "mine"), ("other", "other")]
    assert all(row.difference.value is not None and row.difference.value > 0 for row in rows)
    assert rows[0].differs == ("config.noise: 0.5 | 1.0",)
    (one,), _ = compare(tmp_path, f"{tmp_path / 'a'}:mine", f"{tmp_path / 'b'}:other", "", 50)
    assert "method: mine | other" in one.differs
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--draws", "50"]) == 0
    assert "config.noise: 1.0 | 2.0" in capsys.readouterr().out
    save(tmp_path / "c", "third", 1.0)
    with pytest.raises(UserError, match="share no finished method"):
        compare(tmp_path, str(tmp_path / "a"), str(tmp_path / "c"), "", 10)


def test_seeds_are_one_line(tmp_path: Path) -> None:
    for seed in (0, 1):
        finish(tmp_path, "two", predictions_of(0.5, seed=seed), seed=seed)
    save(tmp_path, "one", 2.0)
    ((row,), _) = compare(tmp_path, "two", "one", "", 100)
    assert row.seeds == "0,1 | 0"
    alone = [
        compare(tmp_path, key, "one", "", 0)[0][0].first for key in sorted(p.stem for p in (tmp_path / "results").glob("*"))
    ]
    assert row.first in [pytest.approx((a + b) / 2) for a in alone for b in alone if a is not None and b is not None]


def test_costs_are_ratios_and_those_of_other_devices_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cost = Cost(seconds={"fit": 3.0, "predict": 1.0}, peak_allocated_mib=200.0, device="H100")
    save(tmp_path, "slow", 0.5, cost=cost)
    save(tmp_path, "fast", 0.5, cost=Cost(seconds={"fit": 2.0}, peak_allocated_mib=100.0, device="H100"))
    save(tmp_path, "laptop", 0.5, cost=Cost(seconds={"fit": 8.0}, device="cpu"))
    ((row,), _) = compare(tmp_path, "slow", "fast", "", 0)
    assert {name: (ratio.value, ratio.marked) for name, ratio in row.costs.items()} == {
        "evaluation": (2.0, False), "memory": (2.0, False),
    }  # fmt: skip
    ((row,), _) = compare(tmp_path, "slow", "laptop", "", 0)
    assert set(row.costs) == {"evaluation"}
    assert row.costs["evaluation"].marked
    assert main(["compare", "slow", "laptop", "--out", str(tmp_path), "--draws", "20"]) == 0
    assert "x0.50*" in capsys.readouterr().out


def test_rows_that_any_seed_lacks_are_left_out_of_both_sides(tmp_path: Path) -> None:
    rows = predictions_of(0.5)
    part = rows.take(np.flatnonzero(rows.patients != "p000"))
    splits = finish(tmp_path, "one", rows).spec.splits
    finish(tmp_path, "two", rows, splits=splits)
    finish(tmp_path, "two", part, seed=1, splits=splits)
    for first, second in (("two", "one"), ("one", "two")):
        ((row,), _) = compare(tmp_path, first, second, "", 200)
        assert row.difference.n == 59
        assert (row.difference.value, row.difference.low, row.difference.high) == (0.0, 0.0, 0.0)


def test_runs_that_name_different_patients_for_a_row_are_refused(tmp_path: Path) -> None:
    rows = predictions_of(0.5)
    splits = finish(tmp_path, "one", rows).spec.splits
    finish(tmp_path, "two", replace(rows, patients=rows.patients[::-1]), splits=splits)
    with pytest.raises(UserError, match="different patients for 120 test rows"):
        compare(tmp_path, "one", "two", "", 10)


def test_runs_of_another_version_of_the_task_are_not_compared(tmp_path: Path) -> None:
    save(tmp_path, "good", 0.3)
    save(tmp_path, "bad", 3.0, task_version=2)
    assert compare(tmp_path, "good", "bad", "", 10) == ([], [])


def test_pretrainings_on_other_devices_are_marked_though_both_were_evaluated_on_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Cost(seconds={"fit": 2.0}, peak_allocated_mib=100.0, device="H100")
    for name, device, peak in (("same", "H100", 300.0), ("other", "A100", 300.0), ("unmeasured", "A100", None)):
        save(tmp_path, name, 0.5, cost=here, pretraining=Cost(seconds={"fit": 9.0}, peak_allocated_mib=peak, device=device))
    save(tmp_path, "mine", 0.5, cost=here, pretraining=Cost(seconds={"fit": 3.0}, peak_allocated_mib=150.0, device="H100"))
    marked = {}
    for name in ("same", "other", "unmeasured"):
        ((row,), _) = compare(tmp_path, "mine", name, "", 0)
        marked[name] = {cost for cost, ratio in row.costs.items() if ratio.marked}
    assert marked == {"same": set(), "other": {"pretraining", "memory"}, "unmeasured": {"pretraining"}}
    assert main(["compare", "mine", "other", "--out", str(tmp_path), "--draws", "20"]) == 0
    assert "x0.33*" in capsys.readouterr().out
