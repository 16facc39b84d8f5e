"""Token sequences as examples for language models and translation models.

Ids are int32. Texts that are empty or too long are dropped; ``dropped`` and the log count them.
"""

import functools
import logging
from collections.abc import Sequence

import numpy as np

from tfm_jax.checks import as_texts
from tfm_jax.data._validate import check_special_ids, fingerprint, flat_ids, padding_id
from tfm_jax.data.packing import PackedSequences
from tfm_jax.types import Tokenizer, TranslationBatch

__all__ = [
    "TranslationExamples",
    "encode_documents",
    "language_model_examples",
    "pad_sequences",
    "translation_examples",
]

log = logging.getLogger(__name__)


class TranslationExamples:
    """Pairs of source and target ids, padded when a batch is taken.

    Equivalent to::

        {"source": source, "target": [bos, *target], "labels": [*target, eos]}       # padded with pad_id
        {"valid": [True] * len(source), "weights": [1.0] * (len(target) + 1)}       # padded with False and 0

    Args:
      sources, targets: the ids of each example: the source with EOS, the target without BOS and EOS.
      pad_id: of both sides.
      bos_id, eos_id: of the target.
      vocab_size: ids must be below it.

    Attributes:
      lengths: what a shape (S, T) must hold: the source, and the target with one more token.
        int64 [examples, 2]
      kept: for each example, its index among the texts that it was made from. int64 [examples]
      dropped: how many texts were dropped, by reason.

    Raises:
      ValueError: an id is out of range or no integer.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[int] | np.ndarray],
        targets: Sequence[Sequence[int] | np.ndarray],
        *,
        pad_id: int,
        bos_id: int,
        eos_id: int,
        vocab_size: int,
    ):
        self.lengths = np.array([(len(s), len(t) + 1) for s, t in zip(sources, targets, strict=True)])
        self.kept = np.arange(len(self.lengths))
        self.dropped: dict[str, int] = {}
        function = "TranslationExamples"
        check_special_ids(function, vocab_size, pad_id=pad_id, bos_id=bos_id, eos_id=eos_id)
        self._pad, self._bos, self._eos = pad_id, bos_id, eos_id
        self._source, self._source_starts = flat_ids(function, "source id", sources, vocab_size)
        self._target, self._target_starts = flat_ids(function, "target id", targets, vocab_size)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def fingerprint(self) -> int:
        """A checksum of the ids of both sides."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> int:
        return fingerprint(self._source, self._target, self.lengths, np.array([self._bos, self._eos]))

    def take(self, indices: np.ndarray, shape: tuple[int, ...] | None = None) -> TranslationBatch[np.ndarray]:
        """A batch of the examples at the indices: source and valid [B, S]; target, labels and weights [B, T].

        ``shape`` is (S, T); None takes the length of the longest example of all.
        """
        width, target_width = self.lengths.max(0) if shape is None else shape
        lengths, target_lengths = self.lengths[indices].T
        if lengths.max() > width or target_lengths.max() > target_width:
            raise ValueError(
                f"TranslationExamples: got shape {shape} for lengths of up to {lengths.max()}, "
                f"{target_lengths.max()}; wanted a shape that holds them. Choose the shapes from all lengths "
                "(choose_buckets)."
            )
        source, valid = pad_sequences(self._source, self._source_starts[indices], lengths, width, self._pad)
        labels, _ = pad_sequences(
            self._target, self._target_starts[indices], target_lengths - 1, target_width, self._pad
        )
        target = np.roll(labels, 1, axis=1)  # the last column is padding: lengths count one more token
        target[:, 0] = self._bos
        labels[np.arange(len(indices)), target_lengths - 1] = self._eos
        weights = (np.arange(target_width) < target_lengths[:, None]).astype(np.float32)
        return {"source": source, "valid": valid, "target": target, "labels": labels, "weights": weights}


