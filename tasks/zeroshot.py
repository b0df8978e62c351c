"""Zero-shot classification: is the image nearer to "X is observed" or to "no X is observed"?

Protocols with an "answer" ask which one of several classes it is: tasks/multiclass.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark import metrics
from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.features import embed_images, embed_texts
from benchmark.types import Features, Predictions, Protocol, Record
from tasks import checks, multiclass
from tasks.classes import of_protocol
from tasks.degenerate import REFERENCE_KINDS
from tasks.labels import LabelScores, check_labels, label_predictions, labelled_rows
from tasks.prompts import PROMPT_SETS
from tasks.protocols import ZERO_SHOT
from tasks.published import zeroshot as published
from tasks.scoring import asks_for_one_class, score_zeroshot


class ZeroShot(LabelScores):
    """Rows are test images with a known label. Arrays: scores, predicted, targets (N, K).

    Where the protocol has a "spread": template_scores (N, T, K), of each template alone.
    """

    name: ClassVar[str] = "zeroshot"
    version: ClassVar[int] = checks.VERSIONS["zeroshot"]
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    reference_kinds: ClassVar[Mapping[str, str]] = REFERENCE_KINDS

    def protocols(self, preset: str) -> tuple[Protocol, ...]:
        """The same at every preset; those of papers as "published"."""
        return published.PROTOCOLS if preset == "published" else ZERO_SHOT

    def check(self, data: Dataset, protocol: Protocol) -> None:
        """Raises Unsupported where a class is lacking, or no test row has a known label, or exactly one class."""
        if asks_for_one_class(protocol):
            multiclass.check(data, protocol)
        else:
            check_labels(of_protocol(data, protocol), protocol, ("test",))

    def run(self, method: Any, data: Dataset, protocol: Protocol, fraction: float, context: Context) -> Predictions:
        """Scores of the test rows; thresholds come from the validation rows."""
        if asks_for_one_class(protocol):
            return multiclass.run(method, data, protocol, context)
        data = of_protocol(data, protocol)
        sides = self._prompt_features(method, data, protocol, context)
        text = tuple(Features(torch.nn.functional.normalize(side.mean(dim=1), dim=-1)) for side in sides)
        val, _ = data.readable(labelled_rows(data, protocol, "val"), method.input, context)
        test, skipped = data.readable(labelled_rows(data, protocol, "test"), method.input, context)
        val_scores = self._scores(method, data, val, text, context)
        scores = self._scores(method, data, test, text, context)
        thresholds = metrics.f1_thresholds(val_scores, data.labels(val))
        found = label_predictions(data, test, scores, scores >= thresholds, skipped)
        if "spread" not in dict(protocol.settings):
            return found
        templates = [tuple(Features(side[:, place]) for side in sides) for place in range(sides[0].shape[1])]
        alone = np.stack([self._scores(method, data, test, pair, context) for pair in templates], axis=1)
        return replace(found, arrays={**found.arrays, "template_scores": alone})

    def score(self, predictions: Predictions, protocol: Protocol, weights: metrics.Array) -> Mapping[str, metrics.Array]:
        """As tasks.scoring.score_zeroshot."""
        return score_zeroshot(predictions, protocol, weights)

    def references(self, predictions: Predictions, data: Dataset, protocol: Protocol) -> Mapping[str, Predictions]:
        """Majority class and all positive; uniform guess and majority class where one class is the answer."""
        if asks_for_one_class(protocol):
            return multiclass.references(predictions, data, protocol)
        return super().references(predictions, of_protocol(data, protocol), protocol)

    def degenerate(self, predictions: Predictions, protocol: Protocol) -> bool:
        """True where no class has two different scores, or where every row gets the same one class."""
        return checks.degenerate("zeroshot", predictions, protocol)

    def flags(self, protocol: Protocol) -> tuple[str, ...]:
        """("transductive",) where a row's answer depends on the other test rows."""
        return checks.flags("zeroshot", protocol)

    def _prompt_features(self, method: Any, data: Dataset, protocol: Protocol, context: Context) -> tuple[Tensor, Tensor]:
        """Positive and negative prompts of each class, each (K, T, D), normalised."""
        prompts = [PROMPT_SETS[protocol.setting("prompts")].prompts(name) for name in data.classes]
        flat = [[prompt for pair in prompts for prompt in pair[side]] for side in range(2)]
        pooled = [embed_texts(method, side, context).pooled for side in flat]
        positive, negative = (torch.unflatten(side, 0, (len(data.classes), -1)) for side in pooled)  # (K * T, D) -> (K, T, D)
        return positive, negative

    def _scores(
        self, method: Any, data: Dataset, records: Sequence[Record], text: tuple[Features, ...], context: Context
    ) -> NDArray[np.float64]:
        """(N, K): similarity to the positive less similarity to the negative side, text, each (K, D)."""
        if not records:
            return np.zeros((0, len(data.classes)))
        images = embed_images(method, data, records, context)
        with context.meter.phase("predict"), torch.inference_mode():
            positive, negative = (method.similarity(images, side) for side in text)
            return np.asarray((positive - negative).double().numpy())
