"""Labelled texts, and labelled pairs of texts, as examples for text classification."""

import functools
import logging
from collections.abc import Sequence

import numpy as np
import tokenizers

from tfm_jax.checks import as_texts
from tfm_jax.data._validate import check_range, check_special_ids, fingerprint, flat_ids, padding_id
from tfm_jax.data.sequences import encode_documents, pad_sequences
from tfm_jax.data.tokenizers import JsonTokenizer, with_special_tokens
from tfm_jax.types import TextClassificationBatch, Tokenizer

__all__ = [
    "TextClassificationExamples",
    "encode_truncated",
    "text_classification_examples",
    "text_pair_classification_examples",
]

log = logging.getLogger(__name__)


class TextClassificationExamples:
    """Labelled sequences of token ids, padded when a batch is taken.

    Equivalent to::

        {"tokens": ids, "valid": ones, "labels": label, "weights": 1.0}    # padded with pad_id and False

    Args:
      sequences: the ids of each example.
      labels: int [examples]
      classes: the number of classes; labels must be below it.
      vocab_size: ids must be below it.
      pad_id: the token of padding.
      token_types: the type of each id of each example, such as 0 and 1 for the two texts of a pair; a batch
        then has "token_types". None has none.

    Attributes:
      lengths: int64 [examples, 1]

    Raises:
      ValueError: an id or a label is out of range or no integer; names the row.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int] | np.ndarray],
        labels: np.ndarray,
        classes: int,
        vocab_size: int,
        *,
        pad_id: int = 0,
        token_types: Sequence[Sequence[int] | np.ndarray] | None = None,
    ):
        function = "TextClassificationExamples"
        check_special_ids(function, vocab_size, pad_id=pad_id)
        if len(sequences) != len(labels):
            raise ValueError(
                f"{function}: got {len(sequences)} sequences and {len(labels)} labels; wanted one label per "
                "sequence. Drop what has no label."
            )
        check_range(function, "label", labels, classes)
        self._ids, self._starts = flat_ids(function, "id", sequences, vocab_size)
        self.lengths = np.array([[len(sequence)] for sequence in sequences], np.int64).reshape(-1, 1)
        self._types = None
        if token_types is not None:
            if [len(types) for types in token_types] != self.lengths[:, 0].tolist():
                raise ValueError(
                    f"{function}: got token_types of other lengths than the sequences; wanted one per id."
                )
            self._types, _ = flat_ids(function, "token type", token_types, 2**31)
        self.labels, self.classes, self._pad_id = labels.astype(np.int32), classes, pad_id

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> int:
        """A checksum of the ids, their types and the labels."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> int:
        types = [] if self._types is None else [self._types]
        return fingerprint(self._ids, self.lengths, self.labels, *types)

    def take(
        self, indices: np.ndarray, shape: tuple[int, ...] | None = None
    ) -> TextClassificationBatch[np.ndarray]:
        """A batch of the examples at the indices: tokens [B, T], valid [B, T], labels [B] and weights [B].

        With token types also token_types [B, T], 0 at padding.

        ``shape`` is (T,); None takes the length of the longest example of all.
        """
        (width,) = self.lengths.max(0) if shape is None else shape
        lengths = self.lengths[indices, 0]
        if lengths.max() > width:
            raise ValueError(
                f"TextClassificationExamples: got shape {shape} for lengths of up to {lengths.max()}; wanted "
                "a shape that holds them. Choose the shapes from all lengths (choose_buckets)."
            )
        tokens, valid = pad_sequences(self._ids, self._starts[indices], lengths, width, self._pad_id)
        weights = np.ones(len(indices), np.float32)
        batch: TextClassificationBatch[np.ndarray] = {
            "tokens": tokens, "valid": valid, "labels": self.labels[indices], "weights": weights,
        }  # fmt: skip
        if self._types is not None:
            batch["token_types"], _ = pad_sequences(self._types, self._starts[indices], lengths, width, 0)
        return batch


