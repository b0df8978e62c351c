"""Zero-shot classification: is the image nearer to "X is observed" or to "no X is observed"?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark import metrics
from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.features import embed_images, embed_texts
from benchmark.types import Features, Predictions, Protocol, Record
from tasks.labels import LabelScores, check_labels, label_predictions, labelled_rows
from tasks.prompts import PROMPT_SETS
from tasks.protocols import ZERO_SHOT
from tasks.published import zeroshot as published


class ZeroShot(LabelScores):
    """Rows are test images with a known label. Arrays: scores, predicted, targets (N, K)."""

    name: ClassVar[str] = "zeroshot"
    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    def protocols(self, preset: str) -> tuple[Protocol, ...]:
        """The same at every preset; those of papers as "published"."""
        return published.PROTOCOLS if preset == "published" else ZERO_SHOT

    def check(self, data: Dataset, protocol: Protocol) -> None:
        """Raises Unsupported where no test row has a known label."""
        check_labels(data, protocol, ("test",))

    def run(self, method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Predictions:
        """Scores of the test rows; thresholds come from the validation rows."""
        text = self._text_features(method, data, protocol, context)
        val, _ = data.readable(labelled_rows(data, protocol, "val"), method.input, context)
        test, skipped = data.readable(labelled_rows(data, protocol, "test"), method.input, context)
        val_scores = self._scores(method, data, val, text, context)
        scores = self._scores(method, data, test, text, context)
        thresholds = metrics.f1_thresholds(val_scores, data.labels(val))
        return label_predictions(data, test, scores, scores >= thresholds, skipped)

    def _text_features(self, method: Any, data: Dataset, protocol: Protocol, context: Context) -> tuple[Features, Features]:
        """Two (K, D) features: the normalised mean of the positive and of the negative prompts of each class."""
        prompts = [PROMPT_SETS[protocol.setting("prompts")].prompts(name) for name in data.classes]
        sides = []
        for side in range(2):
            flat = [prompt for pair in prompts for prompt in pair[side]]
            pooled = embed_texts(method, flat, context).pooled
            mean = torch.unflatten(pooled, 0, (len(data.classes), -1)).mean(dim=1)  # (K * templates, D) -> (K, D)
            sides.append(Features(torch.nn.functional.normalize(mean, dim=-1)))
        return sides[0], sides[1]

    def _scores(
        self, method: Any, data: Dataset, records: Sequence[Record], text: tuple[Features, Features], context: Context
    ) -> NDArray[np.float64]:
        """(N, K): similarity to the positive less similarity to the negative side."""
        if not records:
            return np.zeros((0, len(data.classes)))
        images = embed_images(method, data, records, context)
        with context.meter.phase("predict"), torch.inference_mode():
            positive, negative = (method.similarity(images, side) for side in text)
            return np.asarray((positive - negative).double().numpy())
