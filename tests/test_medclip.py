"""MedCLIP: its loss against recorded values, the targets, the pooling of texts, and the released files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import resnet50
from transformers import BertConfig, BertModel, SwinConfig, SwinModel

from benchmark import published
from benchmark.contract import check
from benchmark.data.text import train_tokenizer
from benchmark.errors import UserError
from benchmark.types import Batch, Step
from methods import losses
from methods.aggregation import masked_mean
from methods.base import tower_preset
from methods.encoders import SwinTower
from methods.medclip import (
    SWIN_TINY,
    MedCLIP,
    MedCLIPConfig,
    label_similarity,
    mixed_layers,
    prompt_scores,
    soft_label_loss,
)
from methods.published.transformers_keys import SWIN, to_timm
from tests.golden import REFERENCE, Case, assert_gradient, assert_output, needs_golden

REPORTS = ("Heart size is normal. No effusion.", "", "Small left effusion.", "...", "One. " * 60, "Right opacity is new.")
TINY = {
    "image_size": 32, "patch_size": 8, "image_width": 16, "image_depth": 1, "image_heads": 2, "text_width": 16,
    "text_layers": 1, "text_heads": 2, "embed_dim": 16, "max_tokens": 24,
}  # fmt: skip
SMALL_SWIN = {"embed_dim": 12, "depths": [1, 2], "num_heads": [1, 2], "image_size": 56, "window_size": 7}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(REPORTS, 120)


def batch(reports: tuple[str, ...] = REPORTS, labels: Tensor | None = None, size: int = 32) -> Batch:
    images = torch.randn(len(reports), 1, size, size, generator=torch.Generator().manual_seed(0))
    names = tuple(map(str, range(len(reports))))
    return Batch(names, names, images, reports, {} if labels is None else {"labels": labels})


def finite_step(model: MedCLIP, data: Batch) -> float:
    model.zero_grad()
    (terms,) = model.loss(data, Step(0, 0, 10))
    terms["total"].backward()
    gradients = [item.grad for item in model.parameters()]
    assert all(item is not None and bool(torch.isfinite(item).all()) for item in gradients)
    return float(terms["total"].detach())


# ------------------------------------------------------------------------------------------ recorded values


@needs_golden
def test_soft_label_loss_equals_the_recorded_one() -> None:
    case = Case("medclip/soft_label_loss_a")
    image, text, log_scale = case.leaf("in/img_embed"), case.leaf("in/text_embed"), case.leaf("w/logit_scale")
    hats, scale = (F.normalize(image, dim=-1), F.normalize(text, dim=-1)), log_scale.exp()
    labels = case["in/img_labels"], case["in/text_labels"]
    assert_output(scale * hats[0] @ hats[1].T, case["out/logits"])
    assert_output(losses.info_nce(*hats, scale), case["out/hard_clip_loss"])
    loss = soft_label_loss(*hats, *labels, scale, "dot")
    loss.backward()  # type: ignore[no-untyped-call]
    assert_output(loss, case["out/loss"])
    for name, leaf in (("img_embed", image), ("text_embed", text), ("logit_scale", log_scale)):
        assert_gradient(leaf.grad, case[f"grad/{name}"])
    assert not torch.isclose(soft_label_loss(*hats, *labels, scale, "cosine"), loss)
    assert not torch.isclose(soft_label_loss(*hats, *labels, scale, "clamped"), loss)


@needs_golden
def test_text_pooling_equals_the_recorded_one() -> None:
    case = Case("medclip/text_pooling")
    states = case["in/hidden_states"]
    everything = torch.ones(states.shape[1:3], dtype=torch.bool)
    pooled = masked_mean(mixed_layers(tuple(states)), everything)
    assert_output(pooled @ case["w/projection_head.weight"].T, case["out/text_embed"])


@needs_golden
def test_prompt_scores_equal_the_recorded_ones() -> None:
    case = Case("medclip/prompt_classifier")
    image = F.normalize(case["in/img_embed"], dim=-1)
    prompts = [F.normalize(case[f"in/prompt_c{number}"], dim=-1) for number in range(3)]
    classes = torch.cat([torch.full((len(item),), number) for number, item in enumerate(prompts)])
    logits = torch.tensor(case.number("hp/logit_scale")).exp() * image @ torch.cat(prompts).T
    assert_output(prompt_scores(logits, classes), case["out/class_logits_max"])
    assert_output(prompt_scores(logits, classes, ensemble=True), case["out/class_logits_mean"])


# ---------------------------------------------------------------------------------------------- behavior


def test_similar_findings_are_cosine_dot_or_clamped() -> None:
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(label_similarity(labels, labels, "cosine")[0], torch.tensor([1.0, 0.5**0.5, 0.0]))
    assert label_similarity(labels, labels, "dot")[0].tolist() == [2.0, 1.0, 0.0]
    assert label_similarity(labels, labels, "clamped")[0].tolist() == [1.0, 1.0, 0.0]


def test_equal_findings_of_other_patients_are_no_negatives() -> None:
    """Two rows of the same labels: swapping their texts changes CLIP's loss and not this one."""
    image, text = (F.normalize(torch.randn(2, 8, generator=torch.Generator().manual_seed(n)), dim=-1) for n in (0, 1))
    labels, scale = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor(10.0)
    both = [soft_label_loss(image, item, labels, labels, scale) for item in (text, text.flip(0))]
    assert torch.allclose(*both)
    assert not torch.allclose(losses.info_nce(image, text, scale), losses.info_nce(image, text.flip(0), scale))


