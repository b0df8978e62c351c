"""MRM: equal to the recorded arrays, what each quirk changes, and that the image helps to restore the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from benchmark.context import Context
from benchmark.contract import check
from benchmark.data.dataset import Dataset
from benchmark.data.text import train_tokenizer
from benchmark.errors import UserError
from benchmark.pretrain import pretrain
from benchmark.published import apply
from benchmark.types import PRESETS, Batch, PretrainSpec, Recipe, Step, TextBatch, capabilities, plain, reads_reports
from methods.losses import masked_patch_error, patchify, standardize
from methods.masking import TextMask, image_mask
from methods.mrm import MRM, MRMConfig, position_code, word_mask
from methods.published.mrm import LAYOUTS
from tests.golden import Case, assert_gradient, assert_output, needs_golden
from tests.toy import ToySource

TINY: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "image_width": 32, "image_depth": 2, "image_heads": 2, "decoder_width": 16,
    "text_width": 24, "text_layers": 2, "text_heads": 2, "max_tokens": 24,
}  # fmt: skip
REPORTS = (
    "There is a small left pleural effusion. The heart is enlarged.", "No focal consolidation.",
    "Heart size is normal. No pneumothorax or effusion.", "Right lower lobe consolidation is new.",
)  # fmt: skip
STEP = Step(0, 0, 10)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(REPORTS, 90)


def build(tokenizer: Tokenizer | None, **options: Any) -> MRM:
    torch.manual_seed(0)
    return MRM.build(MRMConfig(**{**TINY, **options}), tokenizer)


def batch_of(texts: tuple[str, ...] = REPORTS, size: int = 64) -> Batch:
    names = tuple(f"row {row}" for row in range(len(texts)))
    images = torch.randn(len(texts), 1, size, size, generator=torch.Generator().manual_seed(1))
    return Batch(names, names, images, texts)


def step(method: MRM, batch: Batch, seed: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    (terms,) = method.loss(batch, STEP)
    return dict(terms)


def bert_of(case: Case) -> BertModel:
    """The recorded report branch: its inner width is twice the width, where every real one has four times."""
    state = case.weights("bert_encoder.model.bert.")
    width = state["embeddings.word_embeddings.weight"].shape[1]
    config = BertConfig(
        vocab_size=len(state["embeddings.word_embeddings.weight"]), hidden_size=width, num_hidden_layers=2,
        num_attention_heads=int(case.number("hp/bert_heads")), intermediate_size=2 * width, max_position_embeddings=16,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="sdpa",
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False)


def recorded(case: Case) -> MRM:
    """The whole recorded model, through the layout of published files."""
    (layout,), state = LAYOUTS, case.weights()
    assert layout.recognise(state)
    found = {
        **layout.configure(state), "image_heads": int(case.number("hp/num_heads")), "antialias": True,
        "decoder_heads": int(case.number("hp/decoder_num_heads")), "text_heads": int(case.number("hp/bert_heads")),
    }  # fmt: skip
    method = MRM.build(MRMConfig(**found), None)
    method.text_tower.bert = bert_of(case)
    notes = apply(method, layout, state, "recorded")
    assert (notes["checkpoint_keys_used"], notes["checkpoint_keys_left_out"]) == (95, 3)
    return method.eval()


def recorded_text(case: Case) -> tuple[TextBatch, TextMask]:
    mask, nothing = case["in/attention_mask"].bool(), torch.full_like(case["in/ids"], -1)
    hidden = case["in/ids"] != case["in/labels"]
    return TextBatch(case["in/labels"], mask, ~mask, nothing, nothing), TextMask(case["in/ids"], hidden)


GRADIENTS = {
    "cls_token": "image_tower.model.cls_token", "mask_token": "image_decoder.mask_token",
    "patch_embed.proj.bias": "image_tower.model.patch_embed.proj.bias", "norm.weight": "image_tower.model.norm.weight",
    "decoder_embed.weight": "image_decoder.embed.weight", "bert_mlp.weight": "to_report.weight",
    "bert_encoder.model.bert.embeddings.word_embeddings.weight": "text_tower.bert.embeddings.word_embeddings.weight",
    "bert_encoder.model.cls.predictions.decoder.weight": "word_head",
}  # fmt: skip


@needs_golden
def test_the_whole_model_equals_the_recorded_one() -> None:
    case = Case("mrm/full_forward")
    method, images = recorded(case), case["in/image"].float() / case.number("hp/image_divisor")
    mask = image_mask(case["in/noise"], case.number("hp/mask_ratio"))
    assert torch.equal(mask.hidden.float(), case["out/mask"])
    assert_output(method.resized(images, 64)[:1, :1], case["out/resized"])
    tokens = method.image_tower.forward_tokens(method.resized(images, 64), mask.keep)
    assert_output(tokens, case["out/latent"])
    assert_output(method.image_decoder(tokens, mask)[:, 0], case["out/pred_patch0"])
    text, words = recorded_text(case)
    everything = torch.ones_like(text.mask)
    logits = method.logits(words.ids, text.mask, method.to_report(tokens[:, 1:].mean(dim=1)), everything)
    # one padded position magnifies rounding: computed in float64 its logits move by as much as they differ here
    assert_gradient(logits.reshape(2, 12, -1).detach(), case["out/lm_logits"], 5e-5)
    terms = method.terms(images, mask, text, words)
    assert_output(terms["image"], case["out/image_loss"])
    assert_output(terms["text"], case["out/report_loss"])
    (terms["image"] + terms["text"]).backward()
    own = dict(method.named_parameters())
    assert {f"grad/{name}" for name in GRADIENTS} == {key for key in case.arrays if key.startswith("grad/")}
    for theirs, ours in GRADIENTS.items():
        expected = case[f"grad/{theirs}"]
        found = own[ours].grad
        assert found is not None
        assert_gradient(found.reshape(expected.shape), expected)


@needs_golden
def test_labels_that_leave_padding_out_are_the_mean_over_real_positions() -> None:
    case = Case("mrm/full_forward")
    method, (text, words) = recorded(case), recorded_text(case)
    images, mask = case["in/image"].float() / 16, image_mask(case["in/noise"], 0.75)
    each = F.cross_entropy(case["out/lm_logits"].flatten(0, 1), case["in/labels"].flatten(), reduction="none").reshape(2, 12)
    for labels, counted in (("all", torch.ones(2, 12).bool()), ("real", text.mask), ("hidden", words.hidden)):
        method.config = replace(method.config, report_labels=labels)
        assert_output(method.terms(images, mask, text, words)["text"], each[counted].mean())


@needs_golden
@pytest.mark.parametrize("name", ["image_loss_448", "image_loss_norm_pix"])
def test_the_image_loss_equals_the_recorded_one(name: str) -> None:
    case = Case(f"mrm/{name}")
    images = case["in/image"].float() / case.number("hp/image_divisor")
    predicted = (case["in/pred"].float() / case.number("hp/pred_divisor")).requires_grad_()
    hidden = case["in/mask"].bool()
    if "in/noise" in case.arrays:
        assert torch.equal(image_mask(case["in/noise"], case.number("hp/mask_ratio")).hidden, hidden)
    patches = patchify(images, 2 * int(case.number("hp/patch_size")))
    if "out/target_patch0" in case.arrays:  # recorded before they are standardized
        assert_output(patches[:, 0], case["out/target_patch0"])
    loss = masked_patch_error(predicted, standardize(patches), hidden)
    loss.backward()
    assert_output(loss, case["out/loss"])
    place = int(hidden[0].nonzero()[0]) if name == "image_loss_448" else 0  # what patch0 is called there
    assert predicted.grad is not None
    assert_gradient(predicted.grad[:, place], case["grad/pred_patch0"])


@needs_golden
def test_the_released_position_code_equals_the_recorded_one_and_the_default_does_not() -> None:
    case = Case("mrm/pos_embed")
    side = int(case.number("hp/grid"))
    for key in ("out/pos_embed", "out/decoder_pos_embed"):
        expected = case[key]
        assert not expected[0].any()
        assert_output(position_code("released", side, expected.shape[1]), expected[1:])
        assert (position_code("mae", side, expected.shape[1]) - expected[1:]).abs().max() > 0.1


def test_released_positions_come_into_encoder_and_decoder_and_stay(tokenizer: Tokenizer) -> None:
    method = build(tokenizer, position_code="released", positions="fixed")
    assert torch.equal(method.image_tower.model.pos_embed[0, 1:], position_code("released", 4, 32))
    assert torch.equal(method.image_decoder.positions[1:], position_code("released", 4, 16))
    assert not method.image_tower.model.pos_embed.requires_grad
    assert not method.image_tower.model.pos_embed[0, 0].any()


# ------------------------------------------------------------------------------------------------- sizes


def test_training_asks_for_the_larger_image_and_evaluation_for_the_encoders_own(tokenizer: Tokenizer) -> None:
    method = build(tokenizer)
    assert method.input.size == method.train().input.size == 64
    assert method.eval().input.size == 32
    assert replace(method.input, size=0) == replace(method.train().input, size=0)
    assert build(tokenizer, target_scale=1).input.size == 32


def test_the_loop_gives_the_larger_image_and_evaluation_the_smaller(tmp_path: Path, tokenizer: Tokenizer) -> None:
    method, data, recipe = build(tokenizer), Dataset(ToySource(12)), Recipe(steps=2, batch_size=8)
    spec = PretrainSpec(
        method="mrm", method_version=1, config=plain(method.config), recipe=plain(recipe), dataset="toy",
        dataset_version=data.version, split=data.splits["train"], seed=0,
    )  # fmt: skip
    context = Context(device=torch.device("cpu"), cache=tmp_path / "cache", progress=False)
    loss, given = method.loss, list[int]()

    def recording(batch: Batch, at: Step) -> Iterator[Mapping[str, Tensor]]:
        given.append(batch.images.shape[-1])
        return loss(batch, at)

    method.loss = recording  # type: ignore[method-assign]
    pretrain(method, data, spec, recipe, tmp_path / "pretrained", context)
    assert set(given) == {64}
    assert method.input.size == 32


def test_the_encoder_sees_its_own_size_and_the_decoder_predicts_the_larger_one(tokenizer: Tokenizer) -> None:
    method, batch = build(tokenizer), batch_of()
    seen: list[Tensor] = []
    method.image_tower.model.patch_embed.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    terms = step(method, batch)
    (shown,) = seen
    assert shown.shape == (4, 1, 32, 32)
    expected = F.interpolate(batch.images, size=(32, 32), mode="bicubic", align_corners=False, antialias=True)
    assert torch.equal(shown, expected)
    assert method.image_decoder.head.out_features == 16 * 16
    finer = replace(batch, images=batch.images + 0.5 * torch.randn_like(batch.images))
    assert step(method, finer)["image"] != terms["image"]
    plain = method.resized(batch.images, 32)
    method.config = replace(method.config, antialias=False)
    assert (method.resized(batch.images, 32) - plain).abs().max() > 0.1


def test_features_do_not_know_the_report_branch(tokenizer: Tokenizer) -> None:
    method = build(tokenizer).eval()
    found = method.encode_image(torch.zeros(2, 1, 32, 32))
    assert found.pooled.shape == (2, 32)
    assert [tuple(item.shape) for item in method.feature_maps(torch.zeros(2, 1, 40, 24))] == [(2, 96, 5, 3)]


# ------------------------------------------------------------------------------------------------- reports


def test_whole_words_are_hidden_and_nothing_special(tokenizer: Tokenizer) -> None:
    text = build(tokenizer).prepare_text(REPORTS * 20)
    assert any((row[1:] == row[:-1])[row[1:] >= 0].any() for row in text.words)  # words of several pieces
    torch.manual_seed(0)
    mask = word_mask(text, torch.rand(text.ids.shape), 0.5, 4)
    words = {(row, int(word)) for row, place in mask.hidden.nonzero().tolist() for word in [text.words[row, place]]}
    for row, place in (text.words >= 0).nonzero().tolist():
        assert bool(mask.hidden[row, place]) == ((row, int(text.words[row, place])) in words)
    assert not (mask.hidden & text.special).any()
    assert torch.equal(mask.ids, torch.where(mask.hidden, 4, text.ids))
    every = sum(int(row.max()) + 1 for row in text.words)
    assert 0.42 < len(words) / every < 0.58
    assert not word_mask(text, torch.rand(text.ids.shape), 0.0, 4).hidden.any()
    assert torch.equal(word_mask(text, torch.rand(text.ids.shape), 1.0, 4).hidden, ~text.special)


def test_released_labels_count_padding_up_to_the_limit(tokenizer: Tokenizer) -> None:
    counts = {}
    for labels in ("hidden", "real", "all"):
        method, found = build(tokenizer, report_labels=labels), []
        method.text_head.norm.register_forward_pre_hook(lambda module, inputs, found=found: found.append(len(inputs[0])))
        step(method, batch_of())
        (counts[labels],) = found
    real = int(build(tokenizer).prepare_text(REPORTS).mask.sum())
    assert counts["all"] == 4 * 24
    assert counts["hidden"] < counts["real"] == real < counts["all"]


def test_padding_changes_no_other_position(tokenizer: Tokenizer) -> None:
    method = build(tokenizer).eval()
    alone, both = method.prepare_text(REPORTS[1:2]), method.prepare_text(REPORTS[:2])
    seen = torch.randn(2, 24)
    one = method.logits(alone.ids, alone.mask, seen[1:], alone.mask)
    two = method.logits(both.ids, both.mask, seen, both.mask)[-len(one) :]
    assert torch.allclose(one, two, atol=1e-5)


def test_tied_and_separate_words(tokenizer: Tokenizer) -> None:
    tied, separate = build(tokenizer), build(tokenizer, word_head="separate")
    assert tied.word_head is None
    assert separate.word_head is not None
    assert step(tied, batch_of())["text"] == step(separate, batch_of())["text"]  # they start from the same matrix
    step(separate, batch_of())["total"].backward()
    grads = separate.word_head.grad, separate.text_tower.words.grad
    assert grads[0] is not None
    assert grads[1] is not None
    assert not torch.equal(*grads)


@pytest.mark.parametrize(
    "options", [{}, {"report_labels": "all", "word_head": "separate"}, {"target_scale": 1, "positions": "fixed"}]
)
def test_every_parameter_trains(options: dict[str, Any], tokenizer: Tokenizer) -> None:
    method = build(tokenizer, **options)
    terms = step(method, batch_of())
    assert torch.allclose(terms["total"], terms["image"] + terms["text"])
    terms["total"].backward()
    trained = {name: item for name, item in method.named_parameters() if item.requires_grad}
    silent = [name for name, item in trained.items() if item.grad is None or not item.grad.abs().sum() > 0]
    assert [name for name in silent if not name.endswith("key.bias")] == []  # softmax does not see a bias of the keys


@pytest.mark.parametrize("labels", ["hidden", "real", "all"])
@pytest.mark.parametrize("texts", [("",) * 3, ("...!", "?", ","), ("Effusion.",) * 3, ("Clear lungs. " * 60, "", "One.")])
def test_odd_reports_give_finite_losses_and_gradients(labels: str, texts: tuple[str, ...], tokenizer: Tokenizer) -> None:
    method = build(tokenizer, report_labels=labels)
    terms = step(method, batch_of(texts))
    assert all(torch.isfinite(item) for item in terms.values())
    terms["total"].backward()
    assert all(item.grad is not None and torch.isfinite(item.grad).all() for item in method.parameters() if item.requires_grad)


def test_the_picture_helps_to_restore_the_report(tokenizer: Tokenizer) -> None:
    texts = ("effusion", "consolidation", "pneumothorax", "enlarged")
    pictures = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    options = {"target_scale": 1, "text_mask_ratio": 1.0, "text_layers": 1, "image_depth": 1, "image_mask_ratio": 0.5}
    losses = {}
    for name, shown in (("own", pictures), ("same", pictures[:1].expand(4, 1, 32, 32))):
        method = build(tokenizer, **options)
        optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
        for seed in range(120):
            optimizer.zero_grad()
            terms = step(method, Batch(texts, texts, shown, texts), seed)
            terms["total"].backward()
            optimizer.step()
        losses[name] = terms["text"].item()
    assert losses["own"] < 0.5 * losses["same"]


def test_it_keeps_the_contract_and_encodes_no_text(tokenizer: Tokenizer) -> None:
    assert [item for item in check(MRM, config=MRMConfig(**TINY)) if not item.ok] == []
    method = build(tokenizer)
    assert capabilities(method) == {"dense", "trainable"}
    assert reads_reports(method)
    assert method.prepare_text(["effusion " * 60]).truncated == 1


def test_presets_share_the_tower_and_paper_is_the_released_recipe() -> None:
    for preset in PRESETS:
        MRM.preset(preset)
    config, recipe = MRM.preset("paper")
    assert (config.image_size * config.target_scale, config.decoder_width, config.decoder_depth) == (448, 768, 4)
    assert (config.text_width, config.text_layers, config.max_tokens, config.text_positions) == (384, 6, 100, 100)
    assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay, recipe.warmup) == (256, 1.5e-4, 0.05, 0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_encoder": "resnet"}, "image_encoder='resnet': MRM encodes visible patches only"),
        ({"target_scale": 3}, "target_scale=3 is not one of 1, 2, 4"),
        ({"report_labels": "some"}, "report_labels='some' is not one of"),
        ({"text_mask_ratio": 1.5}, r"text_mask_ratio=1\.5 must lie in"),
        ({"text_heads": 5}, "text_width=24 must be a multiple of 4 and of text_heads=5"),
        ({"text_vocabulary": 70}, "text_vocabulary=70, and the tokenizer has"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], message: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=message):
        build(tokenizer, **options)
    with pytest.raises(UserError, match="give it a tokenizer"):
        build(None)
