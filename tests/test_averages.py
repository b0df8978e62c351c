"""Means over tasks: only over cells that all compared methods have, with the formula, and what was left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import leaderboards
from leaderboards.averages import Average, average_text, averages
from tests.test_leaderboards import HOSTILE, bare, board, groups_of, result, save

PROBE = {"task": "classification", "protocol": "probe", "protocol_hash": "00000001"}
ZERO = {"task": "zeroshot", "protocol": "prompts", "protocol_hash": "00000002"}


def table() -> tuple[Average, ...]:
    return averages(
        groups_of(
            result(0.2, changes={"method": "a"}, title="A"),
            result(0.6, changes={"method": "b"}, title="B"),
            result(0.5, changes={"method": "a", **PROBE}, title="A"),
            result(0.7, changes={"method": "b", **PROBE}, title="B"),
            result(0.7, changes={"method": "a", **PROBE, "label_fraction": 0.1}, title="A"),
            result(0.9, changes={"method": "b", **PROBE, "label_fraction": 0.1}, title="B"),
            result(0.9, changes={"method": "a", **ZERO}, title="A"),
            bare("unsupported", "no text", method="b", title="B", **ZERO),
            result(1.0, title="oracle", role="reference", changes={"method": "o"}),
        )
    )


def test_the_mean_over_tasks_is_that_of_the_means_of_common_cells() -> None:
    (found,) = table()
    assert found.methods == ("B", "A")
    assert found.overall("A") == pytest.approx((0.2 + (0.5 + 0.7) / 2) / 2)
    assert found.overall("B") == pytest.approx((0.6 + (0.7 + 0.9) / 2) / 2)
    assert found.formula == ("mean = [pair@ab12cd34, R@10 + (probe@00000001 at 10 %, R@10 + probe@00000001, R@10) / 2] / 2")
    assert found.left_out == {"prompts@00000002, R@10": "not of B"}


def test_methods_may_be_chosen_and_then_share_more_cells() -> None:
    groups = groups_of(result(0.2, changes={"method": "a"}, title="A"), result(0.6, changes={"method": "b", **ZERO}, title="B"))
    (both,) = averages(groups)
    assert both.overall("A") is None
    assert both.formula == "no mean: no cell is common to all 2 methods"
    (one,) = averages(groups, ("a",))
    assert one.overall("A") == 0.2
    assert averages(groups, ("nobody",)) == ()


def test_what_has_no_common_scale_is_left_out() -> None:
    ranks = {"task": "retrieval", "protocol": "ranks", "protocol_hash": "00000003"}
    (found,) = averages(
        groups_of(
            result(0.2, changes={"method": "a"}, title="A"),
            result(0.6, changes={"method": "b"}, title="B"),
            result(0.3, changes={"method": "a", **ranks}, title="A", higher_is_better=False),
            result(0.4, changes={"method": "b", **ranks}, title="B", higher_is_better=False),
            result(30.0, changes={"method": "a", **ZERO}, title="A"),
            result(0.4, changes={"method": "b", **ZERO}, title="B"),
        )
    )
    assert set(found.left_out.values()) == {"lower is better", "not within 0 and 1"}
    assert found.overall("A") == 0.2


def test_other_splits_and_other_sets_are_never_averaged_together() -> None:
    groups = groups_of(
        *(result(0.2, changes={"method": name, "splits": {"test": split}}, title=name) for name in "ab" for split in ("x", "y"))
    )
    assert len(averages(groups)) == 2


@pytest.mark.parametrize(
    "change", [{"weights": "file:0123456789ab"}, {"precision": "bf16"}, {"config": {"stream": "double"}}, {"method_version": 2}]
)
def test_runs_of_one_title_that_differ_in_more_than_seeds_are_never_one_line(change: dict[str, Any]) -> None:
    cells = (
        result(0.2, changes={"method": "a"}, title="A"),
        result(0.4, changes={"method": "a", **PROBE, **change}, title="A"),
        *(result(0.6, changes={"method": "b", **cell}, title="B") for cell in ({}, PROBE)),
    )
    (found,) = averages(groups_of(*cells))
    assert len(found.methods) == 3
    assert len(set(found.methods)) == 3
    assert sum(label.startswith("A (") for label in found.methods) == 2
    assert found.cells == {}
    (one,) = averages(groups_of(*cells, result(0.8, changes={"method": "a", **change}, title="A")), ("A", "b"))
    assert list(one.cells) == ["pair@ab12cd34, R@10"]


def test_seeds_of_other_cells_are_one_line() -> None:
    (found,) = averages(
        groups_of(
            *(
                result(0.2 + 0.1 * seed, changes={"method": "a", "seed": seed, "weights": f"w{seed}"}, title="A")
                for seed in (0, 1)
            ),
            result(0.4, changes={"method": "a", "seed": 2, "weights": "w2", **PROBE}, title="A"),
            *(result(0.6, changes={"method": "b", **cell}, title="B") for cell in ({}, PROBE)),
        )
    )
    assert set(found.methods) == {"A", "B"}
    assert found.overall("A") == pytest.approx((0.25 + 0.4) / 2)


def test_the_same_seed_with_other_weights_keeps_its_lines_over_the_tasks() -> None:
    (found,) = averages(
        groups_of(
            *(
                result(value, changes={"method": "a", "weights": weights, **cell}, title="A")
                for value, weights in ((0.2, "w1"), (0.8, "w2"))
                for cell in ({}, PROBE)
            )
        )
    )
    assert sorted(found.overall(label) or 0 for label in found.methods) == pytest.approx([0.2, 0.8])


def test_two_versions_of_a_task_are_two_cells() -> None:
    (found,) = averages(
        groups_of(
            *(
                result(value + 0.1 * version, changes={"method": name, "task_version": version}, title=name)
                for name, value in (("A", 0.1), ("B", 0.5))
                for version in (1, 2)
            )
        )
    )
    assert list(found.cells) == ["pair@ab12cd34, R@10, retrieval version 1", "pair@ab12cd34, R@10, retrieval version 2"]
    assert found.overall("A") == pytest.approx(0.25)


def test_the_means_stand_in_markdown_json_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmark.__main__ import main

    save(tmp_path, result(0.2, changes={"method": "a"}, title="A"), result(0.6, changes={"method": "b"}, title="B"))
    text = board(tmp_path)
    assert "## Means over tasks" in text["md"]
    assert "| B | 0.600 | 0.600 |" in text["md"]
    (found,) = json.loads(text["json"])["averages"]
    assert found["methods"]["A"] == {"mean": 0.2, "tasks": {"retrieval": 0.2}}
    assert main(["leaderboard", "average", "--out", str(tmp_path), "--method", "a,b"]) == 0
    assert "mean = pair@ab12cd34, R@10" in capsys.readouterr().out
    assert main(["leaderboard", "average", "--out", str(tmp_path), "--method", "c"]) == 2
    assert "has no scores of c" in capsys.readouterr().err


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_one_line(name: str) -> None:
    (found,) = averages(
        groups_of(result(0.2, changes={"method": "a"}, title=name), result(0.6, changes={"method": "b"}, title="B"))
    )
    assert len(average_text(found).splitlines()) == 6
    text = leaderboards.render.markdown(groups_of(result(0.2, changes={"method": "a"}, title=name), result(0.6, title="B")), ())
    assert "<script" not in text
