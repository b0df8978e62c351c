"""Detection: mmdet's YOLOv3 neck and head on the maps of the frozen encoder, scored as COCO does, in original pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmark import metrics
from benchmark.errors import Unsupported, UserError
from benchmark.features import FrozenMaps
from benchmark.repro import seeded
from benchmark.types import InputSpec, Predictions, Protocol, Record
from tasks.coco import average_precision
from tasks.heads.fit import Maps, Schedule, cap_rows, fit, in_chunks, names_of, numbers
from tasks.protocols_dense import DETECTION
from tasks.published import detection as published

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset
    from tasks.heads.yolo import YoloHead

Array = NDArray[np.float64]
SMALLEST = 1e-3  # pixels of a side; a box below is none


class Detection:
    """Boxes by class; rows are the records that were annotated with boxes, those without any included. See Task.

    Predictions.arrays, in original pixels, nan-padded: "detections" (N, D, 6) float64 x0, y0, x1, y1, score, class, best first;
    "truth" (N, G, 5) float64 x0, y0, x1, y1, class; "prior" (N, K, 5) float64, the mean training box of each class (relative
    coordinates) on that image, and the part of the training images that have the class.
    """

    name: ClassVar[str] = "detection"
    version: ClassVar[int] = 2  # 2: vision transformers give maps of five depths
    needs: ClassVar[frozenset[str]] = frozenset({"dense"})

    def protocols(self, preset: str) -> tuple[Protocol, ...]:
        """The literals of a preset, those of papers as "published". Raises UserError for an unknown one."""
        if preset == "published":
            return published.PROTOCOLS
        if preset not in DETECTION:
            raise UserError(f"detection has no preset {preset!r}; use one of {', '.join(DETECTION)}")
        return DETECTION[preset]

    def check(self, data: Dataset, protocol: Protocol) -> None:
        """Raises Unsupported when train or test have no box."""
        for split in ("train", "test"):
            if not any(record.boxes for record in _rows(data, split, protocol)):
                raise Unsupported(f"dataset {data.name!r} has no boxes in {split}; detection needs them in train and test")

    def run(self, method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Predictions:
        """Fits pyramid, neck and head on train, selects on val where the protocol says so, and detects on test."""
        chosen = _rows(data, "train", protocol, fraction, context.eval_seed)
        chosen = cap_rows(chosen, protocol.setting("train_rows"), context.eval_seed)
        train, _ = data.readable(chosen, method.input, context)
        if not train:
            raise UserError(f"dataset {data.name!r}: no training image of {len(chosen)} could be read; run verify on it")
        context.notes["train_rows"] = len(train)
        head = self._fit(method, data, protocol, train, context)
        test, skipped = data.readable(_rows(data, "test", protocol), method.input, context)
        maps = FrozenMaps(method, data, test, context)
        with context.meter.phase("predict"):
            found = list(_detect(head, maps, test, (method.input, data, context)))
        arrays = {
            "detections": _padded(found, 6),
            "truth": _padded([_truth(record, data) for record in test], 5),
            "prior": _priors(test, protocol, (method.input, data, context)),
        }
        uids, patients = names_of(test)
        return Predictions(uids, patients, arrays, {"classes": data.source.box_classes}, skipped)

    def score(self, predictions: Predictions, protocol: Protocol, weights: Array) -> Mapping[str, Array]:
        """COCO average precision over all areas, 100 detections: "map", "map50", "map75", "ap50/<class>", each (R,).

        A class that is absent from the truth of a draw is nan there; means are over the defined classes.

        Args:
            weights: (R, N), how often each row counts.
        """
        del protocol
        detections, truth = predictions.arrays["detections"], predictions.arrays["truth"]
        names = predictions.names["classes"]
        by_class = [average_precision(detections, truth, label, weights) for label in range(len(names))]  # (R, T) each
        made = {
            "map": metrics.macro([item.mean(axis=1) for item in by_class]),
            "map50": metrics.macro([item[:, 0] for item in by_class]),
            "map75": metrics.macro([item[:, 5] for item in by_class]),
        }
        made.update({f"ap50/{name}": item[:, 0] for name, item in zip(names, by_class)})
        return made

    def degenerate(self, predictions: Predictions, protocol: Protocol) -> bool:
        """True where no image has a predicted box."""
        return bool(np.isnan(predictions.arrays["detections"]).all())

    def references(self, predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
        """No box at all, and on every image the mean training box of each class, scored by its prevalence in training."""
        del data, protocol
        prior = predictions.arrays["prior"]  # (N, K, 5)
        labels = np.broadcast_to(np.arange(prior.shape[1], dtype=float)[None, :, None], (*prior.shape[:2], 1))
        always = np.concatenate([prior, np.where(np.isnan(prior[..., :1]), np.nan, labels)], axis=2)
        order = np.argsort(-always[..., 4], axis=1, kind="stable")  # nan last
        guesses = {
            "no box": np.full((len(prior), 1, 6), np.nan),
            "mean training box": np.take_along_axis(always, order[..., None], axis=1),
        }
        arrays = predictions.arrays
        return {title: replace(predictions, arrays={**arrays, "detections": guess}) for title, guess in guesses.items()}

    @staticmethod
    def _fit(method: Any, data: Dataset, protocol: Protocol, records: Sequence[Record], context: Context) -> YoloHead:
        from tasks.heads.yolo import YoloHead

        maps = FrozenMaps(method, data, records, context)
        targets = [_canvas_boxes(record, method.input, data, context) for record in records]
        schedule = Schedule.of(protocol)
        settings = (protocol.setting("pyramid_width"), numbers(protocol, "neck_channels"))
        with seeded("yolo head", context.eval_seed):
            head = YoloHead(maps.info, *settings, len(data.source.box_classes), method.input.size)

        def loss(rows: Sequence[int]) -> dict[str, Tensor]:
            return head.losses(maps.batch(rows), [targets[row] for row in rows])

        evaluate = _evaluator(head, protocol, (method, data, context)) if schedule.evaluations else None
        with context.meter.phase("fit"):
            best = fit(head, loss, [record.uid for record in records], schedule, context, evaluate)
        if best == best:
            context.notes["val_score"] = best
        context.notes["head_params"] = sum(item.numel() for item in head.parameters())
        return head


def _rows(data: Dataset, split: str, protocol: Protocol, fraction: float = 1.0, seed: int = 0) -> tuple[Record, ...]:
    return tuple(record for record in data.rows(split, protocol, fraction, seed) if record.boxes is not None)


def _truth(record: Record, data: Dataset) -> Array:
    """(n, 5) x0, y0, x1, y1, class."""
    classes = data.source.box_classes
    rows = [(box.x0, box.y0, box.x1, box.y1, classes.index(box.label)) for box in record.boxes or ()]
    return np.array(rows, float).reshape(-1, 5)


def _canvas_boxes(record: Record, spec: InputSpec, data: Dataset, context: Context) -> Array:
    """(n, 5) on the canvas."""
    truth = _truth(record, data)
    truth[:, :4] = data.geometry(record, spec, context).boxes_to_canvas(truth[:, :4])
    return truth[(truth[:, 2:4] - truth[:, :2] > SMALLEST).all(axis=1)]


def _padded(rows: Sequence[Array], columns: int) -> Array:
    """(N, longest, columns), nan where a row is shorter."""
    made = np.full((len(rows), max([len(row) for row in rows], default=0), columns), np.nan)
    for index, row in enumerate(rows):
        made[index, : len(row)] = row
    return made


def _detect(
    head: YoloHead, maps: Maps, records: Sequence[Record], where: tuple[InputSpec, Dataset, Context]
) -> Iterator[Array]:
    """(n, 6) of each row in original pixels, best first; boxes that lie outside the image are left out."""
    spec, data, context = where
    chunks = list(in_chunks(len(records), context.batch_size))
    for rows in context.bar(chunks, "detect", len(chunks)):
        for record, found in zip([records[row] for row in rows], head.predict(maps.batch(rows))):
            found[:, :4] = data.geometry(record, spec, context).boxes_to_original(found[:, :4])
            yield found[(found[:, 2:4] - found[:, :2] > SMALLEST).all(axis=1)]


def _evaluator(head: YoloHead, protocol: Protocol, where: tuple[Any, Dataset, Context]) -> Callable[[], float] | None:
    """The primary metric on val; None where val has no boxes."""
    method, data, context = where
    records, _ = data.readable(_rows(data, "val", protocol), method.input, context)
    if not any(record.boxes for record in records):
        return None
    maps = FrozenMaps(method, data, records, context)
    truth = _padded([_truth(record, data) for record in records], 5)
    uids, patients = names_of(records)

    def evaluate() -> float:
        found = _padded(list(_detect(head, maps, records, (method.input, data, context))), 6)
        rows = Predictions(uids, patients, {"detections": found, "truth": truth}, {"classes": data.source.box_classes})
        return float(Detection().score(rows, protocol, np.ones((1, len(records))))[protocol.primary][0])

    return evaluate


def _priors(records: Sequence[Record], protocol: Protocol, where: tuple[InputSpec, Dataset, Context]) -> Array:
    """(N, K, 5): the mean training box of each class on each image, and the part of the training images that have it.

    From all training rows, whatever the fraction, so that the reference is the same for every row of a table.
    """
    spec, data, context = where
    train, _ = data.readable(_rows(data, "train", protocol), spec, context)
    boxes = [_truth(record, data) for record in train]
    sizes = [_size(record, spec, data, context) for record in train]
    relative = np.concatenate([truth[:, :4] / size for truth, size in zip(boxes, sizes)])
    labels = np.concatenate([truth[:, 4] for truth in boxes])
    prior = np.full((len(records), len(data.source.box_classes), 5), np.nan)
    scale = np.array([_size(record, spec, data, context) for record in records]).reshape(-1, 4)
    for label in np.unique(labels).astype(int):
        prior[:, label, :4] = relative[labels == label].mean(axis=0) * scale
        prior[:, label, 4] = np.mean([bool((truth[:, 4] == label).any()) for truth in boxes])
    return prior


def _size(record: Record, spec: InputSpec, data: Dataset, context: Context) -> Array:
    geometry = data.geometry(record, spec, context)
    return np.array((geometry.width, geometry.height, geometry.width, geometry.height), float)
