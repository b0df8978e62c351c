"""Zero-shot into one of five classes: metrics against scikit-learn, pooling against recorded values, runs against loops."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from benchmark import metrics
from benchmark.data.dataset import Dataset
from benchmark.data.sources import SOURCES
from benchmark.errors import Unsupported
from benchmark.types import Features, Predictions, Protocol, digest
from methods.prior_alignment import zero_shot_scores
from tasks import multiclass
from tasks.classes import OfClasses
from tasks.prompts import FIVE, PHRASE_GRIDS, drawn
from tasks.published.zeroshot import PROTOCOLS
from tasks.zeroshot import ZeroShot
from tests.conftest import Command
from tests.five import FiveSource
from tests.golden import Case, needs_golden
from tests.test_pretrain import Setup
from tests.test_tasks_text import Bench
from tests.toy import ToySource

NAMED = {protocol.name.removeprefix("zeroshot-5x200-"): protocol for protocol in PROTOCOLS if protocol.primary == "accuracy"}
EVERY = pytest.mark.parametrize("protocol", NAMED.values(), ids=lambda protocol: protocol.name)
quick = settings(max_examples=60, deadline=None)
Floats = NDArray[np.float64]


class BenchOf(Bench):
    """The bench with any method, whose vocabulary knows the letters of the five classes."""

    def __init__(self, cache: Path, name: str) -> None:
        self.setup = Setup(cache, name)
        self.setup.data = Dataset(FiveSource())
        self.method = self.setup.method().eval()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("multiclass")


@pytest.fixture(scope="module")
def bench(cache: Path) -> Bench:
    return BenchOf(cache, "random")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset(FiveSource())


def values(predictions: Predictions, protocol: Protocol) -> dict[str, float]:
    found = ZeroShot().score(predictions, protocol, np.ones((1, len(predictions.uids))))
    return {name: float(value[0]) for name, value in found.items()}


def one_hot(answers: NDArray[Any], classes: int) -> Floats:
    return np.eye(classes)[answers]


# ---------------------------------------------------------------------------------------------- metrics


@quick
@given(st.data(), st.integers(2, 5))
def test_multiclass_metrics_equal_scikit_learn(draw: st.DataObject, classes: int) -> None:
    answers = st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2, st.integers(1, 3)), min_size=1, max_size=20)
    true, given_, counts = np.array(draw.draw(answers)).T
    names = tuple("abcde"[:classes])
    found = metrics.multiclass(one_hot(given_, classes), true, names, counts[None].astype(float))
    true, given_ = np.repeat(true, counts), np.repeat(given_, counts)  # a weight is as many equal rows
    present = sorted(set(true))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, given_))
    for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        expected = score(true, given_, labels=present, average="macro", zero_division=0)
        assert found[name] == pytest.approx(expected), name
    for place, name in enumerate(names):
        expected = np.mean(given_[true == place] == place) if place in present else np.nan
        assert found[f"recall/{name}"] == pytest.approx(expected, nan_ok=True)
    if len({*true, *given_}) > 1:
        assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(true, given_), abs=1e-12)
    else:
        assert np.isnan(found["kappa"])


@needs_golden
def test_multiclass_metrics_are_those_of_priors_code() -> None:
    case = Case("prior/zero_shot_metrics")
    true, answers = case["in/labels"].numpy().astype(int), case["in/predictions"].numpy().astype(int)
    classes = max(true.max(), answers.max()) + 1
    found = metrics.multiclass(one_hot(answers, classes), true, tuple(map(str, range(classes))), np.ones((1, len(true))))
    names = {"accuracy": "acc", "precision": "precision", "recall": "recall", "kappa": "kappa", "f1": "f1_score"}
    for name, official in names.items():
        assert found[name] == pytest.approx(case.number(f"out/test_{official}")), name


@needs_golden
def test_top_1_accuracy_and_mean_recall_are_those_of_clip_benchmark() -> None:
    case = Case("clip_benchmark/zero_shot_classification_a")
    true = case["in/target"].numpy()
    found = metrics.multiclass(multiclass.shares(case["out/logits"].numpy()), true, tuple("abcde"), np.ones((1, len(true))))
    assert found["accuracy"] == pytest.approx(case.number("out/acc1"))
    assert found["recall"] == pytest.approx(case.number("out/mean_per_class_recall"))


# ------------------------------------------------------------------------------------ prompts and pooling


def test_grids_have_the_published_sizes_and_do_not_change_under_their_name() -> None:
    grid = PHRASE_GRIDS["gloria-grid"]
    assert {name: len(grid.prompts(name)) for name in grid.classes} == dict(zip(FIVE, (210, 15, 192, 18, 54)))
    assert grid.prompts("Pleural Effusion").count("small left bilateral pleural effusion") == 2
    assert "apperance of reticular consolidation at the right uppper lobe" in grid.prompts("Consolidation")
    assert PHRASE_GRIDS["prior-observed"].prompts("Pleural Effusion") == ("Pleural Effusion is observed",)
    stored = {"gloria-grid": "f85590e659659324", "prior-observed": "a433be55db29ec4b"}
    assert {name: digest([grid.prompts(label) for label in grid.classes]) for name, grid in PHRASE_GRIDS.items()} == stored


def test_prompts_are_drawn_as_glorias_code_does_after_seeding() -> None:
    every = [PHRASE_GRIDS["gloria-grid"].prompts(name) for name in FIVE]
    before = random.getstate()
    random.seed(6)
    expected = tuple(tuple(random.sample(own, 5)) for own in every)
    random.setstate(before)
    assert drawn(every, 5, 6) == expected
    assert random.getstate() == before
    assert drawn(every, 0, 6) == tuple(every)
    assert [len(own) for own in drawn(every, 16, 6)] == [16, 15, 16, 16, 16]
    assert drawn(every, 5, 7) != drawn(every, 5, 6)


@needs_golden
@pytest.mark.parametrize("name", ["gloria/zero_shot_similarity_a", "gloria/zero_shot_similarity_char_lens"])
def test_class_scores_of_the_gloria_protocol_are_those_of_its_code(name: str) -> None:
    case = Case(name)
    tables = [case[f"out/class{k}_both"].numpy() for k in range(3)]
    width = tables[0].shape[1]
    texts = [f"{k} {place}" for k in range(3) for place in range(width)]
    prompts = tuple(tuple(texts[k * width : (k + 1) * width]) for k in range(3))
    found = multiclass.class_scores(np.concatenate(tables, axis=1), texts, prompts, NAMED["gloria"])
    assert np.allclose(found, case["out/class_similarity_z"].numpy(), atol=1e-4)
    assert np.array_equal(found.argmax(axis=1), case["out/prediction"].numpy())


@needs_golden
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_class_scores_are_those_of_medclips_prompt_classifier(pooling: str) -> None:
    case = Case("medclip/prompt_classifier")
    images = torch.nn.functional.normalize(case["in/img_embed"], dim=1)
    sides = [torch.nn.functional.normalize(case[f"in/prompt_c{k}"], dim=1) for k in range(3)]
    texts = [f"{k} {place}" for k, side in enumerate(sides) for place in range(len(side))]
    prompts = tuple(tuple(text for text in texts if text.startswith(f"{k} ")) for k in range(3))
    pairs = tuple((name, pooling if name == "pooling" else value) for name, value in NAMED["medclip"].settings)
    scores = (images @ torch.cat(sides).T).numpy()
    found = multiclass.class_scores(scores, texts, prompts, replace(NAMED["medclip"], settings=pairs))
    expected = case[f"out/class_logits_{pooling}"].numpy()
    scale = case.number("hp/logit_scale")
    assert any(np.allclose(factor * found, expected, atol=1e-4) for factor in (scale, np.exp(scale)))
    assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))


def test_standardising_leaves_a_class_without_differences_at_zero() -> None:
    scores = np.array([[0.5, 1.0], [0.5 + 1e-8, 3.0], [0.5, 2.0]])
    assert np.allclose(multiclass.standardised(scores), [[0, -np.sqrt(1.5)], [0, np.sqrt(1.5)], [0, 0]])


def test_tied_classes_share_the_answer() -> None:
    assert multiclass.shares(np.array([[1.0, 3.0, 3.0], [2.0, 1.0, 0.0]])).tolist() == [[0, 0.5, 0.5], [1, 0, 0]]


# --------------------------------------------------------------------------------------------------- runs


def test_rows_have_exactly_one_class_and_the_others_are_counted(bench: Bench, data: Dataset) -> None:
    context = bench.context()
    found = ZeroShot().run(bench.method, data, NAMED["prior"], 1.0, context)
    rows = data.rows("test")
    alone = [record for record in rows if sum(record.labels[1:]) == 1]
    assert list(found.uids) == [record.uid for record in alone]
    assert found.names["classes"] == FIVE
    assert [FIVE[k] for k in found.arrays["targets"]] == [data.classes[record.labels.index(1.0)] for record in alone]
    assert context.notes["rows_left_out"] == len(rows) - len(alone) > 0
    assert context.notes["rows_with_unknown_classes"] == 0
    assert context.notes["classes_without_rows"] == ""


def test_the_mean_over_prompts_is_what_a_loop_gives(bench: Bench, data: Dataset) -> None:
    protocol = NAMED["medclip"]
    found = ZeroShot().run(bench.method, data, protocol, 1.0, bench.context())
    records = [record for record in data.rows("test") if record.uid in set(found.uids)]
    images, columns = bench.features(data, tuple(records)), []
    for draw in range(6):
        prompts = drawn([PHRASE_GRIDS["gloria-grid"].prompts(name) for name in FIVE], 10, 42 + draw)
        texts = [np.stack([bench.texts([text])[0] for text in own]) for own in prompts]
        columns.append(np.stack([(images @ own.T).mean(axis=1) for own in texts], axis=1))
    assert np.allclose(found.arrays["scores"], columns[0], atol=1e-6)
    targets = found.arrays["targets"]
    accuracies = [np.mean(scores.argmax(axis=1) == targets) for scores in columns]
    result = values(found, protocol)
    assert result["accuracy"] == pytest.approx(accuracies[0])
    assert result["accuracy_prompt_mean"] == pytest.approx(np.mean(accuracies[1:]))
    assert result["accuracy_prompt_spread"] == pytest.approx(np.std(accuracies[1:], ddof=1))


def test_gloria_is_scored_by_words_and_regions(cache: Path, data: Dataset) -> None:
    bench, protocol = BenchOf(cache, "gloria"), NAMED["gloria"]
    method = bench.method
    found = ZeroShot().run(method, data, protocol, 1.0, bench.context(batch_size=7))
    prompts = drawn([PHRASE_GRIDS["gloria-grid"].prompts(name) for name in FIVE], 5, 6)
    rows = []
    for record in (record for record in data.rows("test") if record.uid in set(found.uids)):
        image = encoded(bench, data, record)
        with torch.inference_mode():
            sides = [method.encode_text(method.prepare_text(list(own))) for own in prompts]
            rows.append([float(method.similarity(image, side).max()) for side in sides])
    scores = np.array(rows)
    scores = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    assert np.allclose(found.arrays["scores"], scores, atol=1e-3)
    pooled = ZeroShot().run(method, data, replace_setting(protocol, "similarity", "pooled"), 1.0, bench.context())
    assert not np.allclose(found.arrays["scores"], pooled.arrays["scores"], atol=1e-2)


def test_prior_is_scored_by_its_own_rule(cache: Path, data: Dataset) -> None:
    bench, protocol = BenchOf(cache, "prior"), NAMED["prior"]
    method, context = bench.method, bench.context(batch_size=4)
    found = ZeroShot().run(method, data, protocol, 1.0, context)
    assert context.notes["rule"] == "the method's own"
    rows = []
    for record in (record for record in data.rows("test") if record.uid in set(found.uids)):
        image = encoded(bench, data, record)
        with torch.inference_mode():
            prompt = method.encode_prompts(method.prepare_text([f"{name} is observed" for name in FIVE]))
            overall, local = (item.unsqueeze(2) for item in method.zero_shot(image, prompt))
            rows.append(zero_shot_scores(overall, local)[0].numpy())
    assert np.allclose(found.arrays["scores"], rows, atol=1e-5)


def encoded(bench: Bench, data: Dataset, record: Any) -> Features:
    from benchmark.data.transform import to_input

    pixels = torch.from_numpy(data.pixels(bench.method.input, bench.context()).take([record])).unsqueeze(1)
    with torch.inference_mode():
        found: Features = bench.method.encode_image(to_input(pixels, bench.method.input))
    return found


def replace_setting(protocol: Protocol, name: str, value: Any) -> Protocol:
    return replace(protocol, settings=tuple((key, value if key == name else old) for key, old in protocol.settings))


def test_tokens_of_images_are_compared_batch_by_batch(cache: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, sizes = BenchOf(cache, "gloria"), []
    own = type(bench.method).similarity

    def spy(self: Any, image: Features, text: Features) -> torch.Tensor:
        sizes.append(len(image.pooled))
        return own(self, image, text)

    monkeypatch.setattr(type(bench.method), "similarity", spy)
    ZeroShot().run(bench.method, data, NAMED["gloria"], 1.0, bench.context(batch_size=4))
    assert max(sizes) <= 8
    assert sum(sizes) > 20


@pytest.mark.parametrize("method", ["random", "gloria", "prior"])
@EVERY
def test_answers_depend_neither_on_the_batch_size_nor_on_the_order(
    method: str, protocol: Protocol, cache: Path, data: Dataset
) -> None:
    bench, source = BenchOf(cache, method), FiveSource(version="shuffled")
    order = np.random.default_rng(1).permutation(len(source.records))
    source.records = tuple(source.records[place] for place in order)
    first = bench.run(ZeroShot(), protocol, data)
    for other in (bench.run(ZeroShot(), protocol, data, batch_size=5), bench.run(ZeroShot(), protocol, Dataset(source))):
        assert np.array_equal(first.uids, other.uids)
        assert values(other, protocol) == pytest.approx(values(first, protocol), abs=1e-9)


class Collapsed:
    """A method that gives every image, or every text, the same vector."""

    def __init__(self, method: Any, side: str) -> None:
        self.method, self.side = method, side
        self.input, self.prepare_text, self.similarity = method.input, method.prepare_text, self._similarity

    def _similarity(self, image: Features, text: Features) -> torch.Tensor:
        return image.pooled @ text.pooled.T

    def encode_image(self, images: torch.Tensor) -> Features:
        pooled = self.method.encode_image(images).pooled
        return Features(torch.full_like(pooled, 0.25) if self.side == "image" else pooled)

    def encode_text(self, text: Any) -> Features:
        pooled = self.method.encode_text(text).pooled
        return Features(torch.full_like(pooled, 0.25) if self.side == "text" else pooled)


@pytest.mark.parametrize("side", ["image", "text"])
@EVERY
def test_a_collapsed_encoder_scores_the_random_value_and_is_flagged(
    side: str, protocol: Protocol, bench: Bench, data: Dataset
) -> None:
    found = ZeroShot().run(Collapsed(bench.method, side), data, protocol, 1.0, bench.context())
    share = np.bincount(found.arrays["targets"], minlength=5) / len(found.uids)
    assert np.allclose(share, 0.2)
    result = values(found, protocol)
    assert result["accuracy"] == pytest.approx(0.2)
    assert result["kappa"] == pytest.approx(0, abs=1e-12)
    assert ZeroShot().degenerate(found, protocol)
    assert result.get("accuracy_prompt_spread", 0.0) == pytest.approx(0, abs=1e-12)


def test_trivial_rows_score_the_random_value(bench: Bench, data: Dataset) -> None:
    found = bench.run(ZeroShot(), NAMED["gloria"], data)
    assert not ZeroShot().degenerate(found, NAMED["gloria"])
    rows = ZeroShot().references(found, data, NAMED["gloria"])
    assert set(rows) == {"uniform guess", "majority class"}
    for name, row in rows.items():
        result = values(row, NAMED["gloria"])
        assert result["accuracy"] == result["recall"] == pytest.approx(0.2), name
        assert result["kappa"] == pytest.approx(0, abs=1e-12)
        assert ZeroShot().degenerate(row, NAMED["gloria"])


# ---------------------------------------------------------------------------------------------- bad input


@EVERY
def test_a_set_without_the_classes_is_unsupported_before_anything_runs(protocol: Protocol, data: Dataset) -> None:
    with pytest.raises(Unsupported, match=r"needs the classes Atelectasis.*, and toy lacks Atelectasis, Cardiomegaly"):
        ZeroShot().check(Dataset(ToySource(20)), protocol)
    ZeroShot().check(data, protocol)
    bare = FiveSource()
    bare.records = tuple(replace(record, labels=(1.0,) * 6) for record in bare.records)
    with pytest.raises(Unsupported, match="exactly one of Atelectasis"):
        ZeroShot().check(Dataset(bare), protocol)


def kept(keep: Callable[[int], bool]) -> Dataset:
    """The set with only the test rows of one class whose place is kept."""
    source = FiveSource()
    test = [record.uid for record in OfClasses(Dataset(source), NAMED["prior"]).rows("test") if record.labels.count(1.0) == 1]
    gone = {uid for place, uid in enumerate(test) if not keep(place)}
    source.records = tuple(record for record in source.records if record.uid not in gone)
    return Dataset(source)


@EVERY
def test_one_test_row_has_an_accuracy(protocol: Protocol, bench: Bench) -> None:
    found = ZeroShot().run(bench.method, kept(lambda place: place == 2), protocol, 1.0, bench.context())
    assert len(found.uids) == 1
    assert np.isfinite(found.arrays["scores"]).all()
    assert values(found, protocol)["accuracy"] in (0.0, 1.0)


@EVERY
def test_a_class_without_test_rows_is_named_and_left_out_of_the_means(protocol: Protocol, bench: Bench) -> None:
    context = bench.context()
    found = ZeroShot().run(bench.method, kept(lambda place: place % 5 != 3), protocol, 1.0, context)
    assert context.notes["classes_without_rows"] == "Edema"
    result = values(found, protocol)
    assert np.isnan(result["recall/Edema"])
    true, answers = found.arrays["targets"], found.arrays["predicted"].argmax(axis=1)
    assert result["f1"] == pytest.approx(sk.f1_score(true, answers, labels=[0, 1, 2, 4], average="macro", zero_division=0))


def test_prompts_over_the_text_limit_are_counted(bench: Bench, data: Dataset) -> None:
    context = bench.context()
    ZeroShot().run(bench.method, data, NAMED["cxrclip"], 1.0, context)
    texts = {text for name in FIVE for text in PHRASE_GRIDS["gloria-grid"].prompts(name)}
    expected = bench.method.prepare_text(sorted(texts)).truncated
    assert context.notes["texts_truncated"] == expected > 0


# ------------------------------------------------------------------------------------------- command line


def test_the_transductive_protocol_is_flagged_and_trivial_rows_stand_beside(
    command: Command, register: Callable[[Any, str, Any], None]
) -> None:
    register(SOURCES, "five", lambda location, options: FiveSource(30))
    names = "zeroshot-5x200-gloria,zeroshot-5x200-medclip"
    assert command.run("random", "zeroshot", "--protocol", names, data="five", settings=()) == 0
    flags = {result.spec.protocol: result.flags for result in command.results()}
    assert "transductive" in flags["zeroshot-5x200-gloria"]
    assert "transductive" not in flags["zeroshot-5x200-medclip"]
    titles = {(result.spec.protocol, result.title) for result in command.results("reference")}
    assert titles == {(name, title) for name in names.split(",") for title in ("uniform guess", "majority class")}
    assert command.run("random", "zeroshot", "--protocol", "zeroshot-5x200-prior", settings=()) == 0
    refused = next(result for result in command.results() if result.spec.dataset == "toy")
    assert refused.status == "unsupported"
