"""``Peer``, and a seed for libraries without keys."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["Peer", "seed_of"]


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


def seed_of(key: Any) -> int:
    """An int seed from a JAX key."""
    return int(np.asarray(jax.random.key_data(key)).ravel()[-1])
