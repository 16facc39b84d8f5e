"""Files of one kind as data sets: what they hold is what is read, and no other copy of it is kept.

Tables are converted anew each time, into memory-mapped files that go when the process ends, so that no stale
or damaged copy is ever used. Nothing here uses the network.
"""

import atexit
import dataclasses
import functools
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.iterable_dataset import ArrowExamplesIterable, ExamplesIterable

from tfm_jax.data._images import DescribedPictures, Pictures
from tfm_jax.data._json import Json, as_arrow
from tfm_jax.data._layout import KINDS, METADATA
from tfm_jax.data._open import PACKED, check_encoding, open_bytes, open_text, reading
from tfm_jax.data._tables import Table

__all__ = ["read_files"]

_BATCH = 256
_TEXT_ROW = 1 << 16  # characters


class _Reader(Protocol):
    """Reader of one kind of file."""

    def features(self, files: Sequence[Path]) -> datasets.Features:
        """The columns of all the files."""
        ...

    def rows(self, file: Path) -> Iterator[dict[str, Any]]:
        """The rows of a file, read while iterating."""
        ...


def read_files(
    kind: str,
    files: Mapping[str, Sequence[Path]],
    *,
    split: str | None,
    streaming: bool = False,
    cache_dir: str | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    labels: Mapping[Path, str] | None = None,
) -> Any:
    """Read files of one kind. Texts stay texts: no value is guessed to be a number, a date or nothing.

    Args:
        kind: one of

            - "csv": columns of texts, in double quotes where they hold a separator, a quote or a line end
              (RFC 4180); "tsv": columns of literal texts. Blank lines are no rows, except in a tsv of one
              column. The first line names the columns;
            - "json": objects in lines, one after the other, or in one array. A column of several kinds of
              values keeps them (``datasets.Json``); a missing key is None (of a stream, those of its first
              rows are known);
            - "parquet": columns as they are declared;
            - "text": documents in a column "text", in rows of at most 65,536 characters, cut after a line
              where there is one; line ends become "\\n";
            - "imagefolder": pictures in a column "image", with their "label"; or with the columns of
              metadata.csv, .tsv, .jsonl or .parquet files among them, which name each picture in "file_name".
        files: the files of each split; compressed ones end in .gz, .bz2, .xz or .zst.
        split: the split, a slice such as "train[:10%]", or several with "+"; None for all of them.
        streaming: read while iterating.
        cache_dir: where converted files lie while the process runs; None is the system's temporary directory.
        separator: one character between the fields of csv (None: a comma) and tsv (None: a tab); a tab may be
            written as a backslash and a t.
        encoding: of json, csv, tsv and text; "utf-8" may begin with a byte-order mark.
        labels: the name of the class of each picture; None for pictures without classes.

    Returns:
        ``datasets.Dataset`` or, streamed, ``datasets.IterableDataset``; for all splits a dict of them.

    Raises:
        ValueError: names the file, and the line where there is one, that cannot be read; or there is no such
            split; or an option that the files have no use for.
    """
    check_encoding(encoding)
    separator = "\t" if separator == "\\t" else separator
    described = [file for some in files.values() for file in some if _is_metadata(kind, file)]
    _check_options(kind, described, separator, encoding)
    read = functools.partial(_stream if streaming else _convert, cache_dir=cache_dir)

    def load(name: str) -> Any:
        if kind != "imagefolder":
            return read(_reader(kind, separator, encoding), list(files[name]), name)
        if not described:
            return read(Pictures(labels), list(files[name]), name)
        pictures = {
            part: frozenset(os.path.abspath(file) for file in some if file not in described)
            for part, some in files.items()
        }
        reader = _reader(_metadata_kind(described), separator, encoding)
        everywhere = frozenset().union(*pictures.values())
        return read(DescribedPictures(reader, pictures[name], everywhere), described, name)

    if split is None:
        found = {name: load(name) for name in files}
        return datasets.IterableDatasetDict(found) if streaming else datasets.DatasetDict(found)
    if not streaming:
        return _slices(split, files, load)
    if split not in files:
        raise ValueError(f"Bad split: {split}. Available splits: {list(files)}; a stream has no slices")
    return load(split)


