"""Data sets by name: built-in, in local files, or on the Hugging Face hub."""

from collections.abc import Mapping, Sequence
from typing import TypedDict, Unpack

import datasets

from tfm_jax.data._formats import read_files
from tfm_jax.data._layout import SplitsBy, check_splits
from tfm_jax.data._local import DataFiles, find_files, is_path
from tfm_jax.data.builtin import SOURCES
from tfm_jax.data.columns import Dataset, check_columns
from tfm_jax.data.splitting import SPLIT_SALT, hold_out, split_text
from tfm_jax.hub import load_dataset

__all__ = ["is_local", "is_one_text", "load", "load_splits", "load_unsplit"]


class _FileOptions(TypedDict):
    """How files are read."""

    cache_dir: str | None
    separator: str | None
    encoding: str
    names: Sequence[str] | None


def load(
    source: str | Sequence[str],
    split: str = "train",
    *,
    columns: Sequence[str] | None = None,
    splits: SplitsBy | None = None,
    streaming: bool = False,
    cache_dir: str | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    names: Sequence[str] | None = None,
) -> Dataset:
    """Loads one split of a data set.

    Args:
      source: one of

        - "digits", "dates", "names", "places" or "stdlib", which are built in;
        - a jsonl, json, csv, tsv, parquet, text or image file (also compressed), a directory of such files,
          or a glob;
        - two aligned text files, ``("train.en", "train.fr")``, of any suffix: line n of one is the
          translation of line n of the other, in the columns "source" and "target", empty lines too;
        - a hub data set, "owner/name" or "name", with a configuration after a colon if it has several.
      split: the name of the split, such as "train"; for files and hub data sets also a slice of it, such as
        "train[:10%]".
      columns: the wanted columns; the others are dropped. None keeps all.
      splits: what decides the split of each file of a directory or glob: "directories" (the first one in its
        path that is named train, test or the like), "files" (the first or last word of its name) or "none"
        (all are "train"). None: the first directories if all of them are named as splits, otherwise the
        names of tables and texts (the full rule is in ``data/_layout.py``).
      streaming: read while iterating instead of loading first.
      cache_dir: for converted files while the process runs, and for what the ``datasets`` library downloads.
        None is the system's temporary directory, and the library's default.
      separator: one character between the fields of csv (None: a comma) and tsv files (None: a tab).
      encoding: of json, csv, tsv and text files.
      names: of the columns of csv and tsv files that have no header line, in order.

    Returns:
      The data set, at least one row. Columns of csv and tsv files are texts.

    Raises:
      FileNotFoundError: the source is a path that does not exist.
      HubUnavailableError: a hub data set, and the hub cannot be reached; raised within seconds.
      ValueError: there is no such split or column or no row, files cannot be read, or the hub has no such
        data set.

    Example::

        load("dates", "test")
        load("corpus/en-fr.*.jsonl.gz", "validation")
        load(("train.en.gz", "train.fr.gz"))
        load("pairs.tsv", names=["en", "fr"])
        load("wikitext:wikitext-2-raw-v1", "train[:10%]", columns=["text"])
    """
    options = _FileOptions(cache_dir=cache_dir, separator=separator, encoding=encoding, names=names)
    files = _find(source, splits)
    try:
        dataset = _open(source, files, split, streaming=streaming, **options)
    except ValueError as error:
        if not str(error).startswith(("Unknown split", "Bad split")):
            raise
        fix = "load_splits makes those that are missing."
        if split.startswith("train"):
            fix = _without_train(source)
        raise ValueError(
            f"load: got split {split!r} for {source!r}; wanted one that it has ({error}). Name one of them. "
            f"{fix}"
        ) from error
    _check_rows("load", dataset, source, split, columns)
    return dataset if columns is None else dataset.select_columns(list(columns))


