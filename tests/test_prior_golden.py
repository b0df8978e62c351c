"""PRIOR against recorded values and gradients of the released code, and of the same with its matching put right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from methods.encoders import build_image_tower
from methods.losses import info_nce
from methods.prior_alignment import (
    AttentionPool,
    LocalCrossAttention,
    SentenceGather,
    bare_view,
    image_local_loss,
    pack,
    pad,
    resize_reports,
    text_local_loss,
    token_map,
)
from methods.prior_prototypes import PrototypeBank, divergence, prototype_loss, temperature_at
from methods.prior_reconstruction import ImageDecoder, ReportDecoder, match, pixel_loss, reorder, sentence_loss
from tests.golden import Case, assert_gradient, assert_output, needs_golden

pytestmark = needs_golden

LOSS = 1e-4  # relative, where the temperature is 0.01


def assert_parameter_gradient(found: Tensor | None, case: Case, key: str) -> None:
    """A key's bias in a softmax moves all weights alike, so that its gradient is 0 but for rounding: only that is asserted."""
    if key.endswith(("k_proj.bias", "self.key.bias")):
        limit = 1e-4 * float(case[key.replace("bias", "weight")].abs().max())
        assert found is not None
        assert max(float(found.abs().max()), float(case[key].abs().max())) < limit
    else:
        assert_gradient(found, case[key])


def mask_of(lengths: Tensor) -> Tensor:
    return torch.arange(int(lengths.max())) < lengths.unsqueeze(1)


def load(module: nn.Module, weights: dict[str, Tensor]) -> None:
    module.load_state_dict(weights)


def check_gradients(module: nn.Module, case: Case, prefix: str = "") -> int:
    """Compares every parameter whose gradient was recorded; returns their number."""
    found = {f"grad/{prefix}{name}": parameter.grad for name, parameter in module.named_parameters()}
    found = {key: gradient for key, gradient in found.items() if key in case.arrays}
    for key, gradient in found.items():
        assert_parameter_gradient(gradient, case, key)
    return len(found)


def test_a_gray_tower_takes_the_sum_of_the_color_kernels(tmp_path: Path) -> None:
    case = Case("prior/conv1_gray_sum")
    color = build_image_tower("resnet50", "none", 32, 3)
    with torch.no_grad():
        color.model.conv1.weight.copy_(case["in/rgb_conv1_weight"])
    save_file(color.model.state_dict(), tmp_path / "color.safetensors")
    gray = build_image_tower("resnet50", str(tmp_path / "color.safetensors"), 32, 1)
    assert_output(gray.model.conv1.weight, case["w/encoder.conv1.weight"])
    assert_output(gray.model.conv1(case["in/image"]), case["out/conv1_out"])
    assert_output(gray.model.conv1(case["in/image"]), case["out/rgb_conv_on_replicated"])


@pytest.mark.parametrize("layout", ["official", "spatial"])
def test_patch_tokens_in_both_layouts(layout: str) -> None:
    case = Case("prior/patch_tokens_layout")
    layer = case["in/layer4_map"]
    spatial = layer.flatten(2).transpose(1, 2)
    if layout == "spatial":
        assert_output(spatial, case["out/corrected_spatial_tokens"])
        assert torch.equal(token_map(spatial, (7, 7)), layer)
    else:
        assert_output(bare_view(spatial), case["out/official_local_features"])
        assert torch.equal(token_map(bare_view(spatial), (7, 7), bare=True), layer)
    assert_output(spatial.mean(dim=1), case["out/global_feature"])


def test_image_attention_pool() -> None:
    case = Case("prior/image_attention_pool_a")
    pool = AttentionPool(64, 8, 49)
    load(pool, case.weights())
    layer = case.leaf("in/map")
    pooled = pool(layer.flatten(2).transpose(1, 2))
    assert_output(pooled, case["out/pooled"])
    (pooled * case["in/cot"]).sum().backward()
    assert_gradient(layer.grad, case["grad/map"])
    assert check_gradients(pool, case) == 9


@pytest.mark.parametrize("name", ["a", "pos"])
def test_sentence_attention_pool_over_padded_reports(name: str) -> None:
    case = Case(f"prior/sentence_attention_pool_{name}")
    pool = AttentionPool(32, 8, 16 if name == "pos" else 0)
    load(pool, case.weights())
    sentences, mask = case.leaf("in/sentences"), mask_of(case["in/lengths"])
    pooled = pool(pad(sentences, mask), mask)
    assert_output(pooled, case["out/pooled"])
    (pooled * case["in/cot"]).sum().backward()
    assert_gradient(sentences.grad, case["grad/sentences"])
    assert check_gradients(pool, case) == (9 if name == "pos" else 8)


@pytest.mark.parametrize(("name", "pool"), [("avg_a", "mean"), ("attention", "attention")])
def test_gathering_sentences(name: str, pool: str) -> None:
    case = Case(f"prior/sentence_gather_{name}")
    gather = SentenceGather(32, pool)
    load(gather, case.weights("attention_pool."))
    tokens, index = case.leaf("in/tokens"), case["in/sentence_index"]
    vectors, mask = gather(tokens, index, torch.ones_like(index, dtype=torch.bool))
    assert mask.sum(dim=1).tolist() == case["out/lengths"].tolist()
    assert_output(pack(vectors, mask), case["out/sentences"])
    (pack(vectors, mask) * case["in/cot"]).sum().backward()
    assert_gradient(tokens.grad, case["grad/tokens"])


