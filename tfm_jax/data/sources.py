"""Data sets by name: built in, in files, or on the Hugging Face hub."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from tfm_jax.data.builtin import SOURCES
from tfm_jax.data.columns import check_columns
from tfm_jax.data.hub import load_hub
from tfm_jax.data.layout import SplitsBy, check_splits
from tfm_jax.data.local import load_local, looks_local

__all__ = ["load", "load_splits", "load_whole", "split_rows"]


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
            "none" (all are "train"). None goes by the rule of ``assign_splits`` in ``tfm_jax.data.layout``.
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


def load_whole(
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
    columns: Sequence[str] | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    splits: SplitsBy | None = None,
    cache_dir: str | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
) -> dict[str, datasets.Dataset]:
    """Load a data set's "train", "validation" and "test"; what it lacks is taken from its "train".

    Args:
        source, columns, splits, cache_dir, separator, encoding: as for `load`.
        validation, test: the share of the training rows to take for a split that is missing; 0 takes none.
        seed: decides which rows are taken, see `split_rows`.

    Returns:
        The splits, by name.

    Raises:
        FileNotFoundError, HubUnavailableError, ValueError: as for `load`; or the source has no "train".
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
    made = split_rows(
        _checked(found["train"], source, "train", columns),
        **{name: 0 if name in found else share for name, share in shares.items()},
        seed=seed,
    )
    kept = {name: found[name] for name in shares if name in found}
    return made | {name: _checked(rows, source, name, columns) for name, rows in kept.items()}


def split_rows(
    dataset: datasets.Dataset, *, validation: float = 0.1, test: float = 0.1, seed: int = 0
) -> dict[str, datasets.Dataset]:
    """Share rows out at random, the same way for the same seed and number of rows.

    Equivalent to::

        order = np.random.default_rng(seed).permutation(len(dataset))
        test, validation, train = np.split(order, [n_test, n_test + n_validation])   # each sorted

    Args:
        dataset: the rows.
        validation, test: the share of the rows, from 0 (no such split) to 1; at least one row if not 0.
        seed: decides which rows.

    Returns:
        "train", and "validation" and "test" unless their share is 0.

    Raises:
        ValueError: no row is left to train on.
    """
    n = len(dataset)
    sizes = [max(1, round(share * n)) if share else 0 for share in (test, validation)]
    if min(sizes) < 0 or sum(sizes) >= n:
        raise ValueError(
            f"{n} rows cannot give {sizes[1]} for validation and {sizes[0]} to test, and some to train on; "
            "pass other shares, or files for each split (train.jsonl, validation.jsonl, test.jsonl)"
        )
    order = np.random.default_rng(seed).permutation(n)
    parts = zip(("test", "validation", "train"), np.split(order, np.cumsum(sizes)), strict=True)
    return {name: dataset.select(np.sort(rows), keep_in_memory=True) for name, rows in parts if len(rows)}


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
