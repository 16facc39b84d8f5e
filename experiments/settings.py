"""Values of a config's fields by name: ``--config`` with a file of all or some, and ``--set NAME=VALUE``."""

import contextlib
import copy
import dataclasses
import difflib
import json
import shlex
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from experiments.config import RunConfig
from tfm_jax.fields import check_field, option_name
from tfm_jax.train.run_directory import FORMAT, START_FIELDS, read_config
from tfm_jax.values import from_dict, from_text, to_dict, variants

__all__ = ["field_name", "read_assignments", "read_file", "set_fields", "split_assignment", "with_file"]

C = TypeVar("C", bound=RunConfig)


def read_file(path: Path) -> dict[str, Any]:
    """The fields in a file of ``--config``, in the current format.

    Args:
      path: a config.json of this or an older version, a file in that form, or the directory of a run.

    Returns:
      Nested dicts, without the fields that belong to a start of the program, such as "out" and "resume".

    Raises:
      ValueError: the file cannot be read; the message names it.
    """
    path = path / "config.json" if path.is_dir() else path
    try:
        saved = read_config(path)
        if "format" not in json.loads(path.read_text(encoding="utf-8")) and "resume" not in saved:
            raise ValueError(
                f'{path}: got no "format", and not the whole file of a run of version 0.1; wanted the number '
                f'of the format. Add "format": {FORMAT}'
            )
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"--config {error}") from error
    return {name: value for name, value in saved.items() if name not in START_FIELDS}


def with_file(config: C, saved: Mapping[str, object], path: Path | None) -> C:
    """A config with the fields of a file of ``--config``; the others stay.

    Args:
      config: the config.
      saved: nested dicts, from `read_file`.
      path: of the file, for the message.

    Raises:
      ValueError: unknown fields, or values that do not fit.
    """
    try:
        return from_dict(type(config), _merge(to_dict(config), saved))
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"--config {path}: {error}") from error


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts, with the values of the second one where both have some."""
    return {**below, **{name: _merged(below.get(name), value) for name, value in above.items()}}


def _merged(below: object, above: object) -> object:
    return _merge(below, above) if isinstance(below, Mapping) and isinstance(above, Mapping) else above


def read_assignments(words: Iterable[str]) -> dict[str, str]:
    """The values of ``--set`` by field: each word is NAME=VALUE, or a file with one of these per line.

    Args:
      words: of all ``--set``. In a file, empty lines and lines that start with # are skipped.

    Returns:
      The texts of the values by path of the field, such as ``{"train.batch_size": "8"}``.

    Raises:
      ValueError: a file cannot be read, a line is no assignment, or a field is set twice.
    """
    found: dict[str, str] = {}
    for place, text in _lines(words):
        name, value = split_assignment(place, text)
        if name in found:
            raise ValueError(f"{place}: got {name} twice; wanted one value. Leave one out.")
        found[name] = value
    return found


def _lines(words: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Each assignment, with its place for messages."""
    for word in words:
        if "=" in word:
            yield "--set", word
            continue
        try:
            lines = Path(word).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ValueError(
                f"--set: got {word!r} ({error.strerror}); wanted NAME=VALUE, or a file with one per line."
            ) from error
        except UnicodeError as error:
            raise ValueError(f"--set {word}: got a file that is not UTF-8; wanted UTF-8.") from error
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.lstrip().startswith("#"):
                yield f"--set {word}:{number}", line.strip()