def _is_metadata(kind: str, file: Path) -> bool:
    return kind == "imagefolder" and file.name in METADATA


def _metadata_kind(described: list[Path]) -> str:
    kinds = {KINDS[file.suffix] for file in described}
    if len(kinds) > 1:
        raise ValueError(
            f"{described[0]}: metadata files are of one kind, got {sorted(kinds)}; convert the others"
        )
    return kinds.pop()


def _check_options(kind: str, described: list[Path], separator: str | None, encoding: str) -> None:
    """No option without a use."""
    kind = _metadata_kind(described) if described else kind
    if separator is not None and kind not in ("csv", "tsv"):
        raise ValueError(f"separator: got {separator!r} for files of kind {kind}; only csv and tsv have one")
    if kind in ("parquet", "imagefolder") and encoding != "utf-8":
        raise ValueError(
            f"encoding: got {encoding!r} for files of kind {kind}, which have none; leave it out"
        )


def _reader(kind: str, separator: str | None, encoding: str) -> _Reader:
    if kind in ("csv", "tsv"):
        default = {"csv": ",", "tsv": "\t"}[kind]
        return Table(default if separator is None else separator, encoding, quoted=kind == "csv")
    return {"json": Json(encoding), "text": _Text(encoding), "parquet": _Parquet()}[kind]


