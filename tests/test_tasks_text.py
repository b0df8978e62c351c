"""Retrieval, zero-shot and the linear probe against scikit-learn and loops by hand, and what must not change a score."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.data.phantom import open_source
from benchmark.data.sources import SourceOptions
from benchmark.data.transform import to_input
from benchmark.errors import Unsupported
from benchmark.types import Predictions, Protocol, Record
from tasks.classification import Classification
from tasks.labels import labelled_rows
from tasks.prompts import PROMPT_SETS
from tasks.retrieval import Retrieval
from tasks.zeroshot import ZeroShot
from tests.test_pretrain import Setup
from tests.toy import CLASSES, ToySource

PATIENTS = 60


class Bench:
    """An untrained method and what tasks make of it on a toy."""

    def __init__(self, cache: Path) -> None:
        self.setup = Setup(cache, "random")
        self.method = self.setup.method().eval()

    def context(self, batch_size: int = 16, eval_seed: int = 0) -> Context:
        return Context(
            device=torch.device("cpu"), cache=self.setup.cache, batch_size=batch_size, eval_seed=eval_seed, progress=False
        )

    def run(self, task: Any, protocol: Protocol, data: Dataset, fraction: float = 1.0, batch_size: int = 16) -> Predictions:
        found: Predictions = task.run(self.method, data, protocol, fraction, self.context(batch_size))
        return found

    def features(self, data: Dataset, records: tuple[Record, ...], tower: bool = False) -> NDArray[np.float64]:
        """(N, D), image by image, past every cache and batch of the engine; tower: the mean token before any projection."""
        rows = []
        for record in records:
            pixels = torch.from_numpy(data.pixels(self.method.input, self.context()).take([record])).unsqueeze(1)
            with torch.no_grad():
                image = to_input(pixels, self.method.input)
                if tower:
                    rows.append(self.method.image_tower.forward_tokens(image)[0, self.method.image_tower.prefix :].mean(dim=0))
                else:
                    rows.append(self.method.encode_image(image).pooled[0])
        return torch.stack(rows).double().numpy()

    def texts(self, texts: list[str]) -> NDArray[np.float64]:
        with torch.no_grad():
            found: NDArray[np.float64] = self.method.encode_text(self.method.prepare_text(texts)).pooled.double().numpy()
        return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def data() -> Dataset:
    return Dataset(ToySource(PATIENTS))


def values(task: Any, predictions: Predictions, protocol: Protocol) -> dict[str, float]:
    found = task.score(predictions, protocol, np.ones((1, len(predictions.uids))))
    return {name: float(value[0]) for name, value in found.items()}


def changed(source: ToySource, change: Mapping[str, Any]) -> ToySource:
    """The source with fields of some records replaced: uid -> fields."""
    source.records = tuple(replace(record, **change.get(record.uid, {})) for record in source.records)
    return source


TASKS = [(Retrieval(), item) for item in Retrieval().protocols("quick")] + [
    (ZeroShot(), ZeroShot().protocols("quick")[0]), (Classification(), Classification().protocols("quick")[0])
]  # fmt: skip


# -------------------------------------------------------------------------------------------- by hand


def threshold_by_hand(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Of all scores as thresholds, the highest one with the best F1."""
    candidates = sorted(set(scores.tolist()), reverse=True)
    return max(candidates, key=lambda cut: f1_score(truth, scores >= cut, zero_division=0))


def check_labels(found: dict[str, float], scores: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]) -> None:
    areas = [roc_auc_score(truth[:, k], scores[:, k]) for k in range(3)]
    precisions = [average_precision_score(truth[:, k], scores[:, k]) for k in range(3)]
    assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert found["average_precision"] == pytest.approx(np.mean(precisions), abs=1e-9)
    assert found["accuracy"] == pytest.approx((predicted == truth).mean())
    assert found["f1"] == pytest.approx(np.mean([f1_score(truth[:, k], predicted[:, k]) for k in range(3)]))
    for name, area in zip(CLASSES, areas, strict=True):
        assert found[f"auroc/{name}"] == pytest.approx(area, abs=1e-9)


