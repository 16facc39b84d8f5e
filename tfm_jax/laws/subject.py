"""``Subject``: the function under test, with NumPy results and sorted exceptions."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import Violation
from tfm_jax.types import Array

__all__ = ["AnyArray", "Call", "Function", "Subject", "Unsupported", "check_shape", "unpack"]

Function = Callable[..., Any]
"""A function under test, or one made of it: it takes and returns arrays, or pytrees of arrays."""
AnyArray = np.ndarray | Array
UNSUPPORTED_ERRORS = (ValueError, TypeError, RuntimeError, AssertionError)
"""What a function raises for arguments that it does not support; torch and chex check them by assertions."""
R = TypeVar("R")


class Call(NamedTuple):
    """The arguments of a call as text: arrays as dtype and shape."""

    args: list[str]
    options: dict[str, str]


class Unsupported(Exception):
    """The function raised one of ``UNSUPPORTED_ERRORS``: it does not support the case.

    Args:
      reason: the exception in one line.
      call: of the function that raised it; None if it was not called.
    """

    def __init__(self, reason: str = "", call: Call | None = None):
        super().__init__(reason)
        self.call = call


class Subject:
    """The function under test, as laws call it: NumPy or JAX arrays in, NumPy arrays out.

    Args:
      function: any callable of JAX arrays.
    """

    def __init__(self, function: Function):
        self.failed_call: Call | None = None

        def recorded(*args: Any, **options: Any) -> Any:
            try:
                return function(*args, **options)
            except Exception:
                self.failed_call = Call(
                    [_as_text(x) for x in args], {name: _as_text(x) for name, x in options.items()}
                )
                raise

        self.function = recorded

    def adapt(self, case: Any) -> Any:
        """The case as the options of the suite require it; None for one that does not fit them."""
        return case

    def applies(self, law: str) -> bool:
        """Whether the law of this name says something about the function under the options of the suite."""
        return True

    def __call__(self, *args: object, **options: object) -> Any:
        """The output, with NumPy arrays. Raises ``Unsupported`` or ``Violation`` as ``run`` does."""

        def to_jax(x: object) -> object:
            return jnp.asarray(x) if isinstance(x, np.ndarray) else x

        args, options = jax.tree.map(to_jax, (args, options))
        return self.run(lambda: jax.tree.map(np.asarray, self.raw(*args, **options)))

    def raw(self, *args: Any, **options: Any) -> Any:
        """The function itself, for ``jit``, ``vmap`` and ``grad``."""
        return self.function(*args, **options)

    @functools.cached_property
    def compiled(self) -> Function:
        """``raw`` under jit."""
        return jax.jit(self.raw)

    @functools.cached_property
    def vmapped(self) -> Function:
        """``raw`` under jit and vmap over the first axis of all arguments."""
        return jax.jit(jax.vmap(self.raw))

    @functools.cached_property
    def per_example(self) -> Function:
        """``raw`` under jit and vmap over the batch: each call sees a batch of 1."""
        return jax.jit(jax.vmap(lambda *example: self.raw(*(x[None] for x in example))[0]))

    @functools.cached_property
    def gradient(self) -> Function:
        """(cotangent, x, ...) -> the gradient of sum(output * cotangent) with respect to x, under jit."""

        def loss(x: Array, cotangent: Array, *rest: object) -> Array:
            return jnp.sum(self.raw(x, *rest) * cotangent)

        return jax.jit(lambda cotangent, x, *rest: jax.grad(loss)(x, cotangent, *rest))

    def run(self, call: Callable[[], R]) -> R:
        """The result of a call that runs the function, with matrix products in full float32.

        Raises:
          Unsupported: for one of ``UNSUPPORTED_ERRORS``.
          Violation: for any other exception.
        """
        self.failed_call = None
        try:
            with jax.default_matmul_precision("highest"):
                return call()
        except Violation:  # of the form of the output, which is an AssertionError
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            # The message of a callback's exception is its traceback; the last line is the exception.
            line = lines[-1] if "Traceback (most recent call last)" in str(error) else lines[0]
            message = f"{type(error).__name__}: {line[:160]}"
            if isinstance(error, UNSUPPORTED_ERRORS):
                raise Unsupported(message, self.failed_call) from error
            raise Violation(f"raised {message}") from error


def _as_text(x: Any) -> str:
    if isinstance(x, np.ndarray | np.generic | jax.Array):
        return f"{x.dtype}{list(x.shape)}"
    return repr(x) if x is None or isinstance(x, bool | int | float | str) else type(x).__name__


def unpack(out: object, names: str) -> tuple[Any, ...]:
    """The parts of an output, such as "sum, weight". Raises ``Violation`` for another number of parts."""
    n = len(names.split(", "))
    if not isinstance(out, tuple | list) or len(out) != n:
        shown = "" if isinstance(out, tuple | list) or np.ndim(np.asarray(out)) else out
        raise Violation(f"got {type(out).__name__} {shown}; wanted ({names})")
    return tuple(out)


def check_shape(out: np.ndarray, wanted: tuple[int, ...], letters: str) -> np.ndarray:
    """The output. Raises ``Violation`` for another shape."""
    if np.shape(out) != tuple(wanted):
        raise Violation(f"shape: got {list(np.shape(out))}; wanted {letters} = {list(wanted)}")
    return out
