"""The part of segmentation that needs a method: the head of a protocol, fitted with or without the encoder, and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import metrics
from benchmark.data.geometry import IGNORE
from benchmark.data.transform_masks import turn_and_zoom
from benchmark.errors import ImageError, UserError
from benchmark.features import FrozenMaps, halving
from benchmark.features_trained import Finetuned, TrainedEncoder, TrainedMaps
from benchmark.repro import seed_of, seeded
from benchmark.types import Predictions, Protocol, Record
from tasks.heads.epochs import LOSS, EpochSchedule, schedule_of
from tasks.heads.fit import Schedule, dense_problem, in_chunks, names_of, numbers
from tasks.heads.loop import fit
from tasks.heads.losses import Loss, loss_of
from tasks.segmentation_masks import canvases, count_pixels, read_masks, rows_with_masks, stack_counts
from tasks.segmentation_scores import image_scores, pooled_scores

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset

Records = Sequence[Record]


@dataclass(slots=True)
class Segmenter:
    """A head for a method, and the encoder where it is trained with it.

    Args:
        method: with the capability "dense". protocol: its settings state head, loss, encoder and schedule.
    """

    method: Any
    data: Dataset
    protocol: Protocol
    context: Context
    encoder: TrainedEncoder | None = field(init=False, default=None)
    head: nn.Module = field(init=False)
    loss: Loss = field(init=False)

    def __post_init__(self) -> None:
        if self._setting("encoder", "frozen") == "finetune":
            with self.context.meter.phase("fit"):
                self.encoder = TrainedEncoder(self.method, freeze_bn=self.protocol.setting("freeze_bn"))
        self.loss = loss_of(self._setting("loss", "bce+dice"))
        with seeded("unet head", self.context.eval_seed):
            self.head = head_of(self.protocol, self.method.feature_info, len(self.data.source.mask_names))

    def fit(self, records: Records, targets: Tensor) -> None:
        """Fits the head, and the encoder where the protocol says so; notes the best score on val.

        Args:
            records: N rows. targets: (N, M, S, S) uint8 on the canvas: 0, 1, or 255 = ignore.

        Raises:
            UserError: a loss that is not finite.
        """
        context, schedule = self.context, schedule_of(self.protocol)
        whole = self.head if self.encoder is None else Finetuned(self.encoder, self.head)
        batch = self._batches(records, targets)

        def loss(rows: Sequence[int], epochs: Sequence[int]) -> dict[str, Tensor]:
            maps, truth = batch(rows, epochs)
            return self.loss(self.head(maps, self._size), truth)

        selects = isinstance(schedule, EpochSchedule) or (isinstance(schedule, Schedule) and schedule.evaluations)
        evaluate = self._evaluator(schedule) if selects else None
        with context.meter.phase("fit"):
            problem = dense_problem(whole, loss, records, evaluate, context)
            found = fit(problem, schedule, context)
        if found.evaluations:
            context.notes["evaluations"] = found.evaluations
        if found.best:
            by_loss = isinstance(schedule, EpochSchedule) and schedule.monitor == LOSS
            context.notes["val_loss" if by_loss else "val_score"] = -found.score if by_loss else found.score
        context.notes["head_params"] = sum(item.numel() for item in self.head.parameters())
        if self.encoder is not None:
            context.notes["encoder_params_trained"] = sum(item.numel() for item in self.encoder.trained)

    @torch.no_grad()
    def predict(self, records: Records, skipped: tuple[tuple[str, str], ...]) -> Predictions:
        """Counts of pixels in the original images, which are thresholded at 0.5 there; rows with bad masks are skipped."""
        data, spec, context = self.data, self.method.input, self.context
        maps = self._maps(records)
        names = data.source.mask_names
        kept, counts, lost = [], [], list(skipped)

        def chances_of(rows: range) -> Any:
            return torch.sigmoid(self.head(maps.batch(rows), self._size)).cpu().numpy()  # (B, M, S, S)

        with context.meter.phase("predict"):
            for rows, chances in halving(len(records), context, chances_of, "segment test"):
                batch = [records[row] for row in rows]
                metrics.require_finite(chances, names_of(batch)[0])
                for record, chance in zip(batch, chances):
                    geometry = data.geometry(record, spec, context)
                    try:
                        masks = read_masks(record, data, geometry)
                    except ImageError as error:
                        lost.append((record.uid, error.reason))
                        continue
                    found = {name: geometry.map_to_original(chance[channel]) >= 0.5 for channel, name in enumerate(names)}
                    kept.append(record)
                    counts.append(count_pixels(found, masks))
        uids, patients = names_of(kept)
        return Predictions(uids, patients, {"counts": stack_counts(counts, len(names))}, {"masks": names}, tuple(lost))

    @property
    def _size(self) -> tuple[int, int]:
        return self.method.input.size, self.method.input.size

    def _setting(self, name: str, default: str) -> Any:
        """A setting that protocols older than it do not state."""
        return dict(self.protocol.settings).get(name, default)

    def _maps(self, records: Records) -> FrozenMaps | TrainedMaps:
        if self.encoder is None:
            return FrozenMaps(self.method, self.data, records, self.context)
        return TrainedMaps(self.encoder, self.data, records, self.context)

    def _batches(self, records: Records, targets: Tensor) -> Callable[..., tuple[tuple[Tensor, ...], Tensor]]:
        """(rows, how often each was drawn) -> their maps and targets, moved together where the protocol augments."""
        maps, context = self._maps(records), self.context
        seed = seed_of("augmentation", self.protocol.hash, context.eval_seed)
        augmentation = self._setting("augmentation", "none")
        if augmentation not in ("none", "turn-and-zoom") or (augmentation != "none" and isinstance(maps, FrozenMaps)):
            name = self.protocol.name
            raise UserError(f"{name}: augmentation {augmentation!r} is neither none nor turn-and-zoom with encoder=finetune")

        def batch(rows: Sequence[int], epochs: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
            truth = context.to_device(targets[list(rows)])
            if augmentation == "none" or isinstance(maps, FrozenMaps):
                return maps.batch(rows), truth
            uids = [records[row].uid for row in rows]
            images, truth = turn_and_zoom(maps.images(rows), truth, uids, seed, epochs)
            return maps.batch(rows, images), truth

        return batch

    def _evaluator(self, schedule: Any) -> Callable[[], Any] | None:
        """On val, on the canvas: the primary metric, or for a schedule in epochs every metric and the loss.

        None where val has no masks. The loss is a mean over batches of the fit's size, by their rows.
        """
        chosen = rows_with_masks(self.data, "val", self.protocol)
        records, targets = canvases(chosen, self.method.input, self.data, self.context)
        if not records:
            self.context.notes["val"] = "has no masks: the last step is kept"
            return None
        maps = self._maps(records)
        in_epochs = isinstance(schedule, EpochSchedule)

        def evaluate() -> Any:
            parts, losses = [], []
            for rows in in_chunks(len(maps), schedule.batch_size if in_epochs else self.context.batch_size):
                logits, truth = self.head(maps.batch(rows), self._size), targets[list(rows)]
                parts.append(_canvas_counts((logits >= 0).cpu(), truth))
                if in_epochs:
                    terms = self.loss(logits, self.context.to_device(truth)).values()
                    losses.append(float(sum(float(term) for term in terms)) * len(rows))
            values = _val_scores(torch.cat(parts).double().numpy())
            return values | {LOSS: sum(losses) / len(maps)} if in_epochs else values[self.protocol.primary]

        return evaluate


def head_of(protocol: Protocol, info: tuple[tuple[int, int], ...], masks: int) -> nn.Module:
    """The head that a protocol's settings state, for many maps or for the one of a vision transformer ("head_one_map").

    "linear"; "last-linear"; "unet-native", the decoder on native maps; "setr"; a U-Net on a pyramid where they name none.

    Raises:
        Unsupported: maps that the head cannot read. UserError: an unknown head.
    """
    from tasks.heads.linear import LastLinear, LinearHead
    from tasks.heads.setr import SetrHead
    from tasks.heads.unet import NativeUnet, UnetHead

    settings = dict(protocol.settings)
    name = settings.get("head", "unet-pyramid")
    if len(info) == 1:
        name = settings.get("head_one_map", name)
    if name == "linear":
        return LinearHead(info, masks)
    if name == "last-linear":
        return LastLinear(info, masks)
    if name == "setr":
        return SetrHead(info, protocol.setting("setr_width"), numbers(protocol, "setr_channels"), masks)
    channels = numbers(protocol, "decoder_channels")
    if name == "unet-native":
        return NativeUnet(info, channels, masks)
    if name != "unet-pyramid":
        raise UserError(f"{protocol.name}: no head {name!r}")
    return UnetHead(info, numbers(protocol, "pyramid_strides"), protocol.setting("pyramid_width"), channels, masks)


def _canvas_counts(found: Tensor, targets: Tensor) -> Tensor:
    """found (B, M, S, S) bool, targets (B, M, S, S) uint8 -> (B, M, 4) pixels on the canvas."""
    valid, truth = targets != IGNORE, targets == 1
    found = found & valid
    return torch.stack([item.sum(dim=(2, 3)) for item in (found & truth, found, truth, valid)], dim=2)


def _val_scores(counts: Any) -> dict[str, float]:
    """Means over the masks that are defined."""
    ones = np.ones((1, len(counts)))
    made = {
        name: float(metrics.macro([metrics.mean(column, ones) for column in values.T])[0])
        for name, values in image_scores(counts).items()
    }
    return made | {name: float(metrics.macro(list(values.T))[0]) for name, values in pooled_scores(counts, ones).items()}
