"""The runner: what it records, what it leaves alone, and what it does when a method, an image, a memory or a cell fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmark import analysis_rows
from benchmark.data.sources import SOURCES
from benchmark.statistics import with_intervals
from benchmark.store import Store, read_predictions
from benchmark.types import Features, TextBatch
from methods import METHODS
from methods.baselines import Random
from tasks import TASKS
from tasks.retrieval import Retrieval
from tests.conftest import TINY, TRAINED, Command
from tests.toy import ToySource

REFERENCES = {
    "retrieval": {"random ranking", "frequent reports first", "oracle (true findings)"},
    "zeroshot": {"majority class", "prevalence", "all positive"},
    "classification": {"majority class", "prevalence", "all positive"},
    "segmentation": {"empty mask", "all foreground", "mean training mask"},
    "detection": {"no box", "center box", "mean training box"},
}


# ---------------------------------------------------------------------------------------- what it records


def test_every_cell_has_its_trivial_rows_costs_and_notes(command: Command) -> None:
    assert command.run("mcr", "all", "--draws", "20", settings=(*TINY, *TRAINED)) == 0, command.output
    results, references = command.results(), command.results("reference")
    for result in results:
        group = (result.spec.protocol_hash, result.spec.label_fraction)
        beside = {row.title for row in references if (row.spec.protocol_hash, row.spec.label_fraction) == group}
        assert beside == REFERENCES[result.spec.task]
        assert result.notes["weights_sha256"]
        cost, pretraining = result.cost, result.pretraining
        assert pretraining is not None
        for part in (cost, pretraining):
            assert (part.peak_allocated_mib, part.peak_reserved_mib, part.peak_device_mib) == (None, None, None)
            assert part.device == "cpu"
            assert part.params is not None
            assert part.params > 1000
            assert part.gmacs is not None
            assert part.gmacs > 0
        assert pretraining.gmacs is not None and cost.gmacs is not None and pretraining.gmacs > cost.gmacs  # noqa: PT018
        assert cost.batch_size == 16
        assert {"features", "predict"} <= set(cost.seconds)
        assert result.notes["draws"] == 20
        assert set(pretraining.seconds) == {"pretrain"}
        assert result.metrics[result.primary].n == 6  # patients
        assert set(result.flags) - {"degenerate", "trivial"} == {"toy"}  # a head of two steps may predict nothing
        assert torch.__version__.startswith(result.environment["torch"])
        assert result.started <= result.finished
    notes = {result.spec.task: result.notes for result in results}
    assert notes["retrieval"]["pool"] == 12
    assert notes["retrieval"]["texts_truncated"] == 0
    assert notes["classification"]["train_rows"] == 36
    assert notes["segmentation"]["head_params"]
    assert "ok" in command.output
    assert str(command.out / "leaderboard.md") in command.output


def test_truncated_texts_are_counted_over_all_calls(command: Command) -> None:
    settings = tuple("max_tokens=4" if item.startswith("max_tokens") else item for item in TINY)
    assert command.run("random", "retrieval,zeroshot", settings=settings) == 0
    for result in command.results():
        prompts = 18  # three of both signs for three classes
        assert result.notes["texts_truncated"] == result.notes.get("distinct_texts", prompts)


def test_predictions_give_every_metric_again(command: Command) -> None:
    assert command.run("random", "all", "--draws", "30") == 0
    store = Store(command.out)
    for result in command.results() + command.results("reference"):
        task = TASKS.load(result.spec.task)()
        protocol = next(item for item in task.protocols("quick") if item.name == result.spec.protocol)
        predictions = read_predictions(store.predictions_path(result.key))

        def score(weights: Any, task: Any = task, predictions: Any = predictions, protocol: Any = protocol) -> Any:
            return task.score(predictions, protocol, weights)

        again = with_intervals(score, predictions.patients, 30, result.spec.eval_seed)
        assert again == result.metrics


def test_seeds_settings_and_fractions_are_cells_of_their_own(command: Command) -> None:
    words = ("--seed", "0,1", "--eval-seed", "0,3", "--labels", "0.5,1")
    assert command.run("random", "classification", *words) == 0
    specs = {(item.spec.seed, item.spec.eval_seed, item.spec.label_fraction) for item in command.results()}
    assert specs == {(seed, other, part) for seed in (0, 1) for other in (0, 3) for part in (0.5, 1.0)}
    keys = {item.key for item in command.results()}
    assert command.run("random", "classification", settings=(*TINY, "embed_dim=8")) == 0
    assert len({item.key for item in command.results()} - keys) == 3


def test_a_dry_run_runs_and_writes_nothing(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retrieval, "run", None)
    monkeypatch.setattr(Random, "build", None)
    assert command.run("mcr,random", "retrieval,classification", "--dry-run") == 0
    assert "10 cells, 10 to run; nothing was run" in command.output
    assert "pretrain 240 steps" in command.output
    assert not command.out.exists()


def test_a_dry_run_says_which_cells_cannot_be_run_and_why(command: Command) -> None:
    assert command.run("random,simclr", "retrieval", "--dry-run") == 0
    assert "unsupported: simclr has no text capability, which retrieval-unique needs\n" in command.output
    assert "4 cells, 2 to run; nothing was run" in command.output


def test_a_finished_cell_is_not_run_again(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.run("random", "retrieval") == 0
    before = {
        path: path.stat().st_mtime_ns for path in command.out.rglob("*") if path.parent.name in ("results", "predictions")
    }
    with monkeypatch.context() as patch:
        patch.setattr(Retrieval, "run", None)
        patch.setattr(Random, "build", None)
        assert command.run("random", "retrieval") == 0
        assert "2 were finished before" in command.output
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert command.run("random", "retrieval", "--dry-run") == 0
        assert "2 cells, 0 to run" in command.output
    victim = command.out / "predictions" / f"{command.results()[0].key}.npz"
    victim.write_bytes(victim.read_bytes()[:-1])  # damaged predictions: this cell, and only this one, is made again
    assert command.run("random", "retrieval") == 0
    assert "1 were finished before" in command.output


def test_the_board_of_a_run_takes_the_draws_that_its_intervals_came_from(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bootstrap is most of what a board costs, and the run has drawn it already."""
    drawn: list[str] = []
    own = analysis_rows.resample_metric
    monkeypatch.setattr(analysis_rows, "resample_metric", lambda *words: drawn.append(words[2]) or own(*words))
    cells = ("random", "retrieval,classification", "--draws", "30", "--eval-seed", "0,1")
    assert command.run(*cells) == 0, command.output
    subgroups = len(drawn)  # which are of parts of the rows
    first = json.loads((command.out / "analysis.json").read_text())
    shutil.rmtree(command.out / "analysis")
    (command.out / "analysis.json").unlink()
    assert command.run(*cells) == 0, command.output
    assert len(drawn) - subgroups > subgroups  # drawn again, for want of those that were kept
    assert json.loads((command.out / "analysis.json").read_text()) == first
    assert "Rank" in command.output


