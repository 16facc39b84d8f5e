"""Sentences with a label for each word as examples for token classification."""

import functools
import itertools
import logging
import re
from collections.abc import Sequence

import datasets
import numpy as np
import tokenizers

from tfm_jax.data._text import LONGEST_ROW
from tfm_jax.data._validate import check_range, check_special_ids, fingerprint, flat_ids, padding_id
from tfm_jax.data.columns import Dataset, check_columns, column_values
from tfm_jax.data.sequences import pad_sequences
from tfm_jax.data.text_classification import encode_truncated
from tfm_jax.data.tokenizers import JsonTokenizer, with_special_tokens
from tfm_jax.types import TextClassificationBatch

__all__ = [
    "TokenClassificationExamples",
    "first_tokens",
    "read_conll",
    "sentences",
    "token_classification_examples",
]

log = logging.getLogger(__name__)
_LONGEST_LINE = 1 << 12
"""Characters of a word and its tags."""


class TokenClassificationExamples:
    """Sequences of token ids with a label for each word, padded when a batch is taken.

    Equivalent to::

        {"tokens": ids, "valid": ones, "labels": labels, "weights": weights}    # padded with pad_id, False, 0
        labels[position], weights[position] = label, 1.0     # at the first token of each word; elsewhere 0

    Args:
      sequences: the ids of each example.
      positions: of the first token of each word in its sequence; -1 is a word without a token, which has no
        label in a batch. int [words] for each example
      labels: of each word, int [words] for each example.
      classes: the number of classes; labels must be below it.
      vocab_size: ids must be below it.
      pad_id: the token of padding.

    Attributes:
      lengths: int64 [examples, 1]
      positions, labels: as above.

    Raises:
      ValueError: an id, a label or a position is out of range or no integer; names the row.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int] | np.ndarray],
        positions: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        classes: int,
        vocab_size: int,
        *,
        pad_id: int = 0,
    ):
        function = "TokenClassificationExamples"
        check_special_ids(function, vocab_size, pad_id=pad_id)
        sizes = [[len(part) for part in parts] for parts in (positions, labels)]
        if sizes[0] != sizes[1] or len(sequences) != len(labels):
            raise ValueError(
                f"{function}: got {len(sequences)} sequences with {sum(sizes[0])} words and {sum(sizes[1])} "
                "labels; wanted one label per word."
            )
        self._ids, self._starts = flat_ids(function, "id", sequences, vocab_size)
        self.lengths = np.array([[len(sequence)] for sequence in sequences], np.int64).reshape(-1, 1)
        flat_ids(function, "label", labels, classes)  # names a row
        for row, (of_words, (length,)) in enumerate(zip(positions, self.lengths.tolist(), strict=True)):
            found = of_words[of_words >= 0]
            check_range(function, "position", found, length, np.zeros(1, np.int64), first_row=row)
        self.positions, self.labels, self.classes = list(positions), list(labels), classes
        # The labels and weights of each id, laid out as the ids are.
        self._labels, self._weights = np.zeros_like(self._ids), np.zeros_like(self._ids)
        for start, of_words, words in zip(self._starts, positions, labels, strict=True):
            has_token = of_words >= 0
            self._labels[start + of_words[has_token]] = words[has_token]
            self._weights[start + of_words[has_token]] = 1
        self._pad_id = pad_id

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> int:
        """A checksum of the ids and labels."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> int:
        return fingerprint(self._ids, self.lengths, self._labels, self._weights)

    def take(
        self, indices: np.ndarray, shape: tuple[int, ...] | None = None
    ) -> TextClassificationBatch[np.ndarray]:
        """A batch of the examples at the indices: tokens, valid, labels and weights, each [B, T].

        ``shape`` is (T,); None takes the length of the longest example of all.
        """
        (width,) = self.lengths.max(0) if shape is None else shape
        lengths, starts = self.lengths[indices, 0], self._starts[indices]
        if lengths.max() > width:
            raise ValueError(
                f"TokenClassificationExamples: got shape {shape} for lengths of up to {lengths.max()}; "
                "wanted a shape that holds them. Choose the shapes from all lengths (choose_buckets)."
            )
        tokens, valid = pad_sequences(self._ids, starts, lengths, width, self._pad_id)
        labels, _ = pad_sequences(self._labels, starts, lengths, width, 0)
        weights, _ = pad_sequences(self._weights, starts, lengths, width, 0)
        return {"tokens": tokens, "valid": valid, "labels": labels, "weights": weights.astype(np.float32)}


def token_classification_examples(
    words: Sequence[Sequence[str]],
    labels: Sequence[np.ndarray],
    tokenizer: JsonTokenizer,
    classes: int,
    *,
    max_length: int,
    vocab_size: int | None = None,
) -> TokenClassificationExamples:
    """Tokenizes sentences of labelled words; the first token of a word has its label.

    A sentence is tokenized as the text ``" ".join(words)``, with the special tokens of the tokenizer
    (`with_special_tokens`), so that a trained model reads texts as it read its training data.

    Args:
      words: of each sentence.
      labels: of each word, int [words] for each sentence.
      tokenizer: the tokenizer.
      classes: the number of classes.
      max_length: in tokens, special ones included. Of longer sentences the words at the end are cut off; the
        log counts them.
      vocab_size: the model's, if it is not the tokenizer's; ids must be below it.

    Returns:
      One example per sentence. Words that are cut off or have no token have the position -1.

    Raises:
      ValueError: as `TokenClassificationExamples`; ``max_length`` is too small.
    """
    backend = with_special_tokens(tokenizer)
    texts = [" ".join(sentence) for sentence in words]
    encodings = encode_truncated("token_classification_examples", texts, backend, max_length)
    positions = [first_tokens(_spans(x), encoding) for x, encoding in zip(words, encodings, strict=True)]
    if without := sum(int((found < 0).sum()) for found in positions):
        total = sum(map(len, words))
        log.warning("%d of %d words have no token, or are cut off: they have no label", without, total)
    vocab_size = vocab_size or tokenizer.vocab_size
    return TokenClassificationExamples(
        [encoding.ids for encoding in encodings],
        positions,
        labels,
        classes,
        vocab_size,
        pad_id=padding_id(tokenizer, vocab_size),
    )


