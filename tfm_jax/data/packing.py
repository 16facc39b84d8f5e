"""Sequence packing: documents of any length in sequences of one fixed length, with little padding.

Documents are split into chunks of at most T (input, label) pairs, and best-fit decreasing packs the chunks: a
document that fits one sequence is never split. Each pair of each document is in exactly one sequence. Chunks
may overlap, to evaluate with more context; repeated pairs have weight 0.
"""

import bisect
import functools
from collections.abc import Sequence

import numpy as np

from tfm_jax.data._validate import check_special_ids, fingerprint, flat_ids
from tfm_jax.ranges import COUNT, SIZE, check_number
from tfm_jax.types import LanguageModelBatch

__all__ = ["PackedSequences", "best_fit", "empty_batch", "write_chunk"]


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Best-fit decreasing bin packing.

    Equivalent to::

        for chunk in sorted(chunks, key=length, reverse=True):
            put it into the bin with the least space left that has enough for it, else into a new bin

    Args:
      lengths: the length of each chunk, 1 to ``capacity``. [chunks]
      capacity: the length of a bin.

    Returns:
      The bin of each chunk, int64 [chunks]; deterministic.

    Johnson 1973, "Near-optimal bin packing algorithms": at most 11/9 of the optimum, plus 1.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    bins = np.empty(len(lengths), np.int64)
    full = int(np.count_nonzero(lengths == capacity))
    bins[order[:full]] = np.arange(full)  # most chunks of long documents fill a bin: no search for them
    n_bins = full
    bins_by_space: dict[int, list[int]] = {}  # space left -> the bins that have it
    spaces: list[int] = []  # the keys of bins_by_space, sorted
    for chunk in order[full:]:
        length = int(lengths[chunk])
        i = bisect.bisect_left(spaces, length)
        if i == len(spaces):
            best, space = n_bins, capacity
            n_bins += 1
        else:
            space = spaces[i]
            best = bins_by_space[space].pop()
            if not bins_by_space[space]:
                del bins_by_space[space], spaces[i]
        bins[chunk] = best
        space -= length
        if space:
            if space not in bins_by_space:
                bins_by_space[space] = []
                bisect.insort(spaces, space)
            bins_by_space[space].append(best)
    return bins


