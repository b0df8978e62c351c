"""The part of detection that needs a method: the head of a protocol, fitted with or without the encoder, and its boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmark.features import FrozenMaps, halving
from benchmark.features_trained import Finetuned, TrainedEncoder, TrainedMaps
from benchmark.repro import seeded
from benchmark.types import Predictions, Protocol, Record
from tasks.detection_rows import Array, has_area, image_sizes, padded, rows_with_boxes, true_boxes
from tasks.heads.box_head import BoxHead
from tasks.heads.detectors import build_head
from tasks.heads.epochs import EpochSchedule, schedule_of
from tasks.heads.fit import Maps, Schedule, dense_problem, names_of
from tasks.heads.loop import fit

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset

Records = Sequence[Record]
Score = Callable[[Predictions, Protocol, Array], Any]


@dataclass(slots=True)
class Detector:
    """A head for a method, and the encoder where it is trained with it.

    Args:
        method: with the capability "dense". protocol: its settings state head, encoder and schedule.
        score: `Detection.score`, by which weights are chosen on val.
    """

    method: Any
    data: Dataset
    protocol: Protocol
    context: Context
    score: Score
    encoder: TrainedEncoder | None = field(init=False, default=None)
    head: BoxHead = field(init=False)

    def __post_init__(self) -> None:
        settings = dict(self.protocol.settings)
        if settings.get("encoder", "frozen") == "finetune":
            with self.context.meter.phase("fit"):
                self.encoder = TrainedEncoder(self.method, freeze_bn=bool(settings["freeze_bn"]))
        info, classes = self.method.feature_info, len(self.data.source.box_classes)
        with seeded("yolo head", self.context.eval_seed):
            self.head = build_head(self.protocol, info, classes, self.method.input.size)

    def fit(self, records: Records) -> None:
        """Fits the head, and the encoder where the protocol says so; notes the best score on val.

        Raises:
            UserError: a loss that is not finite.
        """
        context, schedule = self.context, schedule_of(self.protocol)
        whole = self.head if self.encoder is None else Finetuned(self.encoder, self.head)
        maps, targets = self._maps(records), [self._canvas_boxes(record) for record in records]

        def loss(rows: Sequence[int], epochs: Sequence[int]) -> dict[str, Tensor]:
            del epochs
            return self.head.losses(maps.batch(rows), [targets[row] for row in rows])

        selects = isinstance(schedule, EpochSchedule) or (isinstance(schedule, Schedule) and schedule.evaluations)
        evaluate = self._evaluator() if selects else None
        with context.meter.phase("fit"), seeded("regions", schedule.protocol, context.eval_seed):  # Faster R-CNN draws them
            found = fit(dense_problem(whole, loss, records, evaluate, context), schedule, context)
        if found.best:
            context.notes["val_score"] = found.score
        context.notes["head_params"] = sum(item.numel() for item in self.head.parameters())
        if self.encoder is not None:
            context.notes["encoder_params_trained"] = sum(item.numel() for item in self.encoder.trained)

    def predict(self, records: Records) -> Array:
        """(N, D, 6) in original pixels, best first, nan-padded."""
        maps = self._maps(records)
        with self.context.meter.phase("predict"):
            return self._detect(maps, records)

    def truth(self, records: Records) -> Array:
        """(N, G, 5) in original pixels, nan-padded."""
        return padded(self.boxes(records), 5)

    def boxes(self, records: Records) -> list[Array]:
        """(n, 5) of each row, in original pixels."""
        classes = self.data.source.box_classes
        return [true_boxes(record, classes, size) for record, size in zip(records, self.sizes(records))]

    def sizes(self, records: Records) -> Array:
        """(N, 2) width and height of the original images."""
        return image_sizes(records, self.method.input, self.data, self.context)

    def _maps(self, records: Records) -> Maps:
        if self.encoder is None:
            return FrozenMaps(self.method, self.data, records, self.context)
        return TrainedMaps(self.encoder, self.data, records, self.context)

    def _canvas_boxes(self, record: Record) -> Array:
        """(n, 5) on the canvas."""
        (truth,) = self.boxes([record])
        geometry = self.data.geometry(record, self.method.input, self.context)
        truth[:, :4] = geometry.boxes_to_canvas(truth[:, :4])
        return truth[has_area(truth)]

    @torch.no_grad()
    def _detect(self, maps: Maps, records: Records) -> Array:
        """As `predict`; boxes that lie outside the image are left out."""
        context, made = self.context, []
        for rows, boxes in halving(len(records), context, lambda rows: self.head.predict(maps.batch(rows)), "detect"):
            for record, found in zip([records[row] for row in rows], boxes):
                geometry = self.data.geometry(record, self.method.input, context)
                found[:, :4] = geometry.boxes_to_original(found[:, :4])
                made.append(found[has_area(found)])
        return padded(made, 6)

    def _evaluator(self) -> Callable[[], Any] | None:
        """On val: the primary metric, or for a schedule in epochs every metric. None where val has no boxes."""
        records, _ = self.data.readable(rows_with_boxes(self.data, "val", self.protocol), self.method.input, self.context)
        if not any(record.boxes for record in records):
            self.context.notes["val"] = "has no boxes: the last step is kept"
            return None
        maps, truth = self._maps(records), self.truth(records)
        uids, patients = names_of(records)
        in_epochs = "epochs" in dict(self.protocol.settings)

        def evaluate() -> Any:
            arrays = {"detections": self._detect(maps, records), "truth": truth}
            rows = Predictions(uids, patients, arrays, {"classes": self.data.source.box_classes})
            values = self.score(rows, self.protocol, np.ones((1, len(records))))
            found = {name: float(value[0]) for name, value in values.items()}
            return found if in_epochs else found[self.protocol.primary]

        return evaluate