def first_tokens(spans: Sequence[tuple[int, int]], encoding: tokenizers.Encoding) -> np.ndarray:
    """The position of the first token of each word of a text.

    Args:
      spans: the first character of each word in the text and the one behind its last, in order.
      encoding: of the text.

    Returns:
      int64 [words]; -1 for a word without a token.
    """
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
    found = np.full(len(spans), -1, np.int64)
    for position, ((start, end), special) in enumerate(
        zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
    ):
        if special or start == end:
            continue
        word = int(np.searchsorted(ends, start, side="right"))  # the first that ends behind the token's start
        # A token may begin with the space before its word; that of a space alone belongs to none.
        if word < len(spans) and end > starts[word] and found[word] < 0:
            found[word] = position
    return found


def _spans(words: Sequence[str]) -> list[tuple[int, int]]:
    """Where the words are in ``" ".join(words)``."""
    ends = itertools.accumulate(len(word) + 1 for word in words)
    return [(end - 1 - len(word), end - 1) for word, end in zip(words, ends, strict=True)]


def sentences(dataset: Dataset, column: str = "tokens") -> list[list[str]]:
    """A column of sentences, as lists of words.

    Equivalent to::

        [row[column] for row in dataset]          # row[column].split(), of a text

    Args:
      dataset: the data set; a stream must be finite.
      column: of lists of texts, or of texts with spaces between the words.

    Returns:
      The words of each row, in order; a sentence may have none.

    Raises:
      ValueError: the data set has no such column or no rows, or a value is no sentence; names the row.
    """
    check_columns("sentences", dataset, [column], "column='...'")
    found = []
    for row, value in enumerate(column_values("sentences", dataset, column)):
        words = value.split() if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
            raise ValueError(
                f"sentences: got {value!r:.80} in row {row} of column {column!r}; wanted words: a list of "
                "texts, or a text with spaces between them. Correct or drop the row."
            )
        found.append(words)
    return found


def read_conll(dataset: datasets.Dataset, where: str) -> datasets.Dataset:
    """Reads sentences in the format of CoNLL: a word and its tag per line, a blank line between sentences.

    Equivalent to::

        word, *_, tag = line.split("\\t")        # or at spaces, in a file without tabs

    Args:
      dataset: rows of text files, in the column "text". Lines of ``-DOCSTART-`` are skipped, as are comments:
        lines that begin with "#" and have another number of fields than the others.
      where: the source, for messages.

    Returns:
      The columns "tokens" and "tags", lists of texts.

    Raises:
      ValueError: a line has no tag, or another number of fields than the first one; names the line. Or there
        is no sentence, or words are numbered, as in CoNLL-U.
    """
    # A row is a text, or a part of one up to a line end near the longest row; any other row ends its text.
    ends = [not row.endswith("\n") or len(row) < LONGEST_ROW - _LONGEST_LINE for row in dataset["text"]]
    text = "".join(row + "\n\n" * end for row, end in zip(dataset["text"], ends, strict=True))
    separator = re.compile("\t" if "\t" in text else " +")
    lines = [[field.strip() for field in separator.split(line.strip(" "))] for line in text.split("\n")]
    blank = [not any(fields) or fields[0] == "-DOCSTART-" for fields in lines]
    first = next((i for i, skip in enumerate(blank) if not skip and not lines[i][0].startswith("#")), None)
    rows: list[tuple[list[str], list[str]]] = [([], [])]
    for number, (fields, skip) in enumerate(zip(lines, blank, strict=True), 1):
        if skip:
            rows.append(([], []))
            continue
        same = first is None or len(fields) == len(lines[first])
        if fields[0].startswith("#") and (len(fields) < 2 or not same):
            continue
        if len(fields) < 2 or not (fields[0] and fields[-1] and same):
            as_first = "" if first is None or same else f", {len(lines[first])} fields as in line {first + 1}"
            raise ValueError(
                f"{where}, line {number}: got {' '.join(fields)!r:.80}; wanted a word and its tag{as_first}, "
                "with a tab or a space between them. Correct the line."
            )
        rows[-1][0].append(fields[0])
        rows[-1][1].append(fields[-1])
    rows = [row for row in rows if row[0]]
    if not rows:
        raise ValueError(f"{where}: got no sentence; wanted words and tags. Choose another source.")
    if all(words[0] in ("1", "1-2") for words, _ in rows) and any(len(words) > 1 for words, _ in rows):
        raise ValueError(
            f"{where}: got the number of a word first in each line, as in CoNLL-U; wanted the word first and "
            "its tag last. Keep these two columns, such as by cut -f 2,4."
        )
    return datasets.Dataset.from_dict({"tokens": [row[0] for row in rows], "tags": [row[1] for row in rows]})