# ---------------------------------------------------------------------------------------------- failures


def test_intervals_are_drawn_again_from_what_was_kept(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.run("random", "retrieval,classification", "--draws", "0") == 0
    assert all(metric.low is None for item in command.results() for metric in item.metrics.values())
    values = {item.key: item.metrics[item.primary].value for item in command.results()}
    monkeypatch.setattr(Random, "build", None)  # nothing is encoded again
    assert command.run("random", "retrieval,classification", "--draws", "40") == 0
    for result in command.results() + command.results("reference"):
        metric = result.metrics[result.primary]
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= metric.high
        assert metric.value == values.get(result.key, metric.value)
        assert result.notes["draws"] == 40


def test_a_failed_cell_is_recorded_and_the_others_go_on(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*words: Any) -> Any:
        raise RuntimeError("the head caught fire")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.zeroshot.ZeroShot.run", failing)
        assert command.run("random", "zeroshot,retrieval") == 1
    found = {item.spec.protocol: item for item in command.results()}
    failed = found.pop("zeroshot-prompt-pairs")
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.startswith("RuntimeError: the head caught fire")
    assert "Traceback" in failed.error
    assert "in failing" in failed.error
    assert [item.status for item in found.values()] == ["ok", "ok"]
    assert "failed" in command.output
    assert "Traceback" not in command.output + command.error
    board = (command.out / "leaderboard.md").read_text()
    assert "failed" in board
    assert command.run("random", "zeroshot,retrieval") == 0  # a failed cell is tried again, the others are kept
    assert "2 were finished before" in command.output


def test_a_diverged_pretraining_fails_its_cells_and_no_others(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.mcr.info_nce", lambda *words: torch.tensor(float("nan"), requires_grad=True))
    assert command.run("mcr,random", "retrieval", settings=(*TINY, *TRAINED)) == 1
    statuses = {(item.spec.method, item.status) for item in command.results()}
    assert statuses == {("mcr", "failed"), ("random", "ok")}
    error = next(item.error for item in command.results() if item.status == "failed")
    assert error is not None
    assert "not finite at step 0, rows p0" in error.splitlines()[0]


def test_features_that_are_not_finite_fail_and_name_a_row(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(self: Random, images: Tensor) -> Tensor:
        return torch.full((len(images), 4), float("nan"))

    monkeypatch.setattr(Random, "tower_features", encode)
    assert command.run("random", "classification", "--labels", "1") == 1
    (result,) = command.results()
    assert result.error is not None
    assert result.error.startswith("image features of 36 rows are not finite (first: p000-0")


def test_unsupported_and_unavailable_cells_say_why(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.hub.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("benchmark.hub.try_to_load_from_cache", lambda repository, file: None)
    assert command.run("imagenet", "retrieval,classification", "--labels", "1", settings=()) == 1
    found = {item.spec.task: item for item in command.results()}
    assert found["retrieval"].status == "unsupported"
    assert "no text capability" in str(found["retrieval"].error)
    assert found["classification"].status == "unavailable"
    assert "--set weights=FILE" in str(found["classification"].error)
    assert all(item.metrics == {} for item in found.values())
    settings = (*TINY, *TRAINED)
    assert command.run("all", "classification", "--labels", "1", settings=settings) == 0  # counted, not an error under all
    assert "5 unavailable" in command.output
    without = {"imagenet", "xrv", "biomedclip", "biovil_t", "rad_dino"}  # whose weights are fetched
    statuses = {item.spec.method: item.status for item in command.results() if item.spec.task == "classification"}
    assert statuses == {name: "unavailable" if name in without else "ok" for name in METHODS}


def test_a_set_without_what_a_task_needs_is_unsupported(command: Command, register: Callable[[Any, str, Any], None]) -> None:
    def bare(location: str, options: Any) -> ToySource:
        source = ToySource(20)
        source.records = tuple(
            replace(record, sections={} if location == "mute" and record.split == "test" else record.sections,
                    labels=(float("nan"),) * 3, boxes=None, masks={})
            for record in source.records
        )  # fmt: skip
        return source

    register(SOURCES, "bare", bare)
    assert command.run("random", "all", data="bare:mute") == 0
    assert {item.status for item in command.results()} == {"unsupported"}
    reasons = " ".join(str(item.error) for item in command.results())
    for word in ("reports in the test split", "labels in the", "masks in train", "boxes in train"):
        assert word in reasons


# ------------------------------------------------------------------------------------------ broken images


def test_a_broken_image_is_skipped_by_name_and_the_row_is_partial(
    command: Command, register: Callable[[Any, str, Any], None]
) -> None:
    register(SOURCES, "torn", lambda location, options: ToySource(30, ("p004-0", "p000-1")))
    assert command.run("random", "all", data="torn") == 0, command.output
    for result in command.results():
        assert result.skipped == (("p004-0", "cut short; copy it again"),)
        assert (result.n_expected, result.n_used) == (12, 11)
        assert "partial" in result.flags
        assert "p004-0" not in read_predictions(Store(command.out).predictions_path(result.key)).uids
    assert "partial" in command.output


@pytest.mark.parametrize("task", ["retrieval", "zeroshot", "classification", "segmentation", "detection"])
def test_a_split_without_any_readable_image_fails_in_one_sentence(
    task: str, command: Command, register: Callable[[Any, str, Any], None]
) -> None:
    uids = tuple(record.uid for record in ToySource(15).records if record.split == "test")
    register(SOURCES, "torn", lambda location, options: ToySource(15, uids))
    assert command.run("random", task, "--labels", "1", data="torn") == 1
    for result in command.results():
        assert result.status == "failed"
        first = str(result.error).splitlines()[0]
        assert "read" in first or "could be used" in first, first
        assert not first.startswith(("RuntimeError", "ValueError", "IndexError"))


# --------------------------------------------------------------------------------- collapsed encoders


class Constant(Random):
    """An encoder that has collapsed: every image and every text is the same to it."""

    def encode_image(self, images: Tensor) -> Features:
        found = super().encode_image(images)
        return Features(torch.ones_like(found.pooled) / found.pooled.shape[1] ** 0.5)

    def tower_features(self, images: Tensor) -> Tensor:
        return torch.ones_like(super().tower_features(images))

    def encode_text(self, text: TextBatch) -> Features:
        found = super().encode_text(text)
        return Features(torch.ones_like(found.pooled) / found.pooled.shape[1] ** 0.5)


def test_a_collapsed_encoder_is_flagged_and_at_chance(command: Command, register: Callable[[Any, str, Any], None]) -> None:
    register(METHODS, "constant", Constant)
    assert command.run("constant", "retrieval,zeroshot,classification", "--labels", "1") == 0, command.output
    results = {item.spec.protocol: item for item in command.results()}
    assert all("degenerate" in item.flags for item in results.values())
    chance = {row.spec.protocol: row for row in command.results("reference") if row.title == "random ranking"}
    for name, row in chance.items():
        for metric in ("recall@1", "recall@5", "recall@10", "i2t_median_rank", "t2i_mean_rank", "rsum"):
            assert results[name].metrics[metric].value == pytest.approx(row.metrics[metric].value), (name, metric)
    assert results["retrieval-exact"].metrics["recall@10"].value == pytest.approx(10 / 12)
    for name in ("zeroshot-prompt-pairs", "classification-linear-probe"):
        assert results[name].metrics["auroc"].value == 0.5
    assert "degenerate" in (command.out / "leaderboard.md").read_text()


def test_an_encoder_that_works_is_not_flagged(command: Command) -> None:
    assert command.run("random", "retrieval,zeroshot,classification") == 0
    assert all("degenerate" not in item.flags for item in command.results())


# ------------------------------------------------------------------------------------ weights and draws


def test_features_of_other_weights_are_never_reused(command: Command) -> None:
    assert command.run("random,clip", "retrieval", "--seed", "0,1", settings=(*TINY, *TRAINED)) == 0
    store = Store(command.out)
    ranks = [read_predictions(store.predictions_path(item.key)).arrays["i2t"] for item in command.results()
             if item.spec.protocol == "retrieval-exact"]  # fmt: skip
    assert len(ranks) == 4
    assert all(not np.array_equal(one, two) for index, one in enumerate(ranks) for two in ranks[:index])


def test_a_pretrained_folder_serves_as_checkpoint(command: Command) -> None:
    assert command.run("clip", "retrieval", settings=(*TINY, *TRAINED)) == 0
    expected = {item.spec.protocol: item.metrics for item in command.results()}
    (folder,) = (command.out / "pretrained").iterdir()
    other = Command(command.out.with_name("other"), command.capture)
    assert other.run("clip", "retrieval", "--checkpoint", str(folder), settings=(*TINY, *TRAINED)) == 0
    assert {item.spec.protocol: item.metrics for item in other.results()} == expected
    assert all(item.spec.weights.startswith("file:") for item in other.results())
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    assert vocabulary["model"]["type"] == "WordPiece"
    assert json.loads((folder / "record.json").read_text())["key"] == folder.name


def test_other_bytes_of_local_weights_are_another_pretraining(command: Command, tmp_path: Path) -> None:
    def keys(*words: str) -> set[str]:
        settings = (*TINY, *TRAINED, "image_encoder=resnet10t", f"image_weights={tmp_path / 'start.safetensors'}")
        assert command.run("clip", "retrieval", *words, settings=settings) == 0, command.output
        return {folder.name for folder in (command.out / "pretrained").iterdir()}

    for seed, known in ((0, 1), (1, 2), (1, 2)):
        torch.manual_seed(seed)
        save_file(timm.create_model("resnet10t", num_classes=0, in_chans=1).state_dict(), tmp_path / "start.safetensors")
        assert len(keys()) == known
    (folder, _) = sorted((command.out / "pretrained").iterdir())
    keys("--checkpoint", str(folder))  # what lies beside it says all that is needed


def test_a_checkpoint_without_its_vocabulary_is_refused(command: Command, tmp_path: Path) -> None:
    assert command.run("clip", "retrieval", settings=(*TINY, *TRAINED)) == 0
    (folder,) = (command.out / "pretrained").iterdir()
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((folder / "model.safetensors").read_bytes())
    other = Command(command.out.with_name("other"), command.capture)
    assert other.run("clip", "retrieval", "--checkpoint", str(alone), settings=(*TINY, *TRAINED)) == 1
    assert "tokenizer.json" in str(other.results()[0].error).splitlines()[0]
