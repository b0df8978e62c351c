"""MGCA: its losses and word features against recorded values, its attention weights, quirks, and the method as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from benchmark.contract import check
from benchmark.data.text import train_tokenizer
from benchmark.errors import UserError
from benchmark.types import Batch, Step, TextBatch
from methods.base import tower_preset
from methods.mgca import MGCA, Head, MGCAConfig, plain_words
from methods.mgca_attention import attention_weights, bert_attention, clip_attention, sum_words, vit_tokens
from methods.mgca_losses import instance_loss, prototype_loss, renormalize, sinkhorn, token_loss
from tests.golden import Case, assert_gradient, assert_output, needs_golden

REPORTS = ("Heart size is normal. No effusion.", "", "Small left effusion.", "...", "One. " * 60, "Right opacity is new.")
TINY = {
    "image_size": 32, "patch_size": 8, "image_width": 16, "image_depth": 2, "image_heads": 2, "text_width": 16,
    "text_layers": 2, "text_heads": 2, "embed_dim": 16, "max_tokens": 24, "head_width": 24, "prototypes": 8,
}  # fmt: skip
QUIRKS = ("shifted_attention", "lost_last_word", "padded_words", "unnormalized_context")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(REPORTS, 120)


def batch(reports: tuple[str, ...] = REPORTS, size: int = 32) -> Batch:
    images = torch.randn(len(reports), 1, size, size, generator=torch.Generator().manual_seed(0))
    names = tuple(map(str, range(len(reports))))
    return Batch(names, names, images, reports)


def built(tokenizer: Tokenizer, **fields: object) -> MGCA:
    torch.manual_seed(0)
    return MGCA(MGCAConfig(**{**TINY, **fields}), tokenizer)  # type: ignore[arg-type]


def step(model: MGCA, data: Batch, epoch: int = 1) -> dict[str, float]:
    """One forward and backward; asserts that all is finite."""
    model.zero_grad()
    (terms,) = model.loss(data, Step(0, epoch, 10))
    terms["total"].backward()  # type: ignore[no-untyped-call]
    gradients = [item.grad for item in model.parameters()]
    assert all(item is not None and bool(torch.isfinite(item).all()) for item in gradients)
    found = {name: float(term.detach()) for name, term in terms.items()}
    assert all(torch.isfinite(torch.tensor(list(found.values()))))
    return found


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


# ------------------------------------------------------------------------------------------ recorded values


def losses_case(kind: str) -> tuple[Case, dict[str, Tensor], dict[str, Tensor]]:
    """The case, its leaves and the same normalised."""
    case = Case(f"mgca/losses_{kind}")
    leaves = {name: case.leaf(f"in/{name}_feat") for name in ("img", "report", "patch", "word")}
    return case, leaves, {name: F.normalize(item, dim=-1) for name, item in leaves.items()}


@needs_golden
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_instance_loss_equals_the_recorded_one(kind: str) -> None:
    case, leaves, hats = losses_case(kind)
    loss = instance_loss(hats["img"], hats["report"], case.number("hp/softmax_temperature"))
    loss.backward()  # type: ignore[no-untyped-call]
    assert_output(loss, case["out/loss_ita"])
    for name in ("img", "report"):
        assert_gradient(leaves[name].grad, case[f"grad/ita__{name}_feat"])


@needs_golden
@pytest.mark.parametrize(("kind", "normalize"), [("resnet", True), ("vit", False)])
def test_token_loss_equals_the_recorded_one(kind: str, normalize: bool) -> None:
    case, leaves, hats = losses_case(kind)
    attention, words = case["in/word_attn"], ~case["in/word_pad_mask"]
    assert_output(clip_attention(attention, attention > 0), case["out/word_attn_after_clip"])
    looks = case["in/last_attention_map"][:, :, 0, 1:].mean(dim=1) if kind == "vit" else torch.ones(6, 16)
    patch_weights = attention_weights(looks, torch.ones(6, 16, dtype=torch.bool))

    def total(negatives: Tensor | None, normalize: bool) -> Tensor:
        temperature = case.number("hp/local_temperature")
        of_words = token_loss(hats["word"], hats["patch"], attention_weights(attention, words), negatives, None, temperature)
        return of_words + token_loss(hats["patch"], hats["word"], patch_weights, None, words, temperature, normalize)

    loss = total(None, normalize)
    loss.backward()  # type: ignore[no-untyped-call]
    assert_output(loss, case["out/loss_local"])
    for name in ("patch", "word"):
        assert_gradient(leaves[name].grad, case[f"grad/cta__{name}_feat"])
    with torch.no_grad():
        assert total(words, normalize) < loss - 0.01  # padding is no negative by default
        assert (total(None, not normalize) - loss).abs() > 0.01


@needs_golden
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_prototype_loss_equals_the_recorded_one(kind: str) -> None:
    case, leaves, hats = losses_case(kind)
    prototypes = case.leaf("w/prototype_layer.weight")
    renormalize(prototypes)
    assert_output(prototypes, case["out/prototype_weight_after"])
    settings = int(case.number("hp/sinkhorn_iterations")), case.number("hp/epsilon")
    for name in ("img", "report"):
        assert_output(sinkhorn((hats[name] @ prototypes.T).detach(), *settings), case[f"out/{name}_code"])
    loss = prototype_loss(hats["img"], hats["report"], prototypes, case.number("hp/proto_temperature"), *settings)
    loss.backward()  # type: ignore[no-untyped-call]
    assert_output(loss, case["out/loss_proto"])
    assert_gradient(prototypes.grad, case["grad/cpa__prototype_layer.weight"])
    for name in ("img", "report"):
        assert_gradient(leaves[name].grad, case[f"grad/cpa__{name}_feat"])


@needs_golden
def test_a_head_equals_the_recorded_one() -> None:
    case = Case("mgca/global_embedding")
    head, inputs = Head(24, int(case.number("hp/hidden_dim")), int(case.number("hp/output_dim"))), case.leaf("in/x")
    head.load_state_dict(case.weights("head."))
    assert_output(head.eval()(inputs), case["out/eval_output"])
    found = head.train()(inputs)
    (found * case["in/cot"]).sum().backward()
    assert_output(found, case["out/train_output"])
    assert_output((found * case["in/cot"]).sum(), case["out/cot_loss"])
    for name, item in head.named_parameters():
        if name == "3.bias":  # batch norm takes it away again: only rounding is left of either
            assert float(item.grad.abs().max()) < 1e-5  # type: ignore[union-attr]
        else:
            assert_gradient(item.grad, case[f"grad/head.{name}"])
    assert_gradient(inputs.grad, case["grad/x"])
    for name in ("1.running_mean", "1.running_var", "4.running_mean", "4.running_var"):
        assert_output(head.state_dict()[name], case[f"out/after.head.{name}"])


def word_case(case: Case) -> tuple[Tensor, Tensor, TextBatch]:
    """Tokens, attention with an invented look of [CLS] at itself, and the text."""
    ids, vocabulary = case["in/ids"], [str(word) for word in case.arrays["hp/vocabulary"]]
    special = ids < 3
    begins = torch.tensor([[not vocabulary[item].startswith("##") for item in row] for row in ids]) & ~special
    words = (begins.long().cumsum(dim=1) - 1).masked_fill(special, -1)
    attention = F.pad(case["in/last_layer_cls_attention"], (1, 0), value=0.5)
    return case["in/last_hidden"][:, 0], attention, TextBatch(ids, ids > 0, special, words.clamp(max=0), words)


@needs_golden
def test_words_and_their_attention_equal_the_recorded_ones_with_both_quirks() -> None:
    case = Case("mgca/aggregate_tokens")
    tokens, attention, text = word_case(case)
    found = sum_words(tokens, attention, text, shifted=True, cut_at=8)
    more = 8 - found.mask.shape[1]
    assert_output(F.pad(found.tokens, (0, 0, 0, more)), case["out/aggregated"][:, 0])
    assert_output(F.pad(found.attention, (0, more)), case["out/attention"])
    assert torch.equal(F.pad(found.mask, (0, more)), ~case["out/is_pad"])


@needs_golden
def test_without_quirks_a_word_has_its_own_attention_and_a_full_report_its_last_word() -> None:
    case = Case("mgca/aggregate_tokens")
    tokens, attention, text = word_case(case)
    found = sum_words(tokens, attention, text)
    assert found.mask.sum(dim=1).tolist() == [4, 6]
    spans = ((0, 1), (1, 2), (2, 5), (5, 6), (6, 7), (7, 8))  # [CLS] no effusion##ion##s normal heart [SEP]
    for place, (start, end) in enumerate(spans):
        assert_output(found.tokens[1, place], tokens[1, start:end].sum(dim=0))
        assert_output(found.attention[1, place], attention[1, start:end].sum())
    assert found.attention[0, 4:].abs().sum() == 0


# ------------------------------------------------------------------------------------------------- weights


def test_percentiles_are_those_of_torch_over_what_counts() -> None:
    torch.manual_seed(0)
    attention, mask = torch.rand(5, 11), torch.rand(5, 11) > 0.4
    mask[3], mask[4] = False, torch.arange(11) == 7
    found = clip_attention(attention, mask)
    for row, real, clipped in zip(attention, mask, found):
        low, high = (torch.quantile(row[real], share) for share in (0.1, 0.9)) if real.any() else (0.0, 0.0)
        torch.testing.assert_close(clipped, torch.where(real, row.clip(low, high), 0.0))
    weights = attention_weights(attention, mask)
    torch.testing.assert_close(weights.sum(dim=1), torch.tensor([1.0, 1, 1, 0, 1]))


def test_the_look_of_the_class_token_is_that_of_the_tower(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            attn_implementation="eager",
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    ids, mask = torch.randint(0, 50, (3, 7)), torch.arange(7) < torch.tensor([[7], [4], [2]])
    output = bert(ids, attention_mask=mask, output_attentions=True, output_hidden_states=True)
    expected = output.attentions[-1][:, :, 0].mean(dim=1)
    torch.testing.assert_close(bert_attention(bert, output.hidden_states[-2], mask), expected)

    tower, seen = built(tokenizer).eval().image_tower, []
    images, block = batch().images, tower.model.blocks[-1]  # type: ignore[union-attr,index]
    block.attn.fused_attn = False  # type: ignore[union-attr]
    block.attn.attn_drop.register_forward_hook(lambda module, given, output: seen.append(output))  # type: ignore[union-attr]
    tokens, look = vit_tokens(tower, images, True)  # type: ignore[arg-type]
    torch.testing.assert_close(look, seen[0].detach()[:, :, 0, 1:].mean(dim=1))
    assert torch.equal(tokens, tower.forward_tokens(images))
    assert not block._forward_pre_hooks  # type: ignore[union-attr]


# -------------------------------------------------------------------------------------------------- losses


def test_token_loss_of_ragged_samples_equals_a_loop_over_them() -> None:
    torch.manual_seed(0)
    lengths, words, patches = (5, 1, 3), unit(3, 5, 8), unit(3, 4, 8)
    mask = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    weights, looks = attention_weights(torch.rand(3, 5), mask), attention_weights(torch.rand(3, 4), torch.ones(3, 4) > 0)

    def one(queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
        context = F.normalize((queries @ keys.T / 0.1).softmax(dim=1) @ keys, dim=1)
        logits, target = queries @ context.T / 0.1, torch.arange(len(queries))
        both = [F.cross_entropy(item, target, reduction="none") for item in (logits, logits.T)]
        return ((both[0] + both[1]) / 2 * weight).sum()

    rows = range(3)
    expected = torch.stack([one(words[row, : lengths[row]], patches[row], weights[row, : lengths[row]]) for row in rows])
    torch.testing.assert_close(token_loss(words, patches, weights, mask), expected.mean())
    expected = torch.stack([one(patches[row], words[row, : lengths[row]], looks[row]) for row in rows])
    torch.testing.assert_close(token_loss(patches, words, looks, None, mask), expected.mean())


def test_codes_use_every_prototype_and_stay_finite_at_any_sharpness() -> None:
    torch.manual_seed(0)
    logits = unit(32, 8) @ unit(4, 8).T + torch.tensor([1.0, 0, 0, 0])  # the first is nearest to nearly all
    codes = sinkhorn(logits, iterations=50)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(32))
    torch.testing.assert_close(codes.sum(dim=0), torch.full((4,), 8.0), atol=0.1, rtol=0)
    sharp = sinkhorn(100 * logits, epsilon=0.001)
    assert bool(torch.isfinite(sharp).all())


def test_renormalized_prototypes_stay_bit_for_bit() -> None:
    prototypes = torch.randn(50, 7)
    renormalize(prototypes)
    before = prototypes.clone()
    renormalize(prototypes)
    assert torch.equal(prototypes, before)
    torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(50))


WORKER = """
import sys
import torch
from torch.nn.functional import normalize
from methods.mgca_losses import instance_loss, prototype_loss
path, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method="file://" + path, rank=rank, world_size=2)
torch.manual_seed(0)
image, text, prototypes = (normalize(torch.randn(8, 6), dim=1) for _ in range(3))
own = slice(4 * rank, 4 * rank + 4)
both = torch.stack([instance_loss(image[own], text[own]), prototype_loss(image[own], text[own], prototypes)])
torch.distributed.all_reduce(both)
if rank == 0:
    print(*(both / 2).tolist())
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path / "store")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, env=environment, text=True) for rank in range(2)]
    output = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    torch.manual_seed(0)
    image, text, prototypes = (F.normalize(torch.randn(8, 6), dim=1) for _ in range(3))
    expected = [float(instance_loss(image, text)), float(prototype_loss(image, text, prototypes))]
    assert list(map(float, output[0].split())) == pytest.approx(expected, rel=1e-5)


