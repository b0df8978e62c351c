"""Detection: a box head on the maps of an encoder, scored in original pixels, every image counting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import Unsupported, UserError
from benchmark.types import Predictions, Protocol, Record
from tasks import checks
from tasks.degenerate import REFERENCE_KINDS
from tasks.detection_rows import guesses, n_clipped, priors, rows_with_boxes
from tasks.heads.fit import cap_rows, names_of
from tasks.protocols_dense import DETECTION
from tasks.published import detection as published
from tasks.scoring import score_detection

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset

Array = NDArray[np.float64]


class Detection:
    """Boxes by class; rows are the records that were annotated with boxes, those without any included. See Task.

    Boxes that leave the image are clipped to it; their number is noted.

    Predictions.arrays, in original pixels, nan-padded: "detections" (N, D, 6) float64 x0, y0, x1, y1, score, class, best first;
    "truth" (N, G, 5) float64 x0, y0, x1, y1, class; "prior" (N, K, 5) float64, the mean training box of each class (relative
    coordinates) on that image, and the part of the training images that have the class; "sizes" (N, 2) float64 width, height.
    """

    name: ClassVar[str] = "detection"
    version: ClassVar[int] = checks.VERSIONS["detection"]
    needs: ClassVar[frozenset[str]] = frozenset({"dense"})
    reference_kinds: ClassVar[Mapping[str, str]] = REFERENCE_KINDS

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
            if not any(record.boxes for record in rows_with_boxes(data, split, protocol)):
                raise Unsupported(f"dataset {data.name!r} has no boxes in {split}; detection needs them in train and test")

    def run(self, method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Predictions:
        """Fits pyramid, neck and head on train, selects on val where the protocol says so, and detects on test.

        Raises:
            Unsupported: the fraction holds no box. UserError: no image can be read, or a loss is not finite.
        """
        from tasks.detection_fit import Detector

        train = _training_rows(method, data, protocol, fraction, context)
        context.notes["train_rows"] = len(train)
        model = Detector(method, data, protocol, context, self.score)
        model.fit(train)
        test, skipped = data.readable(rows_with_boxes(data, "test", protocol), method.input, context)
        detections, sizes = model.predict(test), model.sizes(test)
        everyone, _ = data.readable(rows_with_boxes(data, "train", protocol), method.input, context)
        arrays = {
            "detections": detections,
            "truth": model.truth(test),
            "prior": priors(model.boxes(everyone), model.sizes(everyone), sizes, len(data.source.box_classes)),
            "sizes": sizes,
        }
        clipped = n_clipped(test, sizes) + n_clipped(train, model.sizes(train))
        if clipped:
            context.notes["boxes_clipped"] = clipped
        uids, patients = names_of(test)
        return Predictions(uids, patients, arrays, {"classes": data.source.box_classes}, skipped)

    def score(self, predictions: Predictions, protocol: Protocol, weights: Array) -> Mapping[str, Array]:
        """As tasks.scoring.score_detection."""
        return score_detection(predictions, protocol, weights)

    def degenerate(self, predictions: Predictions, protocol: Protocol) -> bool:
        """True where no image has a detection, or all images have the same ones."""
        return checks.degenerate("detection", predictions, protocol)

    def references(self, predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
        """No box at all, and on every image a box in the middle, or the mean training box, of each class."""
        del data, protocol
        arrays = predictions.arrays
        made = guesses(arrays["prior"], arrays["sizes"])
        return {title: replace(predictions, arrays={**arrays, "detections": guess}) for title, guess in made.items()}


def _training_rows(method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> tuple[Record, ...]:
    """The readable ones. Raises UserError or Unsupported, see Detection.run."""
    chosen = rows_with_boxes(data, "train", protocol, fraction, context.eval_seed)
    chosen = cap_rows(chosen, protocol.setting("train_rows"), context.eval_seed)
    train, _ = data.readable(chosen, method.input, context)
    if not train:
        raise UserError(f"dataset {data.name!r}: no training image of {len(chosen)} could be read; run verify on it")
    if not any(record.boxes for record in train):
        raise Unsupported(
            f"none of the {len(train)} training images of {data.name!r} at fraction {fraction:g} has a box; "
            "use a larger one (--labels) or another draw (--eval-seed)"
        )
    return train
