"""The repeated blocks of a method's networks: computed twice to save memory, compiled, and counted from the input on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmark.errors import UserError
from benchmark.types import Recipe

TOWERS = ("image_tower", "text_tower")


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Members of lists and sequences that are networks themselves (layers of a transformer, residual blocks), in order."""
    found: list[nn.Module] = []
    for child in module.children():
        members = list(child.children()) if isinstance(child, nn.ModuleList | nn.Sequential) else []
        if members and all(any(item.children()) for item in members):
            found += members
        else:
            found += blocks_of(child)
    return found


def prepare_blocks(method: nn.Module, recipe: Recipe) -> None:
    """Compiles blocks, and then has them computed twice, as the recipe asks. Raises UserError for a method without blocks."""
    if recipe.compile:
        compile_blocks(method)
    if recipe.gradient_checkpointing:
        checkpoint_blocks(method)


def restore_blocks(method: nn.Module) -> None:
    """Takes back what `prepare_blocks` did, so that the method can be copied and trained otherwise."""
    for block in blocks_of(method):
        vars(block).pop("forward", None)


def checkpoint_blocks(method: nn.Module) -> None:
    """In training, blocks keep their input only and are computed again for the gradient, with the same dropout.

    Statistics of batch norm move the first time only. Raises UserError for a method without blocks.
    """
    for block in _some(method, "gradient_checkpointing"):
        forward = block.forward
        block.forward = partial(_twice, block, forward)


def _twice(block: nn.Module, forward: Any, *words: Any, **named: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*words, **named)
    norms = [item for item in block.modules() if isinstance(item, nn.modules.batchnorm._BatchNorm)]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _still(norms)

    return checkpoint(forward, *words, use_reentrant=False, context_fn=contexts, **named)


@contextmanager
def _still(norms: list[Any]) -> Iterator[None]:
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0  # running statistics stay as they are, bit for bit
            if norm.num_batches_tracked is not None:  # SyncBatchNorm wants a number to count in
                norm.num_batches_tracked = norm.num_batches_tracked.clone()
        yield
    finally:
        for norm, momentum, number in kept:
            norm.momentum, norm.num_batches_tracked = momentum, number


def compile_blocks(method: nn.Module) -> None:
    """Blocks through torch.compile: one compilation for all of a kind. Raises UserError for a method without blocks."""
    for block in _some(method, "compile"):
        block.forward = torch.compile(block.forward)


def _some(method: nn.Module, option: str) -> list[nn.Module]:
    found = blocks_of(method)
    if not found:
        raise UserError(f"{option}: {getattr(method, 'name', 'the method')} has no repeated blocks; leave {option} out")
    return found


def rate_factors(method: nn.Module, decay: float) -> dict[Tensor, float]:
    """The factor of each parameter's rate: decay^(L + 1 - l), l = 0 before the first of a tower's L blocks, l in block l,
    L + 1 behind them and outside of towers (BEiT, arXiv 2106.08254, appendix; MAE, arXiv 2111.06377, table 9).

    Raises:
        UserError: no tower with blocks.
    """
    factors: dict[Tensor, float] = {}
    for name in TOWERS:
        tower = getattr(method, name, None)
        blocks = blocks_of(tower) if isinstance(tower, nn.Module) else []
        if tower is None or not blocks:
            continue
        place = {item: number for number, block in enumerate(blocks, start=1) for item in block.parameters()}
        layer = 0
        for item in tower.parameters():
            layer = place.get(item, len(blocks) + 1 if layer else 0)
            factors[item] = decay ** (len(blocks) + 1 - layer)
    if not factors:
        raise UserError(f"layer_decay={decay}: {getattr(method, 'name', 'the method')} has no tower of layers; leave it at 1")
    return factors