def test_padding_and_cutting_of_reports() -> None:
    case = Case("prior/padding_truncation")
    full = mask_of(case["in/lengths"])
    vectors, mask = resize_reports(pad(case["in/sentences"], full), full, int(case.number("hp/max_length")))
    assert torch.equal(vectors, case["out/padded"])
    assert torch.equal(mask.float(), case["out/mask"])
    assert torch.equal(pack(vectors, mask), case["out/truncated"])
    places = torch.arange(mask.shape[1]).expand(mask.shape).masked_fill(~mask, -1)
    assert torch.equal(places.float(), case["out/padded_index"])


def test_global_alignment() -> None:
    case = Case("prior/global_alignment_a")
    image, text, scale = case.leaf("in/image_embed"), case.leaf("in/text_embed"), case.leaf("w/logit_scale")
    one, other = (nn.functional.normalize(item, dim=1) for item in (image, text))
    found = info_nce(one, other, scale.exp())
    assert_output(found, case["out/loss"], LOSS)
    found.backward()
    for leaf, name in ((image, "image_embed"), (text, "text_embed"), (scale, "logit_scale")):
        assert_gradient(leaf.grad, case[f"grad/{name}"])


@pytest.mark.parametrize("name", ["a", "masked"])
def test_local_cross_attention(name: str) -> None:
    case = Case(f"prior/local_cross_attention_{name}")
    attention = LocalCrossAttention(32)
    load(attention, case.weights())
    image, text = case.leaf("in/image"), case.leaf("in/text")
    bias = (case["in/attention_mask1"], case["in/attention_mask2"]) if name == "masked" else None
    outputs = (
        "text_to_local_image_embed",
        "text_to_local_image_atten",
        "image_to_local_text_embed",
        "image_to_local_text_atten",
    )
    found = attention(image, text, bias=bias)
    for item, output in zip(found, outputs, strict=True):
        assert_output(item, case[f"out/{output}"])
    sum((item * case[f"in/cot_{output}"]).sum() for item, output in zip(found, outputs, strict=True)).backward()
    assert_gradient(image.grad, case["grad/image"])
    assert_gradient(text.grad, case["grad/text"])
    assert check_gradients(attention, case) == 12


def test_text_local_loss_of_one_report() -> None:
    case = Case("prior/text_local_loss")
    one, other, scale = case.leaf("in/embed_A"), case.leaf("in/embed_B"), case.leaf("w/local_logit_scale")
    found = text_local_loss(one.unsqueeze(0), other.unsqueeze(0), torch.ones(1, 5, dtype=torch.bool), scale.exp())
    assert_output(found, case["out/loss"], LOSS)
    found.backward()
    for leaf, name in ((one, "embed_A"), (other, "embed_B"), (scale, "local_logit_scale")):
        assert_gradient(leaf.grad, case[f"grad/{name}"])


@pytest.mark.parametrize("part", ["total", "image", "text"])
def test_local_alignment_of_ragged_reports(part: str) -> None:
    case = Case("prior/local_alignment_a")
    attention = LocalCrossAttention(32)
    predictor = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 32))
    load(attention, case.weights("local_cross_attention."))
    load(predictor, case.weights("predictor."))
    scale = case.leaf("w/local_logit_scale")
    patches, rows, mask = case.leaf("in/local_image"), case.leaf("in/sentences"), mask_of(case["in/lengths"])
    sentences = pad(rows, mask)
    of_patches, _, of_sentences, _ = attention(patches, sentences, mask)
    assert_output(of_patches, case["out/text_to_local_image_embed_stacks"])
    losses = {
        "image": image_local_loss(patches, of_patches, predictor),
        "text": text_local_loss(sentences, of_sentences, mask, scale.exp()),
    }
    losses["total"] = losses["image"] + losses["text"]
    key = "total" if part == "total" else f"local_{part}_loss"
    assert_output(losses[part], case[f"out/{key}"], LOSS)
    losses[part].backward()
    start = "grad/" if part == "total" else f"grad/{part}_loss__"
    assert_gradient(patches.grad, case[f"{start}local_image"])
    assert_gradient(rows.grad, case[f"{start}sentences"])
    if part == "total":
        assert_gradient(scale.grad, case["grad/local_logit_scale"])
        assert check_gradients(attention, case, "local_cross_attention.") == 12
        assert check_gradients(predictor, case, "predictor.") == 4