def translation_examples(
    sources: Sequence[str],
    targets: Sequence[str],
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    vocab_size: int | None = None,
) -> TranslationExamples:
    """Tokenizes a parallel corpus: source and EOS; BOS, target and EOS.

    Args:
      sources, targets: the texts of each pair, such as `text_pairs` returns.
      tokenizer: one for both sides; it has padding, BOS and EOS.
      max_length: drops pairs with a longer side, in tokens with EOS. None keeps all.
      vocab_size: the model's, if it is not the tokenizer's; ids must be below it.

    Returns:
      The examples, without pairs that have an empty side. ``kept`` are the indices of their texts.

    Raises:
      ValueError: all pairs are dropped, an id is out of range, the sides differ in number, or the tokenizer
        has no padding, no BOS or no EOS.
    """
    if tokenizer.pad_id is None or tokenizer.bos_id is None or tokenizer.eos_id is None:
        raise ValueError(
            f"translation_examples: got a tokenizer with pad_id={tokenizer.pad_id}, "
            f"bos_id={tokenizer.bos_id}, eos_id={tokenizer.eos_id}; wanted a pad, BOS and EOS token. "
            "Name its tokens in load_tokenizer, or train one with train_bpe."
        )
    sources = as_texts("translation_examples", "sources", sources)
    targets = as_texts("translation_examples", "targets", targets)
    if len(sources) != len(targets):
        raise ValueError(
            f"translation_examples: got {len(sources)} sources and {len(targets)} targets; wanted pairs. "
            "Drop what has no partner."
        )
    source_ids, target_ids = (tokenizer.encode_batch(texts) for texts in (sources, targets))
    vocab_size = vocab_size or tokenizer.vocab_size
    for ids, what in ((source_ids, "source id"), (target_ids, "target id")):
        flat_ids("translation_examples", what, ids, vocab_size)  # names the row as the caller counts it
    # Both sides get EOS.
    lengths = np.array(
        [max(len(s), len(t)) + 1 for s, t in zip(source_ids, target_ids, strict=True)], np.int64
    )
    empty = np.array([not (s.strip() and t.strip()) for s, t in zip(sources, targets, strict=True)], bool)
    too_long = ~empty & (lengths > (max_length or np.inf))
    kept = np.flatnonzero(~empty & ~too_long)
    dropped = {"empty": int(empty.sum()), "too_long": int(too_long.sum())}
    _report("translation_examples", dropped, len(sources), f"max_length={max_length}")
    examples = TranslationExamples(
        [np.append(source_ids[i], np.int32(tokenizer.eos_id)) for i in kept],
        [target_ids[i] for i in kept],
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        vocab_size=vocab_size,
    )
    examples.kept, examples.dropped = kept, dropped
    return examples


def language_model_examples(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    length: int,
    *,
    vocab_size: int | None = None,
    overlap: int = 0,
) -> PackedSequences:
    """Tokenizes texts, with BOS and EOS if the tokenizer has them, and packs them into sequences.

    With BOS each token of a text is predicted once, so the sum of all losses, in bits, divided by the bytes
    of the texts is the bits per byte (EOS included). Without BOS the first token of each text is not
    predicted, so that this number is too low: the log warns.

    Args:
      texts: the documents, such as `texts` returns. Empty ones are dropped and counted.
      tokenizer: its BOS and EOS are added if it has them.
      length: T, of a packed sequence.
      vocab_size: the model's, if it is not the tokenizer's; ids must be below it.
      overlap: the number of pairs that each further chunk of a long text repeats as context, with weight 0;
        see `PackedSequences`.

    Returns:
      The packed sequences.

    Raises:
      ValueError: all texts are dropped, an id is out of range, or ``length`` is not positive.
    """
    if tokenizer.bos_id is None:
        log.warning(
            "the tokenizer has no BOS token: the first token of each of %d texts is never predicted, and "
            "bits per byte are too low; name a BOS token with load_tokenizer(path, bos='...')",
            len(texts),
        )
    documents = encode_documents(texts, tokenizer)
    vocab_size = vocab_size or tokenizer.vocab_size
    pad_id = padding_id(tokenizer, vocab_size)
    packed = PackedSequences(documents, length, vocab_size, overlap=overlap, pad_id=pad_id)
    _report("language_model_examples", packed.dropped, len(texts), "a document needs two tokens")
    return packed


def encode_documents(texts: Sequence[str], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Tokenizes texts, with BOS and EOS if the tokenizer has them.

    Args:
      texts: the texts.
      tokenizer: the tokenizer.

    Returns:
      The ids of each text, int32, unchecked. An empty text has none.
    """
    bos = np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], np.int32)
    eos = np.array([] if tokenizer.eos_id is None else [tokenizer.eos_id], np.int32)
    ids = tokenizer.encode_batch(as_texts("encode_documents", "texts", texts))
    return [np.concatenate([bos, text, eos]) if len(text) else text for text in ids]


def pad_sequences(
    flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray, width: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Slices of a flat array of ids, padded to one width.

    Equivalent to::

        sequences = (flat[start : start + n] for start, n in zip(starts, lengths))
        ids = np.stack([np.pad(x, (0, width - len(x)), constant_values=pad_id) for x in sequences])
        ids, np.arange(width) < lengths[:, None]

    Args:
      flat: the ids of all sequences. [ids]
      starts: the start of each sequence. [B]
      lengths: of each sequence, at most ``width``. [B]
      width: of the result.
      pad_id: the id of padding.

    Returns:
      The ids, int32 [B, width], and where they are not padding, bool [B, width].
    """
    columns = np.arange(width)
    result = np.full((len(starts), width), pad_id, np.int32)
    valid = columns < lengths[:, None]
    result[valid] = flat[(starts[:, None] + columns)[valid]]
    return result, valid


def _report(function: str, dropped: dict[str, int], total: int, why: str) -> None:
    if sum(dropped.values()) == total:
        raise ValueError(
            f"{function}: got {total} texts, of which none is left: {dropped} ({why}); wanted at least one. "
            "Choose other data or limits."
        )
    if any(dropped.values()):
        log.warning("dropped %d of %d texts: %s (%s)", sum(dropped.values()), total, dropped, why)
