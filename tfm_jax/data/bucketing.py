"""Bucketing: examples of different lengths in a few static shapes, so that a step compiles few times."""

import functools
from collections.abc import Sequence

import numpy as np

from tfm_jax.ranges import BUCKETS, COUNT, SIZE, check_number, check_numbers
from tfm_jax.types import Json

__all__ = ["BucketBatchSampler", "batch_sizes", "choose_buckets", "padding_fraction"]

Shape = tuple[int, ...]


def choose_buckets(lengths: np.ndarray, n: int, *, multiple_of: int = 8) -> list[Shape]:
    """At most ``n`` bucket shapes with the least padding, by dynamic programming.

    Equivalent to::

        # with one length per example: the best of all choices of at most n lengths
        min(itertools.combinations(rounded_lengths, n), key=lambda shapes: padding_fraction(lengths, shapes))

    Args:
      lengths: the length of each example, or of each part of it (source, target). int [examples] or
        [examples, parts]
      n: the largest number of shapes, 1 to 1024: each is compiled.
      multiple_of: every side of a shape is a multiple of it.

    Returns:
      The shapes, each at least as large as the one before it in every part; the last holds every example.
      With several parts the examples are ordered by their longest part, and a shape is the maximum of each
      part over a prefix of that order.

    Raises:
      ValueError: there are no examples, or ``n`` or ``multiple_of`` is out of range.
    """
    lengths = _two_dimensional(lengths)
    if not len(lengths):
        raise ValueError("choose_buckets: got no lengths; wanted those of all examples. Choose other data.")
    check_number("choose_buckets", "n", n, BUCKETS)
    check_number("choose_buckets", "multiple_of", multiple_of, SIZE)
    rounded = np.maximum(1, -(-lengths // multiple_of)) * multiple_of
    longest, inverse, counts = np.unique(rounded.max(1), return_inverse=True, return_counts=True)
    # A shape per longest part: the maximum of each part over the examples up to that length.
    shapes = np.zeros((len(longest), lengths.shape[1]), np.int64)
    np.maximum.at(shapes, inverse, rounded)
    shapes = np.maximum.accumulate(shapes)
    sides = shapes.sum(1)
    n_examples = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: the positions of the examples up to the j-th length, in as many shapes as rounds so far.
    cost = np.concatenate([[0.0], np.full(len(longest), np.inf)])
    came_from = []
    for _ in range(min(n, len(longest))):
        candidates = [
            cost[:j] + (n_examples[j] - n_examples[:j]) * sides[j - 1] for j in range(1, len(longest) + 1)
        ]
        came_from.append([0] + [int(np.argmin(c)) for c in candidates])
        cost = np.concatenate([[0.0], [c.min() for c in candidates]])
    ends = [len(longest)]
    for previous in reversed(came_from):
        ends.append(previous[ends[-1]])
    return [tuple(shapes[end - 1].tolist()) for end in sorted(set(ends) - {0})]


def batch_sizes(shapes: Sequence[Shape], tokens: int, *, multiple_of: int = 1) -> list[int]:
    """Batch size per bucket shape, for about the same number of tokens in every batch.

    Equivalent to::

        [max(1, tokens // max(shape) // multiple_of) * multiple_of for shape in shapes]

    Args:
      shapes: of the buckets.
      tokens: the number of positions, padding included, in the longest part of a batch.
      multiple_of: every size is a multiple of it (the number of devices that share a batch).

    Returns:
      One size per shape; at least ``multiple_of``, even if that is more than ``tokens``.
    """
    check_numbers("batch_sizes", SIZE, tokens=tokens, multiple_of=multiple_of)
    return [max(1, tokens // max(shape) // multiple_of) * multiple_of for shape in shapes]


def padding_fraction(lengths: np.ndarray, shapes: Sequence[Shape]) -> float:
    """Fraction of positions that are padding when each example gets the first shape that holds it.

    Args:
      lengths: int [examples] or [examples, parts]
      shapes: of the buckets, smallest first.

    Returns:
      From 0 (no padding) to 1 (only padding: every length is 0).

    Raises:
      ValueError: an example fits no shape.
    """
    sides = np.asarray(shapes).reshape(len(shapes), -1).sum(1)
    buckets = _assign("padding_fraction", lengths, shapes)
    return 1.0 - float(_two_dimensional(lengths).sum() / sides[buckets].sum())


class BucketBatchSampler:
    """Batch sampler with a static shape per bucket: the indices and shape of batch i, from i and the seed.

    In an epoch every example is in exactly one batch. With a seed, examples of a bucket that do not fill a
    batch move to the next larger shape; only the last bucket (or one whose shape no later one holds) has a
    batch that is padded with index -1. Without a seed the last batch of every bucket is padded, so no example
    has more padding than its bucket needs.

    Args:
      lengths: the length of each example's parts. int [examples] or [examples, parts]
      shapes: smallest first, such as `choose_buckets` returns.
      sizes: the batch size of each shape, such as `batch_sizes` returns; or one number for all of them.
      seed: reshuffles examples and batches in every epoch, without end. None: the examples in order,
        bucket by bucket, once (for evaluation).

    Attributes:
      per_epoch: the number of batches in an epoch.

    Raises:
      ValueError: an example fits no shape, there are no examples, or a size is not positive.
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
            raise ValueError("BucketBatchSampler: got no examples; wanted at least one. Choose other data.")
        self.num_examples = len(lengths)
        buckets = _assign("BucketBatchSampler", lengths, self.shapes)
        self._members = [np.flatnonzero(buckets == bucket) for bucket in range(len(self.shapes))]
        self.seed = seed
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)
        self.per_epoch = len(self._epoch(0))  # the same number in every epoch

    @property
    def settings(self) -> dict[str, Json]:
        """What decides the order of the examples; saved with the loader's state."""
        return {
            "rows": [len(members) for members in self._members],
            "shapes": [list[Json](shape) for shape in self.shapes],
            "batch_sizes": [*self.sizes],
            "seed": self.seed,
        }

    def __getitem__(self, i: int) -> tuple[np.ndarray, Shape]:
        """The example indices of batch i (-1 is padding) and its shape."""
        if self.seed is None and i >= self.per_epoch:
            raise IndexError(i)
        bucket, indices = self._epoch(i // self.per_epoch)[i % self.per_epoch]
        return indices, self.shapes[bucket]

    def _make_epoch(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        rng = None if self.seed is None else np.random.default_rng([self.seed, epoch])
        batches = []
        members = self._members.copy()
        for bucket, size in enumerate(self.sizes):
            indices = members[bucket] if rng is None else rng.permutation(members[bucket])
            larger = self._next_larger(bucket)
            if rng is not None and larger is not None:
                indices, rest = np.split(indices, [len(indices) // size * size])
                members[larger] = np.concatenate([members[larger], rest])
            padding = np.full(-len(indices) % size, -1, indices.dtype)
            batches += [(bucket, batch) for batch in np.concatenate([indices, padding]).reshape(-1, size)]
        if rng is None:
            return batches
        return [batches[i] for i in rng.permutation(len(batches))]

    def _next_larger(self, bucket: int) -> int | None:
        """The next bucket whose shape holds that of this one."""
        shape = np.array(self.shapes[bucket])
        later = range(bucket + 1, len(self.shapes))
        return next((other for other in later if (shape <= np.array(self.shapes[other])).all()), None)


def _two_dimensional(lengths: np.ndarray) -> np.ndarray:
    lengths = np.asarray(lengths)
    return lengths[:, None] if lengths.ndim == 1 else lengths


def _assign(function: str, lengths: np.ndarray, shapes: Sequence[Shape]) -> np.ndarray:
    """The first shape that holds each example."""
    lengths = _two_dimensional(lengths)
    buckets = np.full(len(lengths), -1)
    for bucket in reversed(range(len(shapes))):
        buckets[(lengths <= np.asarray(shapes[bucket])).all(1)] = bucket
    if (buckets < 0).any():
        example = int(np.argmin(buckets))
        raise ValueError(
            f"{function}: got lengths {lengths[example].tolist()} of example {example}; wanted lengths that "
            f"fit one of the shapes {list(shapes)}. Choose the shapes from these examples too, or drop those "
            "that are too long (max_length)."
        )
    return buckets
