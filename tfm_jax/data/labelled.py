"""Labelled texts as rows of the classification batch."""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from tfm_jax.data.columns import check_columns, column_values
from tfm_jax.data.rows import encode_documents, padded
from tfm_jax.data.tokenizers import Tokenizer
from tfm_jax.data.validate import check_range, fingerprint, flat_ids

__all__ = ["LabelledRows", "label_names", "label_numbers", "labelled_rows"]

log = logging.getLogger(__name__)


class LabelledRows:
    """Labelled sequences of ids, padded when they are taken.

    Equivalent to::

        {"tokens": ids, "valid": ones, "label": label, "weight": 1.0}     # padded with 0 and False

    Args:
        sequences: the ids of each row.
        labels: int [rows]
        classes: the number of classes; labels must be below it.
        vocab_size: ids must be below it.

    Attributes:
        lengths: int64 [rows, 1]

    Raises:
        ValueError: an id or a label is out of range or no integer; names the row.
    """

    def __init__(self, sequences: Sequence[np.ndarray], labels: np.ndarray, classes: int, vocab_size: int):
        if len(sequences) != len(labels):
            raise ValueError(f"there are {len(sequences)} texts but {len(labels)} labels; wanted one each")
        check_range(labels, classes, "label")
        self._ids, self._starts = flat_ids(sequences, vocab_size, "id")
        self.lengths = np.array([[len(sequence)] for sequence in sequences], np.int64).reshape(-1, 1)
        self.labels, self.classes = labels.astype(np.int32), classes

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def fingerprint(self) -> int:
        """A checksum of the ids and labels."""
        return fingerprint(self._ids, self.lengths, self.labels)

    def take(self, indices: np.ndarray, shape: tuple[int] | None = None) -> dict[str, np.ndarray]:
        """The rows at the indices: tokens [B, T] and valid [B, T], label [B], weight [B].

        ``shape`` is (T,); None is the longest of all rows.
        """
        (width,) = self.lengths.max(0) if shape is None else shape
        lengths = self.lengths[indices, 0]
        if lengths.max() > width:
            raise ValueError(f"rows of up to {lengths.max()} do not fit shape {shape}")
        return {
            "tokens": padded(self._ids, self._starts[indices], lengths, width),
            "valid": np.arange(width) < lengths[:, None],
            "label": self.labels[indices],
            "weight": np.ones(len(indices), np.float32),
        }


def labelled_rows(
    texts: Sequence[str],
    labels: np.ndarray,
    tokenizer: Tokenizer,
    classes: int,
    *,
    max_length: int,
    vocab_size: int | None = None,
) -> LabelledRows:
    """Tokenize labelled texts, each between its begin and end tokens if the tokenizer has them.

    Args:
        texts: the texts.
        labels: int [texts], such as `label_numbers` gives.
        tokenizer: the tokenizer.
        classes: the number of classes.
        max_length: in ids, at least 3. A longer text is cut, its end token kept; the log says how many were.
        vocab_size: the model's, if it is not the tokenizer's; ids must be below it.

    Returns:
        The rows, one for each text. An empty text is one of its begin and end tokens, or of nothing.

    Raises:
        ValueError: as `LabelledRows`.
    """
    if max_length < 3:
        raise ValueError(
            f"max_length {max_length} has no room between a begin and an end token; pass 3 or more"
        )
    ids = encode_documents(texts, tokenizer)
    if cut := sum(len(row) > max_length for row in ids):
        log.warning("cut %d of %d texts to max_length %d", cut, len(ids), max_length)
    ends = tokenizer.eos_id is not None
    short = lambda row: np.append(row[: max_length - 1], row[-1:]) if ends else row[:max_length]
    kept = [row if len(row) <= max_length else short(row) for row in ids]
    return LabelledRows(kept, labels, classes, vocab_size or tokenizer.vocab_size)


def label_names(dataset: datasets.Dataset, column: str = "label") -> list[str]:
    """The names of the classes: those that the data set declares, or those that occur.

    Args:
        dataset: the training rows.
        column: of the labels: class labels, texts, or integers from 0.

    Returns:
        Names by label; of texts sorted, of integers their digits.

    Raises:
        ValueError: there is no such column, or a label is neither a text nor an integer of at least 0; names
            the row.
    """
    check_columns(dataset, [column], "label='...'")
    declared = getattr(dataset.features[column], "names", None)
    if declared:
        return list(declared)
    values = column_values(dataset, column)
    if isinstance(values[0], str):
        return sorted({_text(value, row, column) for row, value in enumerate(values)})
    numbers = [_integer(value, row, column) for row, value in enumerate(values)]
    check_range(np.array(numbers), len(numbers), "label")  # with fewer rows than classes, some have none
    return [str(i) for i in range(max(numbers) + 1)]


def label_numbers(dataset: datasets.Dataset, names: Sequence[str], column: str = "label") -> np.ndarray:
    """The labels of a data set as numbers.

    Equivalent to::

        [names.index(label) for label in dataset[column]]      # of texts; integers are as they are

    Args:
        dataset: any split.
        names: of the classes, as `label_names` has them.
        column: of the labels.

    Returns:
        int64 [rows], each below ``len(names)``.

    Raises:
        ValueError: there is no such column, or a label is none of the classes; names the row.
    """
    check_columns(dataset, [column], "label='...'")
    values = column_values(dataset, column)
    if not any(isinstance(value, str) for value in values):
        numbers = np.array([_integer(value, row, column) for row, value in enumerate(values)], np.int64)
        check_range(numbers, len(names), "label")
        return numbers
    number = {name: i for i, name in enumerate(names)}
    for row, value in enumerate(values):
        if _text(value, row, column) not in number:
            known = ", ".join(map(repr, names[:20])) + ", ..." * (len(names) > 20)
            raise ValueError(
                f"row {row}: label {value!r:.80} in column {column!r} is none of the {len(names)} classes of "
                f"the training rows: {known}; correct it, or drop the row"
            )
    return np.array([number[value] for value in values], np.int64)


def _text(value: Any, row: int, column: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"row {row}: wanted a text as label in column {column!r}, got {value!r:.80}")
    return value


def _integer(value: Any, row: int, column: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(
            f"row {row}: wanted a text or an integer as label in column {column!r}, got {value!r:.80}; "
            "number the classes from 0, or name them"
        )
    return value
