"""Ranges of numbers, and checks that a number, or every number of an array, is in range.

Dataclass fields and command-line options declare a range in their annotation, ``rate: Rate = 0.0``. JAX is
imported only to check arrays, so ``--help`` is fast.
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
    "check_number",
    "check_numbers",
    "check_static",
    "integer_range",
    "real_range",
]

_INT32_MAX = 2**31 - 1
"""Steps, lengths and positions are int32."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that an argument, field or option accepts.

    Args:
      wanted: the range in words, for error messages.
      contains: whether one number is in range; NaN must not be.
      integral: whether only integers are.
    """

    wanted: str
    contains: Callable[[Any], bool]
    integral: bool = False

    def __contains__(self, value: object) -> bool:
        """Whether a Python or NumPy number, or every number of a concrete array, is in range."""
        if isinstance(value, numbers.Number):
            return self._contains_number(value)
        return self._contains_array(value)

    def _contains_number(self, number: numbers.Number) -> bool:
        kind = numbers.Integral if self.integral else numbers.Real
        if not isinstance(number, kind) or isinstance(number, bool):
            return False
        if not self.integral:
            try:
                float(number)
            except OverflowError:  # an integer beyond the largest float
                return False
        return bool(self.contains(number))

    def _contains_array(self, array: object) -> bool:
        import jax
        import jax.numpy as jnp
        import numpy as np

        if not isinstance(array, np.ndarray | jax.Array):
            return False
        kinds = (jnp.integer,) if self.integral else (jnp.integer, jnp.floating)
        is_number = any(jnp.issubdtype(array.dtype, kind) for kind in kinds)
        return is_number and all(map(self.contains, np.asarray(array).ravel().tolist()))


def integer_range(minimum: int, maximum: int = _INT32_MAX) -> Range:
    """Integers from the minimum to the maximum, both included; by default up to the largest int32."""
    largest = "2**31 - 1" if maximum == _INT32_MAX else maximum
    return Range(f"an integer from {minimum} to {largest}", lambda x: minimum <= x <= maximum, integral=True)


def real_range(minimum: float, maximum: float) -> Range:
    """Real numbers from the minimum to the maximum, both included."""
    return Range(f"a number from {minimum} to {maximum}", lambda x: minimum <= x <= maximum)


SIZE = integer_range(1)
COUNT = integer_range(0)
POSITIVE = Range("a finite number above 0", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Range("a finite number of at least 0", lambda x: 0 <= x < math.inf)
FINITE = Range("a finite number", lambda x: -math.inf < x < math.inf)
RATE = Range("a number in [0, 1)", lambda x: 0 <= x < 1)
SHARE = Range("a number in (0, 1]", lambda x: 0 < x <= 1)
BUCKETS = integer_range(1, 1024)
SEED = integer_range(0, 2**32 - 1)
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


def check_number(function: str, name: str, value: object, wanted: Range) -> None:
    """Checks that an argument is one number in range.

    Args:
      function: name of the public function or class, for the message.
      name: of the argument.
      value: a number or a symbolic size; for a range of reals also an array without axes. A traced array
        passes, because its value is unknown.
      wanted: the range.

    Raises:
      ValueError: the value is not a number of this kind, or is out of range.
    """
    if type(value) is (int if wanted.integral else float) and wanted.contains(value):
        return  # the usual case; ops run this check at every call
    n_axes = None if isinstance(value, numbers.Number) else getattr(value, "ndim", None)
    if n_axes is not None and (wanted.integral or n_axes):
        raise ValueError(f"{function}: got {name}={value!r}; wanted {wanted.wanted}, not an array.")
    check_each(function, name, value, wanted)


def check_static(function: str, name: str, value: object, wanted: Range) -> None:
    """`check_number` for an argument that changes the traced program: a tracer is an error."""
    import jax.core

    if isinstance(value, jax.core.Tracer):
        raise ValueError(
            f"{function}: got {name}={value!r}; wanted {wanted.wanted}, known before tracing. Make it "
            "a static argument."
        )
    check_number(function, name, value, wanted)


def check_each(function: str, name: str, value: object, wanted: Range) -> None:
    """`check_number` for a number, or for each element of an array."""
    if _is_unknown(value):
        return
    if value not in wanted:
        shown = value if hasattr(value, "dtype") else repr(value)
        raise ValueError(f"{function}: got {name}={shown}; wanted {wanted.wanted}.")


def check_numbers(function: str, wanted: Range, **values: object) -> None:
    """`check_number` for several arguments, by name."""
    for name, value in values.items():
        check_number(function, name, value, wanted)


def _is_unknown(value: object) -> bool:
    """Whether the value is not concrete on this process: a tracer, a symbolic size, a global array."""
    if isinstance(value, numbers.Number):
        return False
    import jax
    import jax.core
    import jax.export

    if not isinstance(value, jax.Array):
        # It accepts any object, which its types do not show.
        return jax.export.is_symbolic_dim(value)  # pyright: ignore[reportArgumentType]
    return isinstance(value, jax.core.Tracer) or not value.is_fully_addressable or value.is_deleted()