def load_unsplit(
    source: str | Sequence[str],
    *,
    columns: Sequence[str] | None = None,
    cache_dir: str | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    names: Sequence[str] | None = None,
) -> datasets.Dataset:
    """Loads all files of a source as one split, whatever their names.

    Equivalent to::

        load(source, "train", splits="none")    # of files
        load(source, "train")                   # of another source

    Args:
      source, columns, cache_dir, separator, encoding, names: as for `load`.

    Returns:
      The data set, at least one row.

    Raises:
      FileNotFoundError, HubUnavailableError, ValueError: as for `load`.
    """
    splits = "none" if is_local(source) else None
    options = _FileOptions(cache_dir=cache_dir, separator=separator, encoding=encoding, names=names)
    return _table(load(source, "train", columns=columns, splits=splits, **options))


def load_splits(
    source: str | Sequence[str],
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
    names: Sequence[str] | None = None,
) -> dict[str, datasets.Dataset]:
    """Loads "train", "validation" and "test" of a data set; missing splits are held out of "train".

    Rows are held out by a hash of their input, as in `split_by_hash`: the source may grow or be reordered,
    and no training example becomes a test example. One document (the only text file to train on, or a
    single row of text alone) is split by position, as in `split_text`.

    Equivalent to::

        hold_out({name: load(source, name) for name in its splits}, by=by, validation=validation, test=test)

    Args:
      source, columns, splits, cache_dir, separator, encoding, names: as for `load`.
      by: the columns that are hashed to hold rows out: those that the model reads, never the label. They need
        not be in ``columns``. None takes the only column of the data set, or of ``columns``.
      validation, test: the share of the training rows to hold out if that split is missing; 0: none.
      salt: as for `hold_out`.

    Returns:
      The splits, by name.

    Raises:
      FileNotFoundError, HubUnavailableError, ValueError: as for `load` and `split_by_hash`; the source has no
        "train", or a split is missing and ``by`` is required.
    """
    files = _find(source, splits)
    options = _FileOptions(cache_dir=cache_dir, separator=separator, encoding=encoding, names=names)
    present = _open_all(source, files, **options)
    if "train" not in present:
        listed = ", ".join(map(repr, present))
        raise ValueError(
            f"load_splits: got {source!r} with the splits {listed}; wanted 'train'. {_without_train(source)}"
        )
    shares = {"validation": validation, "test": test}
    present = {name: rows for name, rows in present.items() if name in ("train", *shares)}
    selected = {name: _select(rows, source, name, columns) for name, rows in present.items()}
    missing = {name: 0.0 if name in present else share for name, share in shares.items()}
    if not any(missing.values()):
        return selected
    if salt is not None and _is_document(files, selected["train"]):
        return selected | _split_document(selected["train"], missing)
    if not by and salt is not None:
        by = _only_column(source, selected["train"])
    made = hold_out({"train": present["train"]}, by=by or (), salt=salt, **missing)
    return selected | {name: _select(rows, source, name, columns) for name, rows in made.items()}


def _find(source: str | Sequence[str], splits: SplitsBy | None) -> DataFiles | None:
    """The files of a local source; None for another one, which decides its splits itself."""
    check_splits(splits)
    if is_local(source):
        return find_files(source, splits)
    if splits is not None:
        raise ValueError(
            f"load: got splits={splits!r} for {source!r}, which declares its splits itself; wanted a path of "
            "files. Leave it out."
        )
    return None


def _open(
    source: str | Sequence[str],
    files: DataFiles | None,
    split: str,
    *,
    streaming: bool,
    **options: Unpack[_FileOptions],
) -> Dataset:
    """A split of a source."""
    if files is not None:
        origin = {"labels": files.labels, "target": files.target}
        return read_files(files.kind, files.files, split=split, streaming=streaming, **options, **origin)
    name = _check_no_files(source, **options)
    if name in SOURCES:
        make, _ = SOURCES[name]
        return make(split).to_iterable_dataset() if streaming else make(split)
    name, _, config = name.partition(":")
    cache_dir = options["cache_dir"]
    return load_dataset(
        name, config or None, split, streaming=streaming, cache_dir=cache_dir, alternatives=[*SOURCES]
    )


def _open_all(
    source: str | Sequence[str], files: DataFiles | None, **options: Unpack[_FileOptions]
) -> dict[str, datasets.Dataset]:
    """All splits of a source, by name."""
    if files is not None or source in SOURCES:
        names = SOURCES[str(source)][1] if files is None else files.files
        opened = {name: _open(source, files, name, streaming=False, **options) for name in names}
    else:
        name, _, config = _check_no_files(source, **options).partition(":")
        cache_dir = options["cache_dir"]
        opened = load_dataset(name, config or None, None, cache_dir=cache_dir, alternatives=[*SOURCES])
    return {str(name): _table(rows) for name, rows in opened.items()}


