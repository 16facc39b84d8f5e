"""``Subject``: the function under test, with NumPy results and sorted exceptions."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import Violation
from tfm_jax.types import Array

__all__ = ["AnyArray", "Function", "Subject", "Unsupported", "check_shape", "unpack"]

Function = Callable[..., Any]
"""A function under test, or one made of it: it takes and returns arrays, or pytrees of arrays."""
AnyArray = np.ndarray | Array
R = TypeVar("R")


class Unsupported(Exception):
    """The function raised ValueError, TypeError or RuntimeError: it does not support the case."""


class Subject:
    """The function under test, as laws call it: NumPy or JAX arrays in, NumPy arrays out.

    Args:
      function: any callable of JAX arrays.
    """

    def __init__(self, function: Function):
        self.function = function

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
          Unsupported: for ValueError, TypeError and RuntimeError.
          Violation: for any other exception.
        """
        try:
            with jax.default_matmul_precision("highest"):
                return call()
        except Exception as error:
            first_line = (str(error).strip().splitlines() or [""])[0][:160]
            message = f"{type(error).__name__}: {first_line}"
            if isinstance(error, ValueError | TypeError | RuntimeError):
                raise Unsupported(message) from error
            raise Violation(f"raised {message}") from error


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