def test_zero_shot_is_what_prompts_and_cosines_give_by_hand(bench: Bench, data: Dataset) -> None:
    protocol = ZeroShot().protocols("quick")[0]
    found = bench.run(ZeroShot(), protocol, data)
    sides = [PROMPT_SETS[protocol.setting("prompts")].prompts(name) for name in CLASSES]

    def mean(texts: tuple[str, ...]) -> NDArray[np.float64]:
        vector = bench.texts(list(texts)).mean(axis=0)
        return vector / np.linalg.norm(vector)

    text = np.stack([mean(positive) - mean(negative) for positive, negative in sides])
    val, test = (bench.features(data, data.rows(split)) @ text.T for split in ("val", "test"))
    truth = data.labels(data.rows("test"))
    assert list(found.uids) == [record.uid for record in data.rows("test")]
    assert np.allclose(found.arrays["scores"], test, atol=1e-6)
    assert np.array_equal(found.arrays["targets"], truth)
    cuts = [threshold_by_hand(val[:, k], data.labels(data.rows("val"))[:, k]) for k in range(3)]
    near = np.abs(test - cuts) < 1e-6
    assert np.array_equal((found.arrays["predicted"] > 0.5)[~near], (test >= cuts)[~near])
    check_labels(values(ZeroShot(), found, protocol), found.arrays["scores"], truth, found.arrays["predicted"] > 0.5)


@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_the_probe_is_what_scikit_learn_gives_by_hand(fraction: float, bench: Bench, data: Dataset) -> None:
    protocol = Classification().protocols("quick")[0]
    context = bench.context()
    found = Classification().run(bench.method, data, protocol, fraction, context)
    rows = {split: data.rows(split) for split in ("train", "val", "test")}
    rows["train"] = labelled_rows(data, protocol, "train", fraction, 0)
    features = {split: bench.features(data, records, tower=True) for split, records in rows.items()}
    labels = {split: data.labels(records) for split, records in rows.items()}
    scaler = StandardScaler().fit(features["train"])
    best: tuple[float, float, Any] = (-1.0, 0.0, None)
    for penalty in map(float, protocol.setting("grid").split(",")):
        heads = [LogisticRegression(C=penalty, max_iter=5000, tol=1e-10) for _ in CLASSES]
        for k, head in enumerate(heads):
            head.fit(scaler.transform(features["train"]), labels["train"][:, k] > 0.5)
        val = [roc_auc_score(labels["val"][:, k], head.decision_function(scaler.transform(features["val"])))
               for k, head in enumerate(heads)]  # fmt: skip
        if np.mean(val) > best[0]:
            best = (float(np.mean(val)), penalty, heads)
    expected = np.stack([head.decision_function(scaler.transform(features["test"])) for head in best[2]], axis=1)
    assert context.notes["l2_c"] == best[1]
    assert context.notes["train_rows"] == len(rows["train"])
    assert np.allclose(found.arrays["scores"], expected, atol=1e-4)
    predicted = found.arrays["predicted"] > 0.5
    check_labels(values(Classification(), found, protocol), found.arrays["scores"], labels["test"], predicted)


def test_retrieval_is_what_a_sorted_list_gives_by_hand(bench: Bench, data: Dataset) -> None:
    protocol = next(item for item in Retrieval().protocols("quick") if item.name == "retrieval-exact")
    found = values(Retrieval(), bench.run(Retrieval(), protocol, data), protocol)
    records = data.rows("test")  # no text occurs twice here, so that ranks have no ties
    texts = data.texts(records, protocol.text)
    scores = bench.features(data, records) @ bench.texts(list(texts)).T
    twins = [[index for index, other in enumerate(texts) if other == text] for text in texts]
    for direction, table in (("i2t", scores), ("t2i", scores.T)):
        ranks = []
        for row, line in enumerate(table):
            order = sorted(range(len(line)), key=lambda place: -line[place])
            better = sum(line[place] > line[row] + 1e-12 for place in order)
            tied = sum(abs(line[place] - line[row]) <= 1e-12 for place in order)
            ranks.append(better + (tied + 1) / 2)
        if all(len(item) == 1 for item in twins) or direction == "t2i":
            assert found[f"{direction}_recall@5"] == pytest.approx(np.mean([rank <= 5 for rank in ranks]))
        assert found[f"{direction}_mean_rank"] == pytest.approx(np.mean(ranks))
        assert found[f"{direction}_median_rank"] == pytest.approx(np.median(ranks))


def test_equal_reports_are_right_answers_where_the_protocol_says_so(bench: Bench) -> None:
    same = {record.uid: {"sections": {"findings": "Clear lungs."}} for record in ToySource(30).records}
    data = Dataset(changed(ToySource(30), same))
    merged, exact = (
        {item.name: item for item in Retrieval().protocols("quick")}[f"retrieval-{name}"] for name in ("unique", "exact")
    )
    found = values(Retrieval(), bench.run(Retrieval(), merged, data), merged)
    assert found["recall@1"] == 1.0
    assert found["i2t_mean_rank"] == 1.0
    chance = values(Retrieval(), bench.run(Retrieval(), exact, data), exact)
    assert chance["i2t_recall@1"] == pytest.approx(1 / 12)  # twelve equal reports: any of them may come first
    assert chance["i2t_mean_rank"] == pytest.approx(6.5)


