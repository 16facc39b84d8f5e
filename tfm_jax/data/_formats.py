"""Data files of one kind as data sets, converted at every load, without network access.

Tables are converted into memory-mapped files that are deleted when the process ends, so that no stale or
damaged copy is ever used.
"""

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.iterable_dataset import ArrowExamplesIterable, ExamplesIterable

from tfm_jax.data._images import ImageReader, MetadataReader, Reader
from tfm_jax.data._json import JsonReader, to_arrow
from tfm_jax.data._layout import KINDS, METADATA
from tfm_jax.data._open import check_encoding, reading
from tfm_jax.data._parquet import ParquetReader
from tfm_jax.data._tables import TableReader
from tfm_jax.data._text import TextReader
from tfm_jax.data.aligned import AlignedReader
from tfm_jax.data.columns import HEADER, Dataset

__all__ = ["read_files"]

_BATCH = 256


def read_files(
    kind: str,
    files: Mapping[str, Sequence[Path]],
    *,
    split: str,
    streaming: bool = False,
    cache_dir: str | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    names: Sequence[str] | None = None,
    labels: Mapping[Path, str] | None = None,
    target: Path | None = None,
) -> Dataset:
    """Reads files of one kind. Texts stay texts: none is converted to a number, a date or None.

    Args:
      kind: one of

        - "csv": columns of texts, in double quotes if they hold a separator, a quote or a line end (RFC
          4180); "tsv": columns of literal texts. Blank lines are skipped, except in a tsv of one column. The
          first line names the columns, or ``names`` does;
        - "json": objects in lines, one after another, or in one array. A column may have values of several
          types (``datasets.Json``); a missing key is None (of a stream, the columns are those of its first
          rows);
        - "parquet": columns with the types that the file declares;
        - "text": documents in a column "text", in rows of at most 65,536 characters, split after a line if
          possible; line ends become "\\n";
        - "aligned": the lines of a file and of ``target``, in columns "source" and "target";
        - "imagefolder": images in a column "image", with their "label"; or with the columns of metadata.csv,
          .tsv, .jsonl or .parquet files among them, which name each image in "file_name".
      files: the files of each split; compressed ones end in .gz, .bz2, .xz or .zst.
      split: the split, a slice such as "train[:10%]", or several with "+".
      streaming: read while iterating.
      cache_dir: for converted files while the process runs; None is the system's temporary directory.
      separator: one character between the fields of csv (None: a comma) and tsv (None: a tab); a tab may be
        written as a backslash and a t.
      encoding: of json, csv, tsv and text; "utf-8" may start with a byte-order mark.
      names: of the columns of csv and tsv files without a header line; None reads the header.
      labels: the class name of each image; None for images without classes.
      target: the target texts of "aligned", whose only file has the source texts.

    Returns:
      ``datasets.Dataset`` or, streamed, ``datasets.IterableDataset``.

    Raises:
      ValueError: a file cannot be read, with its name and the line if there is one; or there is no such
        split; or an option does not apply to the files.
    """
    check_encoding(encoding)
    separator = "\t" if separator == "\\t" else separator
    metadata = [file for part in files.values() for file in part if _is_metadata(kind, file)]
    _check_options(_kind_of(metadata) if metadata else kind, separator, encoding, names)

    def source(name: str) -> tuple[Reader, list[Path]]:
        if target is not None:
            return AlignedReader(target, encoding), list(files[name])
        if kind != "imagefolder":
            return _reader(kind, separator, encoding, names), list(files[name])
        if not metadata:
            return ImageReader(labels), list(files[name])
        images = {
            part: frozenset(os.path.abspath(file) for file in paths if file not in metadata)
            for part, paths in files.items()
        }
        reader = _reader(_kind_of(metadata), separator, encoding, names)
        return MetadataReader(reader, images[name], frozenset[str]().union(*images.values())), metadata

    def convert(name: str) -> datasets.Dataset:
        return _convert(*source(name), name, cache_dir)

    if not streaming:
        return convert(split) if split in files else _slices(split, files, convert)
    if split not in files:
        raise ValueError(f"Bad split: {split}. Available splits: {list(files)}; a stream has no slices")
    return _stream(*source(split), split)


def _is_metadata(kind: str, file: Path) -> bool:
    return kind == "imagefolder" and file.name in METADATA


def _kind_of(metadata: list[Path]) -> str:
    kinds = {KINDS[file.suffix] for file in metadata}
    if len(kinds) > 1:
        raise ValueError(
            f"{metadata[0]}: got metadata files of the kinds {sorted(kinds)}; wanted one kind. Convert "
            "the others."
        )
    return kinds.pop()


