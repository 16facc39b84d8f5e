"""Ranges of numbers, and the check that a number, or every number of an array, lies in one.

A field declares its range in its annotation, ``rate: Rate = 0.0``; `tfm_jax.fields` checks it. An option of a
command does so too; `tfm_jax.cli.numbers` reads it. JAX is imported for arrays alone: ``--help`` has none.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Annotated, Any

__all__ = [
    "BUCKETS",
    "COUNT",
    "FINITE",
    "NOT_NEGATIVE",
    "POSITIVE",
    "RATE",
    "SEED",
    "SHARE",
    "SIZE",
    "UNIT",
    "Count",
    "Finite",
    "NotNegative",
    "Positive",
    "Range",
    "Rate",
    "Seed",
    "Share",
    "Size",
    "Unit",
    "check_each",
    "check_known",
    "check_number",
    "check_numbers",
    "real_number",
    "whole_number",
]

_LARGEST = 2**31 - 1
"""Steps, lengths and positions are int32."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that are allowed.

    Args:
      wanted: the range in words, for messages.
      holds: whether one number lies in it; nan never does.
      whole: whether only whole numbers do.
    """

    wanted: str
    holds: Callable[[Any], bool]
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        """Whether a Python or NumPy number, or every number of a concrete array, lies in the range."""
        if isinstance(value, numbers.Number):
            return self._holds_one(value)
        return self._holds_all(value)

    def _holds_one(self, number: numbers.Number) -> bool:
        kind = numbers.Integral if self.whole else numbers.Real
        if not isinstance(number, kind) or isinstance(number, bool):
            return False
        if not self.whole:
            try:
                float(number)
            except OverflowError:  # a whole number that no float holds
                return False
        return bool(self.holds(number))

    def _holds_all(self, array: object) -> bool:
        import jax
        import jax.numpy as jnp
        import numpy as np

        if not isinstance(array, np.ndarray | jax.Array):
            return False
        kinds = (jnp.integer,) if self.whole else (jnp.integer, jnp.floating)
        of_kind = any(jnp.issubdtype(array.dtype, kind) for kind in kinds)
        return of_kind and all(map(self.holds, np.asarray(array).ravel().tolist()))


def whole_number(least: int, most: int = _LARGEST) -> Range:
    """Whole numbers from the least to the most, both included; by default those below 2**31."""
    words = f"of at least {least}, below 2**31" if most == _LARGEST else f"from {least} to {most}"
    return Range(f"a whole number {words}", lambda x: least <= x <= most, whole=True)


def real_number(least: float, most: float) -> Range:
    """Numbers from the least to the most, both included."""
    return Range(f"a number from {least} to {most}", lambda x: least <= x <= most)


SIZE = whole_number(1)
COUNT = whole_number(0)
POSITIVE = Range("a finite number above 0", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Range("a finite number of at least 0", lambda x: 0 <= x < math.inf)
FINITE = Range("a finite number", lambda x: -math.inf < x < math.inf)
RATE = Range("a number in [0, 1)", lambda x: 0 <= x < 1)
SHARE = Range("a number in (0, 1]", lambda x: 0 < x <= 1)
BUCKETS = whole_number(1, 1024)
SEED = whole_number(0, 2**32 - 1)
UNIT = Range("a number in [0, 1]", lambda x: 0 <= x <= 1)

Size = Annotated[int, SIZE]
Count = Annotated[int, COUNT]
Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Finite = Annotated[float, FINITE]
Rate = Annotated[float, RATE]
Share = Annotated[float, SHARE]
Unit = Annotated[float, UNIT]
Seed = Annotated[int, SEED]


def check_number(where: str, name: str, value: object, wanted: Range) -> None:
    """Checks an argument that is one number.

    Args:
      where: the function or class, for the message.
      name: of the argument.
      value: a number, or a symbolic size. Where it need not be whole, also an array without axes; a traced
        one, whose value nobody knows, passes.
      wanted: its range.

    Raises:
      ValueError: for another kind of value, and for a number outside the range.
    """
    if type(value) is (int if wanted.whole else float) and wanted.holds(value):
        return  # the usual case, which functions of arrays meet at every call
    is_array = hasattr(value, "ndim") and not isinstance(value, numbers.Number)
    if is_array and (wanted.whole or value.ndim):
        raise ValueError(f"{where}: got {name}={value!r}; wanted {wanted.wanted}, not an array.")
    check_each(where, name, value, wanted)


def check_known(where: str, name: str, value: object, wanted: Range) -> None:
    """`check_number` of what decides which program is traced: a traced number is refused."""
    import jax

    if isinstance(value, jax.core.Tracer):
        raise ValueError(
            f"{where}: got {name}={value!r}; wanted {wanted.wanted}, known before tracing. Make it a static "
            "argument."
        )
    check_number(where, name, value, wanted)


def check_each(where: str, name: str, value: object, wanted: Range) -> None:
    """`check_number` of a number, or of each number of an array."""
    if _is_unknown(value):
        return
    if value not in wanted:
        shown = value if hasattr(value, "dtype") else repr(value)
        raise ValueError(f"{where}: got {name}={shown}; wanted {wanted.wanted}.")


def check_numbers(where: str, wanted: Range, **values: object) -> None:
    """`check_number` of several arguments, by name."""
    for name, value in values.items():
        check_number(where, name, value, wanted)


def _is_unknown(value: object) -> bool:
    """Whether a value cannot be read here and now, such as a symbolic size."""
    if isinstance(value, numbers.Number):
        return False
    import jax
    import jax.export

    if not isinstance(value, jax.Array):
        return jax.export.is_symbolic_dim(value)
    return isinstance(value, jax.core.Tracer) or not value.is_fully_addressable or value.is_deleted()
