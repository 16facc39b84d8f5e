"""Errors in the words of the command line: options, where the library names arguments and fields."""

import ast
import contextlib
import dataclasses
import re
import shlex
from collections.abc import Iterator
from typing import Any

from tfm_jax import console
from tfm_jax.fields import check_fields, option_name
from tfm_jax.values import Variant

__all__ = ["check_options", "exit_on_error", "in_options"]

_VALUE = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\([^()]*\)|\[[^\[\]]*\]|[^\s;,)'"(\[]*[^\s;,.:)'"(\[]"""
_BOTH = re.compile(rf"\b\w+=(?:{_VALUE})? \((--[a-z][^()]*?)(?: of an experiment)?\)")
"""An argument and its option, such as ``encoding='latin-1' (--data.encoding latin-1)``."""
_NAMED = re.compile(rf"(?<![\w.\-'\"])(?<!--set )(?<!--sweep )((?:\w+\.)*\w+)=({_VALUE})")
_FIELD = re.compile(rf"^\w+: got (\w+)=({_VALUE});")
_ALIASES = {"names": "columns"}
"""Arguments of the library, by the field of a data config that sets them."""


def in_options(message: str, config: Any) -> str:
    """A message of the library with the options of a command in place of arguments.

    Args:
      message: such as ``text_pairs: got pair='en'; wanted ... Write, for example, 'en-fr'.``
      config: of the command, a dataclass; its fields are the options.

    Returns:
      Such as ``text_pairs: got --data.pair en; wanted ...``. Where the message has an argument and, in
      parentheses, its option, the option alone is left. Numbers that are not those of the option are
      another argument, and left as they are.
    """
    fields = dict(_fields(config))

    def replace(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if name in ("validation", "test") and not value.startswith(("'", "(")):
            name = "held_out"  # a share
        field = _field(name, list(fields))
        if field is None or ("." not in name and _is_another(value, fields[field])):
            return match[0]
        return f"{option_name(field)} {_words(value)}"

    return _NAMED.sub(replace, _BOTH.sub(r"\1", message))


@contextlib.contextmanager
def exit_on_error(name: str, config: Any) -> Iterator[None]:
    """``console.exit_on_error``, with a message that names options.

    Args:
      name: of the command.
      config: of the command.
    """
    with console.exit_on_error(name):
        try:
            yield
        except ValueError as error:
            raise ValueError(in_options(str(error), config)) from error


def check_options(config: object, group: str) -> None:
    """``check_fields``, with a message that starts with the option.

    Args:
      config: an instance of a dataclass.
      group: the name of its options, such as "train.optimizer"; "" for options without a group.

    Raises:
      ValueError: as `check_fields`.
    """
    try:
        check_fields(config)
    except ValueError as error:
        prefix = f"{group}." if group else ""
        found = _FIELD.sub(lambda match: f"{option_name(prefix + match[1])}: got {match[2]};", str(error))
        raise ValueError(found) from error


def _fields(config: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The dotted names and the values of all fields that are options."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, Variant):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def _is_another(text: str, value: object) -> bool:
    """Whether an argument has numbers, and not those of the field: it is one of another function."""
    with contextlib.suppress(SyntaxError, ValueError):
        parsed, wanted = (
            list(x) if isinstance(x, tuple | list) else [x] for x in (ast.literal_eval(text), value)
        )
        return all(isinstance(item, int | float) for item in parsed) and parsed != wanted
    return False


def _field(name: str, fields: list[str]) -> str | None:
    """The field of an argument: of the data's config first; one that begins or ends with its name last."""
    if "." in name:
        return name if name in fields else None
    name = name if f"data.{name}" in fields else _ALIASES.get(name, name)
    ofdata = [field for field in fields if field.startswith("data.")]
    candidates = [
        *(field for field in (*ofdata, *fields) if field.rpartition(".")[2] == name),
        *(field for field in ofdata if field.startswith(f"data.{name}_")),
        *(field for field in ofdata if field.endswith(f"_{name}")),
    ]
    return candidates[0] if candidates else None


def _words(value: str) -> str:
    """A value of Python as the words of an option."""
    try:
        parsed = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value
    items = parsed if isinstance(parsed, tuple | list) else [parsed]
    words = ("..." if item is ... else shlex.quote(str(item)) for item in items)
    return " ".join(word.strip("'") if word == "'...'" else word for word in words)
