"""MCR: what goes into which task, its four corners, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmark.data.text import train_tokenizer
from benchmark.errors import Unavailable, UserError
from benchmark.types import Batch, Step
from methods import decoders
from methods.clip import CLIP
from methods.losses import word_error
from methods.masking import image_mask, text_mask
from methods.mcr import MCR, MCRConfig

TINY: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "image_width": 32, "image_depth": 2, "image_heads": 2, "text_width": 24,
    "text_layers": 2, "text_heads": 2, "embed_dim": 16, "max_tokens": 24, "decoder_width": 16, "decoder_heads": 2,
}  # fmt: skip
CORNERS = [(stream, alignment) for stream in ("single", "dual") for alignment in ("mba", "abm")]
REPORTS = (
    "There is a small left pleural effusion. The heart is enlarged.", "No focal consolidation.",
    "Heart size is normal. No pneumothorax or effusion.", "Right lower lobe consolidation is new.",
)  # fmt: skip
STEP = Step(0, 0, 10)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(REPORTS, 200)


@pytest.fixture
def batch() -> Batch:
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    names = tuple("abcd")
    return Batch(names, names, images, REPORTS)


def build(tokenizer: Tokenizer, seed: int = 0, **options: Any) -> MCR:
    torch.manual_seed(seed)
    return MCR.build(MCRConfig(**{**TINY, **options}), tokenizer)


def terms(method: MCR | CLIP, batch: Batch, seed: int = 5) -> dict[str, Tensor]:
    """One step with its backward passes; the terms of all of them, totals added."""
    torch.manual_seed(seed)
    every: dict[str, Tensor] = {}
    for part in method.loss(batch, STEP):
        part["total"].backward()
        every |= {name: item.detach() + every.get(name, 0) for name, item in part.items()}
    return every


def gradients(method: MCR) -> dict[str, Tensor]:
    return {name: item.grad for name, item in method.named_parameters() if item.grad is not None}


@pytest.mark.parametrize(("stream", "alignment"), CORNERS)
@pytest.mark.parametrize("aggregator", ["mean", "attention"])
def test_every_parameter_of_every_corner_trains(
    stream: str, alignment: str, aggregator: str, tokenizer: Tokenizer, batch: Batch
) -> None:
    method = build(tokenizer, stream=stream, alignment=alignment, aggregator=aggregator)
    found = terms(method, batch)
    assert set(found) == {"contrast", "image", "text", "total"}
    assert all(torch.isfinite(item) and item > 0 for item in found.values())
    assert torch.allclose(found["total"], found["contrast"] + found["image"] + found["text"])
    grads = gradients(method)
    silent = [name for name, item in method.named_parameters() if name not in grads or not grads[name].abs().sum() > 0]
    assert [name for name in silent if not name.endswith("key.bias")] == []  # softmax does not see a bias of the keys


def test_words_in_pieces_give_the_same_step(tokenizer: Tokenizer, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = build(tokenizer), build(tokenizer)
    expected = terms(whole, batch)
    monkeypatch.setattr(decoders, "word_error", partial(word_error, held=3 * tokenizer.get_vocab_size()))
    found = terms(pieces, batch)
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
    one, two = gradients(whole), gradients(pieces)
    assert all(torch.allclose(two[name], one[name], atol=1e-6) for name in one)


def test_corners_start_from_the_same_weights(tokenizer: Tokenizer) -> None:
    states = [build(tokenizer, stream=stream, alignment=alignment).state_dict() for stream, alignment in CORNERS]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)


def test_corners_see_the_same_masks_from_the_same_seed(tokenizer: Tokenizer, batch: Batch) -> None:
    found = [terms(build(tokenizer, stream=stream, alignment=alignment), batch) for stream, alignment in CORNERS]
    for other in found[1:]:  # reconstruction starts equal: it depends on neither the stream nor the order
        assert torch.allclose(other["image"], found[0]["image"], atol=1e-6)
        assert torch.allclose(other["text"], found[0]["text"], atol=1e-6)
    contrasts = [round(float(other["contrast"]), 6) for other in found]
    assert len(set(contrasts)) == 4


def test_sequential_backward_accumulates_the_gradients_of_the_joint_one(tokenizer: Tokenizer, batch: Batch) -> None:
    joint, sequential = build(tokenizer, stream="dual"), build(tokenizer, stream="dual", backward="sequential")
    passes = [set(part) for part in sequential.loss(batch, STEP)]
    assert passes == [{"contrast", "total"}, {"image", "text", "total"}]
    one, two = terms(joint, batch), terms(sequential, batch)
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
    expected, found = gradients(joint), gradients(sequential)
    assert expected.keys() == found.keys()
    assert all(torch.allclose(expected[name], found[name], atol=1e-6) for name in expected)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What the towers are given: ("image", local tokens) and ("text", tokens left out)."""
    calls: list[tuple[str, int]] = []
    image, text = MCR.image_features, MCR.text_features

    def image_features(self: MCR, tokens: Tensor) -> Any:
        calls.append(("image", tokens.shape[1]))
        return image(self, tokens)

    def text_features(self: MCR, tokens: Tensor, batch: Any, hidden: Tensor | None = None) -> Any:
        calls.append(("text", 0 if hidden is None else int(hidden.sum())))
        return text(self, tokens, batch, hidden)

    monkeypatch.setattr(MCR, "image_features", image_features)
    monkeypatch.setattr(MCR, "text_features", text_features)
    return calls