def test_padding_moves_a_text_only_with_the_released_pooling(tokenizer: Tokenizer) -> None:
    for pooling, same in (("tokens", True), ("padded", False)):
        torch.manual_seed(0)
        model = MedCLIP(MedCLIPConfig(**TINY, text_pooling=pooling), tokenizer).eval()
        alone = model.encode_text(model.prepare_text(REPORTS[2:3])).pooled
        beside = model.encode_text(model.prepare_text((REPORTS[2], REPORTS[4]))).pooled[:1]
        assert torch.allclose(alone, beside, atol=1e-5) is same


@pytest.mark.parametrize("labels", [None, torch.full((6, 3), float("nan")), torch.ones(6, 3), torch.eye(6)])
def test_every_kind_of_report_and_label_gives_a_finite_step(tokenizer: Tokenizer, labels: Tensor | None) -> None:
    torch.manual_seed(0)
    model = MedCLIP(MedCLIPConfig(**TINY), tokenizer)
    finite_step(model, batch(labels=labels))
    finite_step(model, batch(("All the same.",) * 6, labels))


def test_without_labels_the_loss_is_that_of_clip(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    model = MedCLIP(MedCLIPConfig(**TINY), tokenizer).eval()
    data = batch()
    image, text = model.encode_image(data.images), model.encode_text(model.prepare_text(data.texts))
    expected = losses.info_nce(image.pooled, text.pooled, model.logit_scale())
    (terms,) = model.loss(data, Step(0, 0, 10))
    assert torch.allclose(terms["total"], expected)
    (others,) = model.loss(replace(data, targets={"labels": torch.eye(6)}), Step(0, 0, 10))
    assert not torch.allclose(others["total"], expected)


@pytest.mark.parametrize("none", [float("nan"), 0.0])
def test_studies_without_a_finding_are_told_apart_as_by_clip(tokenizer: Tokenizer, none: float) -> None:
    torch.manual_seed(0)
    model = MedCLIP(MedCLIPConfig(**TINY), tokenizer).eval()
    data = batch()
    (plain,) = model.loss(data, Step(0, 0, 10))
    (terms,) = model.loss(replace(data, targets={"labels": torch.full((6, 3), none)}), Step(0, 0, 10))
    torch.testing.assert_close(terms["total"], plain["total"])


def test_a_row_without_a_finding_has_its_own_pair_as_target() -> None:
    """Rows 1 and 3 have none; a row with findings keeps its soft target over all of them."""
    image, text = (F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(n)), dim=-1) for n in (0, 1))
    labels, scale = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), torch.tensor(10.0)
    soft = (label_similarity(labels, labels, "cosine") / 0.1).softmax(dim=-1)
    target = torch.where(torch.tensor([True, False, True, False]).unsqueeze(1), soft, torch.eye(4))
    logits = scale * image @ text.T
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(soft_label_loss(image, text, labels, labels, scale, temperature=0.1), expected)
    together, apart = torch.ones(4, 8) / 8**0.5, torch.eye(8)[:4]
    none = torch.zeros(4, 2)
    values = [float(soft_label_loss(item, item, none, none, scale)) for item in (apart, together)]
    assert values[0] < 0.01 < values[1]


