"""Losses, masking and aggregation against loops, closed forms, finite differences and recorded reference arrays."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.types import TextBatch
from methods.aggregation import Alignment, Attention, masked_mean
from methods.losses import (
    LogitScale,
    info_nce,
    masked_patch_error,
    patchify,
    standardize,
    word_error,
)
from methods.masking import image_mask, take, text_mask

REFERENCE = Path(os.environ.get("BENCHMARK_REFERENCE", "/nonexistent")) / "mrm"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="set BENCHMARK_REFERENCE to the folder of recorded reference arrays (with mrm/*.npz)"
)


def unit(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, dtype=dtype), dim=-1)


def text_batch(lengths: tuple[int, ...], total: int) -> TextBatch:
    """Texts of [CLS], n words, [SEP] and padding."""
    ids = torch.zeros(len(lengths), total, dtype=torch.int64)
    special = torch.ones(len(lengths), total, dtype=torch.bool)
    mask = torch.zeros(len(lengths), total, dtype=torch.bool)
    for row, length in enumerate(lengths):
        ids[row, : length + 2] = torch.arange(10, length + 12)
        special[row, 1 : length + 1] = False
        mask[row, : length + 2] = True
    index = torch.where(special, -1, 0)
    return TextBatch(ids, mask, special, index, index)


def test_info_nce_equals_a_loop_over_pairs() -> None:
    torch.manual_seed(0)
    image, text, scale = unit(5, 7), unit(5, 7), 3.0
    expected = 0.0
    for row in range(5):
        for one, other in ((image, text), (text, image)):
            logits = [scale * float(one[row] @ other[column]) for column in range(5)]
            expected -= (logits[row] - math.log(sum(math.exp(item) for item in logits))) / 10
    assert float(info_nce(image, text, torch.tensor(scale))) == pytest.approx(expected, abs=1e-12)


def test_info_nce_of_equal_rows_is_log_of_the_batch() -> None:
    row = unit(1, 4).expand(6, 4)
    assert float(info_nce(row, row, torch.tensor(14.0))) == pytest.approx(math.log(6), abs=1e-9)


def test_gradients_match_finite_differences() -> None:
    torch.manual_seed(1)
    image, text = unit(3, 4).requires_grad_(), unit(3, 4).requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(info_nce, (image, text, scale))
    predicted = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    target, hidden = torch.randn(2, 3, 4, dtype=torch.float64), torch.tensor([[True, False, True], [False, True, False]])
    assert torch.autograd.gradcheck(lambda value: masked_patch_error(value, target, hidden), (predicted,))
    states, words, bias = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 3), (5, 3), (5,)))
    target = torch.tensor([0, 3, 1, 4])
    for held in (5, 10, 100):  # logits of one row at a time, of two, and all at once
        assert torch.autograd.gradcheck(lambda *parts, held=held: word_error(*parts, target, held), (states, words, bias))


def test_logit_scale_is_clamped_and_can_come_back() -> None:
    scale = LogitScale(0.07)
    assert scale().item() == pytest.approx(1 / 0.07, rel=1e-5)
    with torch.no_grad():
        scale.log_scale.fill_(9.0)
    assert scale().item() == pytest.approx(100.0, rel=1e-5)
    for sign in (1.0, -1.0):  # a loss that falls with s may not push further up; one that rises with s leads back
        scale.log_scale.grad = None
        (sign * scale()).backward()
        assert scale.log_scale.grad is not None
        assert (float(scale.log_scale.grad) > 0) == (sign > 0)


def test_info_nce_under_autocast_keeps_float32_logits() -> None:
    image, text = unit(8, 16, dtype=torch.float32), unit(8, 16, dtype=torch.float32)
    plain = info_nce(image, text, torch.tensor(100.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(image, text, torch.tensor(100.0)), plain)


def test_patches_are_rows_of_row_column_channel() -> None:
    images = torch.arange(2 * 3 * 8 * 4, dtype=torch.float32).reshape(2, 3, 8, 4)
    patches = patchify(images, 2)
    assert patches.shape == (2, 8, 12)
    for patch in range(8):
        row, column = divmod(patch, 2)
        block = images[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(patches[1, patch], block.permute(1, 2, 0).flatten())


def test_patch_error_equals_a_loop_over_hidden_patches() -> None:
    torch.manual_seed(2)
    predicted, target = torch.randn(2, 4, 6), torch.randn(2, 4, 6)
    hidden = torch.tensor([[True, True, False, True], [False, False, False, True]])
    errors = [
        sum(float(predicted[row, patch, value] - target[row, patch, value]) ** 2 for value in range(6)) / 6
        for row, patch in hidden.nonzero().tolist()
    ]
    assert float(masked_patch_error(predicted, target, hidden)) == pytest.approx(sum(errors) / 4, rel=1e-5)
    assert float(masked_patch_error(predicted, target, torch.zeros_like(hidden))) == 0.0


def test_constant_patches_stay_finite_when_standardized() -> None:
    assert torch.equal(standardize(torch.full((1, 2, 9), 3.0)), torch.zeros(1, 2, 9))


def word_parts(rows: int, vocabulary: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """States, words and biases of which errors have gradients."""
    torch.manual_seed(3)
    shapes = ((rows, width), (vocabulary, width), (vocabulary,))
    states, words, bias = (torch.randn(*shape).requires_grad_() for shape in shapes)
    return states, words, bias


@pytest.mark.parametrize("held", [1, 14, 10_000])
def test_word_error_is_the_negative_log_likelihood_of_each_token(held: int) -> None:
    states, words, bias = word_parts(5, 7, 3)
    target = torch.tensor([4, 0, 2, 6, 6])
    logits = (states @ words.T + bias).detach()
    expected = [-float(torch.log_softmax(logits[row], 0)[target[row]]) for row in range(5)]
    assert word_error(states, words, bias, target, held).tolist() == pytest.approx(expected, rel=1e-5)
    none = word_error(states[:0], words, bias, target[:0], held)
    none.sum().backward()
    assert none.shape == (0,)
    assert words.grad is not None and not words.grad.any()  # noqa: PT018


def test_words_in_pieces_give_the_errors_and_gradients_of_all_at_once() -> None:
    found = []
    for held in (10_000, 3 * 40):
        parts = word_parts(25, 40, 8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            error = word_error(*parts, torch.arange(25), held)
        assert error.dtype == torch.float32
        (error * torch.linspace(0, 1, 25)).sum().backward()
        found.append([error.detach(), *(part.grad for part in parts)])
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=2e-2, atol=2e-2)  # bfloat16; float64 is held to finite differences above
    assert torch.equal(found[0][0], found[1][0])


class Largest(TorchDispatchMode):
    """The most elements of any tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = found if isinstance(found, tuple | list) else (found,)
        self.elements = max([self.elements, *(item.numel() for item in made if isinstance(item, Tensor))])
        return found