def test_single_stream_contrasts_what_is_visible_and_evaluation_sees_all(
    tokenizer: Tokenizer, batch: Batch, seen: list[tuple[str, int]]
) -> None:
    method = build(tokenizer)
    terms(method, batch)
    assert seen[0] == ("image", 4)  # a quarter of 16 patches
    words = method.prepare_text(batch.texts)
    assert seen[1][1] >= int((words.mask & ~words.special).sum()) // 2 - 4
    seen.clear()
    method.eval().encode_image(batch.images)
    assert seen == [("image", 16)]
    terms(build(tokenizer, stream="dual"), batch)
    assert seen[1:] == [("image", 16), ("text", 0)]


def test_single_stream_reads_each_modality_once_and_hidden_words_do_not_reach_contrast(
    tokenizer: Tokenizer, batch: Batch
) -> None:
    for stream, passes in (("single", 1), ("dual", 2)):
        method = build(tokenizer, stream=stream)
        inputs: list[Tensor] = []
        method.text_tower.register_forward_pre_hook(lambda module, args, kept=inputs: kept.append(args[0]))
        terms(method, batch)
        assert len(inputs) == passes
        masked = inputs[-1] == method.text_tower.mask_id
        words = method.prepare_text(batch.texts)
        counts = (words.mask & ~words.special).sum(dim=1)
        assert masked.sum(dim=1).tolist() == (counts * 0.5).round().clamp(min=1).tolist()
        if stream == "dual":
            assert not (inputs[0] == method.text_tower.mask_id).any()


def test_hidden_words_are_left_out_of_the_aggregate(tokenizer: Tokenizer) -> None:
    method = build(tokenizer)
    text = method.prepare_text(REPORTS[:2])
    hidden = torch.zeros_like(text.mask)
    hidden[:, 2:4] = True
    tokens = torch.randn(*text.ids.shape, 24)
    changed = tokens.masked_fill(hidden.unsqueeze(-1), 9.0)
    assert torch.equal(method.text_features(tokens, text, hidden).pooled, method.text_features(changed, text, hidden).pooled)
    assert not torch.allclose(method.text_features(tokens, text).pooled, method.text_features(changed, text).pooled)
    every = text.mask & ~text.special  # nothing left to aggregate: all tokens but padding stand in
    assert torch.isfinite(method.text_features(tokens, text, every).pooled).all()


def test_special_tokens_are_not_aggregated(tokenizer: Tokenizer) -> None:
    method = build(tokenizer)
    text = method.prepare_text([*REPORTS[:2], ""])
    tokens = torch.randn(*text.ids.shape, 24)
    changed = tokens.masked_fill(text.special.unsqueeze(-1), 9.0)
    same = method.text_features(tokens, text).pooled, method.text_features(changed, text).pooled
    assert torch.equal(same[0][:2], same[1][:2])
    assert not torch.allclose(same[0][2], same[1][2])  # an empty report has nothing else


