"""Labelled texts as examples for text classification, and labels as class ids."""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfm_jax.data._validate import check_range, fingerprint, flat_ids
from tfm_jax.data.columns import Dataset, check_columns, column_values, is_whole_number, sorted_names
from tfm_jax.data.sequences import encode_documents, pad_sequences
from tfm_jax.data.tokenizers import Tokenizer

__all__ = ["TextClassificationExamples", "label_ids", "label_names", "text_classification_examples"]

log = logging.getLogger(__name__)


class TextClassificationExamples:
    """Labelled sequences of token ids, padded when a batch is taken.

    Equivalent to::

        {"tokens": ids, "valid": ones, "label": label, "weight": 1.0}     # padded with 0 and False

    Args:
      sequences: the ids of each example.
      labels: int [examples]
      classes: the number of classes; labels must be below it.
      vocab_size: ids must be below it.

    Attributes:
      lengths: int64 [examples, 1]

    Raises:
      ValueError: an id or a label is out of range or no integer; names the row.
    """

    def __init__(self, sequences: Sequence[np.ndarray], labels: np.ndarray, classes: int, vocab_size: int):
        function = "TextClassificationExamples"
        if len(sequences) != len(labels):
            raise ValueError(
                f"{function}: got {len(sequences)} sequences and {len(labels)} labels; wanted one label per "
                "sequence. Drop what has no label."
            )
        check_range(function, "label", labels, classes)
        self._ids, self._starts = flat_ids(function, "id", sequences, vocab_size)
        self.lengths = np.array([[len(sequence)] for sequence in sequences], np.int64).reshape(-1, 1)
        self.labels, self.classes = labels.astype(np.int32), classes

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def fingerprint(self) -> int:
        """A checksum of the ids and labels."""
        return fingerprint(self._ids, self.lengths, self.labels)

    def take(self, indices: np.ndarray, shape: tuple[int] | None = None) -> dict[str, np.ndarray]:
        """A batch of the examples at the indices: tokens [B, T], valid [B, T], label [B] and weight [B].

        ``shape`` is (T,); None takes the length of the longest example of all.
        """
        (width,) = self.lengths.max(0) if shape is None else shape
        lengths = self.lengths[indices, 0]
        if lengths.max() > width:
            raise ValueError(
                f"TextClassificationExamples: got shape {shape} for lengths of up to {lengths.max()}; wanted "
                "a shape that holds them. Choose the shapes from all lengths (choose_buckets)."
            )
        return {
            "tokens": pad_sequences(self._ids, self._starts[indices], lengths, width),
            "valid": np.arange(width) < lengths[:, None],
            "label": self.labels[indices],
            "weight": np.ones(len(indices), np.float32),
        }


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
      One example per text. An empty text has no tokens.

    Raises:
      ValueError: as `TextClassificationExamples`; ``max_length`` is below 3.
    """
    if max_length < 3:
        raise ValueError(
            f"text_classification_examples: got max_length={max_length}; wanted at least 3, for BOS, EOS and "
            "one token between them. Pass 3 or more."
        )
    ids = encode_documents(texts, tokenizer)
    if truncated := sum(len(sequence) > max_length for sequence in ids):
        log.warning("truncated %d of %d texts to max_length %d", truncated, len(ids), max_length)
    has_eos = tokenizer.eos_id is not None
    sequences = [_truncated(sequence, max_length, has_eos) for sequence in ids]
    return TextClassificationExamples(sequences, labels, classes, vocab_size or tokenizer.vocab_size)


def _truncated(ids: np.ndarray, max_length: int, has_eos: bool) -> np.ndarray:
    if len(ids) <= max_length:
        return ids
    return np.append(ids[: max_length - 1], ids[-1:]) if has_eos else ids[:max_length]


def label_names(dataset: Dataset, column: str = "label", *, classes: int | None = None) -> list[str]:
    """Class names in the order of their ids: those that the data set declares, or those that occur.

    Args:
      dataset: the training rows; a stream must be finite.
      column: of the labels: class labels, texts, integers, or booleans ("false" and "true").
      classes: the number of classes: the declared ones, then names that are numbers, such as "0" to "9".
        None takes the declared ones, or those that occur.

    Returns:
      The names as they are written. Whole numbers are sorted by value, other names by their characters.

    Raises:
      ValueError: the data set has no such column, or a label is blank or of another type; names the row.
    """
    check_columns("label_names", dataset, [column], "label='...'")
    declared = _declared_names(dataset, column) or []
    if classes is not None:
        return [*declared[:classes], *map(str, range(len(declared), classes))]
    if declared:
        return declared
    values = column_values("label_names", dataset, column)
    names = [_name(value, row, column, "label_names") for row, value in enumerate(values)]
    for row, value in enumerate(values):
        if type(value) is not type(values[0]):  # are "1" and 1 one class, or two?
            raise ValueError(
                f"label_names: got {value!r:.80} in row {row} of column {column!r} and {values[0]!r:.80} in "
                "row 0; wanted labels of one type. Write all of them as texts, or all as numbers."
            )
    return sorted_names(names)


def label_ids(dataset: Dataset, names: Sequence[str], column: str = "label") -> np.ndarray:
    """Labels of a data set as class ids.

    Equivalent to::

        [names.index(str(label)) for label in dataset[column]]

    Args:
      dataset: any split. A declared class is found by its name. An integer is a class name if some name is a
        whole number; otherwise it is the class id itself.
      names: of the classes, such as `label_names` returns.
      column: of the labels.

    Returns:
      int64 [rows], each below ``len(names)``.

    Raises:
      ValueError: the data set has no such column, or a label is blank or no class; names the row.
    """
    check_columns("label_ids", dataset, [column], "label='...'")
    values = column_values("label_ids", dataset, column)
    declared = _declared_names(dataset, column)
    if not declared and all(map(_is_integer, values)) and not any(map(is_whole_number, names)):
        ids = np.array(values, np.int64)
        check_range("label_ids", "label", ids, len(names))
        return ids
    id_of = {name: i for i, name in enumerate(names)}
    ids = []
    for row, value in enumerate(values):
        is_declared = declared and _is_integer(value) and 0 <= value < len(declared)
        name = declared[value] if is_declared else _name(value, row, column, "label_ids")
        if name not in id_of:
            known = ", ".join(map(repr, names[:20])) + ", ..." * (len(names) > 20)
            raise ValueError(
                f"label_ids: got {value!r:.80} in row {row} of column {column!r}; wanted one of the "
                f"{len(names)} classes of the training data: {known}. Correct it, or drop the row."
            )
        ids.append(id_of[name])
    return np.array(ids, np.int64)


def _declared_names(dataset: Dataset, column: str) -> list[str] | None:
    """Names of the classes that a data set declares."""
    names = getattr((dataset.features or {}).get(column), "names", None)
    return list(names) if names else None


def _name(value: Any, row: int, column: str, function: str) -> str:
    """The name of a class as a file writes it."""
    if isinstance(value, bool):
        return str(value).lower()  # as JSON does
    if _is_integer(value):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    shown = "nothing" if value is None or value == "" else repr(value)[:80]
    raise ValueError(
        f"{function}: got {shown} in row {row} of column {column!r}; wanted a text or an integer as label. "
        "Name its class, or drop the row."
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
