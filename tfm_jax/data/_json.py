"""Reader of JSON files: one object per row, in lines, one after another, or in an array."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import datasets
import pyarrow as pa

from tfm_jax.data._open import line_error, open_text

__all__ = ["JsonReader", "to_arrow"]

_BATCH = 1000
_DEPTH = 32
_NO_COMMON_TYPE = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError)


class _RepeatedKey(ValueError):
    """An object with the same key twice."""


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKey(f"an object has the key {max(names, key=names.count)!r} more than once")
    return result


_SPACE = " \t\r\n"
_SPACES = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


@dataclasses.dataclass(frozen=True)
class JsonReader:
    """Objects whose values keep their type: texts stay texts, and a column may have several types.

    A column of several types is ``datasets.Json()``, whose decoder rounds fractions to 15 digits.

    Args:
      encoding: of the file.
    """

    encoding: str

    def features(self, files: Sequence[Path]) -> datasets.Features:
        """The columns of all rows of all files, with types that hold every value exactly."""
        types: dict[str, pa.DataType | None] = {}
        for file in files:
            rows = self.rows(file)
            while batch := list(islice(rows, _BATCH)):
                for name in dict.fromkeys(name for row in batch for name in row):
                    types[name] = _wider(types.get(name, pa.null()), [row.get(name) for row in batch])
        if not types:
            raise ValueError(f"{files[0]}: got an empty file; wanted rows. Choose another source.")
        features = datasets.Features()
        for name, type in types.items():
            if _is_plain(type):
                features[name] = datasets.Features.from_arrow_schema(pa.schema({name: type}))[name]
            else:  # the library's union of features lacks its Json
                features[name] = datasets.Json()  # pyright: ignore[reportArgumentType]
        return features

    def rows(self, file: Path) -> Iterator[dict[str, object]]:
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
                        raise _parse_error(file, line, error) from error
                    yield from _document(file, "\n" * (line - 1) + content + text.read())
                    return
                started = True
                yield _row(file, line, value, _has_surrogates(content))


def _document(file: Path, text: str) -> Iterator[dict[str, object]]:
    """The objects of an array, or of a file in which they are not one per line."""
    offset = counted = 0
    line, only_value, surrogates = 1, True, _has_surrogates(text)
    while (offset := _skip_spaces(text, offset)) < len(text):
        line, counted = line + text.count("\n", counted, offset), offset
        try:
            value, offset = _DECODER.raw_decode(text, offset)
        except (ValueError, RecursionError) as error:
            raise _parse_error(file, line, error) from error
        if not isinstance(value, list):
            only_value = False
            yield _row(file, line, value, surrogates)
            continue
        if not only_value or _skip_spaces(text, offset) < len(text):
            raise line_error(
                file, line, "got an array beside other values; wanted one array, or objects. Split the file."
            )
        for number, item in enumerate(value):
            if not isinstance(item, dict):
                raise ValueError(
                    f"{file}, item {number} of its array: got {item!r:.80}; wanted an object. Write, for "
                    'example, {"text": ...}.'
                )
            yield _row(file, line, item, surrogates)


def _skip_spaces(text: str, offset: int) -> int:
    spaces = _SPACES.match(text, offset)
    return offset if spaces is None else spaces.end()


def _has_surrogates(text: str) -> bool:
    return "\\ud" in text or "\\uD" in text


def _row(file: Path, line: int, value: object, surrogates: bool) -> dict[str, object]:
    """A row that Arrow can hold: no lone surrogates in its texts, no NUL in its keys."""
    if not isinstance(value, dict):
        raise line_error(
            file, line, f'got {value!r:.80}; wanted an object. Write, for example, {{"text": ...}}.'
        )
    if with_nul := [key for key in value if "\x00" in key]:
        raise line_error(file, line, f"got the key {with_nul[0]!r}; wanted no NUL character. Rename it.")
    if surrogates:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise line_error(
                file,
                line,
                f"got a text with half of a surrogate pair ({error.object[error.start]!a}), which is no "
                "character; wanted both halves. Correct it.",
            ) from error
    return value


def _parse_error(file: Path, line: int, error: Exception) -> ValueError:
    problem = "it is nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", error)
    where = ""
    if isinstance(error, json.JSONDecodeError):
        where = f" (column {error.colno})" if error.lineno <= line else f" (in line {error.lineno})"
    return line_error(
        file,
        line,
        f"got a JSON parse error in the value that starts here: {problem}{where}; wanted JSON. Correct it.",
    )


def to_arrow(file: Path, rows: list[dict[str, object]], features: datasets.Features) -> pa.Table:
    """Rows as an Arrow table; a column of several types holds the JSON of each value.

    Args:
      file: the rows are from it, for messages.
      rows: of any reader; a missing key is None.
      features: the columns.

    Returns:
      The table, in the storage types of the features.
    """
    for name, feature in features.items():
        if isinstance(feature, datasets.Json):
            for row in rows:
                if row.get(name) is not None:
                    row[name] = _to_json(file, name, row[name])
    for name, type in zip(features, features.arrow_schema.types, strict=True):
        if "double" in str(type) and (
            bad := next((row for row in rows if _is_rounded(row.get(name), type)), None)
        ):
            raise ValueError(
                f"{file}: got the whole number in {bad[name]!r:.80} beside fractions in column {name!r}, "
                "which would be rounded; wanted numbers that a float holds. Write them as texts."
            )
    return pa.Table.from_pylist(rows, schema=features.arrow_schema)


def _is_rounded(value: object, type: pa.DataType) -> bool:
    """Whether the type changes an integer in the value, which Arrow rounds silently."""
    if pa.types.is_struct(type):
        return isinstance(value, dict) and any(
            _is_rounded(value.get(field.name), field.type) for field in type
        )
    if pa.types.is_list(type):
        return isinstance(value, list) and any(_is_rounded(item, type.value_type) for item in value)
    return pa.types.is_floating(type) and isinstance(value, int) and int(float(value)) != value


def _wider(known: pa.DataType | None, values: list[object]) -> pa.DataType | None:
    """The type that holds the values and those of the known type; None if there is none."""
    if known is None:
        return None
    try:
        schemas = [pa.schema({"": type}) for type in (known, pa.array(values).type)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except _NO_COMMON_TYPE:
        return None


def _is_plain(type: pa.DataType | None, depth: int = _DEPTH) -> bool:
    """Whether an Arrow file holds the type: one type, no object without keys in it, not too deep."""
    if type is None or depth == 0:
        return False
    if pa.types.is_struct(type):
        return type.num_fields > 0 and all(
            "\x00" not in field.name and _is_plain(field.type, depth - 1) for field in type
        )
    return not pa.types.is_list(type) or _is_plain(type.value_type, depth - 1)


def _to_json(file: Path, column: str, value: object) -> str:
    text = json.dumps(value)
    try:
        datasets.Json().decode_example(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file}: got {value!r:.80} in column {column!r} ({error}); wanted a value that the datasets "
            "library can hold. Write it as a text, or drop it."
        ) from error
    return text
