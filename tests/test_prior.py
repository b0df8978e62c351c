"""PRIOR as a method: contract, stages, quirks, odd reports, and its ragged terms against a loop over reports."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmark import repro
from benchmark.contract import check
from benchmark.data.text import split_sentences, train_tokenizer
from benchmark.errors import UserError
from benchmark.meter import count_gmacs
from benchmark.options import override, parse_settings
from benchmark.schedule import stages
from benchmark.types import Batch, Step
from methods.prior import PRIOR, PRIORImage, shuffle_sentences
from methods.prior_alignment import SentenceGather, text_local_loss
from methods.prior_reconstruction import match, reorder
from tests.conftest import TINY
from tests.prior_loop import looped, setup, vectorised

REPORTS = ("Heart size is normal.", "No effusion. Mild edema. Lines in place.", "Small nodule at the left. No pneumothorax.")
ODD = ("", "...", "Clear lungs.", " ".join(f"Finding {number} is new." for number in range(60)))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([*REPORTS, *ODD], 120)


def tiny(*settings: str) -> Any:
    fixed = ("decoder_layers=1", "prototypes=8", "image_decoder_channels=8")
    return override(*PRIOR.preset("quick"), parse_settings((*TINY, *fixed, *settings)), "prior")[0]


def built(tokenizer: Tokenizer, *settings: str) -> PRIOR:
    with repro.seeded("prior test"):
        return PRIOR.build(tiny(*settings), tokenizer)


def batch_of(texts: tuple[str, ...], method: PRIOR) -> Batch:
    images = torch.randn(len(texts), method.input.channels, 32, 32, generator=torch.Generator().manual_seed(1))
    return Batch(texts, texts, images, texts)


def terms_of(method: PRIOR, texts: tuple[str, ...], stage: int, index: int = 0) -> dict[str, Tensor]:
    method.train()
    with repro.seeded("prior step"):
        (terms,) = list(method.loss(batch_of(texts, method), Step(index, 0, 10, stage)))
    return dict(terms)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("image_encoder=resnet", "image_size=64", "dropout=0.1", "patch_layout=official"),
        ("sentence_pool=attention", "image_channels=3"),
    ],
)
def test_every_clause_of_the_contract_is_kept(settings: tuple[str, ...]) -> None:
    findings = check(PRIOR, config=tiny(*settings))
    assert {item.name: item.message for item in findings if not item.ok} == {}
    assert {"gradients", "long text", "feature maps"} <= {item.name for item in findings}


def test_the_released_image_encoder_keeps_the_contract_and_has_no_text() -> None:
    config = override(*PRIORImage.preset("quick"), parse_settings(TINY[:5]), "prior")[0]
    findings = check(PRIORImage, config=config)
    assert all(item.ok for item in findings)
    assert not hasattr(PRIORImage, "encode_text")


def test_stages_add_terms_and_train_what_they_use(tokenizer: Tokenizer) -> None:
    first = {"contrast", "image_local", "text_local"}
    last = {"prototype", "pixels", "sentences", "divergence", "report"}
    for stage, names in ((1, first), (2, first | {"prototype"}), (3, first | last)):
        method = built(tokenizer)
        terms = terms_of(method, REPORTS, stage)
        assert set(terms) == names | {"total"}
        weights = {"prototype": 10.0, "sentences": 10.0, "contrast": 10.0 if stage == 3 else 1.0}
        expected = sum(weights.get(name, 1.0) * float(terms[name].detach()) for name in names)
        assert float(terms["total"].detach()) == pytest.approx(expected, rel=1e-4)
        terms["total"].backward()
        still = {name.split(".")[0] for name, item in method.named_parameters() if item.grad is None}
        unused = {"image_decoder", "prototype_queries", "sentence_decoder"}
        assert still == {1: unused | {"sentence_bank"}, 2: unused, 3: set()}[stage]


def count_steps(method: PRIOR, batch: Batch, stage: int) -> int:
    return len(list(method.loss(batch, Step(0, 0, 10, stage))))


def test_multiply_accumulates_of_the_last_stage_are_counted(tokenizer: Tokenizer) -> None:
    method = built(tokenizer).train()
    batch = batch_of(REPORTS, method)
    counts = [count_gmacs(partial(count_steps, method, batch, stage)) for stage in (1, 3)]
    assert counts[1] > counts[0] > 0


def test_the_last_stage_is_the_longest_at_every_preset() -> None:
    for preset in ("quick", "small", "paper"):
        found = stages(PRIOR.preset(preset)[1])
        lengths = [stage.end - stage.start for stage in found]
        assert len(found) == 3
        assert max(lengths) == lengths[2]
        assert found[2].rate < found[0].rate == 1


def test_reports_are_encoded_by_prototypes_once_the_bank_is_in_use(tokenizer: Tokenizer) -> None:
    method = built(tokenizer)
    seen = {}
    for stage in (1, 2):
        terms_of(method, REPORTS, stage, index=stage)
        method.eval()
        with torch.inference_mode():
            seen[stage] = method.encode_text(method.prepare_text(REPORTS))
    assert not torch.allclose(seen[1].pooled, seen[2].pooled, atol=1e-4)
    assert int(method.bank_since) == 2
    again = PRIOR.build(tiny(), tokenizer).eval()
    again.load_state_dict(method.state_dict())
    with torch.inference_mode():
        assert torch.equal(again.encode_text(again.prepare_text(REPORTS)).pooled, seen[2].pooled)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("texts", [ODD, (ODD[3],) * 2, ("",) * 3, (REPORTS[1],) * 3], ids=["odd", "long", "empty", "equal"])
def test_odd_reports_give_finite_losses_and_gradients(tokenizer: Tokenizer, texts: tuple[str, ...], stage: int) -> None:
    method = built(tokenizer, "max_tokens=400", "text_positions=400")
    terms = terms_of(method, texts, stage)
    terms["total"].backward()
    assert all(bool(torch.isfinite(item)) for item in terms.values())
    assert all(bool(torch.isfinite(item.grad).all()) for item in method.parameters() if item.grad is not None)
    method.eval()
    with torch.inference_mode():
        assert bool(torch.isfinite(method.encode_text(method.prepare_text(texts)).pooled).all())


def test_sentences_are_shuffled_whole_and_a_text_without_any_is_one_sentence(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    report = "No effusion. Mild edema\nLines in place. Heart size is normal."
    drawn = {tuple(split_sentences(shuffle_sentences([report])[0])) for _ in range(20)}
    assert len(drawn) > 5
    assert {frozenset(item) for item in drawn} == {frozenset(split_sentences(report))}
    assert shuffle_sentences(["", "One."]) == ["", "One."]
    text = built(tokenizer).prepare_text(ODD)
    tokens = torch.randn(*text.ids.shape, 4)
    vectors, mask = SentenceGather(4)(tokens, text.sentences, text.mask)
    assert mask[0].tolist()[:2] == [True, False]
    torch.testing.assert_close(vectors[0, 0], tokens[0][text.mask[0]].mean(dim=0))


def test_a_sentence_without_tokens_drops_out_and_later_ones_move_up() -> None:
    tokens = torch.randn(1, 4, 3)
    vectors, mask = SentenceGather(3)(tokens, torch.tensor([[-1, 0, 2, 2]]), torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(vectors, torch.stack([tokens[0, 1], tokens[0, 2:].mean(dim=0)]).unsqueeze(0))
    assert mask.tolist() == [[True, True]]


def test_the_right_permutation_brings_shuffled_targets_back_and_the_released_one_does_not() -> None:
    torch.manual_seed(0)
    target = torch.randn(4, 16, 8)
    cycle = torch.arange(16).roll(1).expand(4, -1)  # no involution
    predicted = reorder(target, cycle)
    assert torch.equal(reorder(predicted, match(predicted, target)), target)
    assert not torch.equal(reorder(predicted, match(predicted, target, inverse=True)), target)
    assert match(torch.full((1, 3, 2), torch.nan), torch.zeros(1, 3, 2)).shape == (1, 3)


QUIRKS = {
    "patch_layout=official": {"image_local", "text_local", "pixels", "sentences"},
    "inverse_permutation=true": {"sentences"}, "causal_decoder=true": {"sentences"},
}  # fmt: skip


@pytest.mark.parametrize(("quirk", "moved"), QUIRKS.items())
def test_a_quirk_of_training_moves_its_terms(tokenizer: Tokenizer, quirk: str, moved: set[str]) -> None:
    right, released = (terms_of(built(tokenizer, *settings), REPORTS, 3) for settings in ((), (quirk,)))
    for name in moved:
        assert float(right[name].detach()) != pytest.approx(float(released[name].detach()), abs=1e-6), name
    assert torch.equal(right["contrast"], released["contrast"])


def test_noise_at_evaluation_comes_with_its_quirk_alone(tokenizer: Tokenizer) -> None:
    for settings, same in (((), True), (("gumbel_at_evaluation=true",), False)):
        method = built(tokenizer, *settings).eval()
        method.bank_since.fill_(0)
        text = method.prepare_text(REPORTS)
        with torch.inference_mode():
            assert torch.equal(method.encode_text(text).pooled, method.encode_text(text).pooled) == same


def test_prompts_are_one_sentence_each_and_do_not_depend_on_each_other(tokenizer: Tokenizer) -> None:
    method = built(tokenizer).eval()
    with torch.inference_mode():
        together = method.encode_prompts(method.prepare_text(REPORTS))
        alone = method.encode_prompts(method.prepare_text(REPORTS[:1]))
        overall, local = method.zero_shot(method.encode_image(batch_of(REPORTS, method).images), together)
    assert together.tokens is not None
    assert together.tokens.shape == (3, 1, 16)
    torch.testing.assert_close(together.pooled[:1], alone.pooled)
    assert overall.shape == local.shape == (3, 3)
    assert bool(((local > 0) & (local < 1)).all())


def test_vectorised_terms_equal_the_loop_over_reports_in_value_and_gradient() -> None:
    terms = setup(6, 9, 16, 12, torch.tensor([1, 7, 16, 3, 20, 2]))
    gradients = []
    values = [way(terms) for way in (vectorised, looped)]
    torch.testing.assert_close(values[0], values[1], atol=1e-5, rtol=1e-5)
    for value in values:
        gradients.append(torch.autograd.grad(value.sum(), terms.leaves()))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()) + 1e-6, rtol=0)


def test_padding_changes_no_local_text_loss() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    found = text_local_loss(one, other, mask, torch.tensor(10.0))
    alone = text_local_loss(one[:1], other[:1], mask[:1], torch.tensor(10.0))
    torch.testing.assert_close(found, alone / 2)  # one sentence has no negatives and costs 0


def test_a_few_steps_lower_the_loss_of_the_last_stage(tokenizer: Tokenizer) -> None:
    method = built(tokenizer)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    first = float(terms_of(method, REPORTS, 3)["total"].detach())
    for _ in range(12):
        optimizer.zero_grad()
        total = terms_of(method, REPORTS, 3)["total"]
        total.backward()
        optimizer.step()
    assert float(total.detach()) < 0.8 * first


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("aggregator=attention", "PRIOR has its own attention pools"), ("patch_layout=other", "patch_layout"),
        ("decoder_heads=5", "decoder_heads=5 must divide embed_dim"), ("decoder_positions=3", "max_sentences"),
        ("bank_schedule=cosine", "bank_schedule"), ("channel_dropout=1.0", "channel_dropout"), ("prototypes=0", "prototypes"),
    ],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_refused(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny(setting)


def test_a_tower_whose_width_the_heads_do_not_divide_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="pool_heads=8 must divide the image tower's width=12"):
        built(tokenizer, "image_width=12")
