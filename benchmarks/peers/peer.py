"""``Peer``, and adapters of exceptions and of keys."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["Peer", "assertions_as_value_errors", "seed_of"]


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
