"""What may be wrong with a request or a set, in every family: said in a sentence, before work where it can be, and never a 0.

CASES names, for each kind of bad input, the tests that show what happens in the families that know it.
"""

from __future__ import annotations

import ast
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.data.dataset import Dataset
from benchmark.errors import Unavailable, Unsupported, UserError
from benchmark.types import Protocol
from tasks import TASKS
from tasks.published.retrieval import PROTOCOLS as RETRIEVAL
from tasks.zeroshot import ZeroShot
from tests.conftest import TINY, TRAINED, Command, small
from tests.test_multiclass import BenchOf
from tests.test_protocols import EVERY
from tests.test_tasks_text import Bench
from tests.toy import ToySource

CASES: dict[str, tuple[str, ...]] = {  # file and test, both without "test_"
    "a class absent from the test rows": (
        "multiclass::a_class_without_test_rows_is_named_and_left_out_of_the_means",
        "tasks_text::a_class_that_test_rows_lack_is_undefined_and_left_out_of_the_mean",
        "classification_edges::a_class_absent_from_test_is_undefined_not_zero",
        "detection_metrics::one_patient_with_all_the_boxes_leaves_draws_without_that_patient_undefined",
    ),
    "a fraction too small for one positive": (
        "classification_edges::a_fraction_of_one_patient_without_a_positive_is_at_chance",
        "softmax::classes_that_a_fraction_lacks_are_named_and_the_others_are_fitted",
        "segmentation_published::masks_all_empty_or_one_positive_are_fitted_and_scored",
        "detection_runs::a_fraction_without_a_box_is_refused_with_the_way_out",
    ),
    "one patient with all the positives": (
        "classification_edges::one_patient_with_all_the_positives",
        "segmentation_scores::one_positive_that_a_draw_leaves_out_leaves_its_metrics_undefined_in_that_draw_alone",
        "detection_runs::all_training_boxes_of_one_patient_are_enough",
    ),
    "masks all empty": (
        "segmentation_published::masks_all_empty_or_one_positive_are_fitted_and_scored",
        "segmentation_scores::masks_that_are_all_empty_have_no_dice_over_positives_and_none_over_pixels",
    ),
    "images without boxes": (
        "detection_runs::images_without_boxes_in_train_or_test_are_said_before_anything_runs",
        "detection::an_image_without_boxes_contributes_its_false_positives",
    ),
    "prompts longer than the text limit": (
        "bad_input::prompts_over_the_text_limit_are_counted",
        "multiclass::prompts_over_the_text_limit_are_counted",
    ),
    "a test set of one image": (
        "bad_input::one_test_image_is_scored_or_refused",
        "classification_edges::a_test_set_of_one_image_has_no_area_and_is_not_called_degenerate",
        "multiclass::one_test_row_has_an_accuracy",
        "detection_runs::one_test_image_is_scored",
    ),
    "a method without the capability": (
        "bad_input::a_method_without_the_capability_is_unsupported_and_the_others_run",
        "finetune::a_method_without_a_differentiable_tower_is_unsupported",
        "segmentation_published::a_method_that_cannot_be_fine_tuned_is_unsupported_for_those_literals_alone",
    ),
    "predictions that are not finite": (
        "bad_input::weights_that_have_diverged_are_refused_with_the_uids",
        "metrics::predictions_that_are_not_finite_are_refused_with_their_uids",
    ),
    "a set that lacks what a protocol needs": ("bad_input::a_set_of_bare_images_is_refused_before_anything_runs",),
}


@pytest.mark.parametrize("kind", CASES)
def test_each_kind_has_its_tests(kind: str) -> None:
    for case in CASES[kind]:
        file, _, name = case.partition("::")
        tree = ast.parse(Path(__file__).with_name(f"test_{file}.py").read_text())
        assert f"test_{name}" in {item.name for item in ast.walk(tree) if isinstance(item, ast.FunctionDef)}, case


FAMILIES = ("retrieval", "zeroshot", "classification", "segmentation", "detection")