def test_it_says_that_it_learns_from_labels() -> None:
    assert MedCLIP.learns_from_labels is True


def test_it_learns_to_tell_findings_apart(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    model = MedCLIP(MedCLIPConfig(**TINY, label_temperature=0.1), tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    data = batch(("Effusion.", "No finding.") * 4, torch.eye(2).repeat(4, 1))
    values = []
    for _ in range(30):
        values.append(finite_step(model, data))
        optimizer.step()
    assert values[-1] < values[0] - 0.2


@pytest.mark.parametrize("encoder", ["vit", "resnet"])
def test_the_contract_is_kept(encoder: str) -> None:
    findings = check(MedCLIP, config=MedCLIPConfig(**TINY, image_encoder=encoder))
    assert [item for item in findings if not item.ok] == []


def test_settings_without_effect_and_unknown_ones_are_refused() -> None:
    for field, value in (
        ("label_similarity", "l2"),
        ("text_pooling", "max"),
        ("aggregator", "attention"),
        ("alignment", "abm"),
    ):
        with pytest.raises(UserError, match=field):
            MedCLIPConfig(**{**TINY, field: value})
    with pytest.raises(UserError, match="label_temperature"):
        MedCLIPConfig(**TINY, label_temperature=0.0)
    config, recipe = MedCLIP.preset("paper")
    assert (config.image_encoder, config.max_tokens, recipe.batch_size) == (SWIN_TINY, 77, 100)
    assert (config.label_temperature, MedCLIP.preset("quick")[0].label_temperature) == (1.0, 0.1)
    small, _ = MedCLIP.preset("small")
    assert all(getattr(small, field) == value for field, value in tower_preset("small").items())


# -------------------------------------------------------------------------------------------- released files


def small_bert() -> BertModel:
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 1, "intermediate_size": 256}
    return BertModel(BertConfig(vocab_size=120, max_position_embeddings=40, **sizes))


def text_part(bert: BertModel) -> dict[str, Tensor]:
    state = {f"text_model.model.{key}": value for key, value in bert.state_dict().items()}
    state["text_model.model.embeddings.position_ids"] = torch.arange(40).unsqueeze(0)  # transformers 4.23 kept it
    state["text_model.projection_head.weight"] = torch.randn(24, 64)
    return {**state, "logit_scale": torch.tensor(3.0)}


def loaded(state: dict[str, Tensor]) -> tuple[MedCLIP, dict[str, object]]:
    layout = published.layout_of(MedCLIP, state)
    assert layout is not None
    config = MedCLIPConfig(**{**TINY, **layout.configure(state)})  # type: ignore[arg-type]
    model = MedCLIP.build(config, train_tokenizer([*REPORTS, "words to learn from: " + " ".join(map(str, range(200)))], 120))
    return model.eval(), dict(published.apply(model, layout, state, "file"))


def from_keys(name: str) -> dict[str, Tensor]:
    """Random tensors under the recorded keys, the texts' widths made small."""
    small = {28996: 120, 768: 64, 3072: 256, 512: 40}
    state = {}
    for line in (REFERENCE / "keys" / f"{name}.csv").read_text().splitlines()[1:]:
        key, shape, kind = line.split(",")
        sizes = [int(item) for item in shape.split("x")] if shape != "scalar" else []
        if "projection_head" in key and key.startswith("text"):
            sizes = [512, 64]
        elif key.startswith("text"):
            sizes = [small.get(item, item) for item in sizes]
        state[key] = torch.randn(sizes) if kind == "float32" else torch.zeros(sizes, dtype=torch.int64)
    return state


@needs_golden
@pytest.mark.parametrize(("name", "left"), [("medclip_resnet", 3), ("medclip_vit", 3 + 12)])
def test_every_recorded_key_is_used_or_listed(name: str, left: int) -> None:
    state = from_keys(name)
    model, notes = loaded(state)
    assert notes["checkpoint_keys_left_out"] == left  # positions, the pooler's two, and the window indices of a Swin
    assert notes["checkpoint_keys_used"] == len(model.state_dict())
    assert (model.input.size, model.input.mean[0], model.input.resize) == (224, 0.5862785803043838, "pad")
    assert torch.equal(model.text_tower.bert.state_dict()["encoder.layer.11.output.dense.weight"],
                       state["text_model.model.encoder.layer.11.output.dense.weight"])  # fmt: skip


def test_a_resnet_file_gives_the_features_of_its_own_layers() -> None:
    torch.manual_seed(0)
    network, bert = resnet50(), small_bert().eval()
    network.fc = torch.nn.Linear(2048, 24, bias=False)
    state = {f"vision_model.model.{key}": value for key, value in network.eval().state_dict().items()} | text_part(bert)
    model, _ = loaded(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(model.encode_image(images).pooled, F.normalize(network(images), dim=-1), atol=1e-5)
        text = model.prepare_text(REPORTS[:1])
        hidden = bert(input_ids=text.ids, output_hidden_states=True).hidden_states
        pooled = torch.stack([hidden[1], hidden[2], hidden[-1]]).mean(dim=(0, 2))
        expected = F.normalize(pooled @ state["text_model.projection_head.weight"].T, dim=-1)
        assert torch.allclose(model.encode_text(text).pooled, expected, atol=1e-5)
    assert float(model.logit_scale().detach()) == pytest.approx(float(torch.tensor(3.0).exp()))


@pytest.mark.parametrize("version", [4, 5])
def test_a_swin_converted_equals_transformers_own(version: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = SwinModel(SwinConfig(**SMALL_SWIN)).eval()
    state = dict(theirs.state_dict())
    if version == 4:  # written under the names of old
        theirs.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        assert any(".attention.self.query." in key for key in state)
    model = SwinTransformer(img_size=56, embed_dim=12, depths=(1, 2), num_heads=(1, 2), window_size=7, num_classes=0)
    model.load_state_dict(to_timm(state, SWIN))
    tower, images = SwinTower(model).eval(), torch.randn(2, 3, 56, 56)
    with torch.inference_mode():
        expected = theirs(images, output_hidden_states=True)
        assert torch.allclose(tower.forward_tokens(images), expected.last_hidden_state, atol=1e-5)
        other = tower.maps(torch.randn(1, 3, 88, 48))
    assert [tuple(item.shape[1:]) for item in other] == [(12, 22, 12), (24, 11, 6)]


def test_files_of_another_kind_are_refused() -> None:
    torch.manual_seed(0)
    network = resnet50()
    network.fc = torch.nn.Linear(2048, 24, bias=False)
    state = {f"vision_model.model.{key}": value for key, value in network.state_dict().items()} | text_part(small_bert())
    assert published.layout_of(MedCLIP, {"image_tower.model.conv1.weight": torch.ones(1)}) is None
    with pytest.raises(UserError, match="keys are not of this kind of file, first 'momentum"):
        loaded({**state, "momentum.weight": torch.ones(1)})
    missing = {key: value for key, value in state.items() if key != "vision_model.model.bn1.bias"}
    with pytest.raises(UserError, match=r"missing \(first 'image_tower.model.bn1.bias'\)"):
        loaded(missing)
    with pytest.raises(UserError, match="expected"):
        loaded({**state, "vision_model.model.conv1.weight": torch.ones(64, 1, 7, 7)})
    swin = to_timm(SwinModel(SwinConfig(**SMALL_SWIN)).state_dict(), SWIN)
    assert "layers.0.blocks.0.attn.qkv.weight" in swin
    with pytest.raises(UserError, match="query, key and value"):
        to_timm({"encoder.layers.0.blocks.0.attention.q_proj.weight": torch.ones(2, 2)}, SWIN)
    with pytest.raises(UserError, match="is not of this kind"):
        to_timm({"encoder.layers.0.surplus": torch.ones(1)}, SWIN)
