"""Published numbers beside measured ones: where sources disagree, which badge a value gets, what has no counterpart."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.plan import CATALOGUE
from benchmark.store import Store
from benchmark.types import Metric, RunResult, RunSpec
from leaderboards import Row, load, make_row
from leaderboards.counterparts import COUNTERPARTS, UNLIKE, UNSTATED, VARIANTS, Counterpart, plain, published_names
from leaderboards.published_cells import NO_SOURCE, Beside, badges, beside, make_cells, published
from leaderboards.published_schema import Published, vocabulary
from leaderboards.published_store import PublishedStore, shipped
from leaderboards.published_text import beside_table, published_table, select
from tasks import TASKS
from tests.conftest import Command

ROOT = Path(__file__).resolve().parent.parent
MGCA = Counterpart(
    protocol_hash="0a1b2c3d", family="mgca", task="classification", setting="linear",
    metrics={"auroc": "AUROC"}, datasets={"rsna": "RSNA", "chexpert": "CheXpert"},
)  # fmt: skip
OURS = {"mgca-linear": MGCA}


def save(out: Path, value: float | None = 0.88, flags: tuple[str, ...] = (), **changes: Any) -> None:
    """A finished result of ours that has a counterpart, unless a change takes it away."""
    spec = RunSpec(**{
        "method": "convirt", "method_version": 1, "config": {}, "weights": "seed", "task": "classification", "task_version": 1,
        "protocol": "mgca-linear", "protocol_hash": "0a1b2c3d", "dataset": "chexpert", "dataset_version": "1",
        "splits": {"test": "t"}, "label_fraction": 0.1, "seed": 0, "eval_seed": 0, "precision": "fp32", **changes,
    })  # fmt: skip
    result = RunResult(
        key=spec.key, status="ok", spec=spec, title=spec.method, primary="auroc", flags=flags, n_used=5, n_expected=5,
        metrics={"auroc": Metric(value), "auprc": Metric(0.5)},
    )  # fmt: skip
    Store(out).save(result)


def row_of(out: Path, **changes: Any) -> Row:
    save(out, **changes)
    results, refused = load(out / "results")
    assert refused == []
    return make_row(results[0])


def told(row: Row, **changes: Any) -> Beside:
    return beside(row, row.metric, row.value, counterparts=OURS, **changes)


def number(value: float, source: str = "A", **changes: Any) -> Published:
    (first, *_) = (row for row in shipped().rows if row.method == "ConVIRT" and row.protocol == "mgca")
    plain_row = replace(first, value=value, spread=None, spread_kind="", digits=1, citation=source, line=int(value * 1000))
    return replace(plain_row, **changes)


# ------------------------------------------------------------------------------------------------- cells


def test_sources_that_print_different_numbers_for_one_cell_give_a_range() -> None:
    (cell,) = published("CheXpert", "mgca", 0.01, "AUROC", "MGCA")
    assert (cell.low, cell.high, cell.disagree) == (85.8, 87.6, True)
    assert cell.text == "85.80–87.6"
    assert cell.sources == ("EGMA", "G2D")


def test_rounding_is_no_disagreement_and_sources_are_kept() -> None:
    (cell,) = published("chexpert", "mgca", 0.1, "auroc", "convirt", task="classification")
    assert not cell.disagree
    assert set(cell.sources) == {"ASG", "EGMA", "G2D"}
    assert cell.text == "86.80"
    (rounded,) = make_cells([number(87.34, digits=2), number(87.3, "B")])
    assert not rounded.disagree
    (apart,) = make_cells([number(87.36, digits=2), number(87.3, "B")])
    assert apart.disagree


def test_protocols_settings_and_fractions_are_never_one_cell() -> None:
    # NIH at 1 %: BenchX and G2D fine-tune on different splits, ASG trains a linear head.
    rows = [row for row in shipped().rows if (row.method, row.dataset, row.fraction) == ("ConVIRT", "NIH CXR14", 0.01)]
    cells = make_cells(rows)
    assert all(len({(row.protocol, row.setting) for row in cell.rows}) == 1 for cell in cells)
    assert len({cell.first.protocol for cell in cells}) == 4
    assert [cell.first.setting for cell in published("SIIM", "lovt", 1.0, "Dice", "LoVT")] == ["fine-tuned", "frozen"]
    assert published("SIIM", "lovt", 0.1, "Dice", "LoVT") == ()
    assert [cell.low for cell in published("SIIM", "lovt", 1.0, "Dice", "LoVT", setting="frozen")] == [43.9]
    assert not [cell for cell in published("CheXpert-5x200c", "kt-5x200c", None, "Accuracy") if cell.first.finding]


def test_numbers_of_unknown_protocol_are_neither_found_nor_merged() -> None:
    assert published("SIIM", "", None, "AUROC", "PRIOR") == ()
    rows = [row for row in shipped().rows if (row.method, row.dataset, row.protocol) == ("PRIOR", "SIIM", "")]
    assert len(rows) == len(make_cells(rows)) == 2


# ------------------------------------------------------------------------------------------------- badges


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (86.8, ("within 0.00 of A (reprint)",)),
        (87.8, ("within 1.00 of A (reprint)",)),
        (85.5, ("outside A range by 1.30",)),
        (100.0, ("outside A range by 13.20",)),
    ],
)
def test_a_value_near_one_source_is_within_and_any_other_outside(value: float, expected: tuple[str, ...]) -> None:
    (cell,) = make_cells([number(86.8)])
    assert badges(cell, value) == expected


def test_a_spread_widens_what_counts_as_within() -> None:
    (cell,) = make_cells([number(80.0, spread=2.0, spread_kind="std")])
    assert badges(cell, 82.5) == ("within 2.50 of A (reprint)",)
    assert badges(cell, 83.5) == ("outside A range by 1.50",)
    assert badges(cell, 82.5, tolerance=0.0) == ("outside A range by 0.50",)


def test_of_equal_numbers_the_one_closest_to_who_measured_it_is_named() -> None:
    own = number(86.8, "B", kind="paper", measured_by="authors")
    (cell,) = make_cells([number(86.8), own, number(86.8, "C", kind="aggregator")])
    assert badges(cell, 87.0) == ("within 0.20 of B (paper, own)",)


def test_disagreeing_sources_are_said_beside_either_badge() -> None:
    (cell,) = make_cells([number(85.2), number(88.6, "B, a paper", kind="paper", measured_by="authors")])
    assert badges(cell, 87.0) == ("within 1.60 of B (paper, own)", "sources disagree (85.2–88.6)")
    assert badges(cell, 90.0) == ("outside A/B range by 1.40", "sources disagree (85.2–88.6)")


# --------------------------------------------------------------------------------------- beside a result


def test_a_result_under_a_stated_counterpart_stands_beside_its_number(tmp_path: Path) -> None:
    found = told(row_of(tmp_path, value=0.871))
    assert found.cell is not None
    assert found.cell.first.dataset == "CheXpert"
    assert found.badges == ("within 0.30 of ASG (reprint)",)
    assert told(row_of(tmp_path / "far", value=0.5)).badges == ("outside ASG/EGMA/G2D range by 36.80",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"flags": ("phantom",)}, "synthetic"),
        ({"flags": ("development",)}, "checks"),
        ({"flags": ("own-data",)}, "your own"),
        ({"flags": ("partial",)}, "not every row"),
        ({"dataset": "phantom"}, "synthetic"),
        ({"dataset": "phantom:train=400"}, "synthetic"),
        ({"dataset": "siim"}, "no counterpart of the data set siim"),
        ({"protocol": "another"}, UNSTATED),
        ({"protocol_hash": "ffffffff"}, "no longer the protocol"),
        ({"value": None}, "undefined"),
        ({"label_fraction": 0.5}, "no source prints convirt"),
        ({"method": "mcr"}, "no source prints mcr"),
        ({"method": "convirt+"}, "no source prints convirt+"),
        ({"method": "clip"}, "no source prints clip"),
    ],
)
def test_without_a_match_there_is_no_comparable_source(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    found = told(row_of(tmp_path, **changes))
    assert found.badges == (NO_SOURCE,)
    assert found.cell is None
    assert reason in found.reason


def test_the_phantom_never_matches_even_if_a_counterpart_names_it(tmp_path: Path) -> None:
    row = row_of(tmp_path, dataset="phantom", flags=("phantom",))
    entry = replace(MGCA, datasets={"phantom": "CheXpert"})
    assert beside(row, "auroc", 0.868, counterparts={"mgca-linear": entry}).badges == (NO_SOURCE,)


def test_a_metric_that_the_family_does_not_print_has_no_counterpart(tmp_path: Path) -> None:
    row = row_of(tmp_path)
    assert beside(row, "auprc", 0.5, counterparts=OURS).reason == "mgca prints no auprc"


def test_the_encoder_decides_under_which_name_a_method_was_published() -> None:
    assert published_names("mgca", {"image_encoder": "resnet50"}) == {"mgca", "mgcar50"}
    assert published_names("mgca", {"image_encoder": "vit"}) == {"mgcavit"}
    assert published_names("mgca", {}) == frozenset()
    assert published_names("biovil_t", {}) == {"biovilt"}
    names = {plain(row.method) for row in shipped().rows}
    assert {plain(name) for by_encoder in VARIANTS.values() for told in by_encoder.values() for name in told} <= names


def eight_by_200(out: Path, notes: dict[str, Any], **changes: Any) -> Beside:
    """What stands beside ConVIRT's precision at 1 in text-to-image retrieval."""
    spec = {"protocol": "retrieval-8x200-text", "protocol_hash": COUNTERPARTS["retrieval-8x200-text"].protocol_hash}
    row = row_of(out, **{"task": "retrieval", "label_fraction": 1.0, **spec, **changes})
    return beside(replace(row, notes=notes), "precision@1", 0.6)


