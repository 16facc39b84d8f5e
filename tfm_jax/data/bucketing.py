"""Rows of different lengths in a few static shapes, so that a jitted step compiles a few times only."""

import functools
from collections.abc import Sequence

import numpy as np

from tfm_jax.ranges import BUCKETS, COUNT, SIZE, check_number, check_numbers

__all__ = ["BucketBatchSampler", "batch_sizes", "choose_buckets", "padding_fraction"]

Shape = tuple[int, ...]


def choose_buckets(lengths: np.ndarray, n: int, *, multiple_of: int = 8) -> list[Shape]:
    """Choose at most ``n`` shapes that pad these rows the least, by dynamic programming.

    Equivalent to::

        # with one length a row: the best of all choices of at most n lengths
        min(itertools.combinations(rounded_lengths, n), key=lambda shapes: padding_fraction(lengths, shapes))

    Args:
        lengths: the length of each row, or of each part of it (source, target). int [rows] or [rows, parts]
        n: the largest number of shapes, 1 to 1024: each is compiled.
        multiple_of: every side of a shape is a multiple of it.

    Returns:
        The shapes, each at least as large as the one before it in every part; the last holds every row. With
        several parts the rows are ordered by their longest part, and a shape is the largest of each part up
        to some row in that order.

    Raises:
        ValueError: there are no rows, or ``n`` or ``multiple_of`` is out of range.
    """
    lengths = _two_dimensional(lengths)
    if not len(lengths):
        raise ValueError("cannot choose buckets for no rows; the data set is empty")
    check_number("choose_buckets", "n", n, BUCKETS)
    check_number("choose_buckets", "multiple_of", multiple_of, SIZE)
    rounded = np.maximum(1, -(-lengths // multiple_of)) * multiple_of
    keys, at, counts = np.unique(rounded.max(1), return_inverse=True, return_counts=True)
    # A shape for each key: the largest of each part among the rows up to that key.
    shapes = np.zeros((len(keys), lengths.shape[1]), np.int64)
    np.maximum.at(shapes, at, rounded)
    shapes = np.maximum.accumulate(shapes)
    sides = shapes.sum(1)
    rows = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: the positions that the rows of the first j keys take, in as many shapes as there were rounds.
    cost = np.concatenate([[0.0], np.full(len(keys), np.inf)])
    came_from = []
    for _ in range(min(n, len(keys))):
        candidates = [cost[:j] + (rows[j] - rows[:j]) * sides[j - 1] for j in range(1, len(keys) + 1)]
        came_from.append([0] + [int(np.argmin(c)) for c in candidates])
        cost = np.concatenate([[0.0], [c.min() for c in candidates]])
    ends = [len(keys)]
    for back in reversed(came_from):
        ends.append(back[ends[-1]])
    return [tuple(shapes[end - 1].tolist()) for end in sorted(set(ends) - {0})]


def batch_sizes(shapes: Sequence[Shape], tokens: int, *, multiple_of: int = 1) -> list[int]:
    """The rows of a batch in each shape, so that every batch has about the same number of tokens.

    Equivalent to::

        [max(1, tokens // max(shape) // multiple_of) * multiple_of for shape in shapes]

    Args:
        shapes: the shapes of the buckets.
        tokens: the number of positions, padding counted, in the longest part of a batch.
        multiple_of: every size is a multiple of it (the devices that share a batch).

    Returns:
        One size for each shape; at least ``multiple_of``, even where that is more than ``tokens``.
    """
    check_numbers("batch_sizes", SIZE, tokens=tokens, multiple_of=multiple_of)
    return [max(1, tokens // max(shape) // multiple_of) * multiple_of for shape in shapes]


def padding_fraction(lengths: np.ndarray, shapes: Sequence[Shape]) -> float:
    """The share of positions that are padding when each row has the first shape that holds it.

    Args:
        lengths: int [rows] or [rows, parts]
        shapes: the shapes of the buckets, smallest first.

    Returns:
        A number from 0 (no padding) to 1 (all padding: only where every length is 0).

    Raises:
        ValueError: a row fits no shape.
    """
    sides = np.asarray(shapes).reshape(len(shapes), -1).sum(1)
    return 1.0 - float(_two_dimensional(lengths).sum() / sides[_assign(lengths, shapes)].sum())


class BucketBatchSampler:
    """Which rows, in which shape, are batch i: a function of i and the seed.

    Within an epoch every row stands in exactly one batch. With a seed the rows of a bucket that do not fill a
    batch go on to the next larger shape, so that no step is made from a few rows alone but at the end: only
    the last bucket has a batch that is filled up, with rows of index -1 (as has a shape that no later one
    holds). Without a seed the last batch of every bucket is filled up: no row is padded more than it must.

    Args:
        lengths: the length of each row's parts. int [rows] or [rows, parts]
        shapes: the shapes, smallest first, such as `choose_buckets` gives.
        sizes: the rows of a batch in each shape, such as `batch_sizes` gives; one number for all of them.
        seed: shuffles rows and batches anew in every epoch, without end. None: the rows in order, bucket by
            bucket, once (for evaluation).

    Attributes:
        per_epoch: the number of batches in an epoch.

    Raises:
        ValueError: a row fits no shape, there are no rows, or a size is not positive.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        shapes: Sequence[Shape],
        sizes: Sequence[int] | int,
        seed: int | None = None,
    ):
        self.shapes = [tuple(int(side) for side in np.atleast_1d(shape)) for shape in shapes]
        sizes = list(sizes) if isinstance(sizes, Sequence | np.ndarray) else [sizes] * len(shapes)
        for size in sizes:
            check_number("BucketBatchSampler", "a size", size, SIZE)
        if seed is not None:
            check_number("BucketBatchSampler", "seed", seed, COUNT)
        self.sizes = [int(size) for size in sizes]
        if not self.sizes or len(self.sizes) != len(self.shapes):
            raise ValueError(
                f"BucketBatchSampler: got sizes={self.sizes}; wanted one for each of {self.shapes}."
            )
        if not len(lengths):
            raise ValueError("cannot make batches of no rows; the data set is empty")
        self.rows = len(lengths)
        assigned = _assign(lengths, self.shapes)
        self._members = [np.flatnonzero(assigned == bucket) for bucket in range(len(self.shapes))]
        self.seed = seed
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)
        self.per_epoch = len(self._epoch(0))  # the same in every epoch: only which rows stand where differs

    @property
    def settings(self) -> dict[str, object]:
        """What decides the order of the rows; kept with the loader's state."""
        return {
            "rows": [len(members) for members in self._members],
            "shapes": [list(shape) for shape in self.shapes],
            "batch_sizes": self.sizes,
            "seed": self.seed,
        }

    def __getitem__(self, i: int) -> tuple[np.ndarray, Shape]:
        """The row indices of batch i (-1 fills up) and its shape."""
        if self.seed is None and i >= self.per_epoch:
            raise IndexError(i)
        bucket, indices = self._epoch(i // self.per_epoch)[i % self.per_epoch]
        return indices, self.shapes[bucket]

    def _make_epoch(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        rng = None if self.seed is None else np.random.default_rng([self.seed, epoch])
        batches = []
        members = self._members.copy()
        for bucket, size in enumerate(self.sizes):
            rows = members[bucket] if rng is None else rng.permutation(members[bucket])
            larger = self._larger(bucket)
            if rng is not None and larger is not None:
                rows, rest = np.split(rows, [len(rows) // size * size])
                members[larger] = np.concatenate([members[larger], rest])
            fill = np.full(-len(rows) % size, -1, rows.dtype)
            batches += [(bucket, batch) for batch in np.concatenate([rows, fill]).reshape(-1, size)]
        if rng is None:
            return batches
        return [batches[i] for i in rng.permutation(len(batches))]

    def _larger(self, bucket: int) -> int | None:
        """The next bucket whose shape holds this one's."""
        shape = np.array(self.shapes[bucket])
        later = range(bucket + 1, len(self.shapes))
        return next((other for other in later if (shape <= np.array(self.shapes[other])).all()), None)


def _two_dimensional(lengths: np.ndarray) -> np.ndarray:
    lengths = np.asarray(lengths)
    return lengths[:, None] if lengths.ndim == 1 else lengths


def _assign(lengths: np.ndarray, shapes: Sequence[Shape]) -> np.ndarray:
    """The first shape that holds each row."""
    lengths = _two_dimensional(lengths)
    assigned = np.full(len(lengths), -1)
    for bucket in reversed(range(len(shapes))):
        assigned[(lengths <= np.asarray(shapes[bucket])).all(1)] = bucket
    if (assigned < 0).any():
        row = int(np.argmin(assigned))
        raise ValueError(
            f"row {row} of lengths {lengths[row].tolist()} fits none of the shapes {list(shapes)}; choose "
            "the shapes from these rows too, or drop the rows that are too long (max_length)"
        )
    return assigned
