"""Documents of any length as rows of one fixed length, with next to no padding.

A document is cut into pieces of at most T (input, label) pairs, and the pieces are put into rows by best fit,
longest first: a document that fits a row is never cut. Every pair of every document stands in exactly one
row; pieces that overlap (to evaluate with more context) repeat pairs with weight 0.
"""

import bisect
import functools
from collections.abc import Sequence

import numpy as np

from tfm_jax.data._validate import fingerprint, flat_ids
from tfm_jax.ranges import COUNT, SIZE, check_number

__all__ = ["PackedSequences", "best_fit", "empty_batch", "put_piece"]


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Put pieces into as few rows as best fit, longest first, finds.

    Equivalent to::

        for piece in sorted(pieces, key=length, reverse=True):
            put it into the row with the least space left that has enough for it, else into a new row

    Args:
        lengths: the length of each piece, 1 to ``capacity``. [pieces]
        capacity: the length of a row.

    Returns:
        The row of each piece, int64 [pieces]; the same for the same lengths, always.

    Johnson 1973, "Near-optimal bin packing algorithms": at most 11/9 of the optimum, plus 1 (best fit
    decreasing).
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    rows = np.empty(len(lengths), np.int64)
    full = int(np.count_nonzero(lengths == capacity))
    rows[order[:full]] = np.arange(full)  # most pieces of long documents fill a row: nothing to search for
    n_rows = full
    open_rows: dict[int, list[int]] = {}  # space left -> the rows that have it
    spaces: list[int] = []  # the keys of open_rows, sorted
    for piece in order[full:]:
        length = int(lengths[piece])
        at = bisect.bisect_left(spaces, length)
        if at == len(spaces):
            row, space = n_rows, capacity
            n_rows += 1
        else:
            space = spaces[at]
            row = open_rows[space].pop()
            if not open_rows[space]:
                del open_rows[space], spaces[at]
        rows[piece] = row
        space -= length
        if space:
            if space not in open_rows:
                open_rows[space] = []
                bisect.insort(spaces, space)
            open_rows[space].append(row)
    return rows


class PackedSequences:
    """Rows of the language-model batch, made when they are taken, from token ids kept once.

    Equivalent to::

        for document in documents:
            for start in range(0, max(1, len(document) - 1 - overlap), length - overlap):
                piece = document[start : start + length + 1]
                tokens, labels = piece[:-1], piece[1:]       # one segment of some row
                positions = range(len(tokens))
                weights = [0 if start > 0 and position < overlap else 1 for position in positions]

    Args:
        documents: the token ids of each document, with the begin and end tokens that it is to have. A
            document of fewer than two tokens predicts nothing; it is dropped and counted.
        length: the length T of a row.
        vocab_size: ids must be below it.
        overlap: how many pairs each further piece of a document repeats, with weight 0, from the one before:
            so many tokens at least are the context of every label, but at a document's begin. 0 to T - 1.

    Attributes:
        dropped: the counts of the rows that were left out, by reason.
        n_targets: the number of (input, label) pairs, the sum of all weights.

    Raises:
        ValueError: an id is out of range or no integer, no document is left, ``length`` is not
            positive, or ``overlap`` not below it.
    """

    def __init__(self, documents: Sequence[Sequence[int]], length: int, vocab_size: int, *, overlap: int = 0):
        check_number("PackedSequences", "length", length, SIZE)
        check_number("PackedSequences", "overlap", overlap, COUNT)
        if overlap >= length:
            raise ValueError(f"pieces of {length} cannot overlap by {overlap}; pass 0 to {length - 1}")
        self._flat, starts = flat_ids(documents, vocab_size, "token id")
        sizes = np.diff(starts, append=len(self._flat))
        kept = sizes > 1
        self.dropped = {"empty": int(np.count_nonzero(~kept))}
        if not kept.any():
            raise ValueError(
                f"none of the {len(sizes)} documents has two tokens or more; there is nothing to predict"
            )
        self.length = length
        pairs = sizes[kept] - 1
        self.n_targets = int(pairs.sum())
        stride = length - overlap
        pieces = 1 + np.maximum(0, -(-(pairs - length) // stride))
        # The n-th piece of a document starts n * stride tokens after the document does.
        nth = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = np.repeat(starts[kept], pieces) + nth * stride
        sizes = np.minimum(length, np.repeat(pairs, pieces) - nth * stride)
        rows = best_fit(sizes, length)
        order = np.argsort(rows, kind="stable")
        self._starts, self._sizes = starts[order], sizes[order]
        self._repeated = np.where(nth[order] > 0, overlap, 0)
        self._row_pieces = np.searchsorted(rows[order], np.arange(rows.max() + 2))

    def __len__(self) -> int:
        return len(self._row_pieces) - 1

    @functools.cached_property
    def fingerprint(self) -> int:
        """A checksum of the ids and of how they are packed."""
        return fingerprint(self._flat, self._starts, self._sizes, self._repeated, self._row_pieces)

    def take(self, indices: np.ndarray, shape: tuple[int, ...] | None = None) -> dict[str, np.ndarray]:
        """The rows at the indices: tokens, labels, segment_ids, positions and weights [B, T]."""
        batch = empty_batch(len(indices), self.length)
        for b, row in enumerate(indices):
            at = 0
            first, last = self._row_pieces[row], self._row_pieces[row + 1]
            for segment, piece in enumerate(range(first, last), start=1):
                start, n = self._starts[piece], self._sizes[piece]
                put_piece(batch, b, at, segment, self._flat[start : start + n + 1])
                batch["weights"][b, at : at + self._repeated[piece]] = 0
                at += n
        return batch


def empty_batch(rows: int, length: int) -> dict[str, np.ndarray]:
    """A language-model batch that is all padding.

    Args:
        rows: the number of rows B.
        length: the length T of a row.

    Returns:
        tokens, labels, segment_ids and positions int32, weights float32, all zeros. [B, T]
    """
    names = ("tokens", "labels", "segment_ids", "positions")
    batch = {name: np.zeros((rows, length), np.int32) for name in names}
    return batch | {"weights": np.zeros((rows, length), np.float32)}


def put_piece(batch: dict[str, np.ndarray], row: int, at: int, segment: int, ids: np.ndarray) -> None:
    """Write a piece of a document into a row of a batch: each id but the last, the next one as its label.

    Args:
        batch: the batch to write into.
        row, at: the row, and the place in it.
        segment: the number of the piece in its row, from 1.
        ids: the tokens, and one more. int [n + 1]

    Returns:
        Nothing.
    """
    place = row, slice(at, at + len(ids) - 1)
    batch["tokens"][place] = ids[:-1]
    batch["labels"][place] = ids[1:]
    batch["segment_ids"][place] = segment
    batch["positions"][place] = np.arange(len(ids) - 1)
    batch["weights"][place] = 1
