"""The published checkpoint of MRM: every key is used or listed, small replicas load, and anything else is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark import published, weights
from benchmark.errors import UserError
from methods.mrm import MRM, MRMConfig, position_code
from methods.published.mrm import LAYOUTS
from tests.golden import REFERENCE, needs_golden

(LAYOUT,) = LAYOUTS
SMALL = {768: 64, 384: 32, 30000: 50, 100: 12, 3072: 256, 1536: 128, 2304: 192, 197: 5}
State = dict[str, Tensor]


def shapes() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the release."""
    with (REFERENCE / "keys" / "mrm.csv").open() as file:
        return {row["key"]: tuple(map(int, row["shape"].split("x"))) for row in csv.DictReader(file)}


def small(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The same at a twelfth of the width, with fewer words and an image of 2 x 2 patches of 16."""
    if key.startswith("decoder_pred."):
        return (3 * 32 * 32, *(64 for _ in shape[1:]))  # the predicted patches keep their 32 pixels
    return tuple(SMALL.get(size, size) for size in shape)


def replica(sizes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    torch.manual_seed(seed)
    state: State = {name: 0.05 * torch.randn(shape) for name, shape in sizes.items()}
    report = "bert_encoder.model.bert.embeddings"
    state[f"{report}.position_ids"] = torch.arange(sizes[f"{report}.position_ids"][1]).unsqueeze(0)
    return state


@pytest.fixture
def state() -> State:
    return replica({key: small(key, shape) for key, shape in shapes().items()})


def build(state: State) -> MRM:
    torch.manual_seed(1)
    fields: dict[str, Any] = dict(LAYOUT.configure(state))
    return MRM.build(MRMConfig(**fields), None)


def load(state: State) -> tuple[MRM, dict[str, Any]]:
    method = build(state)
    return method, published.apply(method, LAYOUT, state, "replica")


@needs_golden
def test_the_released_shapes_give_the_released_configuration() -> None:
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes().items()}
    config = MRMConfig(**LAYOUT.configure(state))  # type: ignore[arg-type]
    assert (config.image_encoder, config.image_size, config.image_channels, config.patch_size) == ("vit", 224, 3, 16)
    assert (config.image_width, config.image_depth, config.image_heads) == (768, 12, 12)
    assert (config.decoder_width, config.decoder_depth, config.decoder_heads, config.target_scale) == (768, 4, 6, 2)
    assert (config.text_width, config.text_layers, config.text_heads, config.text_vocabulary) == (384, 6, 6, 30000)
    assert (config.text_positions, config.max_tokens, config.text_types) == (100, 100, 2)
    assert (config.pixel_stats, config.resize, config.position_code) == ("0.4978,0.2449", "stretch", "released")
    assert (config.word_head, config.report_labels, config.antialias) == ("separate", "all", False)


@needs_golden
def test_every_key_of_the_release_is_used_or_listed(state: State) -> None:
    method, notes = load(state)
    converted = LAYOUT.convert(state)
    assert set(converted.state) == set(method.state_dict())
    assert len(converted.left_out) == notes["checkpoint_keys_left_out"] == 4
    assert notes["checkpoint_keys_used"] + 4 == len(shapes()) == len(state)
    pairs = {
        "blocks.3.attn.qkv.weight": "image_tower.model.blocks.3.attn.qkv.weight", "bert_mlp.weight": "to_report.weight",
        "decoder_pred.bias": "image_decoder.head.bias",
    }  # fmt: skip
    for theirs, ours in pairs.items():
        assert torch.equal(method.state_dict()[ours], state[theirs])
    assert torch.equal(method.image_decoder.positions, state["decoder_pos_embed"][0])
    assert torch.equal(method.image_tower.model.pos_embed, state["pos_embed"])


@needs_golden
def test_a_file_of_the_release_goes_round_and_gives_the_same_features(state: State, tmp_path: Path) -> None:
    torch.save({"model": state, "epoch": 199}, tmp_path / "MRM.pth")
    method, _ = load(weights.load(tmp_path / "MRM.pth"))
    assert published.layout_of(MRM, weights.load(tmp_path / "MRM.pth")) is LAYOUT
    weights.save_module(tmp_path / "model.safetensors", method)
    again = build(state)
    weights.apply(again, weights.load(tmp_path / "model.safetensors"), "saved")
    images = torch.randn(2, 3, 32, 32)
    found = [item.eval().encode_image(images).pooled for item in (method, again)]
    assert torch.equal(*found)
    assert method.input.size == 32
    assert method.input.mean == (0.4978,) * 3
    changed = {**state, "norm.weight": state["norm.weight"] + 1}
    assert not torch.allclose(load(changed)[0].eval().encode_image(images).pooled, found[0])


@needs_golden
def test_a_loaded_checkpoint_encodes_images_and_reads_no_report(state: State) -> None:
    method, _ = load(state)
    assert method.tokenizer is None
    assert not LAYOUT.vocabulary
    with pytest.raises(UserError, match="without its vocabulary"):
        method.prepare_text(["No effusion."])


@needs_golden
def test_newer_files_without_position_ids_load_too(state: State) -> None:
    del state["bert_encoder.model.bert.embeddings.position_ids"]
    assert load(state)[1]["checkpoint_keys_left_out"] == 3


@needs_golden
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("blocks.2.mlp.fc1.weight", None, "1 keys are missing"),
        ("pos_embed", None, "'pos_embed' is missing"),
        ("pos_embed", torch.zeros(4), "'pos_embed' is missing or has not 3 axes"),
        ("head.weight", torch.zeros(14, 64), r"1 keys are not of this kind of file, first 'head\.weight'"),
        ("module.norm.weight", torch.zeros(64), "1 keys are not of this kind"),
        ("blocks.0.norm1.weight", torch.zeros(48), "has shape"),
        ("bert_mlp.weight", torch.zeros(32, 48), "has shape"),
        ("decoder_embed.weight", torch.zeros(60, 64), "has shape"),
    ],
)
def test_other_keys_and_widths_are_refused(key: str, value: Tensor | None, message: str, state: State) -> None:
    changed = {name: item for name, item in state.items() if name != key} | ({} if value is None else {key: value})
    assert LAYOUT.recognise(changed)
    with pytest.raises(UserError, match=message):
        load(changed)


def test_other_files_are_not_taken_for_it() -> None:
    assert not LAYOUT.recognise({"decoder_pred.weight": torch.zeros(1)})  # MAE's own
    assert not LAYOUT.recognise({"image_encoder.encoder.conv1.weight": torch.zeros(1)})
    assert published.layout_of(MRM, {"cls_token": torch.zeros(1)}) is None


@pytest.mark.slow
@needs_golden
def test_the_release_at_full_size() -> None:
    state = replica(shapes())
    state["pos_embed"][0, 1:] = position_code("released", 14, 768)
    method, notes = load(state)
    assert notes["checkpoint_keys_used"] == len(shapes()) - 4
    with torch.no_grad():
        assert method.eval().encode_image(torch.randn(1, 3, 224, 224)).pooled.shape == (1, 768)