# -------------------------------------------------------------------------------------------------- method


@pytest.mark.parametrize("fields", [{}, {"image_encoder": "resnet", "upsample": 48}, dict.fromkeys(QUIRKS, True)])
def test_the_contract_is_kept(fields: dict[str, object]) -> None:
    findings = check(MGCA, config=MGCAConfig(**{**TINY, **fields}))  # type: ignore[arg-type]
    assert [item for item in findings if not item.ok] == []


def test_every_kind_of_report_gives_a_finite_step(tokenizer: Tokenizer) -> None:
    for fields in ({}, dict.fromkeys(QUIRKS, True)):
        model = built(tokenizer, **fields)
        for reports in (REPORTS, ("",) * 3, ("All the same.",) * 4, ("...", "One. " * 60)):
            step(model, batch(reports))


@pytest.mark.parametrize("quirk", QUIRKS)
def test_each_quirk_changes_the_token_term_alone(tokenizer: Tokenizer, quirk: str) -> None:
    plain, odd = (step(built(tokenizer, **{quirk: flag}), batch()) for flag in (False, True))
    assert abs(plain["token"] - odd["token"]) > 1e-4
    assert [plain[name] for name in ("instance", "prototype")] == [odd[name] for name in ("instance", "prototype")]


def test_padding_of_the_batch_moves_no_term_of_a_pair(tokenizer: Tokenizer) -> None:
    model = built(tokenizer).eval()  # batch norm as it stands, so that rows do not see each other
    short, long = (
        model._report(model._read(model.prepare_text(texts), True)) for texts in ((REPORTS[2],), (REPORTS[2], REPORTS[4]))
    )
    count = short.local.shape[1]
    torch.testing.assert_close(long.local[:1, :count], short.local, atol=1e-5, rtol=1e-5)
    assert short.weights is not None
    assert long.weights is not None
    torch.testing.assert_close(long.weights[:1, :count], short.weights, atol=1e-5, rtol=1e-5)
    assert float(long.weights[0, count:].abs().sum()) == 0


