"""Retrieval by class: precision and average precision against all orders of ties, scikit-learn and loops; what is random."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from benchmark import metrics
from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported
from benchmark.types import Predictions, Protocol
from tasks import class_match
from tasks.published.retrieval import PROTOCOLS
from tasks.retrieval import Retrieval
from tests.five import FiveSource
from tests.test_multiclass import BenchOf, Collapsed
from tests.test_tasks_text import Bench
from tests.toy import ToySource

PROTOCOL = next(protocol for protocol in PROTOCOLS if protocol.name == "retrieval-class-5x200")
quick = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("class-match")


@pytest.fixture(scope="module")
def bench(cache: Path) -> Bench:
    return BenchOf(cache, "random")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset(FiveSource())


def values(predictions: Predictions, protocol: Protocol = PROTOCOL) -> dict[str, float]:
    found = Retrieval().score(predictions, protocol, np.ones((1, len(predictions.uids))))
    return {name: float(value[0]) for name, value in found.items()}


# ---------------------------------------------------------------------------------------------- measures


def precisions(right: NDArray[np.bool_]) -> NDArray[np.float64]:
    return right.cumsum() / np.arange(1, len(right) + 1)


@pytest.mark.parametrize("scores", [(2, 1, 1, 1, 0, 0), (0, 0, 0, 0, 0, 0), (3, 3, 2, 2, 1, 1), (5, 4, 3, 2, 1, 0)])
@pytest.mark.parametrize("right", [(0, 1, 0, 1, 1, 0), (1, 0, 0, 0, 0, 0), (0, 0, 1, 1, 1, 1), (1, 1, 1, 1, 1, 1)])
def test_measures_are_the_mean_over_all_orders_of_ties(scores: tuple[int, ...], right: tuple[int, ...]) -> None:
    table, mask = np.array([scores], float), np.array([right], bool)
    orders = [order for order in permutations(range(6)) if all(scores[a] >= scores[b] for a, b in pairwise(order))]
    lists = [precisions(mask[0][list(order)]) for order in orders]
    for k in range(1, 7):
        assert metrics.precision_at(k, table, mask)[0] == pytest.approx(np.mean([found[k - 1] for found in lists]), abs=1e-12)
    average = [found[mask[0][list(order)]].mean() for found, order in zip(lists, orders)]
    assert metrics.expected_average_precision(table, mask)[0] == pytest.approx(np.mean(average), abs=1e-12)


@quick
@given(st.data(), st.integers(1, 20))
def test_average_precision_equals_scikit_learn_where_nothing_ties(draw: st.DataObject, n: int) -> None:
    scores = np.array(draw.draw(st.permutations(range(n))), float)
    right = np.array(draw.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    found = metrics.expected_average_precision(scores[None], right[None])[0]
    assert found == pytest.approx(average_precision_score(right, scores) if right.any() else np.nan, nan_ok=True)
    shifted = metrics.expected_average_precision(2 * scores[None, ::-1] - 7, right[None, ::-1])[0]
    assert shifted == pytest.approx(found, nan_ok=True)  # neither order nor scale counts


def test_fewer_candidates_than_places_have_no_precision() -> None:
    assert np.isnan(metrics.precision_at(3, np.zeros((2, 2)), np.ones((2, 2), bool))).all()


# -------------------------------------------------------------------------------------------------- runs


def test_class_match_is_what_a_sorted_list_gives(bench: Bench, data: Dataset) -> None:
    found = bench.run(Retrieval(), PROTOCOL, data)
    records = tuple(record for record in data.rows("test") if record.uid in set(found.uids))
    assert [sum(record.labels[1:]) for record in records] == [1.0] * len(records)
    scores = bench.features(data, records) @ bench.texts(list(data.texts(records, PROTOCOL.text))).T
    labels = [record.labels[1:] for record in records]
    result = values(found)
    for direction, table in (("i2t", scores), ("t2i", scores.T)):
        tops = []
        for query, line in enumerate(table):
            order = sorted(range(len(line)), key=lambda place: -line[place])
            tops.append([labels[place] == labels[query] for place in order])
        for k in (5, 10):
            assert result[f"{direction}_precision@{k}"] == pytest.approx(np.mean([top[:k] for top in tops]))
        average = [precisions(np.array(top))[np.array(top)].mean() for top in tops]
        assert result[f"{direction}_map"] == pytest.approx(np.mean(average))
    assert np.isnan(result["i2t_precision@100"])  # of 20 candidates
    assert result["precision@5"] == pytest.approx((result["i2t_precision@5"] + result["t2i_precision@5"]) / 2)


@pytest.mark.parametrize("method", ["random", "gloria", "prior"])
def test_class_match_depends_neither_on_the_batch_size_nor_on_the_order(method: str, cache: Path, data: Dataset) -> None:
    bench, source = BenchOf(cache, method), FiveSource(version="shuffled")
    order = np.random.default_rng(1).permutation(len(source.records))
    source.records = tuple(source.records[place] for place in order)
    first = bench.run(Retrieval(), PROTOCOL, data)
    for other in (bench.run(Retrieval(), PROTOCOL, data, batch_size=5), bench.run(Retrieval(), PROTOCOL, Dataset(source))):
        assert np.array_equal(first.uids, other.uids)
        assert values(other) == pytest.approx(values(first), abs=1e-9, nan_ok=True)


def test_gloria_matches_by_words_and_regions(cache: Path, data: Dataset) -> None:
    bench = BenchOf(cache, "gloria")
    pairs = tuple((name, "pooled" if name == "similarity" else value) for name, value in PROTOCOL.settings)
    own, pooled = (values(bench.run(Retrieval(), item, data)) for item in (PROTOCOL, replace(PROTOCOL, settings=pairs)))
    assert own["map"] != pytest.approx(pooled["map"], abs=1e-6)


def test_equal_reports_stay_several_candidates(bench: Bench) -> None:
    source = FiveSource()
    source.records = tuple(
        replace(record, sections={"findings": source.classes[record.labels.index(1.0)] if 1.0 in record.labels else "None"})
        for record in source.records
    )
    context = bench.context()
    found = Retrieval().run(bench.method, Dataset(source), PROTOCOL, 1.0, context)
    assert context.notes["distinct_texts"] == 5
    assert context.notes["pairs"] == len(found.uids) == 20
    assert set(found.arrays["i2t_ties"]) == {4}  # the four reports of a class tie, and all are right or none


@pytest.mark.parametrize("side", ["image", "text"])
def test_a_collapsed_encoder_matches_at_random_and_is_flagged(side: str, bench: Bench, data: Dataset) -> None:
    found: Predictions = Retrieval().run(Collapsed(bench.method, side), data, PROTOCOL, 1.0, bench.context())
    direction = {"text": "i2t", "image": "t2i"}[side]
    result, chance = values(found), values(Retrieval().references(found, data, PROTOCOL)["random ranking"])
    for name in ("precision@5", "precision@10", "map"):
        assert result[f"{direction}_{name}"] == pytest.approx(chance[f"{direction}_{name}"])
    assert chance["precision@5"] == pytest.approx(0.2)
    assert Retrieval().degenerate(found, PROTOCOL)
    assert not Retrieval().degenerate(bench.run(Retrieval(), PROTOCOL, data), PROTOCOL)


def test_the_random_row_is_the_mean_of_shuffled_lists(bench: Bench, data: Dataset) -> None:
    found = bench.run(Retrieval(), PROTOCOL, data)
    targets = found.arrays["targets"]
    right = targets[:, None] == targets[None]
    generator = np.random.default_rng(0)
    drawn = [metrics.expected_average_precision(generator.random(right.shape), right).mean() for _ in range(200)]
    chance = values(Retrieval().references(found, data, PROTOCOL)["random ranking"])
    assert chance["i2t_map"] == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 200**0.5)


# ---------------------------------------------------------------------------------------------- bad input


def test_a_set_without_classes_or_reports_or_with_too_many_rows_is_unsupported(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    Retrieval().check(data, PROTOCOL)
    with pytest.raises(Unsupported, match="toy lacks Atelectasis"):
        Retrieval().check(Dataset(ToySource(20)), PROTOCOL)
    bare: Any = FiveSource()
    bare.records = tuple(replace(record, sections={}) for record in bare.records)
    with pytest.raises(Unsupported, match="five has 0"):
        Retrieval().check(Dataset(bare), PROTOCOL)
    monkeypatch.setattr(class_match, "LIMIT", 19)
    with pytest.raises(Unsupported, match="five has 20"):
        Retrieval().check(data, PROTOCOL)