# ------------------------------------------------------------------------------------- what must not matter


@pytest.mark.parametrize(("task", "protocol"), TASKS, ids=lambda item: getattr(item, "name", ""))
def test_scores_do_not_depend_on_the_batch_size(task: Any, protocol: Protocol, bench: Bench, data: Dataset) -> None:
    found = [values(task, bench.run(task, protocol, data, batch_size=size), protocol) for size in (1, 7, 64)]
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-6)


@pytest.mark.parametrize(("task", "protocol"), TASKS, ids=lambda item: getattr(item, "name", ""))
def test_scores_do_not_depend_on_the_order_of_records(task: Any, protocol: Protocol, bench: Bench, data: Dataset) -> None:
    source = ToySource(PATIENTS, version="shuffled")
    order = np.random.default_rng(1).permutation(len(source.records))
    source.records = tuple(source.records[place] for place in order)
    first, second = bench.run(task, protocol, data), bench.run(task, protocol, Dataset(source))
    assert np.array_equal(first.uids, second.uids)
    assert values(task, second, protocol) == pytest.approx(values(task, first, protocol), abs=1e-9)


@pytest.mark.parametrize(("task", "protocol"), TASKS, ids=lambda item: getattr(item, "name", ""))
def test_a_run_twice_is_the_same_run(task: Any, protocol: Protocol, bench: Bench, data: Dataset) -> None:
    first, second = bench.run(task, protocol, data), bench.run(task, protocol, data)
    assert all(np.array_equal(first.arrays[name], second.arrays[name], equal_nan=True) for name in first.arrays)


@pytest.mark.parametrize("task", [ZeroShot(), Classification()], ids=["zeroshot", "classification"])
def test_test_labels_decide_no_prediction(task: Any, bench: Bench, data: Dataset) -> None:
    protocol = task.protocols("quick")[0]
    flipped = {record.uid: {"labels": tuple(1 - value for value in record.labels)}
               for record in ToySource(PATIENTS).records if record.split == "test"}  # fmt: skip
    other = bench.run(task, protocol, Dataset(changed(ToySource(PATIENTS), flipped)))
    first = bench.run(task, protocol, data)
    for name in ("scores", "predicted"):
        assert np.array_equal(first.arrays[name], other.arrays[name])
    assert np.array_equal(first.arrays["targets"], 1 - other.arrays["targets"])


# ------------------------------------------------------------------------------------- fractions and labels


def test_fractions_are_nested_and_by_patient(data: Dataset) -> None:
    protocol = Classification().protocols("quick")[0]
    patients = {record.patient for record in data.rows("train")}
    for seed in (0, 1):
        chosen = [labelled_rows(data, protocol, "train", fraction, seed) for fraction in (0.01, 0.1, 0.5, 1.0)]
        for fewer, more in pairwise(chosen):
            assert {record.uid for record in fewer} < {record.uid for record in more}
        sizes = [len({record.patient for record in rows}) for rows in chosen]
        assert sizes == [1, 4, 18, 36]
        assert all(len(rows) == 2 * size for rows, size in zip(chosen, sizes, strict=True))  # whole patients
        assert {record.patient for record in chosen[-1]} == patients
    assert labelled_rows(data, protocol, "train", 0.1, 0) != labelled_rows(data, protocol, "train", 0.1, 1)


def test_the_probe_sees_its_fraction_and_nothing_else_of_train(bench: Bench, data: Dataset) -> None:
    protocol = Classification().protocols("quick")[0]
    chosen = {record.uid for record in labelled_rows(data, protocol, "train", 0.1, 0)}
    other = {record.uid: {"labels": tuple(1 - value for value in record.labels)}
             for record in data.rows("train") if record.uid not in chosen}  # fmt: skip
    lying = Dataset(changed(ToySource(PATIENTS), other))
    one, two = (bench.run(Classification(), protocol, item, 0.1) for item in (data, lying))
    assert np.array_equal(one.arrays["scores"], two.arrays["scores"])


