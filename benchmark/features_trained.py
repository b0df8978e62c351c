"""Encoding of rows by an encoder that is trained with a head: a copy of the method, with gradients, beside FrozenMaps."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.data.transform import to_input
from benchmark.errors import Unsupported
from benchmark.features import check_finite
from benchmark.types import Record

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset


class TrainedEncoder(nn.Module):
    """A copy of a method whose feature maps can be trained; the method itself keeps its weights, mode and gradients.

    The parts that `feature_maps` reads are found by one backward pass through a black image, whatever they are called;
    they are trained, all of them, those included that pretraining left as drawn. In training mode the parts of the method
    are in training mode (dropout, batch statistics); the method as such stays in eval mode, as its `input` depends on it.

    Args:
        method: with the capability "dense", on its device.
        freeze_bn: keeps every BatchNorm in eval mode: running statistics are used and stay; its weights are trained.

    Raises:
        Unsupported: the maps take no gradient, or nothing in them can be trained.
    """

    def __init__(self, method: Any, *, freeze_bn: bool) -> None:
        super().__init__()
        self.method = deepcopy(method).eval()
        self.info: tuple[tuple[int, int], ...] = method.feature_info
        self.freeze_bn, self.held = freeze_bn, False
        self.trained: list[nn.Parameter] = _read_by_maps(self.method)
        self.train(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images (B, C, h, w) float32 as `to_input` gives them -> maps as the method's, from fine to coarse, float32."""
        return tuple(item.float() for item in self.method.feature_maps(images))

    def hold(self, held: bool) -> None:
        """Whether the encoder stays as it is for now: eval mode, no gradient."""
        self.held = held
        for item in self.trained:
            item.requires_grad_(not held)
        self.train(self.training)

    def train(self, mode: bool = True) -> TrainedEncoder:
        """As the class says; nothing is in training mode while the encoder is held."""
        self.training = mode
        for part in self.method.children():
            part.train(mode and not self.held)
        if self.freeze_bn:
            for part in self.method.modules():
                if isinstance(part, _BatchNorm):
                    part.eval()
        return self


class Finetuned(nn.Module):
    """An encoder and the head on it, as one module to be fitted."""

    def __init__(self, encoder: TrainedEncoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head


class TrainedMaps:
    """Native maps of rows through an encoder in training: what FrozenMaps gives, made anew for every batch.

    Args:
        records: N rows.
    """

    def __init__(self, encoder: TrainedEncoder, data: Dataset, records: Sequence[Record], context: Context) -> None:
        self.info = encoder.info
        self._encoder, self._data, self._records, self._context = encoder, data, tuple(records), context
        data.pixels(encoder.method.input, context)  # decoding is not fitting: it happens before the clock starts

    def __len__(self) -> int:
        return len(self._records)

    def images(self, indices: Sequence[int]) -> Tensor:
        """(B, 1, S, S) uint8 of the rows, on the device."""
        rows = [self._records[index] for index in indices]
        taken = self._data.pixels(self._encoder.method.input, self._context).take(rows)
        return self._context.to_device(torch.from_numpy(taken).unsqueeze(1))

    def batch(self, indices: Sequence[int], images: Tensor | None = None) -> tuple[Tensor, ...]:
        """Maps (B, channels, h, w) float32 of the rows, on the device, from fine to coarse.

        Args:
            images: (B, 1, S, S) uint8, what the rows became by augmentation; None: as they are.

        Raises:
            UserError: maps that are not finite.
        """
        rows = [self._records[index] for index in indices]
        seen = to_input(self.images(indices) if images is None else images, self._encoder.method.input)
        with self._context.autocast():
            maps = self._encoder(seen)
        for item in maps:
            check_finite(item.detach(), rows, "feature maps")
        return tuple(maps)


def _read_by_maps(method: Any) -> list[nn.Parameter]:
    """The parameters that feature maps depend on, alone left to require a gradient. Raises Unsupported."""
    method.requires_grad_(True)
    parameters: list[nn.Parameter] = list(method.parameters())
    spec = method.input
    image = torch.zeros(1, spec.channels, spec.size, spec.size, device=parameters[0].device if parameters else None)
    with torch.enable_grad():
        maps = [item for item in method.feature_maps(image) if item.requires_grad]
        if maps:
            torch.stack([item.float().square().sum() for item in maps]).sum().backward()  # type: ignore[no-untyped-call]
    read = [item for item in parameters if item.grad is not None]
    if not read:
        name = getattr(method, "name", type(method).__name__)
        raise Unsupported(
            f"{name} cannot be fine-tuned: its feature maps take no gradient; use a protocol with a frozen encoder"
        )
    method.requires_grad_(False)
    for item in read:
        item.requires_grad_(True).grad = None
    return read
