"""Segmentation: a decoder on the encoder, frozen or fine-tuned with it, scored by pixel counts of the original images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import Unsupported, UserError
from benchmark.types import Predictions, Protocol
from tasks import checks
from tasks.degenerate import REFERENCE_KINDS
from tasks.heads.fit import cap_rows
from tasks.protocols_dense import SEGMENTATION
from tasks.published import segmentation as published
from tasks.scoring import score_segmentation
from tasks.segmentation_masks import as_many_negatives, canvases, rows_with_masks, trivial_rows, with_a_target

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.data.dataset import Dataset


class Segmentation:
    """Independent masks by name; rows are the records that have at least one. See `benchmark.types.Task`.

    Predictions.arrays: "counts" (N, M, 4) float64, pixels of the original image: intersection, predicted, target, valid.
    Intersection and target are nan where a row lacks that mask; pixels marked 255 (ignore) count nowhere.
    """

    name: ClassVar[str] = "segmentation"
    version: ClassVar[int] = checks.VERSIONS["segmentation"]
    needs: ClassVar[frozenset[str]] = frozenset({"dense"})
    reference_kinds: ClassVar[Mapping[str, str]] = REFERENCE_KINDS

    def protocols(self, preset: str) -> tuple[Protocol, ...]:
        """The literals of a preset, those of papers as "published". Raises UserError for an unknown one."""
        if preset == "published":
            return published.PROTOCOLS
        if preset not in SEGMENTATION:
            raise UserError(f"segmentation has no preset {preset!r}; use one of {', '.join(SEGMENTATION)}")
        return SEGMENTATION[preset]

    def check(self, data: Dataset, protocol: Protocol) -> None:
        """Raises Unsupported when train or test have no masks."""
        for split in ("train", "test"):
            if not rows_with_masks(data, split, protocol):
                raise Unsupported(f"dataset {data.name!r} has no masks in {split}; segmentation needs them in train and test")

    def run(self, method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Predictions:
        """Fits the decoder on train, selects on val where the protocol says so, and counts pixels on test."""
        from tasks.segmentation_fit import Segmenter

        chosen = rows_with_masks(data, "train", protocol, fraction, context.eval_seed)
        chosen = cap_rows(chosen, protocol.setting("train_rows"), context.eval_seed)
        train, targets = canvases(chosen, method.input, data, context)
        if not train:
            raise UserError(f"dataset {data.name!r}: no training mask of {len(chosen)} could be read; run verify on it")
        settings = dict(protocol.settings)
        if settings.get("negatives") == "as many as positives":
            train, targets = as_many_negatives(train, targets, context.eval_seed)
        context.notes["train_rows"] = len(train)
        context.notes["train_rows_with_a_target"] = int(with_a_target(targets).sum())
        model = Segmenter(method, data, protocol, context)
        model.fit(train, targets)
        test, skipped = data.readable(rows_with_masks(data, "test", protocol), method.input, context)
        return model.predict(test, skipped)

    def score(
        self, predictions: Predictions, protocol: Protocol, weights: NDArray[np.float64]
    ) -> Mapping[str, NDArray[np.float64]]:
        """As tasks.scoring.score_segmentation."""
        return score_segmentation(predictions, protocol, weights)

    def references(self, predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
        """An empty mask, the whole image, the mean training mask, and the whole lungs where they have a mask."""
        return trivial_rows(predictions, data, protocol)

    def degenerate(self, predictions: Predictions, protocol: Protocol) -> bool:
        """True where all masks but 1 % are predicted empty, or full, and the true ones are not."""
        return checks.degenerate("segmentation", predictions, protocol)
