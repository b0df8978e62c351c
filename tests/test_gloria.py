"""GLoRIA: its formulas against the recorded ones, its quirks both ways, odd reports, and that it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from benchmark.contract import check
from benchmark.data.text import train_tokenizer
from benchmark.errors import UserError
from benchmark.types import Batch, Features, Step, TextBatch
from methods.gloria import GLoRIA, GLoRIAConfig
from methods.gloria_attention import (
    combined_similarity,
    gather_words,
    local_scores,
    pair_losses,
    region_weights,
    sentence_vector,
    standardize,
    word_mask,
    word_slots,
)
from methods.losses import directed_nce
from tests.golden import Case, assert_gradient, assert_output, needs_golden

TINY: dict[str, Any] = {
    "image_size": 32, "patch_size": 8, "image_width": 32, "image_depth": 2, "image_heads": 2, "text_width": 24,
    "text_layers": 2, "text_heads": 2, "embed_dim": 24, "max_tokens": 48,
}  # fmt: skip
REPORTS = (
    "There is a small left pleural effusion. The heart is enlarged.", "No focal consolidation.",
    "Heart size is normal. No pneumothorax or effusion.", "Right lower lobe consolidation is new.",
)  # fmt: skip
STEP = Step(0, 0, 10)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(REPORTS, 120)


def build(tokenizer: Tokenizer, seed: int = 0, **options: Any) -> GLoRIA:
    torch.manual_seed(seed)
    return GLoRIA.build(GLoRIAConfig(**{**TINY, **options}), tokenizer).eval()


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def terms(method: GLoRIA, texts: Sequence[str] = REPORTS, seed: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    names = tuple(f"row {index}" for index in range(len(texts)))
    (found,) = method.loss(Batch(names, names, images(len(texts)), tuple(texts)), STEP)
    return dict(found)


def lengths_mask(lengths: Tensor, width: int, first: int = 0) -> Tensor:
    place = torch.arange(width)
    return (place >= first) & (place < first + lengths.unsqueeze(-1))


def regions_of(case: Case, key: str = "in/img_local") -> Tensor:
    return case[key].flatten(2).transpose(1, 2).contiguous()  # (A, D, h, w) -> (A, hw, D)


# ------------------------------------------------------------------------------------------------- recorded


@needs_golden
def test_attention_of_words_over_regions_is_the_recorded_one() -> None:
    case = Case("gloria/attention_a")
    query, context = case.leaf("in/query"), case.leaf("in/context")
    regions = context.flatten(2).transpose(1, 2)
    owner = torch.zeros(query.shape[2], dtype=torch.int64)
    weights = torch.cat(
        [region_weights((q.T @ r.T).unsqueeze(0), owner, 1, case.number("hp/temp1")) for q, r in zip(query, regions)]
    )
    weighted, maps = (weights @ regions).transpose(1, 2), weights.reshape(case["out/attn"].shape)
    assert_output(weighted, case["out/weighted_context"])
    assert_output(maps, case["out/attn"])
    cost = (weighted * case["in/cot_weighted"]).sum() + (maps * case["in/cot_attn"]).sum()
    assert_output(cost, case["out/cot_loss"])
    cost.backward()
    assert_gradient(query.grad, case["grad/query"])
    assert_gradient(context.grad, case["grad/context"])


@needs_golden
@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_the_four_losses_are_the_recorded_ones(chunk: int) -> None:
    case = Case("gloria/losses_a")
    local, words = case.leaf("in/img_local"), case.leaf("in/word_emb")
    image, text = case.leaf("in/img_global"), case.leaf("in/text_global")
    sharpness, scale = (case.number("hp/temp1"), case.number("hp/temp2")), case.number("hp/temp3")
    mask = lengths_mask(case["in/cap_lens"], words.shape[2])
    scores = local_scores(local.flatten(2).transpose(1, 2), words.transpose(1, 2), mask, sharpness, chunk=chunk)
    found = pair_losses(scale * scores) + directed_nce(F.normalize(image, dim=1), F.normalize(text, dim=1), scale)
    for value, name in zip(found, ("local_loss0", "local_loss1", "global_loss0", "global_loss1")):
        assert_output(value, case[f"out/{name}"])
    total = torch.stack(found).sum()
    assert_output(total, case["out/total"])
    total.backward()
    for leaf, name in ((local, "img_local"), (words, "word_emb"), (image, "img_global"), (text, "text_global")):
        assert_gradient(leaf.grad, case[f"grad/{name}"])


@needs_golden
@pytest.mark.parametrize("name", ["zero_shot_similarity_a", "zero_shot_similarity_char_lens"])
def test_zero_shot_similarities_are_the_recorded_ones(name: str) -> None:
    """Lengths in words, and lengths in characters, by which [SEP] and padding count too."""
    case = Case(f"gloria/{name}")
    image, best = (regions_of(case), case["in/img_global"]), []
    sharpness = (case.number("hp/temp1"), case.number("hp/temp2"))
    for number, (words, text, lengths) in enumerate(zip(case["in/word_emb"], case["in/text_global"], case["in/cap_lens"])):
        mask = lengths_mask(lengths, words.shape[2], first=1)
        local = local_scores(image[0], words.transpose(1, 2), mask, sharpness, "max")
        both = combined_similarity(image, (words.transpose(1, 2), text), mask, sharpness)
        assert_output(local, case[f"out/class{number}_local"])
        assert_output(2 * both - local, case[f"out/class{number}_global"])
        assert_output(both, case[f"out/class{number}_both"])
        best.append(both.amax(dim=1))
    raw = torch.stack(best, dim=1)
    assert_output(raw, case["out/class_similarity_raw"])
    assert_output(standardize(raw), case["out/class_similarity_z"], relative=1e-4)
    assert torch.equal(standardize(raw).argmax(dim=1), case["out/prediction"])


@needs_golden
def test_counting_characters_changes_the_zero_shot_similarity() -> None:
    case = Case("gloria/zero_shot_similarity_char_lens")
    image, text = (regions_of(case), case["in/img_global"]), (case["in/word_emb"][0].transpose(1, 2), case["in/text_global"][0])
    true = combined_similarity(image, text, lengths_mask(torch.tensor([4, 5, 6]), 14, first=1))
    assert (true - case["out/class0_both"]).abs().max() > 1e-2


@needs_golden
def test_retrieval_similarity_is_the_recorded_one_with_the_first_word_skipped_and_another_without() -> None:
    case = Case("gloria/retrieval_similarity")
    words, sharpness = case["in/word_emb"].transpose(1, 2), (case.number("hp/temp1"), case.number("hp/temp2"))
    lengths, width = case["in/cap_lens"], words.shape[1]
    # slot 0 is [CLS]; the released code drops it and then reads from its place 1 on, so from slot 2
    local, every = (
        case.number("hp/temp3") * local_scores(regions_of(case), words, lengths_mask(lengths, width, first), sharpness)[0]
        for first in (2, 1)
    )
    assert_output(local.double(), case["out/local"])
    assert (every.double() - case["out/local"]).abs().max() > 1e-2
    whole = F.normalize(case["in/img_global"], dim=1)[0] @ F.normalize(case["in/text_global"], dim=1).T
    assert_output(whole, case["out/global_"])
    assert_output(((standardize(local) + standardize(whole)) / 2).double(), case["out/both"], relative=1e-4)


def recorded_text(case: Case) -> TextBatch:
    """The TextBatch of the recorded ids, as the text tower would make it."""
    ids, vocabulary = case["in/ids"], [str(word) for word in case.arrays["hp/vocabulary"]]
    pieces = [[vocabulary[index] for index in row] for row in ids.tolist()]
    special = torch.tensor([[piece.startswith("[") for piece in row] for row in pieces])
    starts = torch.tensor([[not piece.startswith(("[", "##")) for piece in row] for row in pieces])
    words = (starts.cumsum(dim=1) - 1).masked_fill(special, -1)
    return TextBatch(ids, ids > 0, special, torch.where(special, -1, 0), words)


@needs_golden
@pytest.mark.parametrize("aggregate", ["sum", "mean"])
def test_words_of_the_last_layers_are_the_recorded_ones(aggregate: str) -> None:
    case = Case(f"gloria/text_encoder_aggregate_{aggregate}")
    text, last = recorded_text(case), int(case.number("hp/last_n_layers"))
    layers = case["in/hidden_states"][-last:]
    slots, width = word_slots(text), text.ids.shape[1]
    words = gather_words(layers.sum(dim=0) if aggregate == "sum" else layers.mean(dim=0), slots, width)
    assert_output(words.transpose(1, 2), case["out/word_emb"])
    mask = word_mask(slots, width)
    assert torch.equal(mask.sum(dim=1) + 1, case["out/cap_lens"])  # which counts [CLS]
    assert_output(sentence_vector(words, mask, positions=width), case["out/sent_emb"])
    assert (sentence_vector(words, mask) - case["out/sent_emb"]).abs().max() > 1e-2  # [CLS] and [SEP] are no words


# -------------------------------------------------------------------------------------------------- formulas


def report_by_report(regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    """(A, B), one pair after another, each word and region by itself."""
    rows = []
    for image in regions:
        row = []
        for text, kept in zip(words, mask):
            scores = image @ text[kept].T  # (P, n)
            context = (4 * scores.softmax(dim=1)).softmax(dim=0).T @ image
            row.append((5 * F.cosine_similarity(context, text[kept])).exp().sum().log())
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("scale", [0.3, 30.0])
def test_local_scores_are_those_of_one_pair_after_another(scale: float, chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    regions, words = (torch.randn(5, n, 16, generator=generator).double() * scale for n in (9, 7))
    mask = lengths_mask(torch.tensor([1, 7, 3, 4, 2]), 7)
    results = []
    for make in (lambda *given: local_scores(*given, chunk=chunk), report_by_report):
        leaves = [item.clone().requires_grad_() for item in (regions, words)]
        found = make(*leaves, mask)
        found.square().sum().backward()
        results.append((found, *(leaf.grad for leaf in leaves)))
    torch.testing.assert_close(*results)


def test_a_chunk_holds_its_own_maps_only() -> None:
    """What the graph keeps for the backward pass: maps (A, N, P) of all images, or the inputs alone."""
    regions, words = torch.randn(8, 64, 4, requires_grad=True), torch.randn(8, 20, 4, requires_grad=True)
    sizes: list[int] = []

    def pack(item: Tensor) -> Tensor:
        sizes.append(item.numel())
        return item

    kept = []
    for chunk in (0, 2):
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda item: item):
            local_scores(regions, words, torch.ones(8, 20, dtype=torch.bool), chunk=chunk)
        kept.append(sum(sizes))
    assert kept[0] > 3 * 8 * 160 * 64
    assert kept[1] < 8 * 160 * 64


def test_half_precision_scores_come_in_float32() -> None:
    regions, words = torch.randn(3, 9, 64) * 4, torch.randn(3, 5, 64) * 4
    mask = torch.ones(3, 5, dtype=torch.bool)
    found = local_scores(regions.bfloat16(), words.bfloat16(), mask)
    assert found.dtype == torch.float32
    assert torch.equal(found, local_scores(regions.bfloat16().float(), words.bfloat16().float(), mask))


# ---------------------------------------------------------------------------------------------------- method


@pytest.mark.parametrize("encoder", ["vit", "resnet"])
def test_it_keeps_the_contract(encoder: str, tokenizer: Tokenizer) -> None:
    config = GLoRIAConfig(**TINY, image_encoder=encoder)
    assert [finding for finding in check(GLoRIA, tokenizer=tokenizer, config=config) if not finding.ok] == []


def test_regions_of_a_resnet_are_finer_than_its_last_map(tokenizer: Tokenizer) -> None:
    found = build(tokenizer, image_encoder="resnet", image_size=64).encode_image(torch.randn(2, 1, 64, 64))
    assert found.tokens is not None
    assert found.tokens.shape == (2, 16, 24)  # stride 16; the last map has 4 positions
    larger = build(tokenizer, image_encoder="resnet", upsample=96).encode_image(images(2))
    assert larger.tokens is not None
    assert larger.tokens.shape == (2, 36, 24)


def test_total_weighs_four_terms(tokenizer: Tokenizer) -> None:
    found = terms(build(tokenizer, local_weight=0.5, global_weight=2.0))
    assert set(found) == {"local_to_text", "local_to_image", "global_to_text", "global_to_image", "total"}
    local, whole = (found[f"{kind}_to_text"] + found[f"{kind}_to_image"] for kind in ("local", "global"))
    assert torch.allclose(found["total"], 0.5 * local + 2 * whole)


def test_chunks_change_neither_the_loss_nor_its_gradients(tokenizer: Tokenizer) -> None:
    found = []
    for chunk in (0, 3):
        method = build(tokenizer, local_chunk=chunk)
        total = terms(method)["total"]
        total.backward()
        found.append([total.detach(), *(item.grad for item in method.parameters() if item.grad is not None)])
    torch.testing.assert_close(found[0], found[1])


def test_one_sentence_is_drawn_in_training_and_all_are_read_in_evaluation(tokenizer: Tokenizer) -> None:
    report, method = REPORTS[0], build(tokenizer)
    texts = (report, *REPORTS[1:])
    by_seed = {round(float(terms(method, texts, seed)["total"].detach()), 5) for seed in range(8)}
    assert 1 < len(by_seed) <= 4  # two reports have two sentences each
    whole = build(tokenizer, text_unit="report")
    assert torch.equal(terms(whole, texts, 1)["total"], terms(whole, texts, 2)["total"])
    read = [method.encode_text(method.prepare_text([text])).pooled for text in (report, report.split(". ")[0])]
    assert (read[0] - read[1]).abs().max() > 1e-3


def test_punctuation_and_case_are_dropped_before_reading(tokenizer: Tokenizer) -> None:
    method, texts = build(tokenizer), ["No focal, consolidation!", "no focal consolidation"]
    assert torch.equal(*method.prepare_text(texts).ids)
    kept = build(tokenizer, text_cleaning="none").prepare_text(texts)
    assert int(kept.mask[0].sum()) == int(kept.mask[1].sum()) + 2


ODD = ("", "Heart is enlarged.", "No effusion. " * 60, "... , ;!", "Normal.")


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("mean", ["words", "positions"])
@pytest.mark.parametrize("texts", [ODD, ("No effusion.",) * 4, ("",) * 3, ("Clear.",)], ids=str)
def test_odd_reports_give_finite_losses_and_gradients(
    texts: tuple[str, ...], mean: str, start: bool, tokenizer: Tokenizer
) -> None:
    method = build(tokenizer, sentence_mean=mean, start_word=start, text_unit="report")
    found = terms(method, texts)
    assert all(torch.isfinite(item) for item in found.values())
    found["total"].backward()
    assert all(torch.isfinite(item.grad).all() for item in method.parameters() if item.grad is not None)


def test_quirks_change_what_they_name_and_nothing_else(tokenizer: Tokenizer) -> None:
    correct, prepared = build(tokenizer), build(tokenizer).prepare_text(REPORTS)
    text, loss = correct.encode_text(prepared), terms(correct)
    assert text.mask is not None
    start = build(tokenizer, start_word=True)
    assert not torch.allclose(terms(start)["local_to_text"], loss["local_to_text"], atol=1e-4)
    assert torch.equal(terms(start)["global_to_text"], loss["global_to_text"])
    positions = build(tokenizer, sentence_mean="positions")
    assert not torch.allclose(positions.encode_text(prepared).pooled, text.pooled, atol=1e-4)
    assert torch.equal(terms(positions)["local_to_text"], loss["local_to_text"])
    skipped = build(tokenizer, first_word=False)
    mask = skipped.encode_text(prepared).mask
    assert mask is not None
    assert torch.equal(mask.sum(dim=1) + 1, text.mask.sum(dim=1))
    assert torch.equal(terms(skipped)["total"], loss["total"])  # a matter of evaluation
    alone = skipped.encode_text(skipped.prepare_text(["Normal."])).mask
    assert alone is not None
    assert alone.any()  # the only word stays


def test_similarity_of_a_pair_does_not_depend_on_the_others(tokenizer: Tokenizer) -> None:
    method = build(tokenizer)
    with torch.no_grad():
        image, text = method.encode_image(images()), method.encode_text(method.prepare_text(REPORTS))
        whole = method.similarity(image, text)
        alone = method.similarity(method.encode_image(images()[1:2]), method.encode_text(method.prepare_text(REPORTS[2:3])))
        pooled = method.similarity(Features(image.pooled), Features(text.pooled))
    assert torch.allclose(alone[0, 0], whole[1, 2], atol=1e-5)
    assert torch.allclose(pooled, image.pooled @ text.pooled.T)
    assert image.tokens is not None
    assert text.tokens is not None
    assert text.mask is not None
    local = local_scores(image.tokens, text.tokens, text.mask, reduce="max")
    assert torch.allclose(whole, (local + pooled) / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("layer_sum", "max"), ("logit_scale", 0.0), ("local_chunk", -1), ("alignment", "abm"), ("text_unit", "word")],
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=field):
        GLoRIAConfig(**{field: value})


def test_presets_are_those_of_the_towers_and_the_paper() -> None:
    assert {GLoRIA.preset(name)[0].upsample for name in ("quick", "small")} == {0}
    config, recipe = GLoRIA.preset("paper")
    assert (config.image_encoder, config.upsample, config.embed_dim, config.max_tokens) == ("resnet50.tv_in1k", 299, 768, 97)
    assert (recipe.batch_size, recipe.learning_rate, recipe.clip_norm) == (48, 5e-5, 0.25)


def test_it_learns_which_report_is_whose(tokenizer: Tokenizer) -> None:
    method = build(tokenizer, text_unit="report", embed_dim=16).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    first = float(terms(method)["total"].detach())
    for _ in range(40):
        optimizer.zero_grad()
        total = terms(method)["total"]
        total.backward()
        optimizer.step()
    assert float(total.detach()) < first / 3
    method.eval()
    with torch.no_grad():
        text = method.encode_text(method.prepare_text(REPORTS))
        image = method.encode_image(images())
    assert torch.equal(method.similarity(Features(image.pooled), Features(text.pooled)).argmax(dim=1), torch.arange(4))
    assert replace(text, tokens=None).tokens is None
