"""Labels of a data set: class names, and labels as class ids."""

import re
from collections.abc import Iterable, Sequence
from typing import TypeGuard

import numpy as np

from tfm_jax.data._validate import check_range
from tfm_jax.data.columns import Dataset, check_columns, column_values

__all__ = ["label_ids", "label_names", "label_texts", "sorted_names", "tag_ids", "tag_names", "tag_texts"]


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
    return _occurring_names("label_names", values, [f"row {row}" for row in range(len(values))], column)


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
    found = label_texts("label_ids", dataset, names, column)
    ids = _ids("label_ids", found, [f"row {row}" for row in range(len(found))], names, column)
    return np.array(ids, np.int64)


def label_texts(function: str, dataset: Dataset, names: Sequence[str], column: str) -> list[str]:
    """The class name of each row, one of ``names`` or not.

    Args:
      function: the public function, for the message.
      dataset, names, column: as for `label_ids`.

    Raises:
      ValueError: the data set has no such column, or a label is blank or an id out of range; names the row.
    """
    check_columns(function, dataset, [column], "label='...'")
    values = column_values(function, dataset, column)
    return _texts(function, values, [f"row {row}" for row in range(len(values))], names, dataset, column)


def tag_names(dataset: Dataset, column: str = "tags") -> list[str]:
    """Class names of tokens in the order of their ids: those that the data set declares, or that occur.

    Args:
      dataset: the training rows; a stream must be finite.
      column: of the tags: lists of class labels, texts or integers, or texts with spaces between the tags.

    Returns:
      The names as `label_names` returns them.

    Raises:
      ValueError: the data set has no such column, or a tag is blank or of another type; names the row.
    """
    rows, where = _tag_values("tag_names", dataset, column)
    if declared := _declared_names(dataset, column):
        return declared
    return _occurring_names("tag_names", [tag for row in rows for tag in row], where, column)


def tag_ids(dataset: Dataset, names: Sequence[str], column: str = "tags") -> list[np.ndarray]:
    """Tags of a data set as class ids.

    Equivalent to::

        [[names.index(str(tag)) for tag in tags] for tags in dataset[column]]

    Args:
      dataset: any split; its tags are read as `label_ids` reads labels.
      names: of the classes, such as `tag_names` returns.
      column: of the tags, as for `tag_names`.

    Returns:
      int64 [tokens] for each row.

    Raises:
      ValueError: the data set has no such column, or a tag is blank or no class; names the row.
    """
    rows = tag_texts("tag_ids", dataset, names, column)
    where = [f"row {row}, token {i}," for row, tags in enumerate(rows) for i in range(len(tags))]
    ids = iter(_ids("tag_ids", [tag for tags in rows for tag in tags], where, names, column))
    return [np.array([next(ids) for _ in tags], np.int64) for tags in rows]


def tag_texts(function: str, dataset: Dataset, names: Sequence[str], column: str) -> list[list[str]]:
    """The class name of each token of each row, one of ``names`` or not; the rest is as in `label_texts`."""
    rows, where = _tag_values(function, dataset, column)
    found = iter(_texts(function, [tag for row in rows for tag in row], where, names, dataset, column))
    return [[next(found) for _ in row] for row in rows]


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


def _occurring_names(function: str, values: Sequence[object], where: Sequence[str], column: str) -> list[str]:
    """The class names that occur, of values of one type, each at a place that messages name."""
    names = [_name(value, place, column, function) for value, place in zip(values, where, strict=True)]
    for value, place in zip(values, where, strict=True):
        if type(value) is not type(values[0]):  # are "1" and 1 one class, or two?
            first = where[0].removesuffix(",")
            raise ValueError(
                f"{function}: got {value!r:.80} in {place} of column {column!r} and {values[0]!r:.80} in "
                f"{first}; wanted labels of one type. Write all of them as texts, or all as numbers."
            )
    return sorted_names(names)


def _ids(
    function: str, found: Sequence[str], where: Sequence[str], names: Sequence[str], column: str
) -> list[int]:
    """The ids of class names, each at a place that messages name."""
    id_of = {name: i for i, name in enumerate(names)}
    for name, place in zip(found, where, strict=True):
        if name not in id_of:
            known = ", ".join(map(repr, names[:20])) + ", ..." * (len(names) > 20)
            raise ValueError(
                f"{function}: got {name!r:.80} in {place} of column {column!r}; wanted one of the "
                f"{len(names)} classes of the training data: {known}. Correct it, or drop the row."
            )
    return [id_of[name] for name in found]


def _texts(
    function: str,
    values: Sequence[object],
    where: Sequence[str],
    names: Sequence[str],
    dataset: Dataset,
    column: str,
) -> list[str]:
    """The class names of values, each at a place that messages name."""
    declared = _declared_names(dataset, column)
    if not declared and all(map(_is_integer, values)) and not any(map(_is_whole_number, names)):
        ids = np.array(values, np.int64)
        check_range(function, "label", ids, len(names))
        return [names[int(i)] for i in ids]
    texts: list[str] = []
    for value, place in zip(values, where, strict=True):
        if declared and _is_integer(value) and 0 <= value < len(declared):
            texts.append(declared[value])
        else:
            texts.append(_name(value, place, column, function))
    return texts


def _tag_values(function: str, dataset: Dataset, column: str) -> tuple[list[list[object]], list[str]]:
    """The tags of each row, and the place of each, for messages."""
    check_columns(function, dataset, [column], "label='...'")
    rows: list[list[object]] = []
    for row, value in enumerate(column_values(function, dataset, column)):
        tags: object = list(value.split()) if isinstance(value, str) else value
        if not isinstance(tags, list):
            raise ValueError(
                f"{function}: got {value!r:.80} in row {row} of column {column!r}; wanted the tags of its "
                "tokens: a list, or a text with spaces between them. Correct it, or drop the row."
            )
        rows.append(list(tags))
    return rows, [f"row {row}, token {i}," for row, tags in enumerate(rows) for i in range(len(tags))]


def _declared_names(dataset: Dataset, column: str) -> list[str] | None:
    """Names of the classes that a data set declares, for a column of labels or of lists of them."""
    feature = (dataset.features or {}).get(column)
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return list(names) if names else None


def _name(value: object, place: str, column: str, function: str) -> str:
    """The name of a class as a file writes it, at a place that messages name."""
    if isinstance(value, bool):
        return str(value).lower()  # as JSON does
    if _is_integer(value):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    shown = "nothing" if value is None or value == "" else repr(value)[:80]
    raise ValueError(
        f"{function}: got {shown} in {place} of column {column!r}; wanted a text or an integer as label. "
        "Name its class, or drop the row."
    )


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
