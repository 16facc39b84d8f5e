"""Columns of a data set: texts, pairs of texts, and one error for what is missing."""

from collections.abc import Iterable, Iterator

import datasets

__all__ = [
    "HEADER",
    "Dataset",
    "check_columns",
    "column_values",
    "iter_column",
    "source_column",
    "text_pairs",
    "texts",
]

Dataset = datasets.Dataset | datasets.IterableDataset
HEADER = "table with a header"
"""The ``builder_name`` of a data set whose columns a header line names."""


def check_columns(function: str, dataset: Dataset, wanted: list[str], how: str) -> None:
    """Raises unless the data set has these columns.

    Args:
      function: the public function, for the message.
      dataset: the data set.
      wanted: names of columns.
      how: how the user chooses other columns, for the message.

    Raises:
      ValueError: names the columns that there are.
    """
    present = _column_names(dataset)
    missing = [name for name in wanted if name not in present]
    if missing:
        separator = next((mark for mark in ";\t|," if len(present) == 1 and mark in present[0]), None)
        hint = ""
        if separator is not None:
            hint = f" Or pass its separator: separator={separator!r} (--data.separator {separator!r})."
        if separator is None and getattr(dataset.info, "builder_name", None) == HEADER:
            hint = (
                " Or, if this first line is data, not a header, pass the names of the columns: "
                f"names=[...] (--data.columns {' '.join(wanted)})."
            )
        raise ValueError(
            f"{function}: got a data set with the columns {_listed(present)}; wanted {_listed(missing)}. "
            f"Choose with {how}." + hint
        )


def iter_column(dataset: Dataset, column: str) -> Iterator[object]:
    """Iterates over the values of one column.

    Equivalent to::

        (row[column] for row in dataset)

    Args:
      dataset: the data set.
      column: the name of one of its columns.

    Yields:
      The values, in order.
    """
    for batch in dataset.iter(batch_size=1000):  # a dict of columns; the library declares also a list
        yield from batch[column]  # pyright: ignore[reportCallIssue, reportArgumentType]


def column_values(function: str, dataset: Dataset, column: str) -> list[object]:
    """All values of one column; the other columns are not read.

    Equivalent to::

        [row[column] for row in dataset]

    Args:
      function: the public function, for the message.
      dataset: the data set; a stream must be finite (``stream.take(n)``).
      column: the name of one of its columns.

    Returns:
      The values, in order.

    Raises:
      ValueError: the data set has no rows.
    """
    values = list(iter_column(dataset.select_columns([column]), column))
    if not values:
        raise ValueError(f"{function}: got an empty data set; wanted rows. Choose another source or split.")
    return values


def texts(dataset: Dataset, column: str = "text") -> list[str]:
    """A column of texts.

    Equivalent to::

        [row[column] for row in dataset]

    Args:
      dataset: the data set; a stream must be finite (``stream.take(n)``).
      column: the name of the column.

    Returns:
      The texts, in order; empty ones too.

    Raises:
      ValueError: the data set has no such column or no rows, or a value is no text.
    """
    check_columns("texts", dataset, [column], "column='...'")
    return _strings("texts", column_values("texts", dataset, column), column)


def text_pairs(
    dataset: Dataset, pair: str | None = None, *, source: str = "source", target: str = "target"
) -> tuple[list[str], list[str]]:
    """Source and target texts of a parallel data set.

    Equivalent to::

        a, b = pair.split("-")
        [row["translation"][a] for row in dataset], [row["translation"][b] for row in dataset]

    Args:
      dataset: rows ``{"translation": {"en": ..., "fr": ...}}``, or with flat columns; a stream must be
        finite.
      pair: two languages, such as ``"en-fr"``, from source to target: keys of the translation, or names of
        flat columns. None takes the columns ``source`` and ``target``.
      source, target: the names of the flat columns, without ``pair``.

    Returns:
      The sources and the targets, in order; empty ones too.

    Raises:
      ValueError: the data set has no such columns or no rows, or a value is no text.
    """
    if pair is not None:
        source, dash, target = pair.partition("-")
        if not (source and dash and target) or "-" in target:
            raise ValueError(
                f"text_pairs: got pair={pair!r}; wanted two names with a dash between them. Write, for "
                "example, 'en-fr'."
            )
        if "translation" in _column_names(dataset):
            values = column_values("text_pairs", dataset, "translation")
            rows = [value if isinstance(value, dict) else {} for value in values]
            languages = sorted(set().union(*rows))
            if not {source, target} <= set(languages):
                raise ValueError(
                    f"text_pairs: got pair={pair!r}; wanted two of the languages {_listed(languages)}. "
                    "Choose with pair='...-...'."
                )
            sources, targets = ([row.get(name) for row in rows] for name in (source, target))
            return _strings("text_pairs", sources, source), _strings("text_pairs", targets, target)
    check_columns("text_pairs", dataset, [source, target], "pair='en-fr'")
    sources, targets = (column_values("text_pairs", dataset, name) for name in (source, target))
    return _strings("text_pairs", sources, source), _strings("text_pairs", targets, target)


def source_column(dataset: Dataset, pair: str | None = None) -> str:
    """Name of the source column of a parallel data set, as `text_pairs` reads it.

    Equivalent to::

        "translation.en" if "translation" in dataset.column_names else "en"     # of the pair "en-fr"

    Args:
      dataset: the data set.
      pair: as for `text_pairs`.

    Returns:
      The name of a column or, after a dot, of a field of one, for ``by`` of `split_by_hash`.
    """
    if pair is None:
        return "source"
    name = pair.partition("-")[0]
    return f"translation.{name}" if "translation" in _column_names(dataset) else name


def _column_names(dataset: Dataset) -> list[str]:
    """The declared column names; of a stream that declares none, those of its first row."""
    names = dataset.column_names
    return list(next(iter(dataset), {})) if names is None else names


def _strings(function: str, values: Iterable[object], column: str) -> list[str]:
    strings = []
    for row, value in enumerate(values):
        if not isinstance(value, str):
            shown = "nothing" if value is None else f"{type(value).__name__} {value!r:.80}"
            raise ValueError(
                f"{function}: got {shown} in row {row} of column {column!r}; wanted a text. Correct or drop "
                "the row."
            )
        strings.append(value)
    return strings


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{name!r:.60}" for name in names) or "none at all"