def test_retrieval_by_the_public_lists_of_8x200_stands_beside_its_numbers(tmp_path: Path) -> None:
    found = eight_by_200(tmp_path, {"queries": 40, "candidates": 1600})
    assert found.cell is not None
    assert found.badges == ("within 0.25 of EGMA (reprint)",)


@pytest.mark.parametrize(
    ("notes", "changes", "reason"),
    [
        ({"queries": 40, "candidates": 1599}, {}, "has 1600 candidates, and these rows have 1599"),
        ({}, {}, "has 40 queries, and these rows have no number of them"),
        ({"queries": 40, "candidates": 1600, "split_differs": "x is of --split y"}, {}, "the rows are others"),
        ({"queries": 40, "candidates": 1600}, {"dataset": "csv:cxr-open"}, "no counterpart of the data set csv:cxr-open"),
        ({"queries": 40, "candidates": 1600}, {"protocol": "retrieval-8x200-image"}, "published numbers of 8x200"),
    ],
)
def test_other_rows_have_no_counterpart(tmp_path: Path, notes: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    found = eight_by_200(tmp_path, notes, **changes)
    assert found.badges == (NO_SOURCE,)
    assert reason in found.reason


def test_a_protocol_is_a_published_one_by_its_hash_or_says_why_not(tmp_path: Path) -> None:
    for name in TASKS:
        for preset in CATALOGUE:
            for protocol in TASKS.load(name)().protocols(preset):
                entry = COUNTERPARTS.get(protocol.name)
                if entry is not None:
                    assert entry.protocol_hash == protocol.hash, f"look at {protocol.name} again before its hash is changed"
                    continue
                out = tmp_path / protocol.hash
                found = beside(row_of(out, protocol=protocol.name, protocol_hash=protocol.hash), "auroc", 0.9)
                assert found.badges == (NO_SOURCE,)
                assert found.reason in (UNLIKE.get(protocol.name), UNSTATED)
    assert not COUNTERPARTS.keys() & UNLIKE.keys()
    known = {protocol.name for name in TASKS for preset in CATALOGUE for protocol in TASKS.load(name)().protocols(preset)}
    assert COUNTERPARTS.keys() | UNLIKE.keys() <= known


def test_counterparts_name_what_the_store_knows() -> None:
    known = vocabulary().names
    for entry in (*COUNTERPARTS.values(), MGCA):
        assert entry.family in known["protocol"]
        assert entry.task in known["task"]
        assert entry.setting in known["setting"]
        assert set(entry.metrics.values()) <= vocabulary().units.keys()
        assert set(entry.datasets.values()) <= known["dataset"].keys()


# ----------------------------------------------------------------------------------------------- tables


def test_the_table_beside_shows_means_over_seeds_in_the_unit_of_the_source(tmp_path: Path) -> None:
    save(tmp_path, 0.86, seed=0)
    save(tmp_path, 0.87, seed=1)
    save(tmp_path, 0.4, method="mcr")
    text = beside_table(map(make_row, load(tmp_path / "results")[0]), counterparts=OURS)
    (line,) = (line for line in text.splitlines() if " convirt " in line)
    assert "86.50 %" in line
    assert "86.80 %" in line
    assert "within 0.30 of" in line
    assert "EGMA Table 1 (reprint)" in line
    assert "mgca-linear: no comparable source (no source prints mcr under mgca on CheXpert)" in text


def test_what_keeps_one_seed_away_keeps_their_mean_away(tmp_path: Path) -> None:
    save(tmp_path, 0.86, seed=0)
    save(tmp_path, 0.87, seed=1, flags=("partial",))
    text = beside_table(map(make_row, load(tmp_path / "results")[0]), counterparts=OURS)
    assert "mgca-linear: no comparable source (partial: not every row of the test split was used)" in text


def test_remarks_kinds_and_absences_stand_in_the_table_of_the_store() -> None:
    text = published_table(*select(shipped(), "prior", dataset="siim", task="zeroshot"))
    assert "constant answer" in text
    assert "reprint" in text
    assert ", own" not in text
    assert "its own paper (ICCV 2023)" in text
    assert "https://arxiv.org/abs/2403.12416" in text
    variants = {row.method for row in select(shipped(), "mgca")[0]}
    assert variants == {"MGCA", "MGCA-R50", "MGCA-ViT"}
    assert "no published number fits" in published_table(*select(PublishedStore((), shipped().absent, ()), "mcr"))


# ------------------------------------------------------------------------------------------ command line


def test_check_ends_with_one_where_something_is_wrong(command: Command, tmp_path: Path) -> None:
    assert command("leaderboard", "check") == 0
    assert "1556 numbers in 16 files, 41 known gaps, 0 faults" in command.output
    folder = tmp_path / "published"
    folder.mkdir()
    shipped_file = ROOT / "leaderboards/published/medkco.csv"
    (folder / "medkco.csv").write_text(shipped_file.read_text().replace("MedKCO, CVPR 2026, second hand", " "))
    for place in (folder, folder / "medkco.csv"):
        assert command("leaderboard", "check", str(place)) == 1
        assert "medkco.csv:2: citation is empty: a number without its source is refused\n" in command.output
    assert command("leaderboard", "check", str(shipped_file)) == 0
    assert command("leaderboard", "check", str(tmp_path / "nowhere")) == 2
    command.refused("nowhere is not there")
    (tmp_path / "empty").mkdir()
    assert command("leaderboard", "check", str(tmp_path / "empty")) == 2
    command.refused("no CSV file")


def test_numbers_are_looked_up_by_name(command: Command) -> None:
    assert command("leaderboard", "published", "--method", "prior", "--dataset", "chexpert") == 0
    assert "86.16" in command.output
    assert "34.90" not in command.output  # CheXpert 5x200 is another set
    assert command("leaderboard", "published", "--kind", "second hand", "--metric", "f1chexbert") == 0
    assert "5 numbers" in command.output
    assert command("leaderboard", "published", "--method", "priorr") == 2
    command.refused("did you mean PRIOR?")
    assert command("leaderboard", "published", "--dataset", "rsma") == 2
    command.refused("--dataset", "RSNA")
    assert command("leaderboard", "published", "--help") == 0
    assert "examples:" in command.output


def test_results_are_set_beside_published_numbers(command: Command) -> None:
    assert command("compare", "--published", "--out", str(command.out)) == 2
    command.refused("has no results")
    save(command.out, 0.868)
    save(command.out, 0.7, dataset="phantom", flags=("phantom",), method="mcr")
    (command.out / "results/broken.json").write_text("{")
    assert command("compare", "--published", "--out", str(command.out)) == 0
    assert command.output.count(NO_SOURCE) >= 2
    assert "phantom: synthetic data" in command.output
    assert "left out: broken.json" in command.output
    assert command("compare", "--published", "convirt", "--out", str(command.out)) == 0
    assert "mcr" not in command.output
    assert command("compare", "--published", "nobody", "--out", str(command.out)) == 2
    command.refused("no result")
    assert command("compare", "convirt", "--out", str(command.out)) == 2
    command.refused("two methods, or --published")


def test_the_store_is_read_in_under_a_fifth_of_a_second_and_without_torch() -> None:
    code = (
        "import sys, time, leaderboards.published_text\n"
        "from leaderboards.published_store import shipped\n"
        "start = time.process_time(); shipped(); spent = time.process_time() - start\n"
        "heavy = {'torch', 'pandas'} & sys.modules.keys()\n"
        "sys.exit(f'{heavy} {spent}' if heavy or spent > 0.2 else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
