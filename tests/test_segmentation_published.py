"""Published segmentation protocols through the command line, on the phantom with tiny towers, heads and few epochs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.errors import Unsupported, UserError
from benchmark.types import InputSpec, Protocol, Record
from tasks.published import segmentation as published
from tasks.published.segmentation import PROTOCOLS
from tasks.segmentation import Segmentation
from tasks.segmentation_masks import as_many_negatives
from tests.conftest import TINY, Command
from tests.toy import ToySource

TINY_HEADS = {
    "batch_size": 4, "decoder_channels": "16,12,8,8,8", "epochs": 2, "frozen_steps": 1, "reference_size": 32,
    "setr_channels": "16,12,8,8", "setr_width": 16,
}  # fmt: skip
PHANTOM = "phantom:train=8,val=4,test=4,size=64"
EVERY = ",".join(protocol.name for protocol in PROTOCOLS)


def tiny(protocol: Protocol, **changes: Any) -> Protocol:
    """A literal with a head and a fit that take a moment; every other choice as it is."""
    stated = dict(protocol.settings)
    merged = stated | {name: value for name, value in TINY_HEADS.items() if name in stated} | changes
    return replace(protocol, settings=tuple(sorted(merged.items())))


def literal(name: str, **changes: Any) -> Protocol:
    return tiny(next(protocol for protocol in PROTOCOLS if protocol.name == name), **changes)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(device=torch.device("cpu"), cache=tmp_path, batch_size=4, progress=False)


@pytest.mark.parametrize("encoder", ["vit", "resnet"])
def test_every_literal_runs_end_to_end(encoder: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "PROTOCOLS", tuple(map(tiny, PROTOCOLS)))
    words = ("--protocol", EVERY, "--labels", "1")
    settings = (*TINY, f"image_encoder={encoder}")
    assert command.run("random", "segmentation", *words, settings=settings, data=PHANTOM) == 0, command.error
    results = {result.spec.protocol: result for result in command.results()}
    assert set(results) == {protocol.name for protocol in PROTOCOLS}
    weights = {result.notes["weights_sha256"] for result in results.values()}
    assert len(weights) == 1
    for protocol in PROTOCOLS:
        found = results[protocol.name]
        assert found.status == "ok", found.error
        assert found.metrics[protocol.primary].value is not None
        assert found.notes["evaluations"] == 2
        assert ("val_loss" in found.notes) == (dict(protocol.settings)["monitor"] == "loss")
        assert ("encoder_params_trained" in found.notes) == (dict(protocol.settings)["encoder"] == "finetune")
        assert str(found.notes["split_differs"]).endswith(str(dict(protocol.settings)["split"]))
    rows = {result.title for result in command.results("reference")}
    assert rows == {"empty mask", "all foreground", "mean training mask", "whole lungs"}


def test_every_literal_states_its_encoder_its_batch_norm_and_its_split() -> None:
    for protocol in PROTOCOLS:
        stated = dict(protocol.settings)
        assert stated["encoder"] in ("frozen", "finetune")
        assert stated["freeze_bn"] is (stated["encoder"] == "frozen")
        assert stated["split"]
        assert stated["augmentation"] == "none" or stated["encoder"] == "finetune"


# ------------------------------------------------------------------------------------------- methods with weights


class Filters(nn.Module):
    """Two convolutions with batch norm; the method of the tests below."""

    name = "filters"
    feature_info = ((8, 8), (8, 16), (8, 32))

    def __init__(self) -> None:
        super().__init__()
        self.input = InputSpec(size=64)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, 8, side, stride=side), nn.BatchNorm2d(8), nn.ReLU())
            for before, side in ((1, 8), (8, 2), (8, 2))
        )

    def feature_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = []
        for stage in self.stages:
            images = stage(images)
            found.append(images)
        return tuple(found)


def filters() -> Filters:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Filters().eval().requires_grad_(False)


def test_a_cell_that_fine_tunes_leaves_the_method_to_the_next_one_as_it_was(context: Context) -> None:
    method, data = filters(), Dataset(ToySource(20))
    before = {name: item.clone() for name, item in method.state_dict().items()}
    first = Segmentation().run(method, data, literal("unet-lovt-frozen"), 1.0, context)
    tuned = Segmentation().run(method, data, literal("unet-lovt-finetune"), 1.0, context)
    assert all(torch.equal(item, before[name]) for name, item in method.state_dict().items())
    again = Segmentation().run(method, data, literal("unet-lovt-frozen"), 1.0, context)
    np.testing.assert_array_equal(first.arrays["counts"], again.arrays["counts"])
    assert not np.array_equal(first.arrays["counts"], tuned.arrays["counts"])


@pytest.mark.parametrize("name", ["unet-lovt-finetune", "unet-gloria-siim"])
def test_fine_tuning_is_the_same_twice_and_another_seed_is_another_fit(name: str, context: Context) -> None:
    data, task = Dataset(ToySource(20)), Segmentation()
    first, second = (task.run(filters(), data, literal(name), 1.0, context) for _ in range(2))
    np.testing.assert_array_equal(first.arrays["counts"], second.arrays["counts"])
    context.eval_seed = 1
    other = task.run(filters(), data, literal(name), 1.0, context)
    assert not np.array_equal(first.arrays["counts"], other.arrays["counts"])


def test_augmentation_changes_the_fit_and_is_refused_on_maps_that_are_made_once(context: Context) -> None:
    data, task = Dataset(ToySource(20)), Segmentation()
    moved = task.run(filters(), data, literal("unet-gloria-siim"), 1.0, context)
    still = task.run(filters(), data, literal("unet-gloria-siim", augmentation="none"), 1.0, context)
    assert not np.array_equal(moved.arrays["counts"], still.arrays["counts"])
    with pytest.raises(UserError, match="augmentation 'turn-and-zoom' is neither none nor turn-and-zoom with encoder=finetune"):
        task.run(filters(), data, literal("unet-mgca-rsna", augmentation="turn-and-zoom"), 1.0, context)


def test_fine_tuning_learns_what_a_frozen_encoder_does_not_show(context: Context) -> None:
    """Maps that hardly hold the image at the start: the head alone finds nothing in them."""
    method, data = filters(), Dataset(ToySource(20))
    with torch.no_grad():
        method.stages[0][0].weight.mul_(1e-6)
        method.stages[0][0].bias.fill_(1.0)
    changes = {"epochs": 12, "learning_rate": 1e-2, "stop_patience": None, "plateau": "", "frozen_steps": 0}
    scores = {}
    for name in ("unet-lovt-frozen", "unet-lovt-finetune"):
        made = Segmentation().run(method, data, literal(name, **changes), 1.0, context)
        scores[name] = Segmentation().score(made, PROTOCOLS[0], np.ones((1, len(made.uids))))["dice_micro"][0]
    assert scores["unet-lovt-finetune"] > 0.5
    assert scores["unet-lovt-finetune"] > np.nan_to_num(scores["unet-lovt-frozen"]) + 0.2


@pytest.mark.parametrize("words", [{"batch_size": 2}, {"precision": "bf16"}, {"precision": "fp16"}], ids=str)
def test_batches_in_parts_and_mixed_precision_learn_as_the_whole_batch_does(words: dict[str, Any], context: Context) -> None:
    data, protocol = Dataset(ToySource(20)), literal("unet-lovt-finetune", epochs=6, learning_rate=1e-2, plateau="")
    whole = Segmentation().run(filters(), data, protocol, 1.0, context)
    other = replace(context, notes={}, **words)
    found = Segmentation().run(filters(), data, protocol, 1.0, other)
    assert other.notes.get("batch_part") == words.get("batch_size")
    assert not np.array_equal(whole.arrays["counts"], found.arrays["counts"])
    assert min(float(item.notes["val_score"] or 0) for item in (context, other)) > 0.4  # it learned


# ------------------------------------------------------------------------------------------------------ bad input


class Sparse(ToySource):
    """The toy with masks in the named rows alone; every other mask is empty."""

    def __init__(self, patients: int, positive: tuple[str, ...] = ()) -> None:
        super().__init__(patients)
        self.positive = positive

    def mask(self, record: Record, name: str) -> np.ndarray:
        made = np.zeros((64, 64), np.uint8)
        if record.uid in self.positive:
            made[20:40, 20:40] = 1
        return made


@pytest.mark.parametrize("name", ["unet-mgca-siim", "unet-lovt-finetune", "linear-lovt", "unet-prior-5fold"])
@pytest.mark.parametrize("positive", [(), ("p000-0",)], ids=["all empty", "one positive"])
def test_masks_all_empty_or_one_positive_are_fitted_and_scored(name: str, positive: tuple[str, ...], context: Context) -> None:
    data, protocol = Dataset(Sparse(20, positive)), literal(name)
    made = Segmentation().run(filters(), data, protocol, 1.0, context)
    assert context.notes["train_rows_with_a_target"] == len(positive)
    assert context.notes["train_rows"] == (2 if positive and name == "unet-mgca-siim" else 24)
    scores = Segmentation().score(made, protocol, np.ones((1, len(made.uids))))
    empty = made.arrays["counts"][:, 0, 1] == 0
    assert scores["dice_empty1"][0] == pytest.approx(empty.mean())
    assert np.isnan(scores["dice_nonempty"][0])
    assert Segmentation().degenerate(made, protocol) == bool(empty.all() or (made.arrays["counts"][:, 0, 1] == 64 * 64).all())


class Resized(ToySource):
    """One mask of train, val and test each of another size than its image."""

    def mask(self, record: Record, name: str) -> np.ndarray:
        made = super().mask(record, name)
        return made[:32] if record.uid in ("p000-0", "p003-0", "p004-1") else made


def test_masks_of_another_size_are_left_out_counted_and_named(context: Context) -> None:
    made = Segmentation().run(filters(), Dataset(Resized(20)), literal("unet-lovt-finetune"), 1.0, context)
    assert context.notes["fit_rows_unreadable"] == 2  # of train and val
    assert context.notes["train_rows"] == 23
    assert made.skipped == (("p004-1", "mask of (32, 64) over an image of (64, 64); make them equal"),)
    assert "p004-1" not in made.uids


def test_weights_that_have_diverged_are_refused_with_the_rows(context: Context) -> None:
    method = filters()
    with torch.no_grad():
        method.stages[0][0].bias.fill_(float("nan"))
    for name in ("unet-lovt-frozen", "unet-lovt-finetune"):
        with pytest.raises(
            UserError, match=r"feature maps of \d+ rows are not finite \(first: p0\d\d-\d, .*the weights have diverged"
        ):
            Segmentation().run(method, Dataset(ToySource(20)), literal(name), 1.0, context)


def test_a_fit_that_diverges_names_the_step_and_the_rows(context: Context) -> None:
    protocol = literal("unet-lovt-finetune", learning_rate=1e18, frozen_learning_rate=1e18, epochs=9)
    with pytest.raises(UserError, match=r"not finite"):
        Segmentation().run(filters(), Dataset(ToySource(20)), protocol, 1.0, context)


def test_a_method_that_cannot_be_fine_tuned_is_unsupported_for_those_literals_alone(context: Context) -> None:
    class Fixed(Filters):
        def feature_maps(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with torch.no_grad():
                return super().feature_maps(images)

    data = Dataset(ToySource(20))
    with pytest.raises(Unsupported, match="filters cannot be fine-tuned"):
        Segmentation().run(Fixed().eval(), data, literal("unet-gloria-siim"), 1.0, context)
    assert len(Segmentation().run(Fixed().eval(), data, literal("unet-mgca-siim"), 1.0, context).uids) == 8


def test_as_many_negatives_as_positives_whatever_the_order_of_rows() -> None:
    records = [Record(uid=f"u{row}", patient=f"p{row}", study="s", split="train", image="x") for row in range(12)]
    targets = torch.zeros(12, 2, 4, 4, dtype=torch.uint8)
    targets[[1, 5, 7], 1, 2, 2] = 1
    targets[3] = 255
    kept, found = as_many_negatives(records, targets, 0)
    uids = [record.uid for record in kept]
    assert {"u1", "u5", "u7"} < set(uids)
    assert len(uids) == len(found) == 6
    assert [bool((one == 1).any()) for one in found] == [uid in ("u1", "u5", "u7") for uid in uids]
    backwards, _ = as_many_negatives(records[::-1], targets.flip(0), 0)
    assert {record.uid for record in backwards} == set(uids)
    assert {record.uid for record in as_many_negatives(records, targets, 1)[0]} != set(uids)


# ------------------------------------------------------------------------------------------------ trivial rows


class Lungs(ToySource):
    """The toy with lungs, a band of each image, beside its lesions."""

    mask_names = ("lesion", "lungs")

    def __init__(self, patients: int, lacking: str = "") -> None:
        super().__init__(patients)
        self.records = tuple(
            record if record.uid == lacking else replace(record, masks={**record.masks, "lungs": record.image})
            for record in self.records
        )

    def mask(self, record: Record, name: str) -> np.ndarray:
        if name == "lesion":
            return super().mask(record, name)
        made = np.zeros((64, 64), np.uint8)
        made[16:48] = 1
        return made


def test_the_whole_lungs_stand_in_for_what_lies_in_them(context: Context) -> None:
    data, protocol = Dataset(Lungs(20)), literal("linear-lovt")
    made = Segmentation().run(filters(), data, protocol, 1.0, context)
    row = Segmentation().references(made, data, protocol)["whole lungs"]
    scores = Segmentation().score(row, protocol, np.ones((1, len(row.uids))))
    lesions = [data.source.mask(record, "lesion") for record in data.rows("test")]
    overlap, total = sum(int(mask[16:48].sum()) for mask in lesions), sum(int(mask.sum()) + 32 * 64 for mask in lesions)
    assert scores["dice_micro/lesion"][0] == pytest.approx(2 * overlap / total)
    assert scores["dice_micro/lungs"][0] == 1  # by the mean training mask: these lungs are all alike


def test_there_is_no_row_of_whole_lungs_where_an_image_has_none(context: Context) -> None:
    data, protocol = Dataset(Lungs(20, lacking="p004-0")), literal("linear-lovt")
    made = Segmentation().run(filters(), data, protocol, 1.0, context)
    assert set(Segmentation().references(made, data, protocol)) == {"empty mask", "all foreground", "mean training mask"}
