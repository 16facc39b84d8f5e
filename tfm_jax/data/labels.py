"""Labels of a data set: class names, and labels as class ids."""

import re
from collections.abc import Iterable, Sequence
from typing import TypeGuard

import numpy as np

from tfm_jax.data._validate import check_range
from tfm_jax.data.columns import Dataset, check_columns, column_values

__all__ = ["label_ids", "label_names", "sorted_names"]


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
    if not declared and all(map(_is_integer, values)) and not any(map(_is_whole_number, names)):
        ids = np.array(values, np.int64)
        check_range("label_ids", "label", ids, len(names))
        return ids
    id_of = {name: i for i, name in enumerate(names)}
    ids = []
    for row, value in enumerate(values):
        if declared and _is_integer(value) and 0 <= value < len(declared):
            name = declared[value]
        else:
            name = _name(value, row, column, "label_ids")
        if name not in id_of:
            known = ", ".join(map(repr, names[:20])) + ", ..." * (len(names) > 20)
            raise ValueError(
                f"label_ids: got {value!r:.80} in row {row} of column {column!r}; wanted one of the "
                f"{len(names)} classes of the training data: {known}. Correct it, or drop the row."
            )
        ids.append(id_of[name])
    return np.array(ids, np.int64)


def sorted_names(names: Iterable[str]) -> list[str]:
    """Class names, sorted and unique.

    Equivalent to::

        sorted(set(names), key=lambda name: (int(name), name))    # if all are whole numbers
        sorted(set(names))                                        # otherwise

    Args:
      names: of classes, as they are written.

    Returns:
      Whole numbers sorted by value, other names by their characters.
    """
    unique = sorted(set(names))
    return sorted(unique, key=int) if all(map(_is_whole_number, unique)) else unique


def _is_whole_number(name: str) -> bool:
    """Whether a class name is digits with an optional sign."""
    return re.fullmatch(r"[+-]?[0-9]{1,1000}", name) is not None


def _declared_names(dataset: Dataset, column: str) -> list[str] | None:
    """Names of the classes that a data set declares."""
    names = getattr((dataset.features or {}).get(column), "names", None)
    return list(names) if names else None


def _name(value: object, row: int, column: str, function: str) -> str:
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


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
