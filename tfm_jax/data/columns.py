"""Columns of a data set as texts or pairs of texts: what is missing is one clear error."""

import re
from collections.abc import Iterable
from typing import Any

import datasets

__all__ = ["check_columns", "column_values", "sorted_names", "source_column", "text_pairs", "texts"]

Dataset = datasets.Dataset | datasets.IterableDataset


def check_columns(dataset: Dataset, wanted: list[str], how: str) -> None:
    """Raise unless the data set has these columns.

    Args:
        dataset: the data set.
        wanted: names of columns.
        how: how the caller's user chooses other columns, for the message.

    Returns:
        Nothing.

    Raises:
        ValueError: says which columns there are and how to choose.
    """
    present = dataset.column_names
    if present is None:  # a stream whose columns nobody has declared
        present = list(next(iter(dataset), {}))
    missing = [name for name in wanted if name not in present]
    if missing:
        inside = next((mark for mark in ";\t|," if len(present) == 1 and mark in present[0]), None)
        hint = f", or pass the separator of the table: separator={inside!r} (--data.separator {inside!r})"
        raise ValueError(
            f"the data set has no column {_names(missing)}; it has {_names(present)}. Choose with {how}"
            + hint * (inside is not None)
        )


def column_values(dataset: Dataset, column: str) -> list[Any]:
    """All values of one column, the others left unread.

    Equivalent to::

        [row[column] for row in dataset]

    Args:
        dataset: the data set; a stream must end (``stream.take(n)``).
        column: the name of a column that is there.

    Returns:
        The values, in order.

    Raises:
        ValueError: there are no rows.
    """
    batches = dataset.select_columns([column]).iter(batch_size=1000)
    values = [value for batch in batches for value in batch[column]]
    if not values:
        raise ValueError("the data set is empty: it has no rows; choose another source or split")
    return values


def texts(dataset: Dataset, column: str = "text") -> list[str]:
    """One column of texts.

    Equivalent to::

        [row[column] for row in dataset]

    Args:
        dataset: the data set; a stream must end (``stream.take(n)``).
        column: the name of the column.

    Returns:
        The texts, in order; empty ones too.

    Raises:
        ValueError: there is no such column, a row has no text in it, or there are no rows.
    """
    check_columns(dataset, [column], "column='...'")
    return _strings(column_values(dataset, column), column)


def text_pairs(
    dataset: Dataset, pair: str | None = None, *, source: str = "source", target: str = "target"
) -> tuple[list[str], list[str]]:
    """Sources and targets of a parallel data set.

    Equivalent to::

        a, b = pair.split("-")
        [row["translation"][a] for row in dataset], [row["translation"][b] for row in dataset]

    Args:
        dataset: rows ``{"translation": {"en": ..., "fr": ...}}``, or with flat columns; a stream must end.
        pair: the two languages, such as ``"en-fr"``, from source to target: the keys of the translation or
            the names of flat columns. None takes the columns ``source`` and ``target``.
        source, target: the names of the flat columns, without ``pair``.

    Returns:
        The sources and the targets, in order; empty ones too.

    Raises:
        ValueError: there are no such columns, a row has no text in one of them, or there are no rows.
    """
    if pair is not None:
        source, dash, target = pair.partition("-")
        if not (source and dash and target) or "-" in target:
            raise ValueError(f"pair {pair!r} is not two names with a dash between them, such as 'en-fr'")
        if "translation" in (dataset.column_names or next(iter(dataset), {})):
            rows = column_values(dataset, "translation")
            languages = sorted(set().union(*(row or {} for row in rows)))
            if not {source, target} <= set(languages):
                raise ValueError(
                    f"the data set has no translations {pair!r}; it has the languages {_names(languages)}. "
                    "Choose with pair='...-...'"
                )
            return tuple(_strings(((row or {}).get(name) for row in rows), name) for name in (source, target))
    check_columns(dataset, [source, target], "pair='en-fr', or source='...' and target='...'")
    return tuple(_strings(column_values(dataset, name), name) for name in (source, target))


def sorted_names(names: Iterable[str]) -> list[str]:
    """Names of classes in their order, each once.

    Equivalent to::

        sorted(set(names), key=lambda name: (int(name), name))    # where all are whole numbers
        sorted(set(names))                                        # else

    Args:
        names: of classes, as they are written.

    Returns:
        The names: whole numbers by their value, others by their characters.
    """
    found = sorted(set(names))
    return sorted(found, key=int) if all(map(is_whole_number, found)) else found


def is_whole_number(name: str) -> bool:
    """Whether a name of a class is digits, perhaps with a sign."""
    return re.fullmatch(r"[+-]?[0-9]{1,1000}", name) is not None


def source_column(dataset: Dataset, pair: str | None = None) -> str:
    """The name of the source side of a parallel data set, as `text_pairs` reads it.

    Equivalent to::

        "translation.en" if "translation" in dataset.column_names else "en"     # of the pair "en-fr"

    Args:
        dataset: the data set.
        pair: as for `text_pairs`.

    Returns:
        The name of a column or, after a dot, of a field of one: what `split_by_hash` is to go by.
    """
    if pair is None:
        return "source"
    name = pair.partition("-")[0]
    return (
        f"translation.{name}" if "translation" in (dataset.column_names or next(iter(dataset), {})) else name
    )


def _strings(values: Iterable[Any], column: str) -> list[str]:
    values = list(values)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            got = "nothing" if value is None else f"{type(value).__name__} {value!r:.80}"
            raise ValueError(
                f"row {row}: wanted text in column {column!r}, got {got}; correct or drop the row"
            )
    return values


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none at all"