def quick(family: str) -> tuple[Any, Protocol]:
    task = TASKS.load(family)()
    return task, small(task.protocols("quick")[0])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bad-input"))


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_set_of_bare_images_is_refused_before_anything_runs(name: str) -> None:
    """No report, no label, no mask, no box: every protocol says so by itself, with neither a method nor pixels."""
    source = ToySource(10)
    source.classes, source.mask_names, source.box_classes = (), (), ()  # type: ignore[misc]
    source.records = tuple(replace(item, sections={}, labels=(), boxes=None, masks={}) for item in source.records)
    protocol = EVERY[name]
    with pytest.raises((Unsupported, Unavailable)) as caught:
        TASKS.load(protocol.task)().check(Dataset(source), protocol)
    assert "toy" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_have_diverged_are_refused_with_the_uids(family: str, bench: Bench) -> None:
    task, protocol = quick(family)
    method = deepcopy(bench.method)
    with torch.no_grad():
        next(iter(method.image_tower.parameters())).fill_(float("nan"))
    with pytest.raises(UserError, match=r"p0\d\d-\d"):
        task.run(method, Dataset(ToySource(20)), protocol, 1.0, bench.context())


@pytest.mark.parametrize("family", FAMILIES)
def test_one_test_image_is_scored_or_refused(family: str, bench: Bench) -> None:
    source = ToySource(20)
    test = [item for item in source.records if item.split == "test" and item.boxes]
    source.records = tuple(item for item in source.records if item.split != "test" or item is test[0])
    task, protocol = quick(family)
    data = Dataset(source)
    if family == "retrieval":
        with pytest.raises(Unsupported, match="fewer than two"):
            task.check(data, protocol)
        return
    task.check(data, protocol)
    found = task.run(bench.method, data, protocol, 1.0, bench.context())
    assert found.uids.tolist() == [test[0].uid]
    values = {name: float(value[0]) for name, value in task.score(found, protocol, np.ones((1, 1))).items()}
    defined = {name: value for name, value in values.items() if value == value}
    assert defined
    assert "auroc" not in defined  # one image has no area: undefined, never 0


def test_prompts_over_the_text_limit_are_counted(tmp_path: Path) -> None:
    method = BenchOf(tmp_path, "random").method
    source = ToySource(10)
    longest = ("Lung Lesion " * 40).strip()
    source.classes = (longest, *ToySource.classes[1:])  # type: ignore[misc]
    task, protocol = ZeroShot(), ZeroShot().protocols("quick")[0]
    context = Bench(tmp_path).context()
    task.run(method, Dataset(source), protocol, 1.0, context)
    assert int(context.notes["texts_truncated"] or 0) >= 6  # three prompts of either sign


def test_a_method_without_the_capability_is_unsupported_and_the_others_run(command: Command) -> None:
    pairs = tuple(item for item in TINY if not item.startswith(("text", "max_tokens", "embed_dim")))
    assert command.run("simclr", "all", "--labels", "1", settings=(*pairs, *TRAINED)) == 0, command.error
    statuses = {result.spec.protocol: (result.status, result.error) for result in command.results()}
    assert {status for status, _ in statuses.values()} == {"ok", "unsupported"}
    for name, (status, error) in statuses.items():
        needs_text = name.startswith(("retrieval", "zeroshot"))
        assert status == ("unsupported" if needs_text else "ok"), error
        assert not needs_text or error == f"simclr has no text capability, which {name} needs"


def test_the_protocols_of_lists_say_what_a_user_must_bring() -> None:
    for protocol in RETRIEVAL:
        if protocol.name.startswith("retrieval-8x200"):
            bare = replace(protocol, settings=tuple(sorted({**dict(protocol.settings), "classes": "Lung Lesion"}.items())))
            with pytest.raises(Unavailable, match="give the folder by --split FOLDER"):
                TASKS.load("retrieval")().check(Dataset(ToySource(10)), bare)