def _table(dataset: Dataset) -> datasets.Dataset:
    assert isinstance(dataset, datasets.Dataset), "it is not streamed"
    return dataset


def _check_no_files(source: str | Sequence[str], **options: Unpack[_FileOptions]) -> str:
    """The source, which is no file; raises for options of files."""
    defaults = {"separator": None, "encoding": "utf-8", "names": None}
    if wrong := [f"{name}={options[name]!r}" for name, value in defaults.items() if options[name] != value]:
        raise ValueError(
            f"load: got {' and '.join(wrong)} for {source!r}; wanted a path of files, which alone have "
            f"{'it' if len(wrong) == 1 else 'them'}. Leave {'it' if len(wrong) == 1 else 'them'} out."
        )
    assert isinstance(source, str)
    return source


def _select(
    rows: datasets.Dataset, source: str | Sequence[str], split: str, columns: Sequence[str] | None
) -> datasets.Dataset:
    """The wanted columns of a split of `load_splits`."""
    _check_rows("load_splits", rows, source, split, columns)
    return rows if columns is None else rows.select_columns(list(columns))


def _check_rows(
    function: str, dataset: Dataset, source: str | Sequence[str], split: str, columns: Sequence[str] | None
) -> None:
    """Raises if a data set has no rows, or not the wanted columns."""
    # A row of a table would decode its images, which may be broken.
    is_table = isinstance(dataset, datasets.Dataset)
    if not len(dataset) if is_table else next(iter(dataset), None) is None:
        raise ValueError(
            f"{function}: got no rows in split {split!r} of {source!r}; wanted at least one. Choose another "
            "source or split."
        )
    if columns is None:
        return
    how = "columns=[...]"
    if is_local(source) and dataset.column_names == ["image"]:
        how += (
            ". Images have a column 'label' if their directories are two or more classes, all at one depth; "
            "splits='none' (--data.splits none of an experiment) makes train and test classes, too"
        )
    check_columns(function, dataset, list(columns), how)


def is_local(source: str | Sequence[str]) -> bool:
    """Whether a source is one of files, existing or not: neither built in nor of the hub."""
    return not isinstance(source, str) or (source not in SOURCES and is_path(source))


def is_one_text(source: str | Sequence[str], splits: SplitsBy | None = None) -> bool:
    """Whether a source has a single text file to train on, which `load_splits` splits by position.

    Args:
      source, splits: as for `load`.

    Raises:
      FileNotFoundError, ValueError: as for `load`.
    """
    files = _find(source, splits)
    return files is not None and files.is_one_text


def _without_train(source: str | Sequence[str]) -> str:
    """The fix for a source without "train", for messages."""
    if not is_local(source):
        return "Name a source that has it."
    return "Pass splits='none' (--data.splits none of an experiment), which makes all of its files 'train'."


def _is_document(files: DataFiles | None, rows: datasets.Dataset) -> bool:
    """Whether the training data is one document: a text file, or a single row of text alone."""
    if files is not None and files.is_one_text:
        return True
    return len(rows) == 1 and len(rows.column_names) == 1 and isinstance(rows[0][rows.column_names[0]], str)


def _split_document(rows: datasets.Dataset, shares: Mapping[str, float]) -> dict[str, datasets.Dataset]:
    """The splits of one document, whose consecutive parts are the rows."""
    (column,) = rows.column_names
    splits = split_text(rows[column], **shares)
    return {name: datasets.Dataset.from_dict({column: parts}) for name, parts in splits.items()}


def _only_column(source: str | Sequence[str], rows: datasets.Dataset) -> list[str]:
    if len(rows.column_names) != 1:
        raise ValueError(
            f"load_splits: got no by for {source!r}, which has the columns "
            f"{', '.join(map(repr, rows.column_names))}; wanted those that the model reads, to hold examples "
            "out by their hash. Pass by=[...], or validation=0 and test=0."
        )
    return list(rows.column_names)
