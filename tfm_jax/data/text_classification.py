"""Labelled texts as rows of the classification batch."""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfm_jax.data._validate import check_range, fingerprint, flat_ids
from tfm_jax.data.columns import Dataset, check_columns, column_values, is_whole_number, sorted_names
from tfm_jax.data.sequences import encode_documents, padded
from tfm_jax.data.tokenizers import Tokenizer

__all__ = ["TextClassificationExamples", "label_ids", "label_names", "text_classification_examples"]

log = logging.getLogger(__name__)


class TextClassificationExamples:
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


def text_classification_examples(
    texts: Sequence[str],
    labels: np.ndarray,
    tokenizer: Tokenizer,
    classes: int,
    *,
    max_length: int,
    vocab_size: int | None = None,
) -> TextClassificationExamples:
    """Tokenize labelled texts, each between its begin and end tokens if the tokenizer has them.

    Args:
        texts: the texts.
        labels: int [texts], such as `label_ids` gives.
        tokenizer: the tokenizer.
        classes: the number of classes.
        max_length: in ids, at least 3. A longer text is cut, its end token kept; the log says how many were.
        vocab_size: the model's, if it is not the tokenizer's; ids must be below it.

    Returns:
        The rows, one for each text. An empty text is one of its begin and end tokens, or of nothing.

    Raises:
        ValueError: as `TextClassificationExamples`.
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
    return TextClassificationExamples(kept, labels, classes, vocab_size or tokenizer.vocab_size)


def label_names(dataset: Dataset, column: str = "label", *, classes: int | None = None) -> list[str]:
    """Names of the classes: those that the data set declares, or those that occur, as they are written.

    Args:
        dataset: the training rows; a stream must end.
        column: of the labels: class labels, texts, integers, or booleans ("false" and "true").
        classes: how many there are: the declared ones, and then those that are called by their number, such
            as "0" to "9". None takes the declared ones, or those that occur.

    Returns:
        Names by label: whole numbers by their value, others by their characters.

    Raises:
        ValueError: there is no such column, or a label is blank or of another kind; names the row.
    """
    check_columns(dataset, [column], "label='...'")
    declared = _declared(dataset, column) or []
    if classes is not None:
        return [*declared[:classes], *map(str, range(len(declared), classes))]
    if declared:
        return declared
    values = column_values(dataset, column)
    names = [_name(value, row, column) for row, value in enumerate(values)]
    for row, value in enumerate(values):
        if type(value) is not type(values[0]):  # "1" beside 1: one class, or two?
            raise ValueError(
                f"row {row}: got the label {value!r:.80} in column {column!r} beside {values[0]!r:.80} in "
                "row 0; write all of them as texts, or all as numbers"
            )
    return sorted_names(names)


def label_ids(dataset: Dataset, names: Sequence[str], column: str = "label") -> np.ndarray:
    """The labels of a data set as numbers.

    Equivalent to::

        [names.index(str(label)) for label in dataset[column]]

    Args:
        dataset: any split. A declared class is found by its name. An integer is a name where some name is a
            whole number; where none is, it is the label itself.
        names: of the classes, as `label_names` has them.
        column: of the labels.

    Returns:
        int64 [rows], each below ``len(names)``.

    Raises:
        ValueError: there is no such column, or a label is blank or none of the classes; names the row.
    """
    check_columns(dataset, [column], "label='...'")
    values = column_values(dataset, column)
    declared = _declared(dataset, column)
    if not declared and all(map(_is_integer, values)) and not any(map(is_whole_number, names)):
        numbers = np.array(values, np.int64)
        check_range(numbers, len(names), "label")
        return numbers
    number = {name: i for i, name in enumerate(names)}
    found = []
    for row, value in enumerate(values):
        named = declared and _is_integer(value) and 0 <= value < len(declared)
        name = declared[value] if named else _name(value, row, column)
        if name not in number:
            known = ", ".join(map(repr, names[:20])) + ", ..." * (len(names) > 20)
            raise ValueError(
                f"row {row}: label {value!r:.80} in column {column!r} is none of the {len(names)} classes of "
                f"the training rows: {known}; correct it, or drop the row"
            )
        found.append(number[name])
    return np.array(found, np.int64)


def _declared(dataset: Dataset, column: str) -> list[str] | None:
    """The names of the classes that a data set declares."""
    names = getattr((dataset.features or {}).get(column), "names", None)
    return list(names) if names else None


def _name(value: Any, row: int, column: str) -> str:
    """The name of a class as a file writes it."""
    if isinstance(value, bool):
        return str(value).lower()  # as JSON does
    if _is_integer(value):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    what = "nothing" if value is None or value == "" else repr(value)[:80]
    raise ValueError(
        f"row {row}: wanted a text or an integer as label in column {column!r}, got {what}; "
        "name its class, or drop the row"
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
