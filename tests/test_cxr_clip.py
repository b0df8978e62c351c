"""CXR-CLIP: its loss against recorded values, its views, and the released files."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import resnet50
from transformers import BertConfig, BertModel

from benchmark import published
from benchmark.contract import check
from benchmark.data.text import train_tokenizer
from benchmark.errors import UserError
from benchmark.types import Batch, InputSpec, Step
from methods.cxr_clip import CXRCLIP, CXRCLIPConfig, multi_view_loss, pool_text, second_view, shuffled
from methods.encoders import SwinTower
from methods.medclip import SWIN_TINY
from tests.golden import REFERENCE, Case, assert_gradient, assert_output, needs_golden

REPORTS = ("Heart size is normal. No effusion. No edema.", "", "Small left effusion.", "...", "One. " * 60, "Right opacity.")
TINY: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "image_width": 16, "image_depth": 1, "image_heads": 2, "text_width": 16,
    "text_layers": 1, "text_heads": 2, "embed_dim": 16, "max_tokens": 24,
}  # fmt: skip
SPEC = InputSpec(size=32, mean=(0.5,), std=(0.25,))


def batch(reports: tuple[str, ...] = REPORTS) -> Batch:
    images = torch.randn(len(reports), 1, 32, 32, generator=torch.Generator().manual_seed(0))
    names = tuple(map(str, range(len(reports))))
    return Batch(names, names, images, reports)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(REPORTS, 120)


@needs_golden
def test_the_loss_equals_the_recorded_one() -> None:
    case = Case("cxr_clip/loss_a")
    names = ("image_embeddings", "image_view_embeddings", "text_embeddings", "text_embeddings2")
    leaves = {name: case.leaf(f"in/{name}") for name in names}
    image, view, text, text2 = (F.normalize(leaves[name], dim=-1) for name in names)
    weights = case.number("hp/i2i_weight"), case.number("hp/t2t_weight")
    scale = torch.tensor(case.number("hp/logit_scale"))
    terms = multi_view_loss((image, view), (text, text2), scale, weights)
    terms["total"].backward()
    assert_output(terms["total"], case["out/loss"])
    for name in names:
        assert_gradient(leaves[name].grad, case[f"grad/{name}"])
    unweighted = multi_view_loss((image, view), (text, text2), scale, (0.0, 0.0))["total"]
    assert torch.allclose(unweighted, terms["cross"])
    assert not torch.allclose(unweighted, terms["total"])


def test_every_kind_of_report_gives_a_finite_step(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    model = CXRCLIP(CXRCLIPConfig(**TINY), tokenizer)
    for data in (batch(), batch(("All the same.",) * 6)):
        model.zero_grad()
        (terms,) = model.loss(data, Step(0, 0, 10))
        terms["total"].backward()
        assert all(bool(torch.isfinite(item)) for item in terms.values())
        assert all(item.grad is not None and bool(torch.isfinite(item.grad).all()) for item in model.parameters())


def test_it_learns_to_tell_pairs_apart(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    model = CXRCLIP(CXRCLIPConfig(**TINY), tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    data, values = batch(), []
    for _ in range(25):
        model.zero_grad()
        (terms,) = model.loss(data, Step(0, 0, 10))
        terms["total"].backward()
        optimizer.step()
        values.append(float(terms["total"].detach()))
    assert values[-1] < 0.7 * values[0]


def test_a_second_view_is_a_crop_with_another_tone() -> None:
    torch.manual_seed(0)
    steps = torch.linspace(-1, 1, 32)
    images = (steps.view(1, 1, 1, 32) + 2 * steps.view(1, 1, 32, 1)).repeat(64, 1, 1, 1)  # brighter to the right and below
    found = second_view(images, SPEC)
    assert found.shape == images.shape
    assert bool(torch.isfinite(found).all())
    assert not torch.allclose(found[0], found[1])
    slopes = found[..., 1:] - found[..., :-1]
    assert bool((slopes > 0).all()), "a view must not be mirrored"
    assert 0.55 < float(slopes.mean() / (steps[1] - steps[0])) < 1.05, "a crop magnifies"
    assert torch.equal(second_view(images, SPEC, 0.0), images)
    black = torch.full((8, 1, 32, 32), -2.0)  # a pixel of 0, normalised
    assert torch.allclose(second_view(black, SPEC), black, atol=1e-5)


def test_views_follow_the_global_generator() -> None:
    images = torch.randn(4, 1, 32, 32)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append((second_view(images, SPEC), shuffled(REPORTS[0])))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert not torch.equal(found[0][0], found[2][0])


def test_the_second_text_has_the_same_sentences() -> None:
    torch.manual_seed(0)
    orders = {shuffled(REPORTS[0]) for _ in range(30)}
    assert len(orders) == 6
    assert all(sorted(item.split(". ")) != [] and len(item) == len(REPORTS[0]) for item in orders)
    assert shuffled("") == ""
    assert shuffled("...") in ("", "...")


def test_the_released_shuffle_changes_nothing(tokenizer: Tokenizer) -> None:
    """With text_view=same both texts are one, and their contrast is that of a text with itself."""
    torch.manual_seed(0)
    values = {}
    for kind in ("same", "shuffled"):
        torch.manual_seed(0)
        model = CXRCLIP(CXRCLIPConfig(**TINY, text_view=kind), tokenizer).eval()
        torch.manual_seed(1)
        (terms,) = model.loss(batch(), Step(0, 0, 10))
        values[kind] = terms
        if kind == "same":
            text = model.encode_text(model.prepare_text(REPORTS)).pooled
            itself = F.cross_entropy(model.logit_scale() * text @ text.T, torch.arange(len(text)))
            assert torch.allclose(terms["texts"], itself)
    assert not torch.equal(values["same"]["texts"], values["shuffled"]["texts"])


def test_texts_pool_at_an_end_or_over_all_tokens() -> None:
    tokens, mask = torch.arange(12.0).view(2, 3, 2), torch.tensor([[True, True, True], [True, True, False]])
    assert pool_text(tokens, mask, "start").tolist() == [[0, 1], [6, 7]]
    assert pool_text(tokens, mask, "end").tolist() == [[4, 5], [8, 9]]
    assert pool_text(tokens, mask, "mean").tolist() == [[2, 3], [7, 8]]


@pytest.mark.parametrize(("encoder", "pooling"), [("vit", "mean"), ("resnet", "mean"), ("vit", "first")])
def test_the_contract_is_kept(encoder: str, pooling: str) -> None:
    findings = check(CXRCLIP, config=CXRCLIPConfig(**TINY, image_encoder=encoder, image_pooling=pooling))
    assert [item for item in findings if not item.ok] == []


def test_unknown_settings_are_refused() -> None:
    for field, value in {"image_pooling": "max", "text_pooling": "max", "text_view": "cut", "aggregator": "attention"}.items():
        with pytest.raises(UserError, match=field):
            CXRCLIPConfig(**{**TINY, field: value})
    with pytest.raises(UserError, match="view_strength"):
        CXRCLIPConfig(**TINY, view_strength=float("nan"))
    config, recipe = CXRCLIP.preset("paper")
    assert (config.image_encoder, config.max_tokens, recipe.batch_size) == ("resnet50.tv_in1k", 256, 128)


# -------------------------------------------------------------------------------------------- released files


def text_part(bert: BertModel) -> dict[str, Tensor]:
    state = {f"text_encoder.text_encoder.{key}": value for key, value in bert.state_dict().items()}
    state |= {"text_projection.projection.weight": torch.randn(24, 64), "text_projection.projection.bias": torch.randn(24)}
    return {**state, "logit_scale": torch.tensor(3.0)}


def loaded(state: dict[str, Tensor]) -> tuple[CXRCLIP, dict[str, Any]]:
    layout = published.layout_of(CXRCLIP, state)
    assert layout is not None
    config: Any = CXRCLIPConfig(**{**TINY, **layout.configure(state)})
    tokenizer = train_tokenizer([*REPORTS, "words to learn from: " + " ".join(map(str, range(200)))], 120)
    model = CXRCLIP.build(config, tokenizer)
    return model.eval(), published.apply(model, layout, state, "file")


@needs_golden
@pytest.mark.parametrize(("name", "left"), [("cxr_clip_resnet", 3), ("cxr_clip_swin", 3 + 12)])
def test_every_recorded_key_is_used_or_listed(name: str, left: int) -> None:
    small, state = {28996: 120, 768: 64, 3072: 256, 512: 40}, {}
    for line in (REFERENCE / "keys" / f"{name}.csv").read_text().splitlines()[1:]:
        key, shape, kind = line.split(",")
        sizes = [int(item) for item in shape.split("x")] if shape != "scalar" else []
        if key.startswith("text_encoder"):
            sizes = [small.get(item, item) for item in sizes]
        sizes = [512, 64] if key == "text_projection.projection.weight" else sizes
        state[key] = torch.randn(sizes) if kind == "float32" else torch.zeros(sizes, dtype=torch.int64)
    model, notes = loaded(state)
    assert notes["checkpoint_keys_left_out"] == left  # positions, the pooler's two, and the window indices of a Swin
    assert notes["checkpoint_keys_used"] == len(model.state_dict())
    assert (model.input.size, model.input.mean, model.input.std) == (224, (0.5,) * 3, (0.5,) * 3)
    assert isinstance(model.image_tower, SwinTower) is name.endswith("swin")
    assert model.config.image_pooling == ("first" if name.endswith("swin") else "mean")


def test_a_resnet_file_gives_the_features_of_its_own_layers() -> None:
    torch.manual_seed(0)
    network = resnet50().eval()
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 256}
    bert = BertModel(BertConfig(vocab_size=120, max_position_embeddings=40, **sizes)).eval()
    image = {f"image_encoder.resnet.{key}": value for key, value in network.state_dict().items() if not key.startswith("fc.")}
    head = torch.nn.Linear(2048, 24)
    image |= {f"image_projection.projection.{key}": value for key, value in head.state_dict().items()}
    state = image | text_part(bert)
    model, _ = loaded(state)
    network.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(model.encode_image(images).pooled, F.normalize(head(network(images)), dim=-1), atol=1e-5)
        text = model.prepare_text(REPORTS[:1])
        last = bert(input_ids=text.ids).last_hidden_state[:, -1]  # [SEP]
        expected = last @ state["text_projection.projection.weight"].T + state["text_projection.projection.bias"]
        assert torch.allclose(model.encode_text(text).pooled, F.normalize(expected, dim=-1), atol=1e-5)
    with pytest.raises(UserError, match="first 'optimizer"):
        loaded({**state, "optimizer.state": torch.ones(1)})
    with pytest.raises(UserError, match="missing"):
        loaded({key: value for key, value in state.items() if key != "image_projection.projection.bias"})
    with pytest.raises(UserError, match="expected"):
        loaded({**state, "image_encoder.resnet.conv1.weight": torch.ones(64, 1, 7, 7)})


def test_a_swin_takes_its_first_position_as_released_or_the_mean(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    sizes = {**TINY, "image_encoder": SWIN_TINY, "image_size": 224, "image_channels": 3}
    model = CXRCLIP(CXRCLIPConfig(**sizes), tokenizer).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        tokens = model.image_tower.forward_tokens(images)
        for pooling, expected in (("mean", tokens.mean(dim=1)), ("first", tokens[:, 0])):
            model.config = CXRCLIPConfig(**sizes, image_pooling=pooling)
            assert torch.allclose(
                model.encode_image(images).pooled, F.normalize(model.image_projection(expected), dim=-1), atol=1e-5
            )
