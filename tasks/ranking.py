"""Where the right candidate stands among all: ranks over score matrices that are never held whole, whatever the block.

Scores of pooled vectors come from float32 products of blocks. What lies closer to the right one's score than their rounding is
scored again in float64, so that neither blocks nor batches move a rank, and equal vectors tie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Part = slice | Ints
ROWS, COLUMNS = 1024, 4096  # of a block: 16 MiB of scores
STRIP = 128  # rows compared at once; counts of a column over them fit 8 bits
PAIRS = 8192  # pairs scored again at once
FEW = 64  # pairs are looked at one by one where at most one in so many of a strip reaches its level
CROWDED = 16  # a strip is scored again whole where more than one in so many of its scores is near a level
THREADS = 2  # one counts for images, one for texts


class Scores(Protocol):
    """A matrix of scores, (N images, U texts), block by block.

    slack: how far a block's values may be from the exact ones; 0 where blocks are exact.
    """

    shape: tuple[int, int]
    slack: float

    def block(self, rows: Part, columns: Part) -> Floats:
        """(rows, columns) float32."""
        ...

    def take(self, rows: Ints, columns: Ints) -> Scores:
        """The scores of some images and texts, in that order."""
        ...

    def exact(self, rows: Ints, columns: Ints) -> Floats:
        """(n,) float32, the score of each pair, the same for equal inputs wherever they stand."""
        ...

    def exact_block(self, rows: slice, columns: Ints) -> Floats:
        """(rows, columns) float32, the values of `exact` for every pair."""
        ...


class PooledScores:
    """Inner products of L2-normalised vectors, (N, D) and (U, D) float32.

    The slack is λ √D u with λ = 6 and u = 2^-24: the probabilistic bound of Higham and Mary (SIAM Journal on Scientific
    Computing 41(5), 2019) on the rounding of an inner product, here of unit vectors. Errors met in practice are far smaller.
    """

    def __init__(self, images: Floats, texts: Floats) -> None:
        self.images, self.texts = np.ascontiguousarray(images), np.ascontiguousarray(texts)
        self.shape = (len(images), len(texts))
        self.slack = 6 * images.shape[1] ** 0.5 * 2.0**-24

    def block(self, rows: Part, columns: Part) -> Floats:
        """(rows, columns) float32."""
        return np.asarray(self.images[rows] @ self.texts[columns].T)

    def take(self, rows: Ints, columns: Ints) -> PooledScores:
        """The scores of some images and texts, in that order."""
        return PooledScores(self.images[rows], self.texts[columns])

    def exact(self, rows: Ints, columns: Ints) -> Floats:
        """(n,) summed in float64 and rounded to float32."""
        found = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), PAIRS):
            part = slice(start, start + PAIRS)
            left, right = self.images[rows[part]].astype(np.float64), self.texts[columns[part]].astype(np.float64)
            found[part] = np.einsum("nd,nd->n", left, right)
        return found

    def exact_block(self, rows: slice, columns: Ints) -> Floats:
        """(rows, columns) as `exact` has them: einsum sums every pair in the same order, a matrix product does not."""
        left, right = self.images[rows].astype(np.float64), self.texts[columns].astype(np.float64)
        return np.asarray(np.einsum("nd,md->nm", left, right), np.float32)


class BlockScores:
    """Scores of any function of a block's rows and columns; each block is computed twice, always with the same borders.

    Args:
        shape: (N, U). score: (rows, columns) -> (rows, columns) float32.
    """

    slack = 0.0

    def __init__(self, shape: tuple[int, int], score: Callable[[Part, Part], Floats]) -> None:
        self.shape, self.block = shape, score

    def take(self, rows: Ints, columns: Ints) -> BlockScores:
        """The scores of some images and texts, in that order."""
        return BlockScores((len(rows), len(columns)), lambda here, across: self.block(rows[here], columns[across]))

    def exact(self, rows: Ints, columns: Ints) -> Floats:
        """(n,) as the blocks have them."""
        found = np.empty(len(rows), np.float32)
        for here, across in _grid(self.shape):
            inside = np.flatnonzero((rows // ROWS == here.start // ROWS) & (columns // COLUMNS == across.start // COLUMNS))
            if len(inside):
                values = self.block(here, across)
                found[inside] = values[rows[inside] - here.start, columns[inside] - across.start]
        return found

    def exact_block(self, rows: slice, columns: Ints) -> Floats:
        """(rows, columns) as the blocks have them."""
        row, column = np.meshgrid(np.arange(rows.start, rows.stop), columns, indexing="ij")
        return self.exact(row.ravel(), column.ravel()).reshape(row.shape)


def _grid(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    for row in range(0, shape[0], ROWS):
        for column in range(0, shape[1], COLUMNS):
            yield slice(row, min(row + ROWS, shape[0])), slice(column, min(column + COLUMNS, shape[1]))


@dataclass(frozen=True, slots=True)
class Ranks:
    """What decides each query's rank: negatives above the best right one, negatives tied with it, right ones tied with it.

    images: (N, 3) int64, a query an image. texts: (N, 3) int64, a query a pair, or (U, 3), a distinct text, where merged.
    """

    images: Ints
    texts: Ints


def rank(scores: Scores, owner: Ints, right: Sequence[Ints], merged: bool) -> list[Ranks]:
    """Ranks of images among texts and of texts among images, for several pairings in one pass.

    Args:
        scores: of N images and U distinct texts.
        owner: (N,) which text each image's pair has; every text is somebody's.
        right: pairings; (N,) of each image the pair that counts as its right one, a permutation of the pairs.
        merged: a distinct text is one candidate and one query; otherwise every pair is, and equal texts tie.
    """
    owner = owner.astype(np.int64)
    sides = [_Side(scores, owner, pairs.astype(np.int64), merged) for pairs in right]
    jobs = [count for side in sides for count in (side.count_images, side.count_texts)]
    with ThreadPoolExecutor(THREADS) as pool:  # numpy compares outside the interpreter's lock
        for rows, columns in _grid(scores.shape):
            block = scores.block(rows, columns)
            list(pool.map(lambda count: count(block, rows, columns), jobs))  # noqa: B023  (the map ends before the next block)
    return [side.ranks() for side in sides]


class _Side:
    """The counts of one pairing while blocks go by."""

    def __init__(self, scores: Scores, owner: Ints, pairs: Ints, merged: bool) -> None:
        self.scores, self.pairs, self.merged = scores, pairs, merged
        self.columns = owner[pairs]  # (N,) the text that is right for each image
        self.best = scores.exact(np.arange(len(pairs)), self.columns)  # (N,) its score
        shares = np.bincount(owner, minlength=scores.shape[1])
        self.weights = None if merged or (shares == 1).all() else shares.astype(np.float64)  # pairs a column stands for
        self.order, self.level = self._queries()
        self.of_image, self.of_text = np.zeros((len(pairs), 2), np.int64), np.zeros((len(self.order), 2), np.int64)

    def _queries(self) -> tuple[Ints, Floats]:
        """The column and the score to beat of each query by text, in the order of columns."""
        if not self.merged:
            self.by_column = np.argsort(self.columns, kind="stable")
            return self.columns[self.by_column], self.best[self.by_column]
        level = np.full(self.scores.shape[1], -np.inf, np.float32)
        np.maximum.at(level, self.columns, self.best)
        return np.arange(len(level)), level

    def count_images(self, block: Floats, rows: slice, columns: slice) -> None:
        """Adds what a block holds above each image's level and level with it."""
        for start in range(0, len(block), STRIP):
            strip = block[start : start + STRIP]
            begin = rows.start + start
            self._add(self.of_image, strip, slice(begin, begin + len(strip)), columns.start, by_text=False)

    def count_texts(self, block: Floats, rows: slice, columns: slice) -> None:
        """Adds what a block holds above the level of each query by text and level with it."""
        first, last = np.searchsorted(self.order, (columns.start, columns.stop))
        places = self.order[first:last] - columns.start
        straight = len(places) == block.shape[1] and bool((places == np.arange(len(places))).all())
        for start in range(0, len(block), STRIP):
            strip = block[start : start + STRIP]
            begin = rows.start + start
            taken = strip if straight else strip[:, places]
            self._add(self.of_text, taken, slice(begin, begin + len(strip)), int(first), by_text=True)

    def _add(self, counts: Ints, strip: Floats, rows: slice, offset: int, by_text: bool) -> None:
        """Compares a strip with the levels of its columns (by_text; its columns are queries) or of its rows."""
        across = slice(offset, offset + strip.shape[1])
        level = self.level[None, across] if by_text else self.best[rows, None]
        weights = None if by_text or self.weights is None else self.weights[across]
        slack = np.float32(self.scores.slack)
        near = strip >= level - slack
        if np.count_nonzero(near) * FEW <= near.size:  # a trained encoder: one pass, and a look at what it found
            row, column = np.divmod(np.flatnonzero(near), near.shape[1])
            found = strip[row, column]
            clear = found > (level[0, column] if by_text else level[row, 0]) + slack
            share = 1 if weights is None else weights[column[clear]].astype(np.int64)
            np.add.at(counts[across if by_text else rows, 0], (column if by_text else row)[clear], share)
            self._decide(counts, row[~clear] + rows.start, column[~clear] + offset, found[~clear], by_text)
            return
        above = strip > level + slack
        near ^= above  # not clear by the block alone
        row, column = np.divmod(np.flatnonzero(near), near.shape[1])
        if slack and len(row) * CROWDED > near.size:  # a collapsed encoder: most scores are near most levels
            strip = self.scores.exact_block(rows, self.order[across] if by_text else np.arange(across.start, across.stop))
            above, near = strip > level, strip == level
            counts[across if by_text else rows, 1] += _sums(near, weights, by_text)
            row, column = row[:0], column[:0]
        counts[across if by_text else rows, 0] += _sums(above, weights, by_text)
        self._decide(counts, row + rows.start, column + offset, strip[row, column], by_text)

    def _decide(self, counts: Ints, row: Ints, column: Ints, found: Floats, by_text: bool) -> None:
        """Adds pairs that are not clear by a block alone, which found their scores; columns are queries where by_text."""
        if not len(row):
            return
        query, text = (column, self.order[column]) if by_text else (row, column)
        found = self.scores.exact(row, text) if self.scores.slack else found
        limit = (self.level if by_text else self.best)[query]
        share = np.ones(len(row), np.int64) if by_text or self.weights is None else self.weights[column].astype(np.int64)
        np.add.at(counts[:, 0], query, share * (found > limit))
        np.add.at(counts[:, 1], query, share * (found == limit))

    def ranks(self) -> Ranks:
        """The counts in the order of images and of texts, right ones taken out of the ties."""
        one = np.ones(len(self.of_image), np.int64)
        images = np.stack([self.of_image[:, 0], self.of_image[:, 1] - 1, one], axis=1)
        if self.merged:
            right = np.bincount(self.columns[self.best == self.level[self.columns]], minlength=len(self.level))
            return Ranks(images, np.stack([self.of_text[:, 0], self.of_text[:, 1] - right, right], axis=1))
        texts = np.empty((len(one), 3), np.int64)
        texts[self.pairs[self.by_column]] = np.stack([self.of_text[:, 0], self.of_text[:, 1] - 1, one], axis=1)
        return Ranks(images, texts)


