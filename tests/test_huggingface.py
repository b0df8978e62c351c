"""Files for the Hugging Face hub, read back by huggingface_hub itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from benchmark.errors import UserError
from leaderboards.huggingface import huggingface_files, write_huggingface
from tests.conftest import Command
from tests.test_leaderboards import HOSTILE, bare, groups_of, hostile, result, save

REAL = {"dataset": "rsna", "task": "classification"}


def read(files: dict[str, str], name: str) -> list[tuple[str, str, float]]:
    """Configuration, metric and value of each result of a card."""
    found = ModelCard(files[name]).data.eval_results
    return [(item.dataset_config, item.metric_type, item.metric_value) for item in found]


def test_a_card_holds_every_metric_by_protocol_and_fraction() -> None:
    files = huggingface_files(
        groups_of(result(0.5), result(0.4, changes={"label_fraction": 0.1}), bare("failed", "no", method="x")), {}
    )
    assert list(files) == ["mcr/README.md"]
    assert read(files, "mcr/README.md") == [
        ("pair@ab12cd34, 10 % of the labels", "R@10", 0.4),
        ("pair@ab12cd34, 10 % of the labels", "median rank", 12.5),
        ("pair@ab12cd34, 100 % of the labels", "R@10", 0.5),
        ("pair@ab12cd34, 100 % of the labels", "median rank", 12.5),
    ]
    (first, *_) = ModelCard(files["mcr/README.md"]).data.eval_results
    assert first.metric_args == {"low": 0.4, "high": 0.625, "patients": 120}
    assert "PHANTOM: synthetic data" in first.dataset_name
    assert "never comparable with published numbers" in files["mcr/README.md"]


def test_seeds_are_one_value_with_their_number() -> None:
    seeds = [result(value, changes={"seed": seed, "weights": f"{seed}" * 16}) for seed, value in enumerate((0.4, 0.6))]
    (found, *_) = ModelCard(huggingface_files(groups_of(*seeds), {})["mcr/README.md"]).data.eval_results
    assert found.metric_value == pytest.approx(0.5)
    assert found.metric_args == {"seeds": 2}


def test_eval_results_name_a_benchmark_that_was_given_and_never_the_phantom() -> None:
    groups = groups_of(result(flags=(), changes=REAL), result(changes={**REAL, "dataset": "phantom"}))
    files = huggingface_files(groups, {"rsna": "me/cxr-bench", "phantom": "me/phantom"})
    assert set(files) == {"mcr/README.md", "mcr/.eval_results/classification.yaml"}
    (entry,) = parse_eval_result_entries(yaml.safe_load(files["mcr/.eval_results/classification.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("me/cxr-bench", "pair-100", 0.5)
    assert entry.date == "2026-01-01T10:00:00Z"
    assert "pair@ab12cd34" in (entry.notes or "")
    assert "95 % interval 0.400 to 0.625" in (entry.notes or "")
    assert set(huggingface_files(groups, {})) == {"mcr/README.md"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_text_and_inside_the_folder(tmp_path: Path, name: str) -> None:
    out = save(tmp_path / "runs", hostile(name))
    for path in write_huggingface(out, {}):
        assert path.resolve().is_relative_to((out / "huggingface").resolve())
        card = ModelCard(path.read_text())
        assert "R@10" in [item.metric_type for item in card.data.eval_results]
        shown = [
            line for line in card.text.splitlines() if not line.startswith("    ")
        ]  # those are code, where nothing is markup
        assert "<script" not in "".join(shown)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_two_configurations_have_two_folders() -> None:
    files = huggingface_files(groups_of(result(), result(changes={"config": {"stream": "dual"}})), {})
    assert set(files) == {"mcr/README.md", "mcr-2/README.md"}


def test_nothing_to_export_and_a_bad_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no result with a score"):
        write_huggingface(save(tmp_path, bare("failed", "no")), {})
    with pytest.raises(UserError, match="OWNER/NAME"):
        write_huggingface(tmp_path, {"rsna": "../../etc/passwd"})


def test_the_command_writes_them(command: Command) -> None:
    save(command.out, result(flags=(), changes=REAL))
    assert command("report", "--out", str(command.out), "--format", "hf") == 0
    assert "no .eval_results" in command.output
    assert command("report", "--out", str(command.out), "--format", "hf", "--hub-dataset", "rsna=me/cxr-bench") == 0
    assert (command.out / "huggingface" / "mcr" / ".eval_results" / "classification.yaml").is_file()
    assert command("report", "--out", str(command.out), "--hub-dataset", "rsna=me/x") != 0
    command.refused("--format hf")
    assert command("report", "--out", str(command.out), "--format", "hf", "--hub-dataset", "rsna") != 0
    command.refused("NAME=OWNER/ID")
