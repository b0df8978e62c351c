"""Zero-shot into one of several classes: metrics against scikit-learn, prompts and their pooling against recorded values."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from benchmark import metrics
from benchmark.types import digest
from tasks import multiclass
from tasks.prompts import FIVE, PHRASE_GRIDS, drawn
from tasks.published.zeroshot import PROTOCOLS
from tests.golden import Case, needs_golden

NAMED = {protocol.name.removeprefix("zeroshot-5x200-"): protocol for protocol in PROTOCOLS if protocol.primary == "accuracy"}
quick = settings(max_examples=60, deadline=None)
Floats = NDArray[np.float64]


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