def _sums(mask: NDArray[np.bool_], weights: NDArray[np.float64] | None, down: bool) -> NDArray[Any]:
    """Sums of a mask (STRIP rows at most, columns) down its columns, or along its rows with a weight for each column."""
    if down:
        return np.asarray(np.add.reduce(mask.view(np.uint8), axis=0, dtype=np.uint8))
    if weights is not None:
        return np.rint(mask @ weights).astype(np.int64)
    return np.fromiter(map(np.count_nonzero, mask), np.int64, len(mask))


def rank_counts(scores: Floats, queries: NDArray[Any], candidates: NDArray[Any]) -> Ints:
    """What decides a query's rank where any number of candidates is right, from a whole matrix.

    Args:
        scores: (Q, C), higher is nearer. queries: (Q,) and candidates: (C,) group ids; equal ids are right.

    Returns:
        (Q, 3) int64: negatives above the best positive, negatives tied with it, positives tied with it.
    """
    parts = []
    for start in range(0, len(scores), STRIP):
        block = scores[start : start + STRIP]
        right = queries[start : start + STRIP, None] == candidates[None]  # (b, C)
        best = np.where(right, block, -np.inf).max(axis=1, keepdims=True)
        tied = block == best
        parts.append(np.stack([((block > best) & ~right).sum(1), (tied & ~right).sum(1), (tied & right).sum(1)], axis=1))
    return np.concatenate(parts).astype(np.int64)
