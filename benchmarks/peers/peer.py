"""``Peer``, and adapters for functions that are not JAX functions."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Peer", "assertions_as_value_errors", "from_numpy", "seed_of"]


class Peer(NamedTuple):
    """An attention function of a library, wrapped for each suite that applies.

    Args:
      name: short, for a table.
      called: how the function is called, as code.
      suites: the wrapped functions by suite name.
    """

    name: str
    called: str
    suites: dict[str, Callable[..., Any]]


def assertions_as_value_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with ValueError for AssertionError, by which some libraries check arguments."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except AssertionError as error:
            raise ValueError(f"AssertionError: {error}") from error

    return call


def seed_of(key: Any) -> int:
    """An int seed from a JAX key."""
    return int(np.asarray(jax.random.key_data(key)).ravel()[-1])


def from_numpy(
    forward: Callable[..., np.ndarray], backward: Callable[..., tuple[np.ndarray, ...]]
) -> Callable[..., Any]:
    """A JAX function from functions of NumPy arrays: called directly, or by ``pure_callback`` under tracing.

    Args:
      forward: takes q, k, v, mask and options.
      backward: takes the cotangent of the output, then as ``forward``; returns the gradients by q, k and v.

    Returns:
      The function of q, k, v, a mask or None, and static options.
    """

    def call(q: Any, k: Any, v: Any, mask: Any = None, **options: Any) -> Any:
        run = functools.partial(forward, **options)
        if not any(isinstance(x, jax.core.Tracer) for x in (q, k, v, mask)):
            return jnp.asarray(run(*(None if x is None else np.asarray(x) for x in (q, k, v, mask))))

        def callback(f: Callable[..., Any], shapes: Any, *args: Any) -> Any:
            return jax.pure_callback(
                lambda *x: f(*jax.tree.map(np.asarray, x)), shapes, *args, vmap_method="sequential"
            )

        out = jax.ShapeDtypeStruct((*q.shape[:-1], v.shape[-1]), q.dtype)

        @jax.custom_vjp
        def traced(q: Any, k: Any, v: Any, mask: Any) -> Any:
            return callback(run, out, q, k, v, mask)

        def gradients(saved: Any, cotangent: Any) -> Any:
            shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in saved[:3])
            return *callback(functools.partial(backward, **options), shapes, cotangent, *saved), None

        traced.defvjp(lambda *x: (traced(*x), x), gradients)
        return traced(q, k, v, mask)

    return call
