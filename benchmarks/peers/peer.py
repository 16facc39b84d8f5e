"""What is known of a peer, and how one that is no function of JAX is asked."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Peer", "refusing", "seed_of", "through_numpy"]


class Peer(NamedTuple):
    """A function of a library, wrapped for each suite that it can be asked.

    Args:
      name: short, for the head of a column.
      how: how it is called, as code.
      suites: by the name of a suite the function for it.
    """

    name: str
    how: str
    suites: dict[str, Callable[..., Any]]


def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose failed assertions count as refusals, as its authors mean them."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except AssertionError as error:
            raise ValueError(f"AssertionError: {error}") from error

    return call


def seed_of(key: Any) -> int:
    """A seed for a library with a generator of its own."""
    return int(np.asarray(jax.random.key_data(key)).ravel()[-1])


def through_numpy(
    forward: Callable[..., np.ndarray], backward: Callable[..., tuple[np.ndarray, ...]]
) -> Callable[..., Any]:
    """A function of NumPy arrays for JAX: called at once, or from the program where it is traced.

    Args:
      forward: of q, k, v, mask and options.
      backward: of the slope of the output, then as ``forward``: the slopes by q, k and v.

    Returns:
      The function of q, k, v, a mask that may be None, and options that are not traced.
    """

    def call(q: Any, k: Any, v: Any, mask: Any = None, **options: Any) -> Any:
        run = functools.partial(forward, **options)
        if not any(isinstance(x, jax.core.Tracer) for x in (q, k, v, mask)):
            return jnp.asarray(run(*(None if x is None else np.asarray(x) for x in (q, k, v, mask))))
        host = lambda f, shapes, *args: jax.pure_callback(
            lambda *x: f(*jax.tree.map(np.asarray, x)), shapes, *args, vmap_method="sequential"
        )
        of = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
        out = jax.ShapeDtypeStruct((*q.shape[:-1], v.shape[-1]), q.dtype)

        @jax.custom_vjp
        def traced(q: Any, k: Any, v: Any, mask: Any) -> Any:
            return host(run, out, q, k, v, mask)

        def slopes(saved: Any, slope: Any) -> Any:
            by = functools.partial(backward, **options)
            return *host(by, tuple(map(of, saved[:3])), slope, *saved), None

        traced.defvjp(lambda *x: (traced(*x), x), slopes)
        return traced(q, k, v, mask)

    return call
