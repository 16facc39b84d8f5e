"""Rows of the three kinds of batch, by the batch contract: what a `Loader` takes its batches from.

Ids are int32 and padding is id 0. A row that is empty or too long is left out, counted in ``dropped`` and
told in the log, never silently.
"""

import functools
import logging
from collections.abc import Sequence

import numpy as np

from tfm_jax.checks import as_texts
from tfm_jax.data.packing import PackedRows
from tfm_jax.data.tokenizers import Tokenizer
from tfm_jax.data.validate import fingerprint, flat_ids

__all__ = ["TranslationRows", "encode_documents", "language_model_rows", "padded", "translation_rows"]

log = logging.getLogger(__name__)


class TranslationRows:
    """Pairs of id sequences, padded when they are taken.

    Equivalent to::

        {"source": sources, "target_in": [bos, *target], "target_out": [*target, eos]}   # padded with 0

    Args:
        sources, targets: the ids of each row; the source with its end token, the target without any.
        bos_id, eos_id: the begin and end tokens of the target.
        vocab_size: ids must be below it.

    Attributes:
        lengths: what a shape (S, T) must hold: of the source, and of the target with one more token.
            int64 [rows, 2]
        kept: for each row, its index among the texts that it was made from. int64 [rows]
        dropped: the counts of the rows that were left out, by reason.

    Raises:
        ValueError: an id is out of range or no integer.
    """

    def __init__(
        self,
        sources: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        *,
        bos_id: int,
        eos_id: int,
        vocab_size: int,
    ):
        self.lengths = np.array([(len(s), len(t) + 1) for s, t in zip(sources, targets, strict=True)])
        self.kept = np.arange(len(self.lengths))
        self.dropped: dict[str, int] = {}
        self._bos, self._eos = bos_id, eos_id
        self._source, self._source_starts = flat_ids(sources, vocab_size, "source id")
        self._target, self._target_starts = flat_ids(targets, vocab_size, "target id")

    def __len__(self) -> int:
        return len(self.lengths)

    @functools.cached_property
    def fingerprint(self) -> int:
        """A checksum of the ids of both sides."""
        return fingerprint(self._source, self._target, self.lengths, np.array([self._bos, self._eos]))

    def take(self, indices: np.ndarray, shape: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """The rows at the indices: source [B, S], target_in and target_out [B, T], int32.

        ``shape`` is (S, T); None is the longest of all rows.
        """
        width, target_width = self.lengths.max(0) if shape is None else shape
        lengths, target_lengths = self.lengths[indices].T
        if lengths.max() > width or target_lengths.max() > target_width:
            raise ValueError(
                f"rows of up to {lengths.max()}, {target_lengths.max()} do not fit shape {shape}"
            )
        source = padded(self._source, self._source_starts[indices], lengths, width)
        target = padded(self._target, self._target_starts[indices], target_lengths - 1, target_width)
        target_in = np.roll(target, 1, axis=1)  # its last column is padding: there is room for one more token
        target_in[:, 0] = self._bos
        target[np.arange(len(indices)), target_lengths - 1] = self._eos
        return {"source": source, "target_in": target_in, "target_out": target}


def translation_rows(
    sources: Sequence[str],
    targets: Sequence[str],
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    vocab_size: int | None = None,
) -> TranslationRows:
    """Tokenize a parallel corpus: an end token after each source, begin and end tokens around each target.

    Args:
        sources, targets: the texts of each row, such as `text_pairs` gives.
        tokenizer: one for both sides; its padding must be id 0, and it must have begin and end tokens.
        max_length: a row that is longer, end token counted, on either side is left out. None keeps all.
        vocab_size: the model's, if it is not the tokenizer's; ids must be below it.

    Returns:
        The rows; those with an empty side are left out too. ``kept`` says which texts they are.

    Raises:
        ValueError: no row is left, an id is out of range, the sides differ in number, or the tokenizer lacks
            what a translation batch needs.
    """
    if tokenizer.pad_id != 0 or tokenizer.bos_id is None or tokenizer.eos_id is None:
        raise ValueError(
            "a translation batch is padded with id 0 and has begin and end tokens, but this tokenizer has "
            f"pad_id {tokenizer.pad_id}, bos_id {tokenizer.bos_id}, eos_id {tokenizer.eos_id}; name its "
            "tokens in load_tokenizer, or train one with train_bpe"
        )
    sources = as_texts("translation_rows", "sources", sources)
    targets = as_texts("translation_rows", "targets", targets)
    if len(sources) != len(targets):
        raise ValueError(f"there are {len(sources)} sources but {len(targets)} targets; wanted pairs")
    source_ids, target_ids = (tokenizer.encode_batch(texts) for texts in (sources, targets))
    vocab_size = vocab_size or tokenizer.vocab_size
    for ids, what in ((source_ids, "source id"), (target_ids, "target id")):
        flat_ids(ids, vocab_size, what)  # before rows are left out, to name the row as the caller counts
    # Both sides get one end token.
    longest = np.array(
        [max(len(s), len(t)) + 1 for s, t in zip(source_ids, target_ids, strict=True)], np.int64
    )
    empty = np.array([not (s.strip() and t.strip()) for s, t in zip(sources, targets, strict=True)], bool)
    too_long = ~empty & (longest > (max_length or np.inf))
    kept = np.flatnonzero(~empty & ~too_long)
    dropped = {"empty": int(empty.sum()), "too_long": int(too_long.sum())}
    _report(dropped, len(sources), f"max_length is {max_length}")
    rows = TranslationRows(
        [np.append(source_ids[i], np.int32(tokenizer.eos_id)) for i in kept],
        [target_ids[i] for i in kept],
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        vocab_size=vocab_size,
    )
    rows.kept, rows.dropped = kept, dropped
    return rows


def encode_documents(texts: Sequence[str], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Tokenize texts, each between its begin and end tokens if the tokenizer has them.

    Args:
        texts: the texts.
        tokenizer: the tokenizer.

    Returns:
        The ids of each text, not yet checked; none at all for an empty one.
    """
    bos = np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], np.int32)
    eos = np.array([] if tokenizer.eos_id is None else [tokenizer.eos_id], np.int32)
    ids = tokenizer.encode_batch(as_texts("encode_documents", "texts", texts))
    return [np.concatenate([bos, text, eos]) if len(text) else text for text in ids]


def language_model_rows(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    length: int,
    *,
    vocab_size: int | None = None,
    overlap: int = 0,
) -> PackedRows:
    """Tokenize texts, each between its begin and end tokens, and pack them into rows of one length.

    With a begin token every token of a text is predicted once, so the sum of the losses over all rows, in
    bits, divided by the bytes of the texts is the bits per byte (the end tokens are paid for, too). Without
    one the first token of each text is given and costs nothing, so that this understates the bits per byte:
    the log says so.

    Args:
        texts: the documents, such as `texts` gives. An empty one is left out and counted.
        tokenizer: its begin and end tokens are used if it has them.
        length: the length T of a row.
        vocab_size: the model's, if it is not the tokenizer's; ids must be below it.
        overlap: how many pairs each further piece of a long text repeats, with weight 0, for context; see
            `PackedRows`.

    Returns:
        The rows.

    Raises:
        ValueError: nothing is left, an id is out of range, or ``length`` is not positive.
    """
    if tokenizer.bos_id is None:
        log.warning(
            "the tokenizer has no begin token: the first token of each of %d texts is never predicted, and "
            "bits per byte come out too low; name one with load_tokenizer(path, bos='...')",
            len(texts),
        )
    documents = encode_documents(texts, tokenizer)
    rows = PackedRows(documents, length, vocab_size or tokenizer.vocab_size, overlap=overlap)
    _report(rows.dropped, len(texts), "a document needs two tokens")
    return rows


def _report(dropped: dict[str, int], total: int, why: str) -> None:
    if sum(dropped.values()) == total:
        raise ValueError(f"none of the {total} rows is left: {dropped} ({why}); choose other data or limits")
    if any(dropped.values()):
        log.warning("left out %d of %d rows: %s (%s)", sum(dropped.values()), total, dropped, why)


def padded(flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """Sequences that lie one after the other, padded with 0 to one width.

    Equivalent to::

        np.stack([np.pad(flat[s : s + n], (0, width - n)) for s, n in zip(starts, lengths)])

    Args:
        flat: the ids of all sequences. [ids]
        starts: where each of the wanted ones starts. [B]
        lengths: of each, at most ``width``. [B]
        width: of the result.

    Returns:
        int32 [B, width]
    """
    columns = np.arange(width)
    rows = np.zeros((len(starts), width), np.int32)
    held = columns < lengths[:, None]
    rows[held] = flat[(starts[:, None] + columns)[held]]
    return rows
