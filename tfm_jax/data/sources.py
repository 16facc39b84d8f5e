"""Data sets by name: built in, in files, or on the Hugging Face hub."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from tfm_jax.data.builtin import SOURCES
from tfm_jax.data.columns import check_columns
from tfm_jax.data.hub import load_hub
from tfm_jax.data.local import is_text_file, load_local, looks_local
from tfm_jax.data.splitting import SPLIT_SALT, hold_out, split_text

__all__ = ["load", "load_splits"]


def load(
    source: str,
    split: str = "train",
    *,
    columns: Sequence[str] | None = None,
    streaming: bool = False,
    cache_dir: str | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """Load one split of a data set.

    Args:
        source: one of

            - "digits", "dates", "names", "places" or "stdlib", which need neither network nor file;
            - the path of a jsonl, json, csv, tsv, parquet or text file (also compressed), of a directory of
              such files or of pictures, or a glob;
            - a hub data set, "owner/name" or "name", with a configuration after a colon if it has several.
        split: the name of the split, such as "train"; of files and of hub data sets also a slice of it, such
            as "train[:10%]".
        columns: the wanted columns; the others are dropped. None keeps all.
        streaming: read while iterating instead of loading first.
        cache_dir: where the ``datasets`` library keeps its files; None is its own choice.

    Returns:
        The data set, at least one row.

    Raises:
        FileNotFoundError: the source looks like a path, and nothing is there.
        HubUnavailableError: a hub data set, and no hub; raised within seconds.
        ValueError: there is no such split or column or no row, files cannot be read, or the hub has no such
            data set.

    Example::

        load("dates", "test")
        load("corpus/en-fr.*.jsonl.gz", "validation")
        load("wikitext:wikitext-2-raw-v1", "train[:10%]", columns=["text"])
    """
    try:
        dataset = _open(source, split, streaming, cache_dir)
    except ValueError as error:
        if not str(error).startswith(("Unknown split", "Bad split")):
            raise
        raise ValueError(
            f"{source!r} has no split {split!r} ({error}); name one that it has, or load_splits makes those "
            "that are missing"
        ) from error
    return _checked(dataset, f"{source!r}, split {split!r},", columns)


def load_splits(
    source: str,
    *,
    by: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    salt: str | None = SPLIT_SALT,
    cache_dir: str | None = None,
) -> dict[str, datasets.Dataset]:
    """Load a data set's "train", "validation" and "test"; what it lacks is held out of its "train".

    A row is held out by a hash of its input alone, as `split_rows` does: the source may grow or be reordered,
    and no training example becomes a test example. One document (a text file, or a single row of text alone)
    is cut into contiguous parts, as `split_text` does.

    Equivalent to::

        hold_out({name: load(source, name) for name in its splits}, by=by, validation=validation, test=test)

    Args:
        source, columns, cache_dir: as for `load`.
        by: the columns that the model reads, never the label, by which rows are held out; they need not be
            among ``columns``. None takes the only column that there is, or that is wanted.
        validation, test: the share of the training rows to hold out for a split that is missing; 0: none.
        salt: as for `hold_out`.

    Returns:
        The splits, by name.

    Raises:
        FileNotFoundError, HubUnavailableError, ValueError: as for `load` and `split_rows`; the source has no
            "train", or a split is to be held out and nothing says by which columns.
    """
    if source in SOURCES:
        found = {name: load(source, name) for name in SOURCES[source][1]}
    else:
        found = dict(_open(source, None, False, cache_dir))
    if "train" not in found:
        raise ValueError(f"{source!r} has no split 'train', only {', '.join(map(repr, found))}")
    shares = {"validation": validation, "test": test}
    kept = {name: rows for name, rows in found.items() if name in ("train", *shares)}
    what = lambda name: f"{source!r}, split {name!r},"
    wanted = {name: _checked(rows, what(name), columns) for name, rows in kept.items()}
    missing = {name: 0.0 if name in kept else share for name, share in shares.items()}
    if not any(missing.values()):
        return wanted
    if salt is not None and (is_text_file(source) or _is_document(wanted["train"])):
        return wanted | _split_document(wanted["train"], missing)
    if not by and salt is not None:
        by = _only_column(source, wanted["train"])
    made = hold_out({"train": kept["train"]}, by=by or (), salt=salt, **missing)
    return wanted | {name: _checked(rows, what(name), columns) for name, rows in made.items()}


def _is_document(rows: datasets.Dataset) -> bool:
    """Whether this is a single row, of text alone."""
    return len(rows) == 1 and len(rows.column_names) == 1 and isinstance(rows[0][rows.column_names[0]], str)


def _split_document(rows: datasets.Dataset, shares: Mapping[str, float]) -> dict[str, datasets.Dataset]:
    """The parts of the one document that these rows of text are."""
    (column,) = rows.column_names
    parts = split_text(rows[column], **shares)
    return {name: datasets.Dataset.from_dict({column: pieces}) for name, pieces in parts.items()}


def _only_column(source: str, rows: datasets.Dataset) -> list[str]:
    if len(rows.column_names) != 1:
        raise ValueError(
            f"by: got nothing, and {source!r} has the columns {', '.join(map(repr, rows.column_names))}; "
            "wanted those that the model reads, by whose hash examples are held out. Pass by=[...], or "
            "validation=0 and test=0"
        )
    return list(rows.column_names)


def _open(source: str, split: str | None, streaming: bool, cache_dir: str | None) -> Any:
    if source in SOURCES:
        dataset = SOURCES[source][0](split)
        return dataset.to_iterable_dataset() if streaming else dataset
    if looks_local(source):
        return load_local(source, split, streaming=streaming, cache_dir=cache_dir)
    name, _, config = source.partition(":")
    return load_hub(name, config or None, split, streaming=streaming, cache_dir=cache_dir)


def _checked(
    dataset: datasets.Dataset | datasets.IterableDataset, what: str, columns: Sequence[str] | None
) -> datasets.Dataset | datasets.IterableDataset:
    """The wanted columns of a data set that has rows."""
    if next(iter(dataset), None) is None:
        raise ValueError(f"{what} is empty: it has no rows; choose another source or split")
    if columns is None:
        return dataset
    check_columns(dataset, list(columns), "columns=[...]")
    return dataset.select_columns(list(columns))
