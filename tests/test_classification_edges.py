"""Labels that go wrong: every head gives a defined answer where a class, its positives, or all but one image are missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score

from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported
from benchmark.statistics import with_intervals
from benchmark.types import Predictions, Protocol, Record
from tasks.classification import Classification
from tasks.labels import labelled_rows
from tasks.protocols import CLASSIFICATION
from tasks.published.classification import COMPETITION, PROTOCOLS
from tests.conftest import Command
from tests.replicas import chexpert
from tests.test_tasks_text import Bench, changed, values
from tests.toy import CLASSES, ToySource

TASK = Classification()
LITERALS = {protocol.name: protocol for protocol in PROTOCOLS}
SHORT = {"rounds": 2, "round_steps": 2, "batch_size": 8}


def short(protocol: Protocol) -> Protocol:
    settings = dict(protocol.settings)
    return replace(protocol, settings=tuple(sorted({**settings, **(SHORT if "encoder_rate" in settings else {})}.items())))


HEADS = [CLASSIFICATION[0], *(short(LITERALS[name]) for name in ("probe-mgca", "knn", "finetune-linear"))]
every_head = pytest.mark.parametrize("protocol", HEADS, ids=lambda item: item.name)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("cache"))


def toy(change: Callable[[Record], tuple[float, ...] | None], patients: int = 30) -> Dataset:
    """The toy with labels changed; None: the row is left out."""
    source = ToySource(patients)
    kept = [record for record in source.records if change(record) is not None]
    source.records = tuple(kept)
    return Dataset(changed(source, {record.uid: {"labels": change(record)} for record in kept}))


def lesion(record: Record, value: float) -> tuple[float, ...]:
    return (value, *record.labels[1:])


def check(predictions: Predictions, protocol: Protocol) -> dict[str, float]:
    assert np.isfinite(predictions.arrays["scores"]).all()
    return values(TASK, predictions, protocol)


# --------------------------------------------------------------------------------------- absent classes


@every_head
@pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
def test_a_class_with_one_answer_in_train_scores_the_same_everywhere(value: float, protocol: Protocol, bench: Bench) -> None:
    data, context = toy(lambda record: lesion(record, value) if record.split == "train" else record.labels), bench.context()
    predictions = TASK.run(bench.method, data, protocol, 1.0, context)
    assert context.notes["classes_without_both_values"] == 1
    assert (predictions.arrays["scores"][:, 0] == 0).all()
    assert np.ptp(predictions.arrays["scores"][:, 1]) > 0
    assert check(predictions, protocol)["auroc/Lung Lesion"] == 0.5


@every_head
def test_a_class_without_a_positive_in_val_is_predicted_negative(protocol: Protocol, bench: Bench) -> None:
    data = toy(lambda record: lesion(record, 0.0) if record.split == "val" else record.labels)
    predictions = bench.run(TASK, protocol, data)
    assert np.ptp(predictions.arrays["scores"][:, 0]) > 0
    assert not predictions.arrays["predicted"][:, 0].any()
    check(predictions, protocol)


@every_head
def test_a_val_without_any_positive_still_gives_scores(protocol: Protocol, bench: Bench) -> None:
    data, context = toy(lambda record: (0.0,) * 3 if record.split == "val" else record.labels), bench.context()
    predictions = TASK.run(bench.method, data, protocol, 1.0, context)
    check(predictions, protocol)
    assert not predictions.arrays["predicted"].any()
    if protocol.name == "finetune-linear":  # selects by AUROC, which is not defined: the last round
        assert (context.notes["rounds"], context.notes["best_round"]) == (2, 0)


@every_head
def test_a_class_absent_from_test_is_undefined_not_zero(protocol: Protocol, bench: Bench) -> None:
    data = toy(lambda record: lesion(record, 0.0) if record.split == "test" else record.labels)
    found = check(bench.run(TASK, protocol, data), protocol)
    assert math.isnan(found["auroc/Lung Lesion"])
    assert found["defined_classes"] == 2


# ------------------------------------------------------------------------------------------- too few rows


@every_head
def test_a_fraction_of_one_patient_without_a_positive_is_at_chance(protocol: Protocol, bench: Bench) -> None:
    kept = {record.uid for record in labelled_rows(Dataset(ToySource(30)), protocol, "train", 0.01, 0)}
    data, context = toy(lambda record: (0.0,) * 3 if record.uid in kept else record.labels), bench.context()
    predictions = TASK.run(bench.method, data, protocol, 0.01, context)
    assert context.notes["train_rows"] == 2
    assert context.notes["classes_without_both_values"] == 3
    assert check(predictions, protocol)["auroc"] == 0.5
    assert TASK.degenerate(predictions, protocol)


@every_head
@pytest.mark.parametrize("split", ["train", "test"])
def test_one_patient_with_all_the_positives(split: str, protocol: Protocol, bench: Bench) -> None:
    owner = next(record.patient for record in ToySource(30).records if record.split == split)
    predictions = bench.run(TASK, protocol, toy(lambda record: lesion(record, float(record.patient == owner))))
    check(predictions, protocol)
    metric = with_intervals(lambda weights: TASK.score(predictions, protocol, weights), predictions.patients, 200, 0)
    area = metric["auroc/Lung Lesion"]
    assert (area.value is None) is (split == "train")
    if split == "test":  # in more than a third of the draws the class is absent; they do not count as 0
        assert area.value == pytest.approx(
            roc_auc_score(predictions.arrays["targets"][:, 0], predictions.arrays["scores"][:, 0])
        )
        assert area.low is not None
        assert area.low <= area.value


@every_head
def test_a_test_set_of_one_image_has_no_area_and_is_not_called_degenerate(protocol: Protocol, bench: Bench) -> None:
    one = next(record.uid for record in ToySource(30).records if record.split == "test")
    data = toy(lambda record: None if record.split == "test" and record.uid != one else record.labels)
    predictions = bench.run(TASK, protocol, data)
    found = check(predictions, protocol)
    assert list(predictions.uids) == [one]
    assert math.isnan(found["auroc"])
    assert found["accuracy"] in (0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0)
    assert not TASK.degenerate(predictions, protocol)


# --------------------------------------------------------------------------- subsets, references, argmax


def test_a_protocol_of_some_classes_sees_only_these(bench: Bench) -> None:
    protocol = replace(CLASSIFICATION[0], settings=(("classes", "No Finding,Lung Lesion"), *CLASSIFICATION[0].settings))
    hidden = {record.uid for record in ToySource(30).records[::3]}
    data = toy(lambda record: (math.nan, record.labels[1], math.nan) if record.uid in hidden else record.labels)
    predictions = bench.run(TASK, protocol, data)
    whole = bench.run(TASK, CLASSIFICATION[0], toy(lambda record: (record.labels[0], math.nan, record.labels[2])))
    assert predictions.names["classes"] == ("No Finding", "Lung Lesion")
    assert not hidden & set(predictions.uids)
    assert hidden & set(whole.uids)
    assert predictions.arrays["targets"].shape == (len(predictions.uids), 2)
    rows = {record.uid: record.labels for record in ToySource(30).records}
    assert [tuple(row) for row in predictions.arrays["targets"]] == [(rows[uid][2], rows[uid][0]) for uid in predictions.uids]
    for reference in TASK.references(predictions, data, protocol).values():
        assert reference.arrays["predicted"].shape == predictions.arrays["targets"].shape


@pytest.mark.parametrize("name", ["probe-mgca-chexpert", "probe-gloria-chexpert", "probe-gloria-rsna"])
def test_a_protocol_of_another_set_is_refused_before_anything_runs(name: str, command: Command) -> None:
    with pytest.raises(Unsupported, match="Atelectasis" if "chexpert" in name else "Pneumonia"):
        TASK.check(Dataset(ToySource(20)), LITERALS[name])
    assert command.run("random", "classification", "--protocol", name) == 0
    assert {result.status for result in command.results()} == {"unsupported"}
    assert f"{name} is of " in str(command.results()[0].error)
    assert not (command.out / "cache").exists()
    assert len(COMPETITION.split(",")) == 5


@pytest.mark.parametrize("policy", ["", "mgca"])
def test_a_label_policy_that_is_not_the_protocols_is_noted(policy: str, command: Command, tmp_path: Path) -> None:
    chexpert.write(tmp_path / "data", patients=16)
    words = ("--protocol", "probe-mgca-chexpert", "--labels", "1", "--data-root", str(tmp_path / "data"))
    chosen = ("--label-policy", policy) if policy else ()
    assert command.run("random", "classification", *words, *chosen, data="chexpert") == 0, command.error
    (result,) = command.results()
    assert result.status == "ok", result.error
    assert ("label_policy_differs" in result.notes) == (policy == "")
    assert result.notes["split_differs"] == "probe-mgca-chexpert is of --split mgca"


def test_named_probes_run_and_encode_once(command: Command) -> None:
    assert command.run("random", "classification", "--protocol", "probe-mgca,knn", "--labels", "0.5,1") == 0, command.output
    results = command.results()
    assert [(item.spec.protocol, item.status) for item in results] == [("knn", "ok")] * 2 + [("probe-mgca", "ok")] * 2
    assert sum(not item.notes.get("features_reused", False) for item in results) == 1
    assert {"fit", "predict", "features", "score"} <= set(results[-1].cost.seconds)
    titles = {item.title for item in command.results("reference")}
    assert titles == {"majority class", "all positive", "prevalence"}


def test_trivial_rows_know_no_more_than_the_shares_of_train(bench: Bench) -> None:
    data = Dataset(ToySource(60))
    predictions = bench.run(TASK, CLASSIFICATION[0], data)
    truth, train = predictions.arrays["targets"], data.labels(data.rows("train"))
    found = TASK.references(predictions, data, CLASSIFICATION[0])
    shares = train.mean(axis=0)
    odds = found["prevalence"].arrays["scores"][0]
    assert odds == pytest.approx(np.log((train.sum(axis=0) + 1) / (len(train) - train.sum(axis=0) + 1)))
    answers: dict[str, NDArray[Any]] = {"majority class": shares > 0.5, "all positive": np.ones(3), "prevalence": np.ones(3)}
    likelier = {**answers, "prevalence": shares > 0.5}
    for name, row in found.items():
        scores = values(TASK, row, CLASSIFICATION[0])
        assert scores["auroc"] == 0.5
        for metric, answer in (("f1", answers[name]), ("f1_argmax", likelier[name])):
            defined = [f1_score(truth[:, k], np.full(len(truth), answer[k]), zero_division=0) for k in range(3)]
            assert scores[metric] == pytest.approx(np.mean(defined))
        assert scores["accuracy"] == pytest.approx((truth == answers[name]).mean())


@every_head
def test_f1_at_argmax_is_that_of_the_likelier_answer(protocol: Protocol, bench: Bench) -> None:
    predictions = bench.run(TASK, protocol, Dataset(ToySource(60)))
    found, truth = check(predictions, protocol), predictions.arrays["targets"]
    expected = [f1_score(truth[:, k], predictions.arrays["scores"][:, k] > 0, zero_division=0) for k in range(3)]
    assert found["f1_argmax"] == pytest.approx(np.mean(expected))
    for name, value in zip(CLASSES, expected, strict=True):
        assert found[f"f1_argmax/{name}"] == pytest.approx(value)