def _check_options(kind: str, separator: str | None, encoding: str, names: Sequence[str] | None) -> None:
    """Raises if an option does not apply to the kind of files."""
    if names is not None and kind not in ("csv", "tsv"):
        raise ValueError(
            f"load: got names={tuple(names)!r} for files of kind {kind}; wanted csv or tsv files, whose "
            "columns they name. Leave them out."
        )
    if separator is not None and kind not in ("csv", "tsv"):
        raise ValueError(
            f"load: got separator={separator!r} for files of kind {kind}; wanted csv or tsv files, which "
            "alone have one. Leave it out."
        )
    if kind in ("parquet", "imagefolder") and encoding != "utf-8":
        raise ValueError(
            f"load: got encoding={encoding!r} for files of kind {kind}; wanted files of text, which alone "
            "have one. Leave it out."
        )


def _reader(kind: str, separator: str | None, encoding: str, names: Sequence[str] | None) -> Reader:
    if kind in ("csv", "tsv"):
        separator = {"csv": ",", "tsv": "\t"}[kind] if separator is None else separator
        return TableReader(separator, encoding, kind == "csv", None if names is None else tuple(names))
    return {"json": JsonReader(encoding), "text": TextReader(encoding), "parquet": ParquetReader()}[kind]


def _slices(
    split: str, files: Mapping[str, Sequence[Path]], load: Callable[[str], datasets.Dataset]
) -> datasets.Dataset:
    """A split, a slice of it, or several of them concatenated."""
    instruction = datasets.ReadInstruction.from_spec(split)
    names = {part.partition("[")[0].strip() for part in split.split("+")}
    splits = {name: load(name) for name in files if name in names}
    parts = [
        splits[part.splitname].select(range(part.from_, part.to))
        for part in instruction.to_absolute({name: len(splits.get(name, ())) for name in files})
    ]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _convert(reader: Reader, files: list[Path], name: str, cache_dir: str | None) -> datasets.Dataset:
    """The rows in a memory-mapped file."""
    features = reader.features(files)
    number, path = tempfile.mkstemp(".arrow", f"{name}-", _directory(cache_dir))
    with os.fdopen(number, "wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as writer:
        for table in _tables(reader, files, features):
            writer.write_table(table)
    info = _info(reader, features)
    return datasets.Dataset.from_file(path, info=info, split=datasets.NamedSplit(name))


def _info(reader: Reader, features: datasets.Features | None) -> datasets.DatasetInfo:
    """What a data set knows of its origin: whether a header line gave its columns their names."""
    has_header = isinstance(reader, TableReader) and reader.names is None
    return datasets.DatasetInfo(features=features, builder_name=HEADER if has_header else None)


@functools.cache
def _directory(parent: str | None) -> str:
    """A temporary directory of this process, deleted at its end."""
    if parent is not None:
        os.makedirs(parent, exist_ok=True)
    directory = tempfile.mkdtemp(prefix="tfm_jax-", dir=parent)
    atexit.register(_remove, directory, os.getpid())
    return directory


def _remove(directory: str, process: int) -> None:
    if os.getpid() == process:  # not in a forked child
        shutil.rmtree(directory, ignore_errors=True)


def _tables(reader: Reader, files: Sequence[Path], features: datasets.Features) -> Iterator[pa.Table]:
    """The rows of the files as tables; many images share a table, files of other kinds have their own."""
    for group in [files] if isinstance(reader, ImageReader) else [[file] for file in files]:
        if isinstance(reader, ParquetReader):
            yield from reader.tables(group[0], features)
            continue
        rows = (row for file in group for row in reader.rows(file))
        with reading(group[0]):
            while batch := list(islice(rows, _BATCH)):
                yield to_arrow(group[0], batch, features)


def _stream(reader: Reader, files: list[Path], name: str) -> datasets.IterableDataset:
    """The rows while they are read; a file is a shard, unless each file is one row."""
    shards = {"reader": reader, "files": tuple(files) if isinstance(reader, ImageReader) else files}
    if isinstance(reader, JsonReader):  # its types are known only after the last row
        first = (row for file in files for row in reader.rows(file))
        columns = tuple(dict.fromkeys(name for row in islice(first, _BATCH) for name in row))
        features, examples = None, ExamplesIterable(_keyed_rows, {"columns": columns, **shards})
    else:
        features = reader.features(files)
        examples = ArrowExamplesIterable(_keyed_tables, {"features": features, **shards})
    info, split = _info(reader, features), datasets.NamedSplit(name)
    return datasets.IterableDataset(examples, info=info, split=split)


def _keyed_rows(
    reader: Reader, files: Sequence[Path], columns: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, object]]]:
    rows = (row for file in files for row in reader.rows(file))
    yield from ((number, {**dict.fromkeys(columns), **row}) for number, row in enumerate(rows))


def _keyed_tables(
    reader: Reader, files: Sequence[Path], features: datasets.Features
) -> Iterator[tuple[int, pa.Table]]:
    yield from enumerate(_tables(reader, files, features))
