"""Published GLoRIA and ConVIRT files: every key mapped or listed, the same features as their own code's, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from benchmark import published, weights
from benchmark.data.text import train_tokenizer
from benchmark.errors import UserError
from benchmark.published import Layout, layout_of
from methods.convirt import ConVIRT
from methods.gloria import GLoRIA
from tests.golden import REFERENCE, needs_golden
from tests.test_convirt import REPORTS, byte_level

State = dict[str, Tensor]
WIDTH = 24


def key_list(name: str) -> dict[str, tuple[str, str]]:
    rows = [line.split(",") for line in (REFERENCE / "keys" / f"{name}.csv").read_text().splitlines()[1:]]
    return {key: (shape, kind) for key, shape, kind in rows}


def resnet() -> nn.Module:
    """A ResNet-50 under torchvision's names, which timm's are; at its one size."""
    torch.manual_seed(3)
    found: nn.Module = timm.create_model("resnet50", num_classes=0).eval()
    return found


def under(prefix: str, module: nn.Module) -> State:
    return {f"{prefix}{name}": item.clone() for name, item in module.state_dict().items()}


@pytest.fixture(scope="module")
def image_tower() -> nn.Module:
    return resnet()


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_tokenizer(REPORTS, 120)


@pytest.fixture(scope="module")
def bert(words: Tokenizer) -> BertModel:
    torch.manual_seed(4)
    return BertModel(
        BertConfig(
            vocab_size=words.get_vocab_size(), hidden_size=WIDTH, num_hidden_layers=5, num_attention_heads=1,
            intermediate_size=4 * WIDTH, max_position_embeddings=64,
        )
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def gloria(image_tower: nn.Module, bert: BertModel) -> State:
    heads = nn.ModuleDict({"global_embedder": nn.Linear(2048, WIDTH), "local_embedder": nn.Conv2d(1024, WIDTH, 1, bias=False)})
    text = under("text_encoder.model.", bert) | {"text_encoder.model.embeddings.position_ids": torch.arange(64).unsqueeze(0)}
    return text | under("img_encoder.model.", image_tower) | under("img_encoder.", heads)


@pytest.fixture(scope="module")
def roberta() -> RobertaModel:
    torch.manual_seed(5)
    return RobertaModel(
        RobertaConfig(
            vocab_size=byte_level().get_vocab_size(), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=1,
            intermediate_size=4 * WIDTH, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5,
        )
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def convirt(image_tower: nn.Module, roberta: RobertaModel) -> State:
    torch.manual_seed(6)
    heads = nn.ModuleDict(
        {
            name: nn.Sequential(nn.Linear(width, 20), nn.ReLU(), nn.Linear(20, 16))
            for name, width in (("vis_proj", 2048), ("lin_proj", WIDTH))
        }
    )
    return under("visual.model.", image_tower) | under("linguistic.encoder.", roberta) | under("", heads)


def load(cls: Any, state: State, tokenizer: Tokenizer) -> tuple[Any, dict[str, Any]]:
    """As `--checkpoint FILE` does."""
    layout = layout_of(cls, state)
    assert layout is not None
    fields = dict(layout.configure(state))
    config = replace(cls.preset("paper")[0], **fields, image_weights="none", text_weights="none")
    method = cls.build(config, tokenizer).eval()
    return method, published.apply(method, layout, state, "checkpoint of a test")


# --------------------------------------------------------------------------------------------------- GLoRIA


@needs_golden
def test_the_small_file_has_the_released_names(gloria: State) -> None:
    released = {key for key in key_list("gloria_resnet50") if not any(f".layer.{n}." in key for n in range(5, 12))}
    small = {key for key in gloria if "text_encoder" in key}
    assert {key for key in released if "text_encoder" in key} == small
    assert {key for key in released if "img_encoder" in key} == {key for key in gloria if "img_encoder" in key}


@needs_golden
def test_every_released_gloria_key_is_mapped_or_listed_with_its_shape() -> None:
    kinds = {"float32": torch.float32, "int64": torch.int64}
    listed = key_list("gloria_resnet50")
    state = {
        key: torch.empty(
            [int(side) for side in shape.split("x")] if shape != "scalar" else [], dtype=kinds[kind], device="meta"
        )
        for key, (shape, kind) in listed.items()
    }
    layout = layout_of(GLoRIA, state)
    assert layout is not None
    fields = layout.configure(state)
    expected = {
        "text_width": 768,
        "text_layers": 12,
        "text_heads": 12,
        "text_positions": 512,
        "text_types": 2,
        "embed_dim": 768,
    }
    assert {name: fields[name] for name in expected} == expected
    converted = layout.convert(state)
    assert len(converted.state) + len(converted.left_out) == len(listed)
    left = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    assert set(converted.left_out) == {f"text_encoder.model.{key}" for key in left}


@pytest.mark.parametrize("start", ["", "gloria."])
def test_a_gloria_file_gives_the_features_of_its_own_code(
    start: str, gloria: State, image_tower: nn.Module, bert: BertModel, words: Tokenizer, tmp_path: Path
) -> None:
    save_file({start + key: item for key, item in gloria.items()}, tmp_path / "gloria.safetensors")
    state = weights.load(tmp_path / "gloria.safetensors")
    method, notes = load(GLoRIA, state, words)
    assert notes["checkpoint_keys_used"] + notes["checkpoint_keys_left_out"] == len(gloria)
    spec = method.input
    assert (spec.size, spec.channels, spec.mean, spec.std, spec.resize) == (224, 3, (0.5,) * 3, (0.5,) * 3, "pad")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        larger = F.interpolate(images, size=(299, 299), mode="bilinear", align_corners=True)
        maps = image_tower.forward_intermediates(larger, indices=[3, 4], intermediates_only=True)  # type: ignore[operator]
        whole = maps[1].mean(dim=(2, 3)) @ gloria["img_encoder.global_embedder.weight"].T
        whole = whole + gloria["img_encoder.global_embedder.bias"]
        local = F.conv2d(maps[0], gloria["img_encoder.local_embedder.weight"]).flatten(2).transpose(1, 2)
        found = method.encode_image(images)
        assert local.shape == (1, 361, WIDTH)
        torch.testing.assert_close(found.tokens, local, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.pooled, F.normalize(whole, dim=1), atol=1e-5, rtol=1e-4)
        # a sentence is the mean over all positions: [CLS], words, [SEP], and zeros behind it up to 97
        ids = torch.tensor([words.encode("no focal consolidation").ids])
        layers = torch.stack(bert(ids, output_hidden_states=True).hidden_states[-4:]).sum(dim=0)
        padded = F.pad(layers, (0, 0, 0, 97 - layers.shape[1]))
        for texts in (["No focal consolidation."], ["No focal consolidation.", "Heart size is normal, as it was before."]):
            read = method.encode_text(method.prepare_text(texts))
            torch.testing.assert_close(read.pooled[:1], F.normalize(padded.mean(dim=1), dim=1), atol=1e-5, rtol=1e-4)
    assert method.config.start_word, "[CLS] was a word of the local loss"


# -------------------------------------------------------------------------------------------------- ConVIRT


@pytest.mark.parametrize("older", [False, True])
def test_a_convirt_file_gives_the_features_of_its_own_code(
    older: bool, convirt: State, image_tower: nn.Module, roberta: RobertaModel
) -> None:
    state = convirt | ({"linguistic.encoder.embeddings.position_ids": torch.arange(66).unsqueeze(0)} if older else {})
    method, notes = load(ConVIRT, state, byte_level())
    assert notes["checkpoint_keys_used"] == len(convirt)
    assert notes["checkpoint_keys_left_out"] == int(older)
    assert (method.config.text_positions, method.config.max_tokens, method.input.mean[0]) == (64, 64, 0.485)
    texts, images = list(REPORTS), torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    prepared = method.prepare_text(texts)

    def head(name: str, value: Tensor) -> Tensor:
        first = F.linear(value, convirt[f"{name}.0.weight"], convirt[f"{name}.0.bias"]).relu()
        return F.normalize(F.linear(first, convirt[f"{name}.2.weight"], convirt[f"{name}.2.bias"]), dim=1)

    with torch.no_grad():
        pooled = roberta(input_ids=prepared.ids, attention_mask=prepared.mask.long()).pooler_output
        torch.testing.assert_close(method.encode_text(prepared).pooled, head("lin_proj", pooled), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            method.encode_image(images).pooled, head("vis_proj", image_tower(images)), atol=1e-5, rtol=1e-4
        )


def test_the_vocabulary_of_a_file_is_asked_for_by_its_words(gloria: State, convirt: State) -> None:
    for cls, state, name in ((GLoRIA, gloria, "Bio_ClinicalBERT"), (ConVIRT, convirt, "biomed_roberta_base")):
        layout = layout_of(cls, state)
        assert layout is not None
        assert layout.vocabulary in state
        assert layout.tokenizer.endswith(name)


# ------------------------------------------------------------------------------------------------- refusals

CHANGES: dict[str, Callable[[State, str], State]] = {
    "missing": lambda state, key: {name: item for name, item in state.items() if name != key},
    "another key": lambda state, key: {**state, "something.else": torch.zeros(1)},
    "renamed": lambda state, key: {f"{name}_" if name == key else name: item for name, item in state.items()},
    "wider": lambda state, key: {**state, key: torch.cat([state[key], state[key]])},
}
ONE_KEY = {"gloria": "img_encoder.model.layer2.1.conv1.weight", "convirt": "visual.model.layer2.1.conv1.weight"}


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("name", ["gloria", "convirt"])
def test_a_file_that_was_changed_is_refused(name: str, change: str, request: pytest.FixtureRequest, words: Tokenizer) -> None:
    state = CHANGES[change](request.getfixturevalue(name), ONE_KEY[name])
    with pytest.raises(UserError, match=r"published checkpoint|does not fit"):
        load(GLoRIA if name == "gloria" else ConVIRT, state, words if name == "gloria" else byte_level())


def test_files_of_the_one_are_none_of_the_other(gloria: State, convirt: State) -> None:
    assert layout_of(ConVIRT, gloria) is None
    assert layout_of(GLoRIA, convirt) is None
    assert layout_of(GLoRIA, {"weight": torch.zeros(1)}) is None


def test_another_vocabulary_is_refused(gloria: State, words: Tokenizer, tmp_path: Path) -> None:
    layout: Layout | None = layout_of(GLoRIA, gloria)
    assert layout is not None
    train_tokenizer(REPORTS, 60).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="words"):
        published.tokenizer_of(layout, gloria, tmp_path / "gloria.safetensors")
    words.save(str(tmp_path / "tokenizer.json"))
    assert published.tokenizer_of(layout, gloria, tmp_path / "gloria.safetensors").get_vocab() == words.get_vocab()
