"""What a result from elsewhere is checked by, without torch or the data: versions, truth, and answers that ignore the image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmark.types import Predictions, Protocol
from tasks.degenerate import almost, commonest_share, flat_scores
from tasks.detection_rows import collapsed
from tasks.scoring import DIRECTIONS, asks_by_query, asks_for_one_class, by_pair
from tasks.segmentation_scores import PREDICTED, TARGET, VALID

Array = NDArray[np.float64]
VERSIONS = {
    "retrieval": 3,  # 3: reciprocal ranks
    "zeroshot": 1,
    "classification": 2,  # 2: features of the tower, before any projection
    "segmentation": 2,  # 2: vision transformers give maps of five depths
    "detection": 3,  # 3: boxes are clipped to the image, whose size is kept; 2: maps of five depths
}
OF_ROW = ("targets", "truth", "sizes")  # arrays of the truth, each row of one image
OF_POOL = ("t2i_share", "right")  # of the truth of all rows together


def truth(predictions: Predictions, whole: bool) -> Mapping[str, Array]:
    """What predictions say of the truth, name -> (N, ...); not what the ranks of retrieval hold of it.

    Args:
        whole: no row is left out, so that what depends on all of them is given too.
    """
    arrays = predictions.arrays
    found = {name: arrays[name] for name in (*OF_ROW, *(OF_POOL if whole else ())) if name in arrays}
    if "counts" in arrays:
        found["counts"] = arrays["counts"][..., [TARGET, VALID]]
    return found


def degenerate(task: str, predictions: Predictions, protocol: Protocol) -> bool:
    """Whether (almost) every row gets (almost) the same answer.

    Retrieval: half of the queries tie with most of the pool. Labels: no class has two different scores but for 1 % of the
    images. One class of several: every row but 1 % gets the same answer. Segmentation: all masks but 1 % are predicted
    empty, or full, and the true ones are not. Detection: as `collapsed`.
    """
    if task == "retrieval":
        return _tied(predictions, protocol)
    if task == "segmentation":
        return _one_mask(predictions)
    if task == "detection":
        return collapsed(predictions.arrays)
    if asks_for_one_class(protocol):
        return almost(commonest_share(predictions.arrays["predicted"]))
    return flat_scores(predictions.arrays["scores"])


def _tied(predictions: Predictions, protocol: Protocol) -> bool:
    if protocol.setting("match") == "class":
        by_direction = [predictions.arrays[f"{direction}_ties"] for direction in DIRECTIONS]
        return any(len(ties) > 2 and np.median(ties) > len(ties) / 2 for ties in by_direction)
    if asks_by_query(protocol):
        ties, total = predictions.arrays["ties"], predictions.arrays["right"][:, 1]
        return bool(np.median(ties / total) > 0.5 and total.max() > 2)
    tied = by_pair(predictions.arrays["i2t"], lambda _above, ties, _right: ties)
    pool = protocol.setting("pool")
    others = (len(tied) if pool == "full" else pool) - 1
    return bool(others > 1 and np.nanmedian(tied) > others / 2)


def _one_mask(predictions: Predictions) -> bool:
    counts = predictions.arrays["counts"]
    predicted, valid, target = counts[..., PREDICTED], counts[..., VALID], np.nan_to_num(counts[..., TARGET])
    found: list[bool] = []
    for answer, true in ((predicted == 0, target == 0), (predicted == valid, target == valid)):
        found.append(bool(answer.all()) or (almost(answer.mean()) and not almost(true.mean())))
    return any(found)


def flags(task: str, protocol: Protocol) -> tuple[str, ...]:
    """("transductive",) where a row's answer depends on the other test rows."""
    settings = dict(protocol.settings) if task == "zeroshot" else {}
    return ("transductive",) if settings.get("normalisation") == "z-score over test images" else ()
