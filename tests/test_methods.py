"""The contract of every method with towers: shapes, determinism, independence of the batch, capabilities, configuration."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from benchmark.data.text import train_tokenizer
from benchmark.errors import Unavailable, UserError
from benchmark.types import Batch, Features, Step, capabilities, plain
from methods import METHODS
from methods.baselines import ImageNet, ImageNetConfig

TINY: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "image_width": 32, "image_depth": 2, "image_heads": 2, "text_width": 24,
    "text_layers": 2, "text_heads": 2, "embed_dim": 16, "max_tokens": 24,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mcr": ("mcr", {}),
    "mcr-dual-abm": ("mcr", {"stream": "dual", "alignment": "abm"}),
    "mcr-attention": ("mcr", {"aggregator": "attention", "attention_query": "shared"}),
    "mcr-dual-sequential": ("mcr", {"stream": "dual", "backward": "sequential"}),
    "clip": ("clip", {}),
    "clip-resnet": ("clip", {"image_encoder": "resnet"}),
    "random": ("random", {}),
    "random-resnet": ("random", {"image_encoder": "resnet"}),
}
REPORTS = (
    "There is a small left pleural effusion. The heart is enlarged.", "", "No focal consolidation.",
    "Heart size is normal. No pneumothorax or effusion.", "Right lower lobe consolidation is new.",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(REPORTS, 200)


@pytest.fixture(params=list(CASES))
def method(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Any:
    return build(request.param, tokenizer)


def build(case: str, tokenizer: Tokenizer, seed: int = 0) -> Any:
    name, options = CASES[case]
    cls: Any = METHODS.load(name)
    torch.manual_seed(seed)
    found = cls.build(replace(cls.preset("quick")[0], **TINY, **options), tokenizer).eval()
    for name, parameter in found.named_parameters():
        if name.endswith("query"):  # starts at 0, where an error would not show
            torch.nn.init.normal_(parameter)
    return found


def encode(method: Any, images: torch.Tensor, texts: tuple[str, ...]) -> tuple[Features, Features]:
    with torch.no_grad():
        return method.encode_image(images), method.encode_text(method.prepare_text(texts))


def pixels() -> torch.Tensor:
    return torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_features_are_normalised_finite_and_repeatable(method: Any) -> None:
    first, second = encode(method, pixels(), REPORTS), encode(method, pixels(), REPORTS)
    for one, two in zip(first, second):
        assert one.pooled.dtype == torch.float32
        assert one.pooled.shape == (5, 16)
        assert torch.allclose(one.pooled.norm(dim=1), torch.ones(5), atol=1e-5)
        assert torch.equal(one.pooled, two.pooled)
        assert one.tokens is not None
        assert len(one.tokens) == 5
    assert first[1].mask is not None
    assert first[1].mask.shape == first[1].tokens.shape[:2]
    assert first[1].mask.any(dim=1).all()  # an empty report too
    similarity = method.similarity(*first)
    assert similarity.shape == (5, 5)
    assert similarity.abs().max() <= 1 + 1e-5


def test_features_do_not_depend_on_the_rest_of_the_batch(method: Any) -> None:
    images, (image, text) = pixels(), encode(method, pixels(), REPORTS)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = encode(method, images[order], tuple(REPORTS[row] for row in order.tolist()))
    assert torch.allclose(shuffled[0].pooled, image.pooled[order], atol=1e-5)
    assert torch.allclose(shuffled[1].pooled, text.pooled[order], atol=1e-5)
    for row in range(5):  # one by one, so without any padding
        alone = encode(method, images[row : row + 1], REPORTS[row : row + 1])
        assert torch.allclose(alone[0].pooled[0], image.pooled[row], atol=1e-5)
        assert torch.allclose(alone[1].pooled[0], text.pooled[row], atol=1e-5)


def test_encoding_leaves_the_random_state_and_the_inputs_alone(method: Any) -> None:
    images = pixels()
    torch.manual_seed(3)
    encode(method, images, REPORTS)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(images, pixels())


def test_maps_have_the_promised_shapes(method: Any) -> None:
    for height, width in ((32, 32), (64, 48)):
        maps = method.feature_maps(torch.randn(2, 1, height, width))
        for item, (channels, stride) in zip(maps, method.feature_info, strict=True):
            assert item.shape == (2, channels, -(-height // stride), -(-width // stride))


def test_weights_survive_a_file_and_another_start(method: Any, tokenizer: Tokenizer, request: Any, tmp_path: Path) -> None:
    save_file(method.state_dict(), tmp_path / "model.safetensors")
    other = build(request.node.callspec.params["method"], method.tokenizer, seed=7)
    before = encode(other, pixels(), REPORTS)[0].pooled
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    for one, two in zip(encode(method, pixels(), REPORTS), encode(other, pixels(), REPORTS)):
        assert torch.equal(one.pooled, two.pooled)
    assert not torch.allclose(before, encode(other, pixels(), REPORTS)[0].pooled, atol=1e-3)


def test_the_same_seed_draws_the_same_weights(tokenizer: Tokenizer) -> None:
    for case in CASES:
        one, two, three = (build(case, tokenizer, seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert any(not torch.equal(one[name], three[name]) for name in one)


def test_losses_are_finite_reach_the_towers_and_lower_with_training(method: Any) -> None:
    if not hasattr(method, "loss"):
        assert method.name == "random"
        return
    method.train()
    names = tuple("abcde")
    batch = Batch(names, names, pixels(), REPORTS)
    optimizer = torch.optim.AdamW(method.parameters(), 1e-3)
    totals = []
    for index in range(8):
        torch.manual_seed(0)
        totals.append(0.0)
        for part in method.loss(batch, Step(index, 0, 8)):
            assert all(item.ndim == 0 and torch.isfinite(item) for item in part.values())
            part["total"].backward()
            totals[-1] += part["total"].item()
        missing = [name for name, item in method.named_parameters() if item.grad is None]
        assert missing == []
        optimizer.step()
        optimizer.zero_grad()
    assert totals[-1] < totals[0]


def test_capabilities_are_what_the_methods_say() -> None:
    expected = {
        "mcr": {"text", "dense", "trainable"}, "clip": {"text", "dense", "trainable"}, "random": {"text", "dense"},
        "imagenet": {"dense"},
    }  # fmt: skip
    assert {name: capabilities(METHODS.load(name)) for name in expected} == expected


@pytest.mark.parametrize("name", ["mcr", "clip", "random", "imagenet"])
def test_presets_are_frozen_scalars_with_a_recipe(name: str) -> None:
    cls: Any = METHODS.load(name)
    for preset in ("quick", "small", "paper"):
        config, recipe = cls.preset(preset)
        assert all(isinstance(value, str | int | float | bool) for value in plain(config).values())
        assert all(get_type_hints(type(config))[item.name] in (str, int, float, bool) for item in fields(config))
        assert (recipe.steps > 0) == ("trainable" in capabilities(cls))
    with pytest.raises(UserError, match="'huge' is not one of quick, small, paper"):
        cls.preset("huge")


def test_clip_and_mcr_differ_in_nothing_but_the_method(tokenizer: Tokenizer) -> None:
    for preset in ("quick", "small", "paper"):
        mcr, clip = METHODS.load("mcr"), METHODS.load("clip")
        assert plain(clip.preset(preset)[0]).items() <= plain(mcr.preset(preset)[0]).items()  # type: ignore[attr-defined]
        assert clip.preset(preset)[1] == mcr.preset(preset)[1]  # type: ignore[attr-defined]
    towers = [build(case, tokenizer).image_tower.state_dict() for case in ("mcr", "clip", "random")]
    assert all(torch.equal(towers[0][name], other[name]) for other in towers[1:] for name in towers[0])


def test_text_methods_need_a_tokenizer() -> None:
    for name in ("mcr", "clip", "random"):
        cls: Any = METHODS.load(name)
        with pytest.raises(UserError, match="tokenizer"):
            cls.build(cls.preset("quick")[0], None)


def test_mcr_says_whose_reading_it_is() -> None:
    card = METHODS.load("mcr").card  # type: ignore[attr-defined]
    assert card.title == "MCR (our reading of the abstract)"
    assert card.published == "not available"


@pytest.mark.parametrize("model", ["resnet10t", "vit_tiny_patch16_224"])
def test_imagenet_encodes_with_local_weights(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = timm.create_model(model)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    config = ImageNetConfig(model=model, weights=str(tmp_path / "weights.safetensors"))
    method = ImageNet.build(config, None).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = source.eval().forward_features(images)
        found = method.encode_image(images)
        shapes = [tuple(item.shape[1:]) for item in method.feature_maps(images)]
    assert shapes == [(channels, 224 // stride, 224 // stride) for channels, stride in method.feature_info]
    pooled = expected.mean(dim=(2, 3)) if expected.ndim == 4 else expected[:, 0]
    assert torch.allclose(found.pooled, torch.nn.functional.normalize(pooled, dim=1), atol=1e-5)
    assert method.input.channels == 3


def test_imagenet_without_weights_is_never_a_random_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.hub.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("benchmark.hub.try_to_load_from_cache", lambda repository, file: None)
    with pytest.raises(Unavailable, match="--set weights=FILE"):
        ImageNet.build(ImageNetConfig(), None)
    with pytest.raises(UserError, match="random start"):
        ImageNetConfig(weights="none")


def step_once(method: Any, batch: Batch) -> None:
    """One finite loss with a gradient at every parameter."""
    for part in method.loss(batch, Step(0, 0, 1)):
        assert all(torch.isfinite(item) for item in part.values())
        part["total"].backward()
    assert all(item.grad is not None for item in method.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["single", "dual"])
def test_paper_towers_take_one_step_at_batch_2(stream: str, tokenizer: Tokenizer) -> None:
    mcr: Any = METHODS.load("mcr")
    config = replace(mcr.preset("paper")[0], image_weights="none", text_weights="none", stream=stream)
    torch.manual_seed(0)
    method = mcr.build(config, tokenizer)
    vision = sum(item.numel() for item in method.image_tower.parameters())
    assert vision == 85_798_656  # ViT-B/16 at 224 without its head
    assert (method.input.size, method.input.channels) == (224, 3)
    batch = Batch(("a", "b"), ("a", "b"), torch.randn(2, 3, 224, 224), REPORTS[:2])
    step_once(method, batch)


@pytest.mark.slow
def test_paper_resnet_takes_one_step_at_batch_2(tokenizer: Tokenizer) -> None:
    clip: Any = METHODS.load("clip")
    config = replace(clip.preset("paper")[0], image_weights="none", text_weights="none", image_encoder="resnet")
    torch.manual_seed(0)
    method = clip.build(config, tokenizer)
    assert sum(item.numel() for item in method.image_tower.parameters()) == 23_508_032  # ResNet-50 without its head
    assert method.feature_info == ((256, 4), (512, 8), (1024, 16), (2048, 32))
    batch = Batch(("a", "b"), ("a", "b"), torch.randn(2, 3, 224, 224), REPORTS[:2])
    step_once(method, batch)


def test_a_frozen_patch_projection_stays_as_it_is(tokenizer: Tokenizer) -> None:
    config, _ = METHODS.load("mcr").preset("quick")
    torch.manual_seed(0)
    method = METHODS.load("mcr").build(replace(config, patch_projection="frozen"), tokenizer)
    frozen = {name for name, parameter in method.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"image_tower.model.patch_embed.proj.{part}" for part in ("weight", "bias")}
    with pytest.raises(UserError, match="patch_projection"):
        replace(config, patch_projection="thawed")
