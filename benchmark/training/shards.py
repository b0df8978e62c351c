"""Blocks of a method spread over the processes: FSDP2 (torch.distributed.fsdp.fully_shard; Zhao et al., arXiv 2304.11277).

A block's parameters, gradients and moments lie in parts, one in each process, and are gathered while the block computes. What
is outside of blocks (embeddings, heads, the temperature) is whole everywhere: a loss here is no forward pass of one module,
which FSDP would gather the rest by.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from benchmark import collectives
from benchmark.errors import UserError
from benchmark.training.blocks import blocks_of
from benchmark.types import Recipe


def shard(method: nn.Module, recipe: Recipe, device: torch.device) -> None:
    """Spreads the blocks of a method that is on the device, in place; every process calls it.

    Raises:
        UserError: one process, a method without blocks, or fp16.
    """
    name, blocks = getattr(method, "name", "the method"), blocks_of(method)
    if collectives.count() == 1:
        raise UserError(
            "FSDP spreads a method over several processes; start them by torchrun or `accelerate launch`, or leave it out"
        )
    if not blocks:
        raise UserError(f"FSDP: {name} has no repeated blocks to spread; leave it out")
    if recipe.precision == "fp16":
        raise UserError("FSDP goes with fp32 and bf16; add --set precision=bf16")
    mesh = init_device_mesh(device.type, (collectives.count(),))
    for block in blocks:  # each a root of its own: gathered when its turn comes, not ahead of it
        fully_shard(block, mesh=mesh)


def is_part(tensor: Tensor) -> bool:
    """Whether this process holds a part only of a tensor of any shape and type."""
    return isinstance(tensor, DTensor)


def own(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor (N, ...), sharing its memory: (n, ...), n about N / processes; else all of it."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, (N, ...) of its type, without gradient; for one that is spread every process calls it."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor (N, ...), which every process has, spread by its rows as another of the same shape is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor of a module in one piece; every process calls it."""
    return {name: whole(item) for name, item in module.state_dict().items()}


def placed_state(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors as `module.load_state_dict` takes them."""
    return {name: placed(state[name], item) for name, item in module.state_dict().items()}


def clip(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """The norm () of all gradients, which are shortened to the limit where it is above, as torch's clip_grad_norm_ does."""
    gradients = [item.grad for item in parameters if item.grad is not None]
    spread = _square([own(item) for item in gradients if is_part(item)], gradients[0].device)
    distributed.all_reduce(spread)
    norm = (spread + _square([item for item in gradients if not is_part(item)], gradients[0].device)).sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    with torch.no_grad():
        for item in gradients:
            own(item).mul_(factor.to(item.dtype))
    return norm


def _square(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """The sum of squares (), in float64."""
    return sum((item.double().square().sum() for item in tensors), torch.zeros((), dtype=torch.float64, device=device))