def test_no_more_logits_are_ever_made_than_may_be_held() -> None:
    states, words, bias = word_parts(300, 50, 4)
    with Largest() as whole:
        word_error(states, words, bias, torch.zeros(300, dtype=torch.int64)).sum().backward()
    with Largest() as pieces:
        word_error(states, words, bias, torch.zeros(300, dtype=torch.int64), held=2000).sum().backward()
    assert whole.elements == 300 * 50
    assert pieces.elements <= 2000


@needs_reference
def test_image_mask_equals_the_recorded_one() -> None:
    with np.load(REFERENCE / "random_masking_a.npz") as arrays:
        noise, tokens = torch.from_numpy(arrays["in/noise"]), torch.from_numpy(arrays["in/tokens"])
        mask = image_mask(noise, float(arrays["hp/mask_ratio"]))
        assert np.array_equal(mask.restore.numpy(), arrays["out/ids_restore"])
        assert np.array_equal(mask.hidden.float().numpy(), arrays["out/mask"])
        assert np.array_equal(take(tokens, mask.keep).numpy(), arrays["out/kept"])


@needs_reference
def test_normalised_pixel_loss_equals_the_recorded_one() -> None:
    with np.load(REFERENCE / "image_loss_norm_pix.npz") as arrays:
        image = torch.from_numpy(arrays["in/image"]).float() / float(arrays["hp/image_divisor"])
        predicted = torch.from_numpy(arrays["in/pred"]).float() / float(arrays["hp/pred_divisor"])
        predicted.requires_grad_()
        patches = patchify(image, 2 * int(arrays["hp/patch_size"]))  # recorded before they are standardized
        np.testing.assert_allclose(patches[:, 0].numpy(), arrays["out/target_patch0"], rtol=1e-5, atol=1e-5)
        target = standardize(patches)
        loss = masked_patch_error(predicted, target, torch.from_numpy(arrays["in/mask"]).bool())
        np.testing.assert_allclose(loss.item(), arrays["out/loss"], rtol=1e-5)
        loss.backward()
        assert predicted.grad is not None
        expected = arrays["grad/pred_patch0"]
        np.testing.assert_allclose(predicted.grad[:, 0].numpy(), expected, atol=1e-4 * np.abs(expected).max())


