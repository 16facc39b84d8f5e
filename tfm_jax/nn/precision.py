"""The precision of a model's matrix products."""

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import jax

from tfm_jax.nn.config import Config

__all__ = ["at_model_precision", "matmul_precision"]

A = ParamSpec("A")
R = TypeVar("R")


def matmul_precision(config: Config) -> AbstractContextManager[object]:
    """A context: matrix products that are traced inside it have ``config.matmul_precision``.

    Equivalent to::

        jax.default_matmul_precision(config.matmul_precision)       # nothing where it is None

    The models apply it to their own products, forward and backward, those of ``decoder.cross_entropy``
    included. Use it around products outside of the model that should have the same precision.

    Args:
      config: of the model.

    Returns:
      The context manager.
    """
    if config.matmul_precision is None:
        return contextlib.nullcontext()
    return jax.default_matmul_precision(config.matmul_precision)


class _WithConfig(Protocol):
    @property
    def config(self) -> Config: ...


S = TypeVar("S", bound=_WithConfig)


def at_model_precision(
    method: Callable[Concatenate[S, A], R],
) -> Callable[Concatenate[S, A], R]:
    """A method of a module with a ``config``, whose products have the model's precision."""

    @functools.wraps(method)
    def wrapped(self: S, /, *args: A.args, **kwargs: A.kwargs) -> R:
        with matmul_precision(self.config):
            return method(self, *args, **kwargs)

    return wrapped
