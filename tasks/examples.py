"""A few queries of a retrieval cell to look at: the image, its own report, its rank and the reports that rank before others.

Only of synthetic data (source flag "phantom"): reports and pixels of real data stay where they are.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmark.context import Context
from benchmark.data.dataset import Dataset
from benchmark.store import write_json
from benchmark.types import InputSpec, Record
from tasks.ranking import Ints, Scores

SCHEMA = 1
QUERIES, FOUND, SIDE = 6, 3, 96  # queries of a cell, reports of each, pixels of a thumbnail's longer side


def write_examples(
    gallery: tuple[Dataset, Sequence[Record], NDArray[np.str_]],
    scores: Scores,
    ranks: tuple[Ints, Ints],
    spec: InputSpec,
    context: Context,
    candidates: int,
) -> None:
    """Writes the file that the context names; nothing where it names none or where the data is not synthetic.

    Args:
        gallery: the data set, N records in the order of uids, and their U distinct texts.
        scores: of N images and U texts, those that gave the ranks.
        ranks: owner (N,), the text of each image; counts (N, 3) of tasks.ranking.Ranks.images.
        spec: whose cached pixels become thumbnails. candidates: among which images are ranked.

    Raises:
        UserError: the file cannot be written.
    """
    data, records, texts = gallery
    if context.examples is None or not data.synthetic:
        return
    rows = chosen_rows(len(records))
    values, (owner, counts) = scores_of(scores, rows), ranks
    images = data.pixels(spec, context).take([records[row] for row in rows])
    queries = [
        {
            "uid": records[row].uid,
            "report": str(texts[owner[row]]),
            "rank": 1 + int(counts[row, 0]),
            "tied": int(counts[row, 1]),
            "image": thumbnail(image),
            "found": [
                {"report": str(texts[place]), "score": float(line[place]), "right": bool(place == owner[row])}
                for place in np.argsort(-line, kind="stable")[:FOUND]
            ],
        }
        for row, line, image in zip(rows, values, images, strict=True)
    ]
    write_json(context.examples, {"schema": SCHEMA, "candidates": candidates, "queries": queries})


def chosen_rows(n: int) -> list[int]:
    """At most QUERIES of n rows, evenly spaced from the first to the last: the same for every method with the same rows."""
    return sorted({round(place) for place in np.linspace(0, n - 1, min(n, QUERIES)).tolist()})


@torch.inference_mode()
def scores_of(scores: Scores, rows: Sequence[int]) -> NDArray[np.float32]:
    """(rows, U) float32, the values by which ties and ranks are decided."""
    count = scores.shape[1]
    found = scores.exact(np.repeat(np.array(rows, np.int64), count), np.tile(np.arange(count), len(rows)))
    return found.reshape(len(rows), count)


def thumbnail(image: NDArray[Any]) -> str:
    """(S, S) uint8 as a grey PNG of at most SIDE pixels a side, in a data URI."""
    small, file = Image.fromarray(image), BytesIO()
    small.thumbnail((SIDE, SIDE))
    small.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