@pytest.mark.parametrize("task", [ZeroShot(), Classification()], ids=["zeroshot", "classification"])
def test_a_class_that_test_rows_lack_is_undefined_and_left_out_of_the_mean(task: Any, bench: Bench) -> None:
    protocol = task.protocols("quick")[0]
    lacking = {
        record.uid: {"labels": (*record.labels[:2], 0.0)} for record in ToySource(PATIENTS).records if record.split == "test"
    }
    data = Dataset(changed(ToySource(PATIENTS), lacking))
    predictions = bench.run(task, protocol, data)
    found = values(task, predictions, protocol)
    assert np.isnan(found["auroc/No Finding"])
    assert found["defined_classes"] == 2
    scores, truth = predictions.arrays["scores"], predictions.arrays["targets"]
    assert found["auroc"] == pytest.approx(np.mean([roc_auc_score(truth[:, k], scores[:, k]) for k in range(2)]))


@pytest.mark.parametrize("task", [ZeroShot(), Classification()], ids=["zeroshot", "classification"])
def test_unknown_labels_count_nowhere(task: Any, bench: Bench) -> None:
    protocol = task.protocols("quick")[0]
    nan = float("nan")
    records = ToySource(PATIENTS).records
    hidden = {record.uid: {"labels": (nan, *record.labels[1:])} for record in records[::3]}
    hidden |= {record.uid: {"labels": (nan, nan, nan)} for record in records[::7]}
    data = Dataset(changed(ToySource(PATIENTS), hidden))
    predictions = bench.run(task, protocol, data)
    scores, truth = predictions.arrays["scores"], predictions.arrays["targets"]
    known = ~np.isnan(truth)
    assert len(truth) == sum(record.split == "test" for record in records if record not in records[::7])
    areas = [roc_auc_score(truth[known[:, k], k], scores[known[:, k], k]) for k in range(3)]
    assert values(task, predictions, protocol)["auroc"] == pytest.approx(np.mean(areas))


def test_a_class_without_both_values_in_training_gets_a_constant_score(bench: Bench) -> None:
    protocol = Classification().protocols("quick")[0]
    lacking = {
        record.uid: {"labels": (0.0, *record.labels[1:])} for record in ToySource(PATIENTS).records if record.split == "train"
    }
    data, context = Dataset(changed(ToySource(PATIENTS), lacking)), bench.context()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictions = Classification().run(bench.method, data, protocol, 1.0, context)
    assert context.notes["classes_without_both_values"] == 1
    assert np.ptp(predictions.arrays["scores"][:, 0]) == 0
    assert values(Classification(), predictions, protocol)["auroc/Lung Lesion"] == 0.5


def test_a_set_without_labels_or_reports_is_unsupported() -> None:
    nan = float("nan")
    bare = Dataset(
        changed(ToySource(20), {record.uid: {"labels": (nan,) * 3, "sections": {}} for record in ToySource(20).records})
    )
    for task, protocol in TASKS:
        with pytest.raises(Unsupported, match=protocol.name):
            task.check(bare, protocol)
        task.check(Dataset(ToySource(20)), protocol)


# ---------------------------------------------------------------------------------------------- prompts


def words_of(text: str) -> str:
    return f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "


def test_no_prompt_stands_word_for_word_in_a_training_report_of_the_phantom() -> None:
    source = open_source("train=600,val=1,test=1", SourceOptions())
    reports = [words_of(" ".join(record.sections.values())) for record in source.records if record.split == "train"]
    assert len(reports) >= 600
    for name, prompts in PROMPT_SETS.items():
        for label in source.classes:
            for prompt in (*prompts.prompts(label)[0], *prompts.prompts(label)[1]):
                assert not any(words_of(prompt) in report for report in reports), (name, prompt)
    assert any(words_of("pleural effusion") in report for report in reports)  # such a search would find something


def test_underscores_of_a_name_are_spaces_where_the_set_says_so() -> None:
    found = {name: PROMPT_SETS[name].prompts("Pleural_Thickening")[0][0] for name in ("observed-2", "observed-3")}
    assert found == {"observed-2": "pleural_thickening is observed.", "observed-3": "pleural thickening is observed."}
    assert PROMPT_SETS["observed-3"].prompts("No Finding") == PROMPT_SETS["observed-2"].prompts("No Finding")


def test_prompts_of_both_signs_differ_for_every_class() -> None:
    for prompts in PROMPT_SETS.values():
        for label in open_source("train=1,val=1,test=1", SourceOptions()).classes:
            positive, negative = prompts.prompts(label)
            assert len(positive) == len(negative) > 0
            assert not set(positive) & set(negative)
