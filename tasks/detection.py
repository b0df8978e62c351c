"""Detection: a box head on the maps of the frozen encoder, scored in original pixels, every image counting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmark.errors import Unsupported, UserError
from benchmark.features import FrozenMaps
from benchmark.repro import seeded
from benchmark.types import InputSpec, Predictions, Protocol, Record
from tasks.detection_metrics import detection_scores, filtered_map
from tasks.detection_rows import collapsed, guesses, has_area, image_sizes, n_clipped, padded, priors, true_boxes
from tasks.heads.fit import Maps, Schedule, cap_rows, fit, in_chunks, names_of
from tasks.protocols_dense import DETECTION
from tasks.published import detection as published

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset
    from tasks.heads.box_head import BoxHead

Array = NDArray[np.float64]
Where = tuple[InputSpec, "Dataset", "Context"]


class Detection:
    """Boxes by class; rows are the records that were annotated with boxes, those without any included. See Task.

    Boxes that leave the image are clipped to it; their number is noted.

    Predictions.arrays, in original pixels, nan-padded: "detections" (N, D, 6) float64 x0, y0, x1, y1, score, class, best first;
    "truth" (N, G, 5) float64 x0, y0, x1, y1, class; "prior" (N, K, 5) float64, the mean training box of each class (relative
    coordinates) on that image, and the part of the training images that have the class; "sizes" (N, 2) float64 width, height.
    """

    name: ClassVar[str] = "detection"
    version: ClassVar[int] = 3  # 3: boxes are clipped to the image, whose size is kept; 2: maps of five depths
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
        """Fits pyramid, neck and head on train, selects on val where the protocol says so, and detects on test.

        Raises:
            Unsupported: the fraction holds no box. UserError: no image can be read, or a loss is not finite.
        """
        where = (method.input, data, context)
        chosen = _rows(data, "train", protocol, fraction, context.eval_seed)
        chosen = cap_rows(chosen, protocol.setting("train_rows"), context.eval_seed)
        train, _ = data.readable(chosen, method.input, context)
        if not train:
            raise UserError(f"dataset {data.name!r}: no training image of {len(chosen)} could be read; run verify on it")
        if not any(record.boxes for record in train):
            raise Unsupported(
                f"none of the {len(train)} training images of {data.name!r} at fraction {fraction:g} has a box; "
                "use a larger one (--labels) or another draw (--eval-seed)"
            )
        context.notes["train_rows"] = len(train)
        head = self._fit(method, data, protocol, train, context)
        test, skipped = data.readable(_rows(data, "test", protocol), method.input, context)
        maps = FrozenMaps(method, data, test, context)
        with context.meter.phase("predict"):
            found = list(_detect(head, maps, test, where))
        sizes = image_sizes(test, *where)
        arrays = {
            "detections": padded(found, 6),
            "truth": _truth(test, where),
            "prior": _priors(sizes, protocol, where),
            "sizes": sizes,
        }
        clipped = n_clipped(test, sizes) + n_clipped(train, image_sizes(train, *where))
        if clipped:
            context.notes["boxes_clipped"] = clipped
        uids, patients = names_of(test)
        return Predictions(uids, patients, arrays, {"classes": data.source.box_classes}, skipped)

    def score(self, predictions: Predictions, protocol: Protocol, weights: Array) -> Mapping[str, Array]:
        """What `detection_scores` gives, (R,) each, and MGCA's "map40_75_mgca_filtered" for a protocol that states its
        confidence threshold "filtered_confidence".

        Args:
            weights: (R, N), how often each row counts.
        """
        rows = (predictions.arrays["detections"], predictions.arrays["truth"], predictions.names["classes"], weights)
        made = detection_scores(*rows)
        threshold = dict(protocol.settings).get("filtered_confidence")
        if threshold is not None:
            made["map40_75_mgca_filtered"] = filtered_map(*rows, confidence=float(threshold))
        return made

    def degenerate(self, predictions: Predictions, protocol: Protocol) -> bool:
        """True where no image has a detection, or all images have the same ones."""
        return collapsed(predictions.arrays)

    def references(self, predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
        """No box at all, and on every image a box in the middle, or the mean training box, of each class."""
        del data, protocol
        arrays = predictions.arrays
        made = guesses(arrays["prior"], arrays["sizes"])
        return {title: replace(predictions, arrays={**arrays, "detections": guess}) for title, guess in made.items()}

    @staticmethod
    def _fit(method: Any, data: Dataset, protocol: Protocol, records: Sequence[Record], context: Context) -> BoxHead:
        from tasks.heads.detectors import build_head

        where = (method.input, data, context)
        maps = FrozenMaps(method, data, records, context)
        targets = [_canvas_boxes(record, where) for record in records]
        schedule = Schedule.of(protocol)
        with seeded("yolo head", context.eval_seed):
            head = build_head(protocol, maps.info, len(data.source.box_classes), method.input.size)

        def loss(rows: Sequence[int]) -> dict[str, Tensor]:
            return head.losses(maps.batch(rows), [targets[row] for row in rows])

        evaluate = _evaluator(head, protocol, (method, data, context)) if schedule.evaluations else None
        with context.meter.phase("fit"), seeded("regions", schedule.protocol, context.eval_seed):  # Faster R-CNN samples them
            best = fit(head, loss, [record.uid for record in records], schedule, context, evaluate)
        if best == best:
            context.notes["val_score"] = best
        context.notes["head_params"] = sum(item.numel() for item in head.parameters())
        return head


def _rows(data: Dataset, split: str, protocol: Protocol, fraction: float = 1.0, seed: int = 0) -> tuple[Record, ...]:
    return tuple(record for record in data.rows(split, protocol, fraction, seed) if record.boxes is not None)


def _boxes(records: Sequence[Record], where: Where) -> list[Array]:
    """(n, 5) of each row, in original pixels."""
    classes = where[1].source.box_classes
    return [true_boxes(record, classes, size) for record, size in zip(records, image_sizes(records, *where))]


def _truth(records: Sequence[Record], where: Where) -> Array:
    return padded(_boxes(records, where), 5)


def _canvas_boxes(record: Record, where: Where) -> Array:
    """(n, 5) on the canvas."""
    spec, data, context = where
    (truth,) = _boxes([record], where)
    truth[:, :4] = data.geometry(record, spec, context).boxes_to_canvas(truth[:, :4])
    return truth[has_area(truth)]


def _detect(head: BoxHead, maps: Maps, records: Sequence[Record], where: Where) -> Iterator[Array]:
    """(n, 6) of each row in original pixels, best first; boxes that lie outside the image are left out."""
    spec, data, context = where
    chunks = list(in_chunks(len(records), context.batch_size))
    for rows in context.bar(chunks, "detect", len(chunks)):
        for record, found in zip([records[row] for row in rows], head.predict(maps.batch(rows))):
            found[:, :4] = data.geometry(record, spec, context).boxes_to_original(found[:, :4])
            yield found[has_area(found)]


def _evaluator(head: BoxHead, protocol: Protocol, where: tuple[Any, Dataset, Context]) -> Callable[[], float] | None:
    """The primary metric on val; None where val has no boxes."""
    method, data, context = where
    records, _ = data.readable(_rows(data, "val", protocol), method.input, context)
    if not any(record.boxes for record in records):
        return None
    maps = FrozenMaps(method, data, records, context)
    truth = _truth(records, (method.input, data, context))
    uids, patients = names_of(records)

    def evaluate() -> float:
        found = padded(list(_detect(head, maps, records, (method.input, data, context))), 6)
        rows = Predictions(uids, patients, {"detections": found, "truth": truth}, {"classes": data.source.box_classes})
        return float(Detection().score(rows, protocol, np.ones((1, len(records))))[protocol.primary][0])

    return evaluate


def _priors(sizes: Array, protocol: Protocol, where: Where) -> Array:
    """See `priors`; from all training rows, whatever the fraction, so that the reference is the same for a whole table."""
    spec, data, context = where
    train, _ = data.readable(_rows(data, "train", protocol), spec, context)
    return priors(_boxes(train, where), image_sizes(train, *where), sizes, len(data.source.box_classes))