def _slices(split: str, files: Mapping[str, Sequence[Path]], load: Any) -> datasets.Dataset:
    """A split, a slice of it, or several of them one after the other."""
    instruction = datasets.ReadInstruction.from_spec(split)
    names = {part.partition("[")[0].strip() for part in split.split("+")}
    found = {name: load(name) for name in files if name in names}
    parts = [
        found[part.splitname].select(range(part.from_, part.to))
        for part in instruction.to_absolute({name: len(found.get(name, ())) for name in files})
    ]
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _convert(reader: _Reader, files: list[Path], name: str, cache_dir: str | None) -> datasets.Dataset:
    """The rows in a memory-mapped file."""
    features = reader.features(files)
    number, path = tempfile.mkstemp(".arrow", f"{name}-", _directory(cache_dir))
    with os.fdopen(number, "wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as writer:
        for table in _tables(reader, files, features):
            writer.write_table(table)
    info = datasets.DatasetInfo(features=features)
    return datasets.Dataset.from_file(path, info=info, split=datasets.NamedSplit(name))


@functools.cache
def _directory(parent: str | None) -> str:
    """A directory of this process, which goes with it."""
    if parent is not None:
        os.makedirs(parent, exist_ok=True)
    directory = tempfile.mkdtemp(prefix="tfm_jax-", dir=parent)
    atexit.register(_remove, directory, os.getpid())
    return directory


def _remove(directory: str, process: int) -> None:
    if os.getpid() == process:  # a forked child leaves it to its parent
        shutil.rmtree(directory, ignore_errors=True)


def _tables(reader: _Reader, files: Sequence[Path], features: datasets.Features) -> Iterator[pa.Table]:
    """The rows of the files in tables; many pictures are one table, of another kind each file has its own."""
    for group in [files] if isinstance(reader, Pictures) else [[file] for file in files]:
        if isinstance(reader, _Parquet):
            yield from reader.tables(group[0], features)
            continue
        rows = (row for file in group for row in reader.rows(file))
        with reading(group[0]):
            while batch := list(islice(rows, _BATCH)):
                yield as_arrow(group[0], batch, features)


def _stream(reader: _Reader, files: list[Path], name: str, cache_dir: str | None) -> datasets.IterableDataset:
    """The rows while they are read; a file is a shard, except where each file is one row."""
    shards = {"reader": reader, "files": tuple(files) if isinstance(reader, Pictures) else files}
    if isinstance(reader, Json):  # its types are known after all of it has been read
        first = (row for file in files for row in reader.rows(file))
        columns = tuple(dict.fromkeys(name for row in islice(first, _BATCH) for name in row))
        features, examples = None, ExamplesIterable(_keyed_rows, {"columns": columns, **shards})
    else:
        features = reader.features(files)
        examples = ArrowExamplesIterable(_keyed_tables, {"features": features, **shards})
    info, split = datasets.DatasetInfo(features=features), datasets.NamedSplit(name)
    return datasets.IterableDataset(examples, info=info, split=split)


def _keyed_rows(
    reader: _Reader, files: Sequence[Path], columns: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = (row for file in files for row in reader.rows(file))
    yield from ((number, {**dict.fromkeys(columns), **row}) for number, row in enumerate(rows))


def _keyed_tables(
    reader: _Reader, files: Sequence[Path], features: datasets.Features
) -> Iterator[tuple[int, pa.Table]]:
    yield from enumerate(_tables(reader, files, features))


@dataclasses.dataclass(frozen=True)
class _Text:
    """Documents, in rows of at most _TEXT_ROW characters.

    Args:
        encoding: of the file.
    """

    encoding: str

    def features(self, files: Sequence[Path]) -> datasets.Features:
        return datasets.Features({"text": datasets.Value("string")})

    def rows(self, file: Path) -> Iterator[dict[str, Any]]:
        with open_text(file, self.encoding, None) as text:
            yield from ({"text": row} for row in _cut(text))


def _cut(text: io.TextIOBase) -> Iterator[str]:
    """A document in rows, cut after a line where there is one; an empty document is one empty row."""
    rest = text.read(_TEXT_ROW + 1)
    while len(rest) > _TEXT_ROW:
        end = rest.rfind("\n", 0, _TEXT_ROW) + 1 or _TEXT_ROW
        yield rest[:end]
        rest = rest[end:]
        rest += text.read(_TEXT_ROW + 1 - len(rest))
    yield rest


@dataclasses.dataclass(frozen=True)
class _Parquet:
    """Columns as the file declares them; categories of texts are texts."""

    def features(self, files: Sequence[Path]) -> datasets.Features:
        found = self._features(files[0])
        for file in files[1:]:
            other = self._features(file)
            merged = {name: _merged(found.get(name), feature) for name, feature in other.items()}
            if other.keys() != found.keys() or None in merged.values():
                raise ValueError(
                    f"{file}: got the columns {other}; wanted those of {files[0]}: {found}. Write all "
                    "files of a split with the same columns and types"
                )
            found = datasets.Features({name: merged[name] for name in found})
        return found

    def _features(self, file: Path) -> datasets.Features:
        with reading(file), self._open(file) as opened:
            schema = opened.schema_arrow
            fields = [
                field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
                for field in schema
            ]
            try:
                return datasets.Features.from_arrow_schema(pa.schema(fields, schema.metadata))
            except ValueError as error:
                raise ValueError(
                    f"{file}: {error} Wanted columns of other types; convert or drop that one"
                ) from error

    def tables(self, file: Path, features: datasets.Features) -> Iterator[pa.Table]:
        with reading(file), self._open(file) as opened:
            for batch in opened.iter_batches(_BATCH):
                yield pa.Table.from_batches([batch]).select(list(features)).cast(features.arrow_schema)

    def rows(self, file: Path) -> Iterator[dict[str, Any]]:
        for table in self.tables(file, self._features(file)):
            yield from table.to_pylist()

    def _open(self, file: Path) -> pq.ParquetFile:
        source: Any = file
        if file.suffix.lower() in PACKED:  # its index is at the end
            with open_bytes(file) as content:
                source = io.BytesIO(content.read())
        return pq.ParquetFile(source, page_checksum_verification=True)


def _merged(one: Any, other: Any) -> Any:
    """The feature that holds the values of both; None where there is none."""
    if one == other:
        return one
    if not (isinstance(one, datasets.Value) and isinstance(other, datasets.Value)):
        null = datasets.Value("null")
        return other if one == null else one if other == null else None
    try:
        schemas = [pa.schema({"": feature.pa_type}) for feature in (one, other)]
        wider = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException:
        return None
    return datasets.Features.from_arrow_schema(wider)[""]
