"""Data sets by name: built in, in files, or on the Hugging Face hub."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from tfm_jax.data._layout import SplitsBy, check_splits
from tfm_jax.data._local import is_one_text, load_local, looks_local
from tfm_jax.data.builtin import SOURCES
from tfm_jax.data.columns import check_columns
from tfm_jax.data.hub import load_hub
from tfm_jax.data.splitting import SPLIT_SALT, hold_out, split_text

__all__ = ["load", "load_splits", "load_unsplit"]


def load(
    source: str,
    split: str = "train",
    *,
    columns: Sequence[str] | None = None,
    splits: SplitsBy | None = None,
    streaming: bool = False,
    cache_dir: str | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
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
        splits: what decides the split of each file of a directory or glob: "directories" (the first one in
            its path that is named train, test or the like), "files" (the first or last word of its name) or
            "none" (all are "train"). None goes by the rule of ``assign_splits`` in ``tfm_jax.data._layout``.
        streaming: read while iterating instead of loading first.
        cache_dir: where converted files lie while the process runs, and where the ``datasets`` library keeps
            those of the hub; None is the system's temporary directory, and the library's own choice.
        separator: one character between the fields of csv (None: a comma) and tsv files (None: a tab).
        encoding: of json, csv, tsv and text files.

    Returns:
        The data set, at least one row. Columns of csv and tsv files are texts.

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
        dataset = _open(
            source,
            split,
            streaming,
            splits=splits,
            cache_dir=cache_dir,
            separator=separator,
            encoding=encoding,
        )
    except ValueError as error:
        if not str(error).startswith(("Unknown split", "Bad split")):
            raise
        how = "load_splits makes those that are missing"
        if split.startswith("train"):
            how = _without_train(source)
        raise ValueError(
            f"{source!r} has no split {split!r} ({error}); name one that it has, or {how}"
        ) from error
    return _checked(dataset, source, split, columns)


def load_unsplit(
    source: str,
    *,
    columns: Sequence[str] | None = None,
    cache_dir: str | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
) -> datasets.Dataset:
    """Load all files of a source as one split, whatever their names are.

    Equivalent to::

        load(source, "train", splits="none")    # of files
        load(source, "train")                   # of another source

    Args:
        source, columns, cache_dir, separator, encoding: as for `load`.

    Returns:
        The data set, at least one row.

    Raises:
        FileNotFoundError, HubUnavailableError, ValueError: as for `load`.
    """
    splits = "none" if _is_local(source) else None
    options = {"cache_dir": cache_dir, "separator": separator, "encoding": encoding}
    return load(source, "train", columns=columns, splits=splits, **options)


def load_splits(
    source: str,
    *,
    by: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    salt: str | None = SPLIT_SALT,
    splits: SplitsBy | None = None,
    cache_dir: str | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
) -> dict[str, datasets.Dataset]:
    """Load a data set's "train", "validation" and "test"; what it lacks is held out of its "train".

    A row is held out by a hash of its input alone, as `split_by_hash` does: the source may grow or be reordered,
    and no training example becomes a test example. One document (a text file that is the only one to train
    on, or a single row of text alone) is cut into contiguous parts, as `split_text` does.

    Equivalent to::

        hold_out({name: load(source, name) for name in its splits}, by=by, validation=validation, test=test)

    Args:
        source, columns, splits, cache_dir, separator, encoding: as for `load`.
        by: the columns that the model reads, never the label, by which rows are held out; they need not be
            among ``columns``. None takes the only column that there is, or that is wanted.
        validation, test: the share of the training rows to hold out for a split that is missing; 0: none.
        salt: as for `hold_out`.

    Returns:
        The splits, by name.

    Raises:
        FileNotFoundError, HubUnavailableError, ValueError: as for `load` and `split_by_hash`; the source has no
            "train", or a split is to be held out and nothing says by which columns.
    """
    options = {"splits": splits, "cache_dir": cache_dir, "separator": separator, "encoding": encoding}
    if source in SOURCES:
        found = {name: load(source, name, **options) for name in SOURCES[source][1]}
    else:
        found = dict(_open(source, None, False, **options))
    if "train" not in found:
        names = ", ".join(map(repr, found))
        raise ValueError(f"{source!r} has no split 'train', only {names}; {_without_train(source)}")
    shares = {"validation": validation, "test": test}
    kept = {name: rows for name, rows in found.items() if name in ("train", *shares)}
    wanted = {name: _checked(rows, source, name, columns) for name, rows in kept.items()}
    missing = {name: 0.0 if name in kept else share for name, share in shares.items()}
    if not any(missing.values()):
        return wanted
    one_text = salt is not None and _is_local(source) and is_one_text(source, splits)
    if one_text or (salt is not None and _is_document(wanted["train"])):
        return wanted | _split_document(wanted["train"], missing)
    if not by and salt is not None:
        by = _only_column(source, wanted["train"])
    made = hold_out({"train": kept["train"]}, by=by or (), salt=salt, **missing)
    return wanted | {name: _checked(rows, source, name, columns) for name, rows in made.items()}


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


def _is_local(source: str) -> bool:
    return source not in SOURCES and looks_local(source)


def _without_train(source: str) -> str:
    """The way out where a source has no "train", for messages."""
    if not _is_local(source):
        return "name a source that has it"
    return "splits='none' (--data.splits none of an experiment) makes all of its files 'train'"


def _open(
    source: str,
    split: str | None,
    streaming: bool,
    *,
    splits: SplitsBy | None,
    cache_dir: str | None,
    separator: str | None,
    encoding: str,
) -> Any:
    check_splits(splits)
    if _is_local(source):
        return load_local(
            source,
            split,
            splits=splits,
            streaming=streaming,
            cache_dir=cache_dir,
            separator=separator,
            encoding=encoding,
        )
    if splits is not None:
        raise ValueError(
            f"splits: got {splits!r} for {source!r}, which declares its splits itself; wanted the path of "
            "files. Leave splits (--data.splits of an experiment) out"
        )
    if separator is not None or encoding != "utf-8":
        raise ValueError(
            f"{source!r} is no path of files: got separator {separator!r} and encoding {encoding!r}, "
            "which only files have; leave them out"
        )
    if source in SOURCES:
        dataset = SOURCES[source][0](split)
        return dataset.to_iterable_dataset() if streaming else dataset
    name, _, config = source.partition(":")
    return load_hub(name, config or None, split, streaming=streaming, cache_dir=cache_dir)


def _checked(
    dataset: datasets.Dataset | datasets.IterableDataset,
    source: str,
    split: str,
    columns: Sequence[str] | None,
) -> datasets.Dataset | datasets.IterableDataset:
    """The wanted columns of a data set that has rows."""
    if next(iter(dataset), None) is None:
        raise ValueError(
            f"{source!r}, split {split!r}, is empty: it has no rows; choose another source or split"
        )
    if columns is None:
        return dataset
    how = "columns=[...]"
    if _is_local(source) and dataset.column_names == ["image"]:
        how += (
            ". Pictures have a column 'label' where their directories are two or more classes, all at one "
            "depth; splits='none' (--data.splits none of an experiment) makes train and test classes, too"
        )
    check_columns(dataset, list(columns), how)
    return dataset.select_columns(list(columns))
