"""Numeric options: each is read by its declared `Range`, or refused by its name before anything is loaded."""

import contextlib
import dataclasses
import types
import typing
from typing import Any

import tyro

from tfm_jax.fields import range_of
from tfm_jax.ranges import Range

__all__ = ["number_rule", "read_numbers"]


def number_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Leaves the text of a numeric option as it is, for `read_numbers`: tyro's message names no range."""
    is_union = info.type_origin in (typing.Union, types.UnionType)
    members = typing.get_args(info.type) if is_union else (info.type,)
    if not {int, float} & set(map(_bare, members)):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="N",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def read_numbers(command: Any) -> Any:
    """The command with numbers for the texts of its numeric options.

    Raises:
        ValueError: names the first option that does not fit, with its range.
    """
    read: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(type(command), include_extras=True).items():
        text, wanted = getattr(command, name, None), range_of(hint)
        if wanted is not None and isinstance(text, str):
            read[name] = _read(f"--{name.replace('_', '-')}", text, wanted)
    return dataclasses.replace(command, **read)


def _bare(hint: Any) -> Any:
    """An annotation without its marks."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def _read(option: str, text: str, wanted: Range) -> int | float:
    with contextlib.suppress(ValueError):
        if (value := (int if wanted.integral else float)(text)) in wanted:
            return value
    raise ValueError(f"{option}: got {text}; wanted {wanted.wanted}.")