@pytest.mark.parametrize("name", ["spb_noise_off", "spb_noise_off_k512"])
def test_prototype_bank_without_noise(name: str) -> None:
    case = Case(f"prior/{name}")
    bank = PrototypeBank(*case["w/embed.weight"].shape)
    load(bank, case.weights())
    sentences = case.leaf("in/sentences")
    logits = bank.logits(sentences)
    prototypes = bank.mix(logits, case.number("hp/tau"), noisy=False)
    assert_output(logits, case["out/logits"])
    assert_output(prototypes, case["out/prototypes"])
    assert torch.equal(logits.argmax(dim=1), case["out/embed_ind"])
    found = prototype_loss(prototypes, sentences)
    assert_output(found, case["out/loss"])
    found.backward()
    assert_gradient(sentences.grad, case["grad/sentences"])
    assert check_gradients(bank, case) == 1


def test_temperature_schedules() -> None:
    case = Case("prior/spb_temp_schedule")
    names = {"fixed": "fixed", "linear": "linear", "exp": "exponential"}
    for (strategy, epoch, last), expected in zip(case["in/strategy_epoch_max"].tolist(), case["out/curr_temp"].tolist()):
        schedule = names[str(case.arrays["hp/strategies"][strategy])]
        assert temperature_at(case.number("hp/temp"), schedule, epoch / last) == pytest.approx(expected, abs=1e-9)


def test_divergence_of_mixtures() -> None:
    case = Case("prior/kl_loss")
    bank = PrototypeBank(8, 32)
    load(bank, case.weights())
    true, predicted = case.leaf("in/true_sentences"), case.leaf("in/predicted")
    found = divergence(bank.logits(true), bank.logits(predicted))
    assert_output(found, case["out/kl"])
    found.backward()
    assert_gradient(true.grad, case["grad/true_sentences"])
    assert_gradient(predicted.grad, case["grad/predicted"])
    assert check_gradients(bank, case) == 1


@pytest.mark.parametrize("kind", ["official", "corrected"])
@pytest.mark.parametrize("name", ["spg_loss_a", "spg_loss_q16"])
def test_matching_of_predictions_and_prototypes(name: str, kind: str) -> None:
    case = Case(f"prior/{name}")
    bank = PrototypeBank(8, 32)
    load(bank, case.weights("sentence_bank."))
    predicted, target, raw = case.leaf("in/logits"), case.leaf("in/protos_padded"), case.leaf("in/raw_sentences")
    mask = case["in/sentence_mask"].bool()
    assert_output(torch.cdist(predicted, target, p=1), case["out/cost"])
    if kind == "official":
        order = case["out/col_ind"]  # ties between empty slots are scipy's; the inverse depends on how it breaks them
        ours = match(predicted, target, inverse=True)
        assert torch.equal(ours, order)
    else:
        order = match(predicted, target)
    ordered = reorder(predicted, order)
    loss = case.number("hp/lambda_proto") * sentence_loss(ordered, target)
    assert_output(loss, case[f"out/{kind}_spg_loss"])
    assert_output(pack(ordered, mask), case[f"out/{kind}_logits_stacks"])
    loss.backward(retain_graph=True)
    assert_gradient(predicted.grad, case[f"grad/{kind}_spg__logits"])
    assert_gradient(target.grad, case[f"grad/{kind}_spg__protos"])
    predicted.grad = None
    kl = divergence(bank.logits(raw), bank.logits(pack(ordered, mask)))
    assert_output(kl, case[f"out/{kind}_kl_loss"])
    kl.backward()
    assert_gradient(predicted.grad, case[f"grad/{kind}_kl__logits"])
    assert_gradient(raw.grad, case[f"grad/{kind}_kl__raw_sentences"])
    assert_gradient(bank.embed.weight.grad, case[f"grad/{kind}_kl__sentence_bank.embed.weight"])


def test_image_decoder() -> None:
    case = Case("prior/image_decoder_eval")
    decoder = ImageDecoder(32, 16, 32, 1, 0.5).eval()
    load(decoder, case.weights())
    image, text = case.leaf("in/image_embed"), case.leaf("in/text_embed")
    output = decoder(image, text, (224, 224))
    assert_output(output, case["out/output"])
    loss = pixel_loss(output, case["in/image"] / case.number("hp/image_divisor"))
    assert_output(loss, case["out/loss"])
    loss.backward()
    assert_gradient(image.grad, case["grad/image_embed"])
    assert_gradient(text.grad, case["grad/text_embed"])
    assert check_gradients(decoder, case) == 32


def test_report_decoder_with_the_released_causal_mask() -> None:
    case = Case("prior/sentence_decoder")
    weights = case.weights()
    positions = len(weights["embeddings.position_embeddings.weight"])
    decoder = ReportDecoder((32, 8, 4, 64), positions, 0.0, causal=True).eval()
    load(decoder.bert, {name: item for name, item in weights.items() if "word_embeddings" not in name})
    queries, patches = case.leaf("in/queries"), case.leaf("in/image_tokens")
    found = decoder(queries, patches)
    assert_output(found, case["out/last_hidden_state"])
    (found * case["in/cot"]).sum().backward()
    assert_gradient(queries.grad, case["grad/queries"])
    assert_gradient(patches.grad, case["grad/image_tokens"])
    decoder.causal = False
    free = decoder(queries, patches)
    assert not torch.allclose(free[:, 0], found[:, 0], atol=1e-3)
    torch.testing.assert_close(free[:, -1], decoder(queries, patches)[:, -1])