class PackedSequences:
    """Packed sequences of a language-model batch, built from flat token ids when they are taken.

    Equivalent to::

        for document in documents:
            for start in range(0, max(1, len(document) - 1 - overlap), length - overlap):
                chunk = document[start : start + length + 1]
                tokens, labels = chunk[:-1], chunk[1:]       # one segment of some sequence
                positions = range(len(tokens))
                weights = [0 if start > 0 and position < overlap else 1 for position in positions]

    Args:
      documents: the token ids of each document, BOS and EOS included. A document of fewer than two tokens
        predicts nothing; it is dropped and counted.
      length: T, of a sequence.
      vocab_size: ids must be below it.
      overlap: the number of pairs that each further chunk of a document repeats from the one before, with
        weight 0. Each label has at least that many tokens of context, except at the start of a document. 0
        to T - 1.
      pad_id: the token and label of padding, which has weight 0 and segment 0.

    Attributes:
      dropped: how many documents were dropped, by reason.
      n_targets: the number of (input, label) pairs, which is the sum of all weights.

    Raises:
      ValueError: an id is out of range or no integer, all documents are dropped, ``length`` is not positive,
        or ``overlap`` is not below it.
    """

    def __init__(
        self,
        documents: Sequence[Sequence[int] | np.ndarray],
        length: int,
        vocab_size: int,
        *,
        overlap: int = 0,
        pad_id: int = 0,
    ):
        check_number("PackedSequences", "length", length, SIZE)
        check_number("PackedSequences", "overlap", overlap, COUNT)
        if overlap >= length:
            raise ValueError(
                f"PackedSequences: got overlap={overlap} with length={length}; wanted an overlap below the "
                f"length. Pass 0 to {length - 1}."
            )
        check_special_ids("PackedSequences", vocab_size, pad_id=pad_id)
        self._flat, starts = flat_ids("PackedSequences", "token id", documents, vocab_size)
        sizes = np.diff(starts, append=len(self._flat))
        kept = sizes > 1
        self.dropped = {"empty": int(np.count_nonzero(~kept))}
        if not kept.any():
            raise ValueError(
                f"PackedSequences: got {len(sizes)} documents, none of two tokens or more; wanted at "
                "least one. Choose other data."
            )
        self.length, self._pad_id = length, pad_id
        pairs = sizes[kept] - 1
        self.n_targets = int(pairs.sum())
        stride = length - overlap
        chunks = 1 + np.maximum(0, -(-(pairs - length) // stride))
        # The n-th chunk of a document starts n * stride tokens after the document does.
        nth = np.arange(chunks.sum()) - np.repeat(np.cumsum(chunks) - chunks, chunks)
        starts = np.repeat(starts[kept], chunks) + nth * stride
        sizes = np.minimum(length, np.repeat(pairs, chunks) - nth * stride)
        sequences = best_fit(sizes, length)
        order = np.argsort(sequences, kind="stable")
        self._starts, self._sizes = starts[order], sizes[order]
        self._repeated = np.where(nth[order] > 0, overlap, 0)
        self._first_chunks = np.searchsorted(sequences[order], np.arange(sequences.max() + 2))

    def __len__(self) -> int:
        return len(self._first_chunks) - 1

    @property
    def fingerprint(self) -> int:
        """A checksum of the ids and of how they are packed."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> int:
        return fingerprint(self._flat, self._starts, self._sizes, self._repeated, self._first_chunks)

    def take(
        self, indices: np.ndarray, shape: tuple[int, ...] | None = None
    ) -> LanguageModelBatch[np.ndarray]:
        """A batch of the sequences at the indices: tokens, labels, segment_ids, positions, weights [B, T]."""
        batch = empty_batch(len(indices), self.length, self._pad_id)
        for b, sequence in enumerate(indices):
            position = 0
            first, last = self._first_chunks[sequence], self._first_chunks[sequence + 1]
            for segment, chunk in enumerate(range(first, last), start=1):
                start, n = self._starts[chunk], self._sizes[chunk]
                write_chunk(batch, b, position, segment, self._flat[start : start + n + 1])
                batch["weights"][b, position : position + self._repeated[chunk]] = 0
                position += n
        return batch


def empty_batch(size: int, length: int, pad_id: int) -> LanguageModelBatch[np.ndarray]:
    """A language-model batch of padding.

    Args:
      size: B, the number of sequences.
      length: T, of a sequence.
      pad_id: the token and label of padding.

    Returns:
      tokens and labels of ``pad_id``, segment_ids and positions of 0, int32; weights of 0, float32. [B, T]
    """
    shape = size, length
    return {
        "tokens": np.full(shape, pad_id, np.int32),
        "labels": np.full(shape, pad_id, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "positions": np.zeros(shape, np.int32),
        "weights": np.zeros(shape, np.float32),
    }


def write_chunk(
    batch: LanguageModelBatch[np.ndarray], index: int, start: int, segment: int, ids: np.ndarray
) -> None:
    """Writes a chunk of a document into a sequence of a batch: inputs, and the next token as their labels.

    Args:
      batch: the batch, changed in place.
      index, start: the sequence of the batch, and the position of the first token in it.
      segment: the number of the chunk in its sequence, from 1.
      ids: the n inputs and one more token. int [n + 1]
    """
    where = index, slice(start, start + len(ids) - 1)
    batch["tokens"][where] = ids[:-1]
    batch["labels"][where] = ids[1:]
    batch["segment_ids"][where] = segment
    batch["positions"][where] = np.arange(len(ids) - 1)
    batch["weights"][where] = 1