def text_classification_examples(
    texts: Sequence[str],
    labels: np.ndarray,
    tokenizer: Tokenizer,
    classes: int,
    *,
    max_length: int,
    vocab_size: int | None = None,
) -> TextClassificationExamples:
    """Tokenizes labelled texts, with BOS and EOS if the tokenizer has them.

    Args:
      texts: the texts.
      labels: int [texts], such as `label_ids` returns.
      tokenizer: the tokenizer.
      classes: the number of classes.
      max_length: in tokens, at least 3. Longer texts are truncated and keep their EOS token; the log counts
        them.
      vocab_size: the model's, if it is not the tokenizer's; ids must be below it.

    Returns:
      One example per text. An empty text is BOS and EOS.

    Raises:
      ValueError: as `TextClassificationExamples`; ``max_length`` is below 3.
    """
    if max_length < 3:
        raise ValueError(
            f"text_classification_examples: got max_length={max_length}; wanted at least 3, for BOS, EOS and "
            "one token between them. Pass 3 or more."
        )
    special = [i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None]
    empty = np.array(special, np.int32)  # as other libraries encode it, and a trained model reads it
    ids = [found if len(found) else empty for found in encode_documents(texts, tokenizer)]
    if truncated := sum(len(sequence) > max_length for sequence in ids):
        log.warning("truncated %d of %d texts to max_length %d", truncated, len(ids), max_length)
    has_eos = tokenizer.eos_id is not None
    sequences = [_truncated(sequence, max_length, has_eos) for sequence in ids]
    vocab_size = vocab_size or tokenizer.vocab_size
    pad_id = padding_id(tokenizer, vocab_size)
    return TextClassificationExamples(sequences, labels, classes, vocab_size, pad_id=pad_id)


def text_pair_classification_examples(
    pairs: Sequence[tuple[str, str]],
    labels: np.ndarray,
    tokenizer: JsonTokenizer,
    classes: int,
    *,
    max_length: int,
    token_types: bool,
    vocab_size: int | None = None,
) -> TextClassificationExamples:
    """Tokenizes labelled pairs of texts, with the special tokens of the tokenizer (`with_special_tokens`).

    Args:
      pairs: of texts.
      labels: int [pairs], such as `label_ids` returns.
      tokenizer: one for both texts.
      classes: the number of classes.
      max_length: in tokens, special ones included. Of longer pairs the longer text is truncated; the log
        counts them.
      token_types: whether a batch has the types that tell the texts apart, for an encoder with token types.
      vocab_size: the model's, if it is not the tokenizer's; ids must be below it.

    Returns:
      One example per pair.

    Raises:
      ValueError: as `TextClassificationExamples`; ``max_length`` has no room for a token of each text; or
        nothing tells the texts apart.
    """
    backend = with_special_tokens(tokenizer)
    if not token_types and backend.num_special_tokens_to_add(True) == 0:
        raise ValueError(
            "text_pair_classification_examples: got a tokenizer without BOS and EOS and a model without "
            "token types; wanted something between the texts of a pair. Choose another tokenizer."
        )
    encodings = encode_truncated("text_pair_classification_examples", list(pairs), backend, max_length)
    vocab_size = vocab_size or tokenizer.vocab_size
    return TextClassificationExamples(
        [encoding.ids for encoding in encodings],
        labels,
        classes,
        vocab_size,
        pad_id=padding_id(tokenizer, vocab_size),
        token_types=[encoding.type_ids for encoding in encodings] if token_types else None,
    )


def encode_truncated(
    function: str,
    texts: Sequence[str] | Sequence[tuple[str, str]],
    backend: tokenizers.Tokenizer,
    max_length: int,
) -> list[tokenizers.Encoding]:
    """Encodes texts or pairs of texts, truncated on the right; the log counts the truncated ones.

    Args:
      function: the public function, for the message.
      texts: the texts, or the pairs.
      backend: from `with_special_tokens`; is set to truncate.
      max_length: in tokens, special ones included. Of a pair the longer text is truncated.

    Raises:
      ValueError: ``max_length`` has no room for a token of each text.
    """
    checked = as_texts(function, "texts", texts, pairs=True)
    are_pairs = bool(checked) and not isinstance(checked[0], str)
    special, count = backend.num_special_tokens_to_add(are_pairs), 2 if are_pairs else 1
    if max_length < special + count:
        raise ValueError(
            f"{function}: got max_length={max_length}; wanted at least {special + count}: {special} special "
            "tokens and a token of each text. Pass more (--data.max-length)."
        )
    backend.enable_truncation(max_length)
    encodings = backend.encode_batch(checked)
    if truncated := sum(bool(encoding.overflowing) for encoding in encodings):
        log.warning("truncated %d of %d texts to max_length %d", truncated, len(checked), max_length)
    return encodings


def _truncated(ids: np.ndarray, max_length: int, has_eos: bool) -> np.ndarray:
    if len(ids) <= max_length:
        return ids
    return np.append(ids[: max_length - 1], ids[-1:]) if has_eos else ids[:max_length]
