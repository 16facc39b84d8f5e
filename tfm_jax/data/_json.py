"""JSON: an object a row, in lines, one after the other, or in an array; texts stay texts."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from tfm_jax.data._open import line_error, open_text

__all__ = ["Json", "as_arrow"]

_BATCH = 1000
_DEPTH = 32
_MIXED = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError)


class _Twice(ValueError):
    """An object that names a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(f"an object has the key {max(names, key=names.count)!r} more than once")
    return found


_SPACE = " \t\r\n"
_SPACES = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(object_pairs_hook=_object)


@dataclasses.dataclass(frozen=True)
class Json:
    """Rows of JSON. Values keep their kind: a column of several kinds is ``datasets.Json()``, whose decoder
    rounds fractions to 15 digits.

    Args:
        encoding: of the file.
    """

    encoding: str

    def features(self, files: Sequence[Path]) -> datasets.Features:
        """The columns of all rows of all files, and the type that holds every value of each exactly."""
        types: dict[str, pa.DataType | None] = {}
        for file in files:
            rows = self.rows(file)
            while batch := list(islice(rows, _BATCH)):
                for name in dict.fromkeys(name for row in batch for name in row):
                    types[name] = _wider(types.get(name, pa.null()), [row.get(name) for row in batch])
        if not types:
            raise ValueError(f"{files[0]} is empty: it has no rows; choose another source")
        found = datasets.Features()
        for name, type in types.items():
            plain = _is_plain(type) and datasets.Features.from_arrow_schema(pa.schema({name: type}))
            found[name] = plain[name] if plain else datasets.Json()
        return found

    def rows(self, file: Path) -> Iterator[dict[str, Any]]:
        """The objects of a file."""
        with open_text(file, self.encoding, "\n") as text:
            started = False
            for line, content in enumerate(text, 1):
                start = content.lstrip(_SPACE)[:1]
                if not start:
                    continue
                try:
                    if start == "[" and not started:
                        raise json.JSONDecodeError("an array", content, 0)
                    value = _DECODER.decode(content.rstrip(_SPACE))
                except (ValueError, RecursionError) as error:
                    if started or isinstance(error, RecursionError):
                        raise _bad(file, line, error) from error
                    yield from self._document(file, "\n" * (line - 1) + content + text.read())
                    return
                started = True
                yield _row(file, line, value, _escapes_surrogates(content))

    def _document(self, file: Path, text: str) -> Iterator[dict[str, Any]]:
        """The objects of an array, or of a file where they are not one a line."""
        at = seen = 0
        line, alone, surrogates = 1, True, _escapes_surrogates(text)
        while (at := _SPACES.match(text, at).end()) < len(text):
            line, seen = line + text.count("\n", seen, at), at
            try:
                value, at = _DECODER.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                raise _bad(file, line, error) from error
            if not isinstance(value, list):
                alone = False
                yield _row(file, line, value, surrogates)
                continue
            if not alone or _SPACES.match(text, at).end() < len(text):
                raise line_error(file, line, "got an array beside other values; wanted one array, or objects")
            if not any(isinstance(item, dict) for item in value):
                value = [{"text": item} for item in value]
            for number, item in enumerate(value):
                if not isinstance(item, dict):
                    raise ValueError(
                        f"{file}, item {number} of its array: wanted an object, got {item!r:.80}"
                    )
                yield _row(file, line, item, surrogates)


def _escapes_surrogates(text: str) -> bool:
    return "\\ud" in text or "\\uD" in text


def _row(file: Path, line: int, value: Any, surrogates: bool) -> dict[str, Any]:
    """A row that Arrow can hold: no half of a surrogate pair in its texts."""
    if not isinstance(value, dict):
        raise line_error(file, line, f'wanted an object, such as {{"text": ...}}, got {value!r:.80}')
    if ends := [key for key in value if "\x00" in key]:
        raise line_error(file, line, f"the key {ends[0]!r} holds a NUL character; rename it")
    if surrogates:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise line_error(
                file,
                line,
                f"a text holds half of a surrogate pair ({error.object[error.start]!a}), "
                "which is no character; correct it",
            ) from error
    return value


def _bad(file: Path, line: int, error: Exception) -> ValueError:
    problem = "it is nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", error)
    where = ""
    if isinstance(error, json.JSONDecodeError):
        where = f" (column {error.colno})" if error.lineno <= line else f" (in line {error.lineno})"
    return line_error(file, line, f"JSON parse error in what starts here: {problem}{where}; correct it")


def as_arrow(file: Path, rows: list[dict[str, Any]], features: datasets.Features) -> pa.Table:
    """Rows as a table: a column of several kinds holds the JSON of each value.

    Args:
        file: where the rows are from.
        rows: of any reader; a missing key is nothing.
        features: the columns.

    Returns:
        The table, in the storage of the features.
    """
    for name, feature in features.items():
        if isinstance(feature, datasets.Json):
            for row in rows:
                if row.get(name) is not None:
                    row[name] = _text(file, name, row[name])
    return pa.Table.from_pylist(rows, schema=features.arrow_schema)


def _wider(known: pa.DataType | None, values: list[Any]) -> pa.DataType | None:
    """The type that holds the values beside those before; None where no one type does."""
    if known is None:
        return None
    try:
        schemas = [pa.schema({"": type}) for type in (known, pa.array(values).type)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except _MIXED:
        return None


def _is_plain(type: pa.DataType | None, depth: int = _DEPTH) -> bool:
    """Whether a file of Arrow's holds the type: of one kind, no object without keys in it, not too deep."""
    if type is None or depth == 0:
        return False
    if pa.types.is_struct(type):
        return type.num_fields > 0 and all(
            "\x00" not in field.name and _is_plain(field.type, depth - 1) for field in type
        )
    return not pa.types.is_list(type) or _is_plain(type.value_type, depth - 1)


def _text(file: Path, column: str, value: Any) -> str:
    text = json.dumps(value)
    try:
        datasets.Json().decode_example(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file}: column {column!r} holds {value!r:.80}, which the data set library cannot hold "
            f"({error}); write it as a text, or drop it"
        ) from error
    return text
