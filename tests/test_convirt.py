"""ConVIRT: its loss against the recorded ones, how it reads reports, what is frozen, and that it learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F

from benchmark.contract import check
from benchmark.data.text import train_tokenizer
from benchmark.errors import UserError
from benchmark.types import Batch, Step
from methods.convirt import ConVIRT, ConVIRTConfig, one_sentence, pool_text
from methods.losses import directed_nce
from tests.golden import Case, assert_gradient, assert_output, needs_golden

TINY: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "image_width": 32, "image_depth": 2, "image_heads": 2, "text_width": 24,
    "text_layers": 2, "text_heads": 2, "embed_dim": 16, "projection_width": 20, "max_tokens": 48,
}  # fmt: skip
REPORTS = (
    "There is a small left pleural effusion. The heart is enlarged.", "No focal consolidation.",
    "Heart size is normal. No pneumothorax or effusion.", "Right lower lobe consolidation is new.",
)  # fmt: skip
STEP = Step(0, 0, 10)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(REPORTS, 120)


def build(tokenizer: Tokenizer, seed: int = 0, **options: Any) -> ConVIRT:
    torch.manual_seed(seed)
    return ConVIRT.build(ConVIRTConfig(**{**TINY, **options}), tokenizer).eval()


def terms(method: ConVIRT, texts: Sequence[str] = REPORTS, seed: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    names = tuple(f"row {index}" for index in range(len(texts)))
    images = torch.randn(len(texts), 1, 32, 32, generator=torch.Generator().manual_seed(1))
    (found,) = method.loss(Batch(names, names, images, tuple(texts)), STEP)
    return dict(found)


@needs_golden
@pytest.mark.parametrize(
    ("name", "image", "text", "temperature", "weight"),
    [
        ("nt_xent_a", "zis", "zjs", "temperature", "alpha_weight"),
        ("mgca_convirt_info_nce", "img_feat", "text_feat", "softmax_temperature", ""),
    ],
)
def test_the_loss_is_the_recorded_one(name: str, image: str, text: str, temperature: str, weight: str) -> None:
    """Weights of .75 and .25 at temperature .1, and MGCA's sum of both directions at .07."""
    case = Case(f"convirt/{name}")
    leaves = (case.leaf(f"in/{image}"), case.leaf(f"in/{text}"))
    to_text, to_image = directed_nce(*(F.normalize(leaf, dim=1) for leaf in leaves), 1 / case.number(f"hp/{temperature}"))
    share = case.number(f"hp/{weight}") if weight else 0.5
    loss = (share * to_text + (1 - share) * to_image) * (1 if weight else 2)
    assert_output(loss, case["out/loss"])
    loss.backward()
    for leaf, key in zip(leaves, (image, text)):
        assert_gradient(leaf.grad, case[f"grad/{key}"])


@pytest.mark.parametrize("pool", ["max", "mean", "cls", "pooler"])
@pytest.mark.parametrize("encoder", ["vit", "resnet"])
def test_it_keeps_the_contract(pool: str, encoder: str, tokenizer: Tokenizer) -> None:
    config = ConVIRTConfig(**TINY, image_encoder=encoder, text_pool=pool, frozen_text_layers=1)
    assert [finding for finding in check(ConVIRT, tokenizer=tokenizer, config=config) if not finding.ok] == []


