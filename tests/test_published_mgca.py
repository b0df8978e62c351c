"""The released MGCA files: every key used or listed, the features of their own layers, and refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from benchmark import published
from benchmark.data.text import train_tokenizer
from benchmark.errors import UserError
from methods.mgca import MGCA, Head
from tests.golden import REFERENCE, needs_golden

REPORTS = ("Heart size is normal. No effusion.", "Small left effusion, which is new.", "One opacity. " * 60)
State = dict[str, Tensor]
WIDTH, WORDS, POSITIONS, HIDDEN, DIM = 64, 120, 40, 48, 16
SIZES = {28996: WORDS, 768: WIDTH, 3072: 4 * WIDTH, 2304: 3 * WIDTH, 512: POSITIONS}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([*REPORTS, " ".join(map(str, range(200)))], WORDS)


def listed(name: str) -> dict[str, tuple[list[int], str]]:
    rows = [line.split(",") for line in (REFERENCE / "keys" / f"{name}.csv").read_text().splitlines()[1:]]
    return {key: ([] if shape == "scalar" else [int(side) for side in shape.split("x")], kind) for key, shape, kind in rows}


def from_keys(name: str) -> State:
    """Random tensors under the recorded keys, widths of text and ViT made small; a ResNet-50 has one size."""
    state = {}
    for key, (shape, kind) in listed(name).items():
        resnet = name == "mgca_resnet_50" and key.startswith("img_encoder_q.model.")
        sizes = shape if resnet else [SIZES.get(side, side) for side in shape]
        state[key] = torch.rand(sizes) if kind == "float32" else torch.zeros(sizes, dtype=torch.int64)
    return state


def under(prefix: str, module: nn.Module) -> State:
    return {f"{prefix}{key}": value.clone() for key, value in module.state_dict().items()}


def replica(image: nn.Module, widths: tuple[int, int], bert: BertModel) -> State:
    """A file of the released layout from an image network with a global and a local width, and a BERT without segments."""
    state = under("img_encoder_q.model.", image) | under("text_encoder_q.model.", bert)
    del state["text_encoder_q.model.embeddings.token_type_embeddings.weight"]
    state["text_encoder_q.model.embeddings.position_ids"] = torch.arange(POSITIONS).unsqueeze(0)
    for side, (whole, local) in (("img", widths), ("text", (WIDTH, WIDTH))):
        for place, width in (("global", whole), ("local", local)):
            head = Head(width, HIDDEN, DIM)
            for index in (1, 4):
                nn.init.uniform_(head[index].running_mean)  # type: ignore[arg-type]
                nn.init.uniform_(head[index].running_var, 0.5, 1.5)  # type: ignore[arg-type]
            found = under(f"{side}_encoder_q.{place}_embed.head.", head)
            if place == "local":  # convolutions of one token
                found = {key: value.unsqueeze(-1) if value.ndim == 2 else value for key, value in found.items()}
            state |= found
    for name in ("patch", "word"):
        state |= under(f"{name}_local_atten_layer.", nn.MultiheadAttention(DIM, 1))
    return state | {"prototype_layer.weight": torch.randn(12, DIM)}


@pytest.fixture(scope="module")
def bert() -> BertModel:
    torch.manual_seed(1)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 4 * WIDTH}
    model = BertModel(BertConfig(vocab_size=WORDS, max_position_embeddings=POSITIONS, **sizes), add_pooling_layer=False)
    nn.init.zeros_(model.embeddings.token_type_embeddings.weight)
    return model.eval()


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(2)
    model: nn.Module = timm.models.VisionTransformer(
        img_size=64, patch_size=16, embed_dim=WIDTH, depth=2, num_heads=1, num_classes=0, global_pool=""
    )  # fmt: skip
    return model.eval()


@pytest.fixture(scope="module")
def vit_file(vit: nn.Module, bert: BertModel) -> State:
    torch.manual_seed(3)
    return replica(vit, (WIDTH, WIDTH), bert)


def loaded(state: State, tokenizer: Tokenizer) -> tuple[MGCA, dict[str, object]]:
    """As `--checkpoint FILE` does."""
    layout = published.layout_of(MGCA, state)
    assert layout is not None
    config = replace(MGCA.preset("paper")[0], **layout.configure(state))  # type: ignore[arg-type]
    model = MGCA.build(config, tokenizer).eval()
    return model, dict(published.apply(model, layout, state, "checkpoint of a test"))


def head(state: State, prefix: str, features: Tensor) -> Tensor:
    """A released head in evaluation, written out; (N, width) -> (N, D) normalised."""
    part = {key[len(prefix) + 6 :]: value for key, value in state.items() if key.startswith(f"{prefix}.head.")}

    def norm(values: Tensor, index: int) -> Tensor:
        found = (values - part[f"{index}.running_mean"]) / (part[f"{index}.running_var"] + 1e-5).sqrt()
        return found * part.get(f"{index}.weight", torch.ones(1)) + part.get(f"{index}.bias", torch.zeros(1))

    hidden = norm(features @ part["0.weight"].flatten(1).T + part["0.bias"], 1).relu()
    return F.normalize(norm(hidden @ part["3.weight"].flatten(1).T + part["3.bias"], 4), dim=-1)


# ---------------------------------------------------------------------------------------------- recorded keys


@needs_golden
@pytest.mark.parametrize(("name", "encoder", "upsample"), [("mgca_resnet_50", "resnet50", 299), ("mgca_vit_base", "vit", 0)])
def test_every_recorded_key_is_used_or_listed(name: str, encoder: str, upsample: int, tokenizer: Tokenizer) -> None:
    state = from_keys(name)
    model, notes = loaded(state, tokenizer)
    layers = 6
    assert notes["checkpoint_keys_left_out"] == 1 + 2 * 4 + layers * 10  # positions, two attentions, the crossing ones
    assert notes["checkpoint_keys_used"] == len(model.state_dict())
    assert len(state) + 1 == len(model.state_dict()) + int(str(notes["checkpoint_keys_left_out"]))  # the segments are ours
    config = model.config
    assert (config.image_encoder, config.upsample, config.text_layers, config.text_types) == (encoder, upsample, layers, 1)
    assert (model.input.size, model.input.mean, model.input.std, model.input.resize) == (224, (0.5,) * 3, (0.5,) * 3, "pad")
    assert config.text_cleaning == "words"
    ours = model.state_dict()
    assert torch.equal(ours["text_tower.bert.encoder.layer.5.output.dense.weight"],
                       state["text_encoder_q.model.encoder.layer.5.output.dense.weight"])  # fmt: skip
    assert torch.equal(ours["image_local.3.weight"], state["img_encoder_q.local_embed.head.3.weight"][..., 0])
    assert not ours["text_tower.bert.embeddings.token_type_embeddings.weight"].any()


@needs_golden
@pytest.mark.parametrize("name", ["mgca_resnet_50", "mgca_vit_base"])
def test_the_fields_of_a_file_of_full_size_are_those_of_the_paper(name: str) -> None:
    kinds = {"float32": torch.float32, "int64": torch.int64}
    state = {key: torch.empty(shape, dtype=kinds[kind], device="meta") for key, (shape, kind) in listed(name).items()}
    layout = published.layout_of(MGCA, state)
    assert layout is not None
    paper, fields = MGCA.preset("paper")[0], layout.configure(state)
    same = (
        "prototypes", "embed_dim", "head_width", "max_tokens", "text_width", "text_heads", "text_positions", "image_size",
        "pixel_stats", "text_cleaning", "dropout",
    )  # fmt: skip
    assert {key: fields[key] for key in same} == {key: getattr(paper, key) for key in same}
    if name == "mgca_vit_base":
        sizes = ("image_width", "image_depth", "image_heads", "patch_size")
        assert [fields[key] for key in sizes] == [768, 12, 12, 16]


# ----------------------------------------------------------------------------------------------------- features


def test_a_vit_file_gives_the_features_of_its_own_layers(
    vit: nn.Module, bert: BertModel, vit_file: State, tokenizer: Tokenizer
) -> None:
    model, _ = loaded(vit_file, tokenizer)
    images, text = torch.randn(2, 3, 64, 64), model.prepare_text(REPORTS)
    assert text.truncated == 1
    assert model.input.size == 64
    with torch.inference_mode():
        tokens, found = vit.forward_features(images), model.encode_image(images)  # type: ignore[operator]
        torch.testing.assert_close(found.pooled, head(vit_file, "img_encoder_q.global_embed", tokens[:, 0]))
        torch.testing.assert_close(found.tokens, head(vit_file, "img_encoder_q.local_embed", tokens[:, 1:]))
        hidden = bert(input_ids=text.ids, attention_mask=text.mask).last_hidden_state
        report = model.encode_text(text)
        torch.testing.assert_close(report.pooled, head(vit_file, "text_encoder_q.global_embed", hidden[:, 0]))
        pieces = hidden[0, 1:][text.words[0, 1:] == 0].sum(dim=0, keepdim=True)
        assert report.tokens is not None
        torch.testing.assert_close(report.tokens[0, :1], head(vit_file, "text_encoder_q.local_embed", pieces))
        torch.testing.assert_close(model.similarity(found, report), found.pooled @ report.pooled.T)


def test_a_resnet_file_gives_the_features_of_its_own_layers(bert: BertModel, tokenizer: Tokenizer) -> None:
    torch.manual_seed(4)
    network = timm.create_model("resnet50", num_classes=0, global_pool="").eval()
    state = replica(network, (2048, 1024), bert)
    model, _ = loaded(state, tokenizer)
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        found, large = model.encode_image(images), F.interpolate(images, size=(299, 299), mode="bilinear", align_corners=True)
        stem = network.layer1(network.maxpool(network.act1(network.bn1(network.conv1(large)))))
        local = network.layer3(network.layer2(stem))
        whole = network.layer4(local).mean(dim=(2, 3))
        torch.testing.assert_close(found.pooled, head(state, "img_encoder_q.global_embed", whole))
        torch.testing.assert_close(found.tokens[0], head(state, "img_encoder_q.local_embed", local[0].flatten(1).T))  # type: ignore[index]
    assert found.tokens is not None
    assert found.tokens.shape[1] == 19 * 19


# ----------------------------------------------------------------------------------------------------- refusals


def test_files_that_miss_a_key_or_hold_another_are_refused(vit_file: State, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="keys are not of this kind of file, first 'optimizer"):
        loaded({**vit_file, "optimizer.step": torch.zeros(1)}, tokenizer)
    missing = {key: value for key, value in vit_file.items() if key != "img_encoder_q.model.norm.weight"}
    with pytest.raises(UserError, match=r"missing \(first 'image_tower.model.norm.weight'\)"):
        loaded(missing, tokenizer)
    renamed = {key.replace("global_embed", "whole_embed") if "text" in key else key: value for key, value in vit_file.items()}
    with pytest.raises(UserError, match=r"first .text_encoder_q\.whole_embed"):
        loaded(renamed, tokenizer)


def test_files_of_another_width_are_refused(vit_file: State, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="expected"):
        loaded({**vit_file, "text_encoder_q.local_embed.head.0.weight": torch.ones(HIDDEN, 32, 1)}, tokenizer)
    with pytest.raises(UserError, match="has 1 dimensions, not 2"):
        loaded({**vit_file, "prototype_layer.weight": torch.ones(12)}, tokenizer)


def test_files_of_other_methods_are_not_recognised(vit_file: State) -> None:
    for key in ("prototype_layer.weight", "img_encoder_q.model.cls_token"):
        assert published.layout_of(MGCA, {name: value for name, value in vit_file.items() if name != key}) is None
