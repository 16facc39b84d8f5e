"""Ranges of numbers, and the check that a number, or every number of an array, lies in one.

A field declares its range in its annotation, ``rate: Rate = 0.0``; `tfm_jax.fields` checks it.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

__all__ = [
    "BUCKETS",
    "COUNT",
    "FINITE",
    "NOT_NEGATIVE",
    "POSITIVE",
    "RATE",
    "SHARE",
    "SIZE",
    "UNIT",
    "Count",
    "Finite",
    "NotNegative",
    "Positive",
    "Range",
    "Rate",
    "Share",
    "Size",
    "check_each",
    "check_known",
    "check_number",
    "check_numbers",
]


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
        if isinstance(value, np.ndarray | jax.Array):
            kinds = (jnp.integer,) if self.whole else (jnp.integer, jnp.floating)
            of_kind = any(jnp.issubdtype(value.dtype, kind) for kind in kinds)
            return of_kind and all(map(self.holds, np.asarray(value).ravel().tolist()))
        kind = numbers.Integral if self.whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool | np.bool_):
            return False
        try:
            return bool(self.holds(value if self.whole else float(value)))
        except OverflowError:  # a whole number that no float holds
            return False


SIZE = Range("a whole number of at least 1, below 2**31", lambda x: 1 <= x < 2**31, whole=True)
COUNT = Range("a whole number of at least 0, below 2**31", lambda x: 0 <= x < 2**31, whole=True)
POSITIVE = Range("a finite number above 0", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Range("a finite number of at least 0", lambda x: 0 <= x < math.inf)
FINITE = Range("a finite number", lambda x: -math.inf < x < math.inf)
RATE = Range("a number in [0, 1)", lambda x: 0 <= x < 1)
SHARE = Range("a number in (0, 1]", lambda x: 0 < x <= 1)
BUCKETS = Range("a whole number from 1 to 1024", lambda x: 1 <= x <= 1024, whole=True)
UNIT = Range("a number in [0, 1]", lambda x: 0 <= x <= 1)

Size = Annotated[int, SIZE]
Count = Annotated[int, COUNT]
Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Finite = Annotated[float, FINITE]
Rate = Annotated[float, RATE]
Share = Annotated[float, SHARE]


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
    if isinstance(value, np.ndarray | jax.Array) and (wanted.whole or value.ndim):
        raise ValueError(f"{where}: got {name}={value!r}; wanted {wanted.wanted}, not an array.")
    check_each(where, name, value, wanted)


def check_known(where: str, name: str, value: object, wanted: Range) -> None:
    """`check_number` of what decides which program is traced: a traced number is refused."""
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
        shown = value if isinstance(value, np.ndarray | np.generic | jax.Array) else repr(value)
        raise ValueError(f"{where}: got {name}={shown}; wanted {wanted.wanted}.")


def check_numbers(where: str, wanted: Range, **values: object) -> None:
    """`check_number` of several arguments, by name."""
    for name, value in values.items():
        check_number(where, name, value, wanted)


def _is_unknown(value: object) -> bool:
    """Whether a value cannot be read here and now, such as a symbolic size."""
    if not isinstance(value, jax.Array):
        return jax.export.is_symbolic_dim(value)
    return isinstance(value, jax.core.Tracer) or not value.is_fully_addressable or value.is_deleted()
