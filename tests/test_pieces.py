"""A batch by pieces: terms and gradients of the whole, in less memory; blocks computed twice; what refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmark import repro
from benchmark.errors import UserError
from benchmark.meter import Meter, host_peak_mib
from benchmark.parts import Part, Tensors, is_separable
from benchmark.training.blocks import blocks_of
from benchmark.training.optimizers import optimizer_of
from benchmark.training.pieces import Pieces
from benchmark.training.trainer import Trainer
from benchmark.types import Batch, Step
from methods.clip import CLIP
from tests import child
from tests.test_pretrain import Setup
from tests.test_processes import SMALL_PRIOR, STEPS, assert_equal
from tests.two_processes import gradients_of

METHODS = [
    ("mcr", ()), ("mcr", ("stream=dual",)), ("mcr", ("stream=dual", "backward=sequential")), ("clip", ()), ("convirt", ()),
    ("medclip", ()), ("cxr_clip", ()), ("simclr", ()), ("mae", ()), ("mrm", ()), ("mrm", ("report_labels=all",)),
    ("gloria", ()), ("mgca", ()), ("prior", SMALL_PRIOR),
]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("name", "settings"), METHODS)
def test_pieces_give_the_terms_and_gradients_of_the_whole(name: str, settings: tuple[str, ...], cache: Path) -> None:
    expected = gradients_of(cache, name, settings, STEPS)
    assert_equal(gradients_of(cache, name, (*settings, "micro_batch=3"), STEPS), expected)  # 3, 3 and 2 of 8


@pytest.mark.parametrize(("name", "settings"), [*METHODS, ("clip", ("image_encoder=resnet",)), ("mcr", ("dropout=0.3",))])
def test_blocks_computed_twice_give_the_same(name: str, settings: tuple[str, ...], cache: Path) -> None:
    expected = gradients_of(cache, name, settings, (0, 7))
    assert_equal(gradients_of(cache, name, (*settings, "gradient_checkpointing=true"), (0, 7)), expected, 1e-12)


def test_the_second_pass_has_the_dropout_of_the_first() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
    rows = torch.randn(7, 3, dtype=torch.float64)

    def embed(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"z": F.dropout(inputs @ weight, 0.5), "n": torch.arange(len(inputs))}

    def compare(found: Tensors) -> Tensors:
        return {"total": (found["z"] @ found["z"].T).logsumexp(dim=1).sum()}

    def drawing(start: int) -> AbstractContextManager[None]:
        return repro.seeded("row", start)

    def embedded(place: slice) -> Tensors:
        with drawing(place.start):
            return embed(rows[place])

    places = [slice(0, 3), slice(3, 6), slice(6, 7)]
    expected = compare({"z": torch.cat([embedded(place)["z"] for place in places])})["total"]
    expected.backward()
    assert weight.grad is not None
    gradient, weight.grad = weight.grad, None
    found = Pieces(3, nullcontext, lambda total: total.backward(), drawing).run(Part((rows,), embed, compare))
    assert torch.allclose(found["total"], expected.detach())
    assert weight.grad is not None
    assert torch.allclose(weight.grad, gradient, atol=1e-12)


def test_a_subclass_with_another_loss_is_no_longer_separable() -> None:
    class Other(CLIP):
        def loss(self, batch: Batch, step: Step) -> Iterator[Tensors]:
            yield from super().loss(batch, step)

    class Both(Other):
        def parts(self, batch: Batch, step: Step) -> Iterator[Part]:
            yield from super().parts(batch, step)

    kinds = (CLIP, Other, Both, torch.nn.Linear)
    assert [is_separable(kind.__new__(kind)) for kind in kinds] == [True, False, True, False]


def test_a_trained_method_has_its_own_blocks_again(cache: Path) -> None:
    setup = Setup(cache, "clip", ("gradient_checkpointing=true",))
    method = setup.method()
    trainer = Trainer(method, setup.recipe, torch.device("cpu"))
    block = blocks_of(method)[0]
    assert "forward" in vars(block)
    trainer.finish()
    assert "forward" not in vars(block)


@pytest.mark.parametrize("name", ["clip", "simclr", "prior"])
def test_batch_norm_in_the_encoder_refuses_pieces(name: str, cache: Path) -> None:
    settings = (*(SMALL_PRIOR if name == "prior" else ()), "image_encoder=resnet", "micro_batch=4")
    with pytest.raises(UserError, match="this encoder has batch norm"):
        gradients_of(cache, name, settings, (0,))
    gradients_of(cache, name, (*settings[:-1], "micro_batch=8"), (0,))  # one piece is the whole


def test_layers_nearer_to_the_input_have_lower_rates(cache: Path) -> None:
    setup = Setup(cache, "clip", ("image_depth=3", "layer_decay=0.5"))
    method = setup.method()
    factors = {
        name: group["factor"]
        for group in optimizer_of(method, setup.recipe).param_groups
        for name, item in method.named_parameters()
        if any(item is other for other in group["params"])
    }
    assert factors.keys() == {name for name, item in method.named_parameters() if item.requires_grad}
    wanted = {
        "image_tower.model.cls_token": 1 / 16, "image_tower.model.patch_embed.proj.weight": 1 / 16,
        "image_tower.model.blocks.0.norm1.weight": 1 / 8, "image_tower.model.blocks.2.mlp.fc1.bias": 1 / 2,
        "image_tower.model.norm.weight": 1.0, "text_tower.bert.embeddings.word_embeddings.weight": 1 / 4,
        "text_tower.bert.encoder.layer.0.output.dense.weight": 1 / 2, "logit_scale.log_scale": 1.0,
    }  # fmt: skip
    assert {name: factors[name] for name in wanted} == wanted
    with pytest.raises(UserError, match="has no tower of layers"):
        optimizer_of(torch.nn.Linear(2, 2), setup.recipe)


# ------------------------------------------------------------------------------------------- memory

LARGE = ("image_size=64", "patch_size=8", "image_width=64", "image_depth=6", "image_heads=4")


def peak_of_a_step(cache: str, settings: tuple[str, ...], copies: int, path: str) -> None:
    """In a child: MiB of this process at most in a step with 8 rows so many times, over what it had before."""
    setup = Setup(Path(cache), "clip", (*LARGE, *settings))
    trainer = Trainer(setup.method(), setup.recipe, torch.device("cpu"))
    batch, epoch = setup.loader().batch(0)
    trainer.step(batch, 0, epoch)  # the optimizer's state
    many = replace(
        batch, images=batch.images.repeat(copies, 1, 1, 1), uids=batch.uids * copies, texts=batch.texts * copies,
        patients=batch.patients * copies, targets={},
    )  # fmt: skip
    meter = Meter()
    meter.start()
    before = host_peak_mib()
    trainer.step(many, 1, epoch)
    after = host_peak_mib()
    Path(path).write_text(json.dumps(None if before is None or after is None else after - before))


@pytest.mark.slow
def test_memory_of_a_step_is_nearly_flat_in_the_batch(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peaks: dict[str, list[float]] = {}
    for name, settings in (("whole", ()), ("pieces", ("micro_batch=16",)), ("blocks twice", ("gradient_checkpointing=true",))):
        for copies in (4, 16, 64):
            path = tmp_path / "peak.json"
            assert child.finish(child.start(peak_of_a_step, str(cache), settings, copies, str(path))) == 0
            peaks.setdefault(name, []).append(json.loads(path.read_text()))
    if None in peaks["whole"]:
        pytest.skip("this system does not tell the peak memory of a process")
    with capsys.disabled():
        print(f"\nMiB over the start at 32, 128 and 512 rows: {peaks}")
    assert peaks["whole"][2] > 3 * peaks["whole"][1]
    assert peaks["pieces"][2] < 0.25 * peaks["whole"][2]
    assert peaks["blocks twice"][2] < 0.7 * peaks["whole"][2]
    rows_themselves = 480 * 64 * 64 * 4 / 2**20 * 2  # the images of the further rows, and their copy in pieces
    assert peaks["pieces"][2] < 1.5 * peaks["pieces"][0] + rows_themselves