def test_pools_read_every_token_but_padding() -> None:
    tokens = torch.tensor([[[1.0, -5.0], [3.0, -2.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    found = {pool: pool_text(tokens, mask, pool)[0].tolist() for pool in ("max", "mean", "cls")}
    assert found == {"max": [3.0, -2.0], "mean": [2.0, -3.5], "cls": [1.0, -5.0]}


def test_total_weighs_the_directions_and_the_temperature_is_fixed(tokenizer: Tokenizer) -> None:
    method = build(tokenizer)
    found = terms(method)
    assert torch.allclose(found["total"], 0.75 * found["to_text"] + 0.25 * found["to_image"])
    assert not torch.allclose(found["to_text"], found["to_image"])
    assert [name for name, _ in method.named_parameters() if "scale" in name] == []
    torch.manual_seed(5)
    warmer = terms(build(tokenizer, temperature=1.0))
    assert (warmer["to_text"] - torch.tensor(4.0).log()).abs() < (found["to_text"] - torch.tensor(4.0).log()).abs()


def test_a_sentence_is_drawn_from_each_report() -> None:
    torch.manual_seed(0)
    drawn = {text for _ in range(30) for text in one_sentence(["One two. Three four. Five.", "", "Only this."])}
    assert drawn == {"One two.", "Three four.", "Five.", "", "Only this."}
    drawn = {one_sentence(["One two. Three.", "Three."], least=2)[0] for _ in range(20)}
    assert drawn == {"One two."}
    assert one_sentence(["Three."], least=2) == ["Three."]


def test_the_whole_report_may_be_trained_on(tokenizer: Tokenizer) -> None:
    totals = {
        unit: {round(float(terms(build(tokenizer, text_unit=unit), seed=seed)["total"].detach()), 5) for seed in range(8)}
        for unit in ("sentence", "report")
    }
    assert len(totals["report"]) == 1
    assert 1 < len(totals["sentence"]) <= 4  # two reports of two sentences


def test_frozen_layers_and_the_embeddings_stay(tokenizer: Tokenizer) -> None:
    method = build(tokenizer, frozen_text_layers=1)
    frozen = {name for name, item in method.named_parameters() if not item.requires_grad}
    bert = {name for name, _ in method.named_parameters() if name.startswith("text_tower.bert.")}
    assert frozen == {name for name in bert if ".embeddings." in name or ".layer.0." in name}
    assert bert - frozen
    terms(method)["total"].backward()
    assert all(item.grad is not None for name, item in method.named_parameters() if name not in frozen)


@pytest.mark.parametrize(
    "texts",
    [("", "Heart.", "No effusion. " * 60, "... , ;!"), ("No effusion.",) * 4, ("",) * 3, ("Clear.",)],
    ids=["odd", "equal", "empty", "one"],
)
@pytest.mark.parametrize("pool", ["max", "mean", "pooler"])
def test_odd_reports_give_finite_losses_and_gradients(texts: tuple[str, ...], pool: str, tokenizer: Tokenizer) -> None:
    method = build(tokenizer, text_unit="report", text_pool=pool)
    found = terms(method, texts)
    assert all(torch.isfinite(item) for item in found.values())
    found["total"].backward()
    assert all(torch.isfinite(item.grad).all() for item in method.parameters() if item.grad is not None)


def byte_level() -> Tokenizer:
    """A small tokenizer as RoBERTa's: byte-level pairs, and its names of special tokens."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    found.train_from_iterator(REPORTS, trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    found.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return found


def test_a_byte_level_tokenizer_is_read_as_it_is() -> None:
    theirs = byte_level()
    method = build(theirs)
    text = method.prepare_text([REPORTS[0], "Heart."])
    assert text.ids[0].tolist() == theirs.encode(REPORTS[0]).ids
    assert text.ids[1, int(text.mask[1].sum()) :].unique().tolist() == [theirs.token_to_id("<pad>")]
    assert method.tokenizer.get_vocab_size() == theirs.get_vocab_size()
    assert text.special[0].nonzero().flatten().tolist() == [0, text.ids.shape[1] - 1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("text_pool", "sum"), ("to_text_weight", -1.0), ("frozen_text_layers", 3), ("alignment", "abm"), ("text_unit", "word")],
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=field):
        ConVIRTConfig(**{field: value})


def test_presets_are_those_of_the_towers_and_of_the_baseline_recipe() -> None:
    for name in ("quick", "small"):
        config, _ = ConVIRT.preset(name)
        assert (config.image_encoder, config.frozen_text_layers, config.projection_width) == ("vit", 0, config.embed_dim)
    config, recipe = ConVIRT.preset("paper")
    assert config.image_encoder == "resnet50.tv_in1k"
    assert (config.frozen_text_layers, config.embed_dim, config.temperature) == (6, 512, 0.1)
    assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (32, 1e-4, 1e-6)
    with pytest.raises(UserError, match="preset"):
        ConVIRT.preset("large")


def test_it_learns_which_report_is_whose(tokenizer: Tokenizer) -> None:
    method = build(tokenizer, text_unit="report").train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    first = float(terms(method)["total"].detach())
    for _ in range(40):
        optimizer.zero_grad()
        total = terms(method)["total"]
        total.backward()
        optimizer.step()
    assert float(total.detach()) < first / 4
