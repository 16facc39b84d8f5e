"""A function asked with care: what it raises is told from what it gets wrong."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import Violation

__all__ = ["Refused", "Subject", "of_parts", "of_shape"]


class Refused(Exception):
    """The function raised ValueError, TypeError or RuntimeError: it refuses the case, which is no breach."""


class Subject:
    """A function as the statements of laws call it: JAX arrays in, NumPy arrays out, numbers as they are.

    Args:
      function: any callable of arrays, ours or anybody's.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What the function gives, its arrays as NumPy's; raises ``Refused`` for what it raises."""
        jaxed = lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x
        args, options = jax.tree.map(jaxed, (args, options))
        return self.given(lambda: jax.tree.map(np.asarray, self.raw(*args, **options)))

    def raw(self, *args: Any, **options: Any) -> Any:
        """The function itself, for ``jit``, ``vmap`` and ``grad``."""
        return self.function(*args, **options)

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        """``raw`` under jit, compiled once a shape."""
        return jax.jit(self.raw)

    @functools.cached_property
    def mapped(self) -> Callable[..., Any]:
        """``raw`` under jit and vmap, over the first axis of all arguments."""
        return jax.jit(jax.vmap(self.raw))

    @functools.cached_property
    def row_by_row(self) -> Callable[..., Any]:
        """``raw`` under jit and vmap, which takes a batch a row at a time: a batch of 1."""
        return jax.jit(jax.vmap(lambda *row: self.raw(*(x[None] for x in row))[0]))

    @functools.cached_property
    def gradient(self) -> Callable[..., Any]:
        """(slope, x, ...) -> by x the gradient of the output's sum with these slopes, under jit."""
        loss = lambda x, slope, *rest: jnp.sum(self.raw(x, *rest) * slope)
        return jax.jit(lambda slope, x, *rest: jax.grad(loss)(x, slope, *rest))

    def given(self, call: Callable[[], Any]) -> Any:
        """What a call that runs the function gives, multiplied in full float32.

        ValueError, TypeError, RuntimeError and those under them refuse; any other error is a fault.
        """
        try:
            with jax.default_matmul_precision("highest"):
                return call()
        except Exception as error:
            said = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"
            if isinstance(error, ValueError | TypeError | RuntimeError):
                raise Refused(said) from error
            raise Violation(f"raised {said}") from error


def of_parts(out: Any, names: str) -> tuple[Any, ...]:
    """The parts of an output, such as "sum, weight"; raises ``Violation`` where it has not so many."""
    n = len(names.split(", "))
    if not isinstance(out, tuple | list) or len(out) != n:
        raise Violation(f"got {type(out).__name__} {out if np.ndim(out) == 0 else ''}, wanted ({names})")
    return tuple(out)


def of_shape(out: np.ndarray, wanted: tuple[int, ...], letters: str) -> np.ndarray:
    """The output itself; raises ``Violation`` where it is not of the shape that it must have."""
    if np.shape(out) != tuple(wanted):
        raise Violation(f"shape: got {list(np.shape(out))}, wanted {letters} = {list(wanted)}")
    return out
