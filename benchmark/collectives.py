"""What several processes of one pretraining share; with one process each of these gives back what it was given.

A loss is that of a process's own rows, made so that its mean over processes is the loss of the whole batch. Gradients are then
means over processes too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from benchmark.errors import UserError

BUCKET = 1 << 23  # numbers that are sent at once: 32 MiB of float32


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0 on."""
    return distributed.get_rank() if count() > 1 else 0


def wait() -> None:
    """Until every process is here."""
    if count() > 1:
        distributed.barrier()


def leave() -> None:
    """Ends the meeting, when all is done; without it NCCL complains."""
    if count() > 1:
        distributed.destroy_process_group()


def gather(features: Tensor) -> tuple[Tensor, int]:
    """Rows of every process, with gradient, and where the own ones start.

    Args:
        features: (B, ...), the same B in every process.
    """
    if count() == 1:
        return features, 0
    every: Tensor = _Gather.apply(features)
    return every, rank() * len(features)


class _Gather(torch.autograd.Function):
    """Rows of all processes; a row's gradient is the sum of what every process has for it."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.rows = len(own)
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(count())]
        distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        start = rank() * ctx.rows
        return _summed(gradient)[start : start + ctx.rows]


class _Sum(torch.autograd.Function):
    """The sum over processes, whose gradient is a sum too."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _summed(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(tensor: Tensor) -> Tensor:
    found = tensor.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(found)
    return found


def mean_over_processes(number: Tensor) -> Tensor:
    """The mean over processes of a number (), without gradient: a sum over own rows is divided by the mean of all counts."""
    if count() == 1:
        return number
    return _summed(number) / count()


def share(mean: Tensor, items: int) -> Tensor:
    """A mean over the process's items, weighted so that the mean over processes is the mean over all items."""
    if count() == 1:
        return mean
    return mean * (items / mean_over_processes(mean.new_tensor(float(items))))


def numbers(value: int, device: torch.device) -> list[int]:
    """The whole number of each process, in order."""
    if count() == 1:
        return [value]
    every = torch.zeros(count(), dtype=torch.int64, device=device)
    every[rank()] = value
    distributed.all_reduce(every)
    return [int(item) for item in every.tolist()]


def agree(text: str, device: torch.device) -> bool:
    """Whether every process has the same text."""
    return len(set(numbers(int.from_bytes(sha256(text.encode()).digest()[:7], "big"), device))) == 1


def mean_of(values: Sequence[float], device: torch.device) -> list[float]:
    """Each value's mean over processes, in float64."""
    if count() == 1:
        return list(values)
    found = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(found)
    return [float(item) for item in (found / count()).tolist()]


def mean_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces gradients by their means over processes, in place; one that only some processes have counts as 0 elsewhere.

    By hand, in buckets, after the backward passes: the loss is no `forward` that DistributedDataParallel could wrap, and with
    two passes over the rows its hooks would send half-made gradients. It costs the overlap of sending and computing.
    """
    if count() == 1:
        return
    trained = [item for item in parameters if item.requires_grad and not isinstance(item, DTensor)]  # which FSDP averages
    if not trained:
        return
    has = torch.tensor([item.grad is not None for item in trained], dtype=torch.int32, device=trained[0].device)
    distributed.all_reduce(has)
    used = [item for item, n in zip(trained, has.tolist()) if n]
    for bucket in _buckets([_gradient(item) for item in used]):
        flat = torch.cat([item.reshape(-1) for item in bucket])
        distributed.all_reduce(flat)
        flat /= count()
        for gradient, part in zip(bucket, torch.split(flat, [item.numel() for item in bucket])):
            gradient.copy_(part.view_as(gradient))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type, up to BUCKET numbers together or one alone."""
    bucket: list[Tensor] = []
    for item in gradients:
        full = sum(other.numel() for other in bucket) + item.numel() > BUCKET
        if bucket and (full or bucket[0].dtype != item.dtype):
            yield bucket
            bucket = []
        bucket.append(item)
    if bucket:
        yield bucket


def share_bytes(data: bytes, device: torch.device) -> bytes:
    """The bytes of process 0, in every process."""
    if count() == 1:
        return data
    length = numbers(len(data) if rank() == 0 else 0, device)[0]
    if not length:
        return b""
    every = torch.empty(length, dtype=torch.uint8, device=device)
    if rank() == 0:
        every.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    distributed.broadcast(every, 0)
    return every.cpu().numpy().tobytes()


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose statistics in training are those of all processes, on any device; torch's own needs a GPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        return

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape; N may differ by process."""
        if not self.training or count() == 1:
            found: Tensor = super().forward(input)
            return found
        others = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        size = torch.tensor(float(input.numel() // input.shape[1]), device=input.device)
        distributed.all_reduce(size)
        exact = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        mean: Tensor = _Sum.apply(exact.sum(others)) / size
        centered = exact - mean.view(shape)
        variance: Tensor = _Sum.apply(centered.square().sum(others)) / size
        self._remember(mean.detach(), variance.detach() * size / (size - 1).clamp(min=1))
        output = centered * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.num_batches_tracked is None or self.running_mean is None or self.running_var is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def share_batch_norm(module: nn.Module) -> None:
    """Makes every batch norm inside a module one of all processes; names and values of its tensors stay.

    Raises:
        UserError: a kind of batch norm that cannot be replaced on a CPU.
    """
    if count() == 1:
        return
    if next(module.parameters()).device.type == "cuda":
        convert_sync_batchnorm(module)  # torch's own, and timm's with an activation
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                setattr(parent, name, _shared(child))
            elif isinstance(child, nn.modules.batchnorm._BatchNorm):
                kind = type(child).__name__
                raise UserError(
                    f"{kind} cannot be shared between processes on a CPU; train in one process, or choose another encoder"
                )


def _shared(norm: Any) -> SharedBatchNorm:
    found = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    found.weight, found.bias = norm.weight, norm.bias
    found.running_mean, found.running_var = norm.running_mean, norm.running_var
    found.num_batches_tracked = norm.num_batches_tracked
    return found.train(norm.training)
