"""Checks of an experiment's settings, before anything starts: kinds of all fields, and ranges of numbers."""

import dataclasses
import math
import numbers
import types
import typing
from pathlib import Path
from typing import Any

__all__ = ["BUCKETS", "CLASSES", "Range", "above", "at_least", "between", "check", "check_all", "share"]

BUCKETS = 256
"""The most shapes of batches: each is compiled once."""
CLASSES = 2**20
"""The most entries of a vocabulary, or classes: tables are made of them."""
LARGEST = 2**31 - 1
"""The largest whole number where a range names no other: steps and positions are counted in int32."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from the least to the most.

    Args:
        least, most: the ends; None is without one.
        includes_least, includes_most: whether the end is one of them.
    """

    least: float | None = None
    most: float | None = None
    includes_least: bool = True
    includes_most: bool = True

    def __contains__(self, value: float) -> bool:
        low = self.least is None or value > self.least or (self.includes_least and value == self.least)
        high = self.most is None or value < self.most or (self.includes_most and value == self.most)
        return low and high

    def __str__(self) -> str:
        ends = []
        if self.least is not None:
            ends.append(f"{'at least' if self.includes_least else 'above'} {self.least}")
        if self.most is not None:
            ends.append(f"{'at most' if self.includes_most else 'below'} {self.most}")
        return " and ".join(ends)


def at_least(least: float) -> Range:
    """From ``least`` on."""
    return Range(least)


def above(least: float) -> Range:
    """More than ``least``."""
    return Range(least, includes_least=False)


def between(least: float, most: float) -> Range:
    """From ``least`` to ``most``, both included."""
    return Range(least, most)


def share() -> Range:
    """From 0 on, and less than 1."""
    return Range(0, 1, includes_most=False)


def check(config: Any, **ranges: Range) -> None:
    """Raises unless each field has a value of its kind, and the numbers are in their ranges.

    A number is finite; a whole one has no fraction and is at most 2**31 - 1 either way, unless its range says
    otherwise. None is a value of a field that is annotated with it, whatever the range.

    Args:
        config: a dataclass.
        **ranges: of its fields, by name.

    Raises:
        ValueError: names the field.
    """
    for name, kind in typing.get_type_hints(type(config)).items():
        if name in {field.name for field in dataclasses.fields(config)}:
            _check_value(name, kind, getattr(config, name), ranges.get(name, Range()), LARGEST)


def check_all(config: Any, prefix: str = "") -> None:
    """As `check`, without ranges, of a config and all configs in it; the names have their path.

    Args:
        config: a dataclass.
        prefix: what each name begins with.

    Raises:
        ValueError: names the field.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        _check_value(name, hints[field.name], value, Range(), 2**63 - 1)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            check_all(value, f"{name}.")


def _check_value(name: str, kind: Any, value: Any, wanted: Range, largest: int) -> None:
    """Raises where a value is of another kind, or a number in it is out of range."""
    if words := _other_kind(kind, value):
        raise ValueError(f"{name}: got {value!r:.80}; wanted {words}{f', {wanted}' if str(wanted) else ''}")
    if _takes_int(kind):
        low, high = wanted.least, wanted.most
        ends = {"least": -largest if low is None else low, "most": largest if high is None else high}
        wanted = dataclasses.replace(wanted, **ends)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, numbers.Real) and not isinstance(number, bool) and number not in wanted:
            none = ", or None" if types.NoneType in typing.get_args(kind) else ""
            raise ValueError(f"{name}: got {value!r:.80}; wanted {wanted}{none}")


def _takes_int(kind: Any) -> bool:
    return kind is int or any(_takes_int(inner) for inner in typing.get_args(kind))


def _other_kind(kind: Any, value: Any) -> str:
    """What was wanted, where a value is of another kind; else nothing. Variants check themselves."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        found = [_other_kind(k, value) for k in inner]
        return "" if "" in found else " or ".join(found)
    if origin is typing.Literal:
        known = any(value == known and type(value) is type(known) for known in inner)
        return "" if known else f"one of {', '.join(map(repr, inner))}"
    if origin is tuple:
        many = inner[-1] is Ellipsis
        kinds = [inner[0]] * len(value) if many and isinstance(value, tuple) else inner
        good = isinstance(value, tuple) and len(value) == len(kinds)
        good = good and not any(_other_kind(k, item) for k, item in zip(kinds, value, strict=True))
        return "" if good else f"{'any number of' if many else len(inner)} values of their kind"
    if kind is float:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return "" if real and math.isfinite(value) else "a finite number"
    if kind is int:
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return "" if whole else "a whole number"
    names = {str: "text", bool: "True or False", types.NoneType: "None", Path: "a path"}
    return names[kind] if kind in names and not isinstance(value, kind) else ""