def split_assignment(place: str, text: str) -> tuple[str, str]:
    """The field and the value of NAME=VALUE.

    Args:
      place: where it is, for the message.
      text: such as ``train.batch-size=8``.

    Returns:
      The path of the field, and the text of the value.

    Raises:
      ValueError: it is no assignment.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"{place}: got {text!r}; wanted NAME=VALUE, such as train.steps=100.")
    return field_name(name), value.strip()


def field_name(text: str) -> str:
    """The path of a field by the name of its option: "train.batch_size" for "--train.batch-size"."""
    return text.strip().removeprefix("--").replace("-", "_")


def set_fields(config: C, texts: Mapping[str, str], option: str = "--set") -> C:
    """A config with other values of some fields, each of which is checked alone.

    Args:
      config: the config.
      texts: the values by path of the field, as its option reads them. A field with several values has them
        in one text, quoted as in a shell; a boolean is True or False.
      option: for messages.

    Returns:
      The config. Whether its fields fit together is for the caller to check, when all of them are set.

    Raises:
      ValueError: an unknown field, or a value that does not fit one; the message starts with the option.
    """
    for name, text in texts.items():
        if name in START_FIELDS:
            raise ValueError(
                f"{option}: got {name}; wanted a field of the run. Give {option_name(name)} instead."
            )
        try:
            config = _with_value(config, name.split("."), text, name)
        except LookupError as error:
            raise ValueError(f"{option}: {error.args[0]}") from error
        except ValueError as error:
            raise ValueError(f"{option} {name}: {error}") from error
    return config


def _with_value(config: Any, path: Sequence[str], text: str, name: str) -> Any:
    """A dataclass with one other value, unchecked but for its annotation."""
    cls = type(config)
    hints = typing.get_type_hints(cls, include_extras=True) if dataclasses.is_dataclass(config) else {}
    first, rest = path[0], path[1:]
    is_group = first in hints and dataclasses.is_dataclass(hints[first])
    if first not in hints or is_group != bool(rest):
        raise LookupError(_unknown(config, first, name, is_group))
    if rest:
        value = _with_value(getattr(config, first), rest, text, name)
    else:
        value = _read(hints[first], text)
        try:
            check_field(cls, first, value)
        except ValueError as error:  # without the names of Python
            raise ValueError(f"got {text}; wanted {str(error).partition('; wanted ')[2]}") from error
    new = copy.copy(config)
    object.__setattr__(new, first, value)  # no check of the whole: the next field may make it fit
    return new


def _unknown(config: object, field: str, name: str, is_group: bool) -> str:
    if is_group:
        below = dataclasses.fields(getattr(config, field))[0].name
        return f"got {name}, which has several fields; wanted one of them, such as {name}.{below}."
    names = [x.name for x in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
    prefix = name[: name.rindex(field)]
    near = [prefix + x for x in difflib.get_close_matches(field, names, 3, 0.6)]
    wanted = f", such as {' or '.join(near)}" if near else ""
    return f"got {name}; wanted a field of the config{wanted}. --help lists all of them."


def _read(hint: Any, text: str) -> Any:
    """The value of a text; one that fits no member of the annotation stays a text, for the check."""
    if variants(hint) is not None:
        return from_text(hint, text)
    members = _members(hint)
    tuples = [member for member in members if typing.get_origin(member) is tuple]
    if str in members and tuples:
        with contextlib.suppress(ValueError):
            if len(words := shlex.split(text)) == 1:  # quoted, if it has spaces
                text, members = words[0], [member for member in members if member not in tuples]
    for member in members:
        try:
            return _read_member(member, text)
        except ValueError:
            continue
    return text


def _members(hint: Any) -> list[Any]:
    """The members of a union without their ranges: None first, and last a string, which every text is."""
    if typing.get_origin(hint) is Annotated:
        return _members(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [x for member in typing.get_args(hint) for x in _members(member)]
        return sorted(members, key=lambda member: (member is str, member is not types.NoneType))
    return [hint]


def _read_member(hint: Any, text: str) -> Any:
    """The value of a text for one member; a ValueError where it does not fit."""
    if hint is str:
        return text
    if hint in (int, float, Path):
        return hint(text)
    if typing.get_origin(hint) is tuple:
        words, items = shlex.split(text), typing.get_args(hint)
        if typing.get_origin(items[0]) is tuple:  # such as "400 hold 600 rewarm"
            width = len(typing.get_args(items[0]))
            words = [shlex.join(words[i : i + width]) for i in range(0, len(words), width)]
        items = [items[0]] * len(words) if items[-1] is Ellipsis else items
        return tuple(_read(item, word) for item, word in zip(items, words, strict=True))
    names = (
        {str(choice): choice for choice in typing.get_args(hint)}
        if typing.get_origin(hint) is Literal
        else {}
    )
    names |= {"None": None} if hint is types.NoneType else {}
    names |= {"True": True, "False": False} if hint is bool else {}
    if text not in names:
        raise ValueError(text)
    return names[text]