def test_reconstruction_is_scored_against_what_was_hidden(tokenizer: Tokenizer, batch: Batch) -> None:
    method = build(tokenizer)
    torch.manual_seed(5)
    image_noise = torch.rand(4, 16)
    text = method.prepare_text(batch.texts)
    words, patches = text_mask(text, torch.rand(text.ids.shape), 0.5, method.text_tower.mask_id), image_mask(image_noise, 0.75)
    with torch.no_grad():
        states = method.text_tower(words.ids, text.mask)
        logits = method.text_head(states, method.text_tower.words)
        pixels = method.image_decoder(method.image_tower.forward_tokens(batch.images, patches.keep)[:, 1:], patches)
    surprise = [
        -float(logits[row, column].log_softmax(0)[text.ids[row, column]]) for row, column in words.hidden.nonzero().tolist()
    ]
    errors = []
    for row, patch in patches.hidden.nonzero().tolist():
        top, left = 8 * (patch // 4), 8 * (patch % 4)
        target = batch.images[row, 0, top : top + 8, left : left + 8].flatten()
        target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
        errors.append(float((pixels[row, patch] - target).square().mean()))
    found = terms(method, batch)
    assert float(found["text"]) == pytest.approx(sum(surprise) / len(surprise), rel=1e-4)
    assert float(found["image"]) == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_clip_loss_equals_the_contrast_of_dual_stream(tokenizer: Tokenizer, batch: Batch) -> None:
    method = build(tokenizer, stream="dual")
    torch.manual_seed(0)
    clip = CLIP.build(CLIP.preset("quick")[0].__class__(**{n: v for n, v in TINY.items() if "decoder" not in n}), tokenizer)
    clip.load_state_dict(method.state_dict(), strict=False)
    assert torch.allclose(terms(clip, batch)["contrast"], terms(method, batch)["contrast"], atol=1e-6)


def test_loss_weights_and_ratios_take_effect(tokenizer: Tokenizer, batch: Batch) -> None:
    found = terms(build(tokenizer, contrast_weight=0.0, image_loss_weight=2.0, text_loss_weight=0.5), batch)
    assert torch.allclose(found["total"], 2 * found["image"] + 0.5 * found["text"])
    unmasked = terms(build(tokenizer, image_mask_ratio=0.0, text_mask_ratio=0.0), batch)
    assert float(unmasked["image"]) == 0.0
    assert float(unmasked["text"]) == 0.0


def test_empty_reports_have_a_finite_loss(tokenizer: Tokenizer, batch: Batch) -> None:
    found = terms(build(tokenizer), replace(batch, texts=("", "", REPORTS[0], "")))
    assert all(torch.isfinite(item) for item in found.values())
    found = terms(build(tokenizer), replace(batch, texts=("",) * 4))
    assert float(found["text"]) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": "triple"}, "stream='triple' is not one of single, dual"),
        ({"alignment": "maa"}, "alignment"),
        ({"image_mask_ratio": 1.0}, "image_mask_ratio"),
        ({"text_mask_ratio": float("nan")}, "text_mask_ratio"),
        ({"image_width": 30}, "image_width=30 must be a multiple"),
        ({"decoder_width": 18}, "decoder_width"),
        ({"backward": "sequential"}, "needs stream=dual"),
        ({"image_depth": 0}, "image_depth"),
        ({"alignment": "abm", "aggregator": "attention", "attention_query": "shared"}, "needs alignment=mba"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MCRConfig(**{**TINY, **options})


def test_convolutional_encoder_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="visible patches only"):
        build(tokenizer, image_encoder="resnet")


def quadrants(count: int, seed: int) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """Noise images with one bright quadrant, and texts that name it among other words."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 32, 32, generator=generator) * 0.5
    place = torch.randint(4, (count,), generator=generator)
    other = torch.randint(3, (count,), generator=generator)
    texts = []
    for row, (where, extra) in enumerate(zip(place.tolist(), other.tolist())):
        top, left = 16 * (where // 2), 16 * (where % 2)
        images[row, :, top : top + 16, left : left + 16] += 2.0
        sides = (("upper", "lower")[where // 2], ("left", "right")[where % 2])
        texts.append(
            f"opacity in the {sides[0]} {sides[1]} zone . {('heart normal', 'no effusion', 'clear otherwise')[extra]} ."
        )
    return images, tuple(texts), place


def test_mcr_learns_pairs_from_masked_data_alone() -> None:
    images, texts, place = quadrants(256, 0)
    method = build(train_tokenizer(texts, 100))
    optimizer = torch.optim.AdamW(method.parameters(), 2e-3)
    for step in range(150):
        torch.manual_seed(step)
        rows = torch.randint(256, (32,)).tolist()
        picked = tuple(texts[row] for row in rows)
        batch = Batch(tuple(map(str, rows)), tuple(map(str, rows)), images[rows], picked)
        for part in method.loss(batch, Step(step, 0, 150)):
            part["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
    fresh, reports, truth = quadrants(64, 1)
    with torch.no_grad():
        method.eval()
        found = method.similarity(method.encode_image(fresh), method.encode_text(method.prepare_text(reports)))
    hit = (truth[found.argmax(dim=1)] == truth).double().mean().item()
    assert hit > 0.6  # chance is 0.25
    assert place.unique().numel() == 4


def test_paper_preset_without_a_network_is_unavailable(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.hub.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("benchmark.hub.try_to_load_from_cache", lambda repository, file: None)
    config, recipe = MCR.preset("paper")
    assert recipe.batch_size == 256
    with pytest.raises(Unavailable, match="image_weights"):
        MCR.build(config, tokenizer)