def test_prototypes_are_frozen_in_the_first_epoch_and_always_of_length_one(tokenizer: Tokenizer) -> None:
    model = built(tokenizer)
    with torch.no_grad():
        model.prototypes.mul_(3.0)
    step(model, batch(), epoch=0)
    assert model.prototypes.grad is not None
    assert not model.prototypes.grad.any()
    torch.testing.assert_close(model.prototypes.norm(dim=1), torch.ones(8))
    step(model, batch(), epoch=1)
    assert model.prototypes.grad.any()


def test_a_batch_of_one_pair_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="batch_size=1"):
        step(built(tokenizer), batch(REPORTS[:1]))


def test_half_precision_gives_nearly_the_same_loss(tokenizer: Tokenizer) -> None:
    whole = step(built(tokenizer), batch())
    with torch.autocast("cpu", torch.bfloat16):
        half = step(built(tokenizer), batch())
    for name in ("instance", "token", "prototype"):
        assert half[name] == pytest.approx(whole[name], rel=0.1)


@pytest.mark.parametrize("encoder", ["vit", "resnet"])
def test_it_learns_which_report_is_whose(tokenizer: Tokenizer, encoder: str) -> None:
    model, data = built(tokenizer, image_encoder=encoder), batch((*REPORTS[:1], *REPORTS[2:]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    values = []
    for _ in range(25):
        values.append(step(model, data))
        optimizer.step()
    assert values[-1]["instance"] < values[0]["instance"] / 2
    assert values[-1]["token"] < values[0]["token"]


def test_only_the_first_text_layers_are_kept(tokenizer: Tokenizer) -> None:
    model = built(tokenizer, text_layers=3, text_layers_kept=1)
    assert not [name for name in model.state_dict() if "encoder.layer.1." in name]
    assert step(model, batch())["total"] > 0


def test_reports_are_cleaned_as_published() -> None:
    report = "1. No EFFUSION, or\npneumothorax. Stable. 2. Heart-size normal"
    assert plain_words(report) == "no effusion or pneumothorax heart size normal"
    assert plain_words("Edema") == "edema"
    assert plain_words("...") == ""


def test_presets_and_refusals() -> None:
    config, recipe = MGCA.preset("paper")
    assert (config.text_layers_kept, config.max_tokens, config.prototypes, config.head_width) == (6, 112, 500, 2048)
    assert (config.embed_dim, config.pixel_stats, recipe.batch_size, recipe.warmup) == (128, "0.5,0.5", 144, 0.4)
    small, _ = MGCA.preset("small")
    assert all(getattr(small, field) == value for field, value in tower_preset("small").items())
    wrong = {"sinkhorn_epsilon": 0.0, "prototypes": 0, "text_layers_kept": 3, "text_cleaning": "x", "aggregator": "attention"}
    for field, value in wrong.items():
        with pytest.raises(UserError, match=field):
            replace(MGCAConfig(**TINY), **{field: value})  # type: ignore[arg-type]