def test_image_mask_hides_the_ratio_and_restores_the_order() -> None:
    torch.manual_seed(4)
    tokens = torch.randn(3, 16, 2)
    mask = image_mask(torch.rand(3, 16), 0.75)
    assert mask.hidden.sum(dim=1).tolist() == [12, 12, 12]
    filled = torch.cat([take(tokens, mask.keep), torch.zeros(3, 12, 2)], dim=1)
    assert torch.equal(take(filled, mask.restore), tokens.masked_fill(mask.hidden.unsqueeze(-1), 0))


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, [0, 0, 0]), (0.15, [1, 1, 0]), (0.5, [5, 1, 0]), (1.0, [10, 1, 0])])
def test_text_mask_hides_a_fraction_of_words_only(ratio: float, expected: list[int]) -> None:
    torch.manual_seed(5)
    text = text_batch((10, 1, 0), 14)
    mask = text_mask(text, torch.rand(3, 14), ratio, mask_id=4)
    rounded = [round(ratio * 10) if 0 < ratio < 0.5 else expected[0], *expected[1:]]
    assert mask.hidden.sum(dim=1).tolist() == rounded
    assert not (mask.hidden & (text.special | ~text.mask)).any()
    assert (mask.ids[mask.hidden] == 4).all()
    assert torch.equal(mask.ids[~mask.hidden], text.ids[~mask.hidden])


@pytest.mark.parametrize("aggregator", ["mean", "attention"])
def test_padding_is_never_counted(aggregator: str) -> None:
    torch.manual_seed(6)
    align = Alignment((8, 8), 6, "mba", aggregator)
    for parameter in align.parameters():
        torch.nn.init.normal_(parameter)
    tokens, mask = torch.randn(2, 5, 8), torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    pooled, _ = align.text(tokens, mask)
    assert torch.allclose(pooled[0], align.text(tokens[:1, :3], None)[0][0], atol=1e-6)
    tokens[0, 3:] = float("nan")
    assert torch.allclose(align.text(tokens, mask)[0], pooled)


def test_attention_starts_as_the_mean_and_equals_a_loop() -> None:
    torch.manual_seed(7)
    pool, tokens, mask = Attention(4), torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, True, True]])
    assert torch.allclose(pool(tokens, mask), masked_mean(tokens, mask), atol=1e-6)
    with torch.no_grad():
        pool.query.normal_()
    weights = [math.exp((pool.query @ tokens[0, token]).item() / 2) for token in range(2)]
    expected = sum(weight * tokens[0, token] for token, weight in enumerate(weights)) / sum(weights)
    assert torch.allclose(pool(tokens, mask)[0], torch.as_tensor(expected), atol=1e-6)


def test_both_orders_coincide_for_a_linear_map_and_differ_for_ours() -> None:
    tokens, mask = torch.randn(4, 5, 8), torch.ones(4, 5, dtype=torch.bool)
    distance = {}
    for linear in (True, False):
        pooled = []
        for order in ("mba", "abm"):
            torch.manual_seed(8)
            pooled.append(Alignment((8, 8), 6, order, linear=linear).image(tokens, mask)[0])
        distance[linear] = (pooled[0] - pooled[1]).abs().max().item()
    assert distance[True] < 1e-6
    assert distance[False] > 1e-3


@pytest.mark.parametrize(("aggregator", "query"), [("mean", "shared"), ("attention", "per-modality")])
def test_both_orders_start_from_the_same_weights(aggregator: str, query: str) -> None:
    states = []
    for order in ("mba", "abm"):
        torch.manual_seed(9)
        states.append((Alignment((12, 8), 6, order, aggregator, query).state_dict(), torch.rand(1)))
    assert states[0][0].keys() == states[1][0].keys()
    for name in states[0][0]:
        if not name.endswith("query"):  # of the space in which it pools
            assert torch.equal(states[0][0][name], states[1][0][name])
    assert torch.equal(states[0][1], states[1][1])  # the generator stands at the same place afterwards


def test_a_shared_query_is_one_parameter() -> None:
    shared, own = Alignment((8, 8), 6, "mba", "attention", "shared"), Alignment((8, 8), 6, "mba", "attention")
    assert sum("query" in name for name, _ in shared.named_parameters()) == 1
    assert sum("query" in name for name, _ in own.named_parameters()) == 2


WORKER = """
import json, sys, torch
from methods.losses import info_nce
rank, path = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method="file://" + path, rank=rank, world_size=2)
torch.manual_seed(0)
image, text = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
weight = torch.eye(4, dtype=torch.float64, requires_grad=True)
rows = slice(3 * rank, 3 * rank + 3)
loss = info_nce(image[rows] @ weight, text[rows] @ weight, torch.tensor(2.0, dtype=torch.float64))
loss.backward()
both = torch.cat([loss.detach().reshape(1), weight.grad.flatten()])
torch.distributed.all_reduce(both)
if rank == 0:
    print(json.dumps((both / 2).tolist()))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_loss_and_gradient_of_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, env=environment, text=True)
        for rank in range(2)
    ]
    output = [worker.communicate(timeout=120)[0] for worker in workers]
    torch.manual_seed(0)
    image, text = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    weight = torch.eye(4, dtype=torch.float64, requires_grad=True)
    loss = info_nce(image @ weight, text @ weight, torch.tensor(2.0, dtype=torch.float64))
    loss.backward()
    assert weight.grad is not None
    expected = [loss.item(), *weight.grad.flatten().tolist()]
    np.testing.assert_allclose(json.loads(output[0].splitlines()[-1]), expected, atol=1e-10)
