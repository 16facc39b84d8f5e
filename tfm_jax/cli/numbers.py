"""Numeric options: what each may be, refused by the option's name before anything is loaded."""

import contextlib
import dataclasses
import math
import typing
from collections.abc import Callable
from typing import Any

import tyro

__all__ = ["SEED", "Number", "check_numbers", "real", "whole_number"]

_LARGEST = 2**31 - 1
_FLOAT_MAX = 3.4e38
"""Of float32."""


@dataclasses.dataclass(frozen=True)
class Number(tyro.constructors.PrimitiveConstructorSpec):
    """What the text of an option becomes; text that does not fit stays text, for
    ``check_numbers`` to refuse.

    Args:
      words: what the option may be.
      fits: whether a value is such.
    """

    words: str = ""
    fits: Callable[[Any], bool] = lambda value: True


def whole_number(least: int, most: int = _LARGEST) -> Number:
    """An option that is a whole number of a range."""
    fits = lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    return _number(int, f"a whole number from {least} to {most}", fits)


def real(words: str, fits: Callable[[float], bool] = lambda value: True) -> Number:
    """An option that is a number of float32; ``fits`` is asked of finite ones."""

    def is_such(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and abs(value) <= _FLOAT_MAX and fits(value)

    return _number(float, words, is_such)


def _number(kind: type, words: str, fits: Callable[[Any], bool]) -> Number:
    def read(texts: list[str]) -> Any:
        with contextlib.suppress(ValueError):
            if fits(value := kind(texts[0])):
                return value
        return texts[0]

    return Number(1, "N", read, lambda value: True, lambda value: [str(value)], words=words, fits=fits)


SEED = whole_number(0, 2**32 - 1)


def check_numbers(command: Any) -> None:
    """Raises a ValueError that names the first numeric option of a command that does not fit."""
    for name, hint in typing.get_type_hints(type(command), include_extras=True).items():
        value = getattr(command, name, None)
        for number in getattr(hint, "__metadata__", ()):
            if isinstance(number, Number) and value is not None and not number.fits(value):
                raise ValueError(f"--{name.replace('_', '-')}: got {value}; wanted {number.words}.")
