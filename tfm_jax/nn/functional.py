"""Modules as pure functions: ``functionalize(module, config) -> Pure``."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from tfm_jax.checks import as_key
from tfm_jax.nn.config import Config
from tfm_jax.types import Key, Params

__all__ = ["Pure", "check_params", "functionalize"]

M = TypeVar("M", bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class Pure(Generic[M]):
    """A model as pure functions over a plain dict of arrays. Equal ones have equal modules and arguments.

    Args:
      module: an NNX module class.
      args: its positional arguments.
      kwargs: its keyword arguments, except ``rngs``, as pairs.
    """

    module: type[M]
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    @property
    def config(self) -> Config:
        """The config, an argument of the module.

        Raises:
          AttributeError: no argument is a ``Config``.
        """
        for value in (*self.args, *dict(self.kwargs).values()):
            if isinstance(value, Config):
                return value
        raise AttributeError(f"Pure.config: got {self.module.__name__} without a Config among its arguments.")

    def init(self, key: Key) -> Params:
        """The initial parameters from a PRNG key."""
        return pure_dict(_make(self, nnx.Rngs(as_key("init", key))))

    def apply(self, params: Params, *inputs: Any, **options: Any) -> Any:
        """Calls the module with these parameters.

        Raises:
          ValueError: the parameters do not match the model. The message names those that are missing, unknown
            or of another shape.
        """
        return self.bind(params)(*inputs, **options)

    def bind(self, params: Params) -> M:
        """The module with these parameters, for its other methods: ``model.bind(params).encode(source)``."""
        graph, wanted = _structure_of(self)
        check_params(params, wanted)
        params = jax.tree.map(jnp.asarray, params)  # NumPy arrays too, as read from a file
        return nnx.merge(graph, params)


def _make(pure: Pure[M], rngs: nnx.Rngs) -> M:
    return pure.module(*pure.args, **dict(pure.kwargs), rngs=rngs)


@functools.lru_cache(maxsize=128)
def _structure_of(pure: Pure[Any]) -> tuple[nnx.GraphDef, Params]:
    return structure(lambda: _make(pure, nnx.Rngs(0)))


def pure_dict(module: nnx.Module) -> Params:
    """The parameters of a module as a nested dict."""
    return nnx.to_pure_dict(nnx.split(module, graph=False)[1])


def structure(make: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Params]:
    """The graph of a module and the shapes of its parameters, without computing them."""
    graph, shapes = nnx.split(nnx.eval_shape(make), graph=False)
    return graph, nnx.to_pure_dict(shapes)


def functionalize(module: type[M], *args: Any, **kwargs: Any) -> Pure[M]:
    """Turns a module class and its arguments into pure functions.

    Equivalent to::

        init = lambda key: parameters_of(module(*args, **kwargs, rngs=nnx.Rngs(key)))
        bind = lambda params: module_with(params)
        apply = lambda params, *inputs: bind(params)(*inputs)

    All work under ``jit``, ``grad``, ``vmap``, ``shard_map`` and ``pmap``. The parameters are a nested dict
    of arrays of dtype ``config.param_dtype``; those of the layers are stacked on their first axis.

    Args:
      module: an NNX module class, such as ``nn.EncoderDecoder``.
      *args, **kwargs: its constructor arguments, except ``rngs``.

    Returns:
      A ``Pure``.

    Raises:
      ValueError: from the module: the arguments do not fit together.
    """
    pure = Pure(module, args, tuple(sorted(kwargs.items())))
    _structure_of(pure)  # raises
    return pure


def check_params(params: Params, wanted: Params) -> None:
    """Raises a ValueError that names the parameters that are missing, unknown or of another shape."""

    def shapes(tree: Params) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}

    got, want = shapes(params), shapes(wanted)
    if got == want:
        return
    wrong = [f"{name}: missing, wanted {want[name]}" for name in want.keys() - got.keys()]
    wrong += [f"{name}: unknown, got {got[name]}" for name in got.keys() - want.keys()]
    wrong += [
        f"{name}: got {got[name]}, wanted {want[name]}"
        for name in want.keys() & got.keys()
        if want[name] != got[name]
    ]
    raise ValueError(
        "params: got those of another model; wanted those of init. Differences: "
        + "; ".join(sorted(wrong))
        + "."
    )
