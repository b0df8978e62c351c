"""PRIOR's released files: every key is used or listed, features survive the way there and back, and misfits are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from benchmark import weights
from benchmark.data.text import train_tokenizer
from benchmark.errors import UserError
from benchmark.published import Layout, apply, layout_of
from methods.prior import PRIOR, PRIORImage
from methods.published.prior import LAYOUTS, UNNEEDED
from tests.golden import REFERENCE, needs_golden

WHOLE, IMAGE = LAYOUTS
REPORTS = ["Clear lungs. No effusion.", "The heart is enlarged."]
THEIRS = {
    "image_tower.model.": "image_encoder.encoder.", "image_pool.": "image_encoder.atten_pool.",
    "text_tower.bert.": "text_encoder.encoder.", "sentence_decoder.bert.": "sentence_decoder.",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(REPORTS, 60)


def built(tokenizer: Tokenizer, **settings: Any) -> PRIOR:
    """The released architecture around ResNet-50, all else small."""
    torch.manual_seed(3)
    config = replace(
        PRIOR.preset("paper")[0], image_encoder="resnet50", image_weights="none", image_size=64, text_weights="none",
        text_width=16, text_layers=1, text_heads=1, text_positions=32, text_types=2, max_tokens=32, embed_dim=16, prototypes=8,
        max_sentences=4, decoder_layers=1, decoder_heads=1, decoder_positions=32, patch_layout="official",
        image_decoder_channels=16, pool_heads=8,
    )  # fmt: skip
    return PRIOR.build(replace(config, **settings), tokenizer).eval()


def released(method: PRIOR) -> dict[str, Tensor]:
    """The state of a method under the released names, with what only the released file has."""
    state = {}
    for name, value in method.state_dict().items():
        ours = next((prefix for prefix in THEIRS if name.startswith(prefix)), "")
        state[THEIRS.get(ours, "") + name[len(ours) :]] = value.clone()
    del state["bank_since"]
    words = state["text_encoder.encoder.embeddings.word_embeddings.weight"]
    return state | {
        "global_text_projection.weight": torch.zeros(16, 16), "global_text_projection.bias": torch.zeros(16),
        "text_encoder.encoder.pooler.dense.weight": torch.zeros(16, 16),
        "text_encoder.encoder.pooler.dense.bias": torch.zeros(16),
        "text_encoder.encoder.embeddings.position_ids": torch.arange(32).unsqueeze(0),
        "sentence_decoder.embeddings.position_ids": torch.arange(32).unsqueeze(0),
        "sentence_decoder.embeddings.word_embeddings.weight": torch.zeros_like(words),
    }  # fmt: skip


@pytest.fixture(scope="module")
def method(tokenizer: Tokenizer) -> PRIOR:
    found = built(tokenizer)
    found.bank_since.fill_(0)
    return found


@pytest.fixture(scope="module")
def state(method: PRIOR) -> dict[str, Tensor]:
    return released(method)


@pytest.mark.parametrize("wrapped", [False, True], ids=["flat", "lightning"])
def test_the_whole_model_goes_there_and_back(
    method: PRIOR, state: dict[str, Tensor], tokenizer: Tokenizer, tmp_path: Any, wrapped: bool
) -> None:
    file = tmp_path / "prior.pt"
    torch.save({"state_dict": state, "epoch": 149} if wrapped else state, file)
    found = weights.load(file)
    assert layout_of(PRIOR, found) is WHOLE
    config = replace(PRIOR.preset("paper")[0], **WHOLE.configure(found))
    assert (config.pixel_stats, config.resize, config.image_size, config.image_channels) == ("0.4755,0.3011", "stretch", 64, 1)
    other = PRIOR.build(config, tokenizer).eval()
    notes = apply(other, WHOLE, found, "prior.pt")
    assert notes["checkpoint_keys_left_out"] == 7
    assert notes["checkpoint_keys_used"] == len(method.state_dict())
    images, text = torch.randn(2, 1, 64, 64), method.prepare_text(REPORTS)
    with torch.inference_mode():
        assert torch.equal(other.encode_image(images).pooled, method.encode_image(images).pooled)
        assert torch.equal(other.encode_text(text).pooled, method.encode_text(text).pooled)


def test_the_image_encoder_alone_goes_there_and_back(method: PRIOR, tmp_path: Any) -> None:
    file = tmp_path / "prior_resnet50.safetensors"
    save_file(method.image_tower.model.state_dict(), file)
    found = weights.load(file)
    assert layout_of(PRIOR, found) is IMAGE
    assert IMAGE.target is not None
    assert IMAGE.target() is PRIORImage
    other = PRIORImage.build(replace(PRIORImage.preset("paper")[0], **IMAGE.configure(found)), None).eval()
    assert other.input.mean == (0.4755,)
    apply(other, IMAGE, found, "prior_resnet50")
    images = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(method.image_tower.forward_tokens(images).mean(dim=1), dim=1)
        assert torch.equal(other.encode_image(images).pooled, expected)


def test_a_color_resnet_and_another_model_are_not_taken_for_prior(method: PRIOR) -> None:
    color = dict(method.image_tower.model.state_dict()) | {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    for state in (color, {"visual.proj": torch.zeros(2, 2)}):
        assert not any(layout.recognise(state) for layout in LAYOUTS)


def changed(state: dict[str, Tensor], fault: str) -> dict[str, Tensor]:
    found = dict(state)
    if fault == "missing":
        del found["predictor.0.bias"]
    if fault == "unexpected":
        found["momentum_encoder.weight"] = torch.zeros(2)
    if fault == "renamed":
        found["local_cross_attention.query3.weight"] = found.pop("local_cross_attention.query1.weight")
    if fault == "width":
        found["local_text_projection.weight"] = torch.zeros(16, 20)
    return found


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "predictor.0.bias"), ("unexpected", "momentum_encoder.weight"), ("renamed", "query1"),
        ("width", r"local_text_projection.weight.*\(16, 20\)"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(method: PRIOR, state: dict[str, Tensor], fault: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        apply(method, WHOLE, changed(state, fault), "prior.pt")


def test_a_file_without_the_shapes_that_configure_it_is_refused(state: dict[str, Tensor]) -> None:
    found = {name: value for name, value in state.items() if not name.startswith("image_decoder.")}
    with pytest.raises(UserError, match=r"image_decoder\.blocks\.0\.conv1\.0\.weight"):
        WHOLE.configure(found)


def from_list(name: str) -> dict[str, Tensor]:
    """Tensors without data, of the keys and shapes of a list of the released file."""
    rows = [line.split(",") for line in (REFERENCE / "keys" / name).read_text().splitlines()[1:]]
    return {
        key: torch.empty([] if shape == "scalar" else [int(side) for side in shape.split("x")], device="meta")
        for key, shape, *_ in rows
    }


@needs_golden
@pytest.mark.parametrize(("name", "layout"), [("prior.csv", WHOLE), ("prior_resnet50_pt.csv", IMAGE)], ids=["whole", "image"])
def test_every_listed_key_has_a_place_of_its_shape(name: str, layout: Layout, tokenizer: Tokenizer) -> None:
    listed = from_list(name)
    assert layout_of(PRIOR, listed) is layout
    converted = layout.convert(listed)
    assert len(converted.left_out) + len(converted.state) - (layout is WHOLE) == len(listed)
    assert all(key.startswith(UNNEEDED) for key in converted.left_out)
    cls = layout.target() if layout.target is not None else PRIOR
    config = replace(cls.preset("paper")[0], **layout.configure(listed))
    with torch.device("meta"):
        own = cls.build(config, tokenizer).state_dict()
    assert set(own) == set(converted.state)
    words = {key for key in own if "word_embeddings" in key}  # rows are those of the vocabulary
    assert {key for key in own if own[key].shape != converted.state[key].shape} == words
