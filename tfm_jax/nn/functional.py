"""Modules as pure functions: ``functionalize(module, config) -> Pure(init, apply)``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from tfm_jax.checks import as_key
from tfm_jax.types import Key, Params

__all__ = ["Pure", "check_params", "functionalize"]


class Pure(NamedTuple):
    """A model as two pure functions over a plain dict of arrays.

    Args:
      init: ``init(key) -> params``.
      apply: ``apply(params, *args, method="__call__", **kwargs) -> output``.
    """

    init: Callable[[Key], Params]
    apply: Callable[..., Any]


def pure_dict(module: nnx.Module) -> Params:
    """The parameters of a module as a nested dict."""
    return nnx.to_pure_dict(nnx.split(module, graph=False)[1])


def structure(make: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Params]:
    """The graph of a module and the shapes of its parameters, without computing them."""
    graph, shapes = nnx.split(nnx.eval_shape(make), graph=False)
    return graph, nnx.to_pure_dict(shapes)


def functionalize(module: Callable[..., nnx.Module], *args: Any, **kwargs: Any) -> Pure:
    """Turns a module class and its arguments into ``Pure(init, apply)``.

    Equivalent to::

        init = lambda key: parameters_of(module(*args, **kwargs, rngs=nnx.Rngs(key)))
        apply = lambda params, *inputs: module_with(params)(*inputs)

    Both work under ``jit``, ``grad``, ``vmap``, ``shard_map`` and ``pmap``. The parameters are a nested dict
    of arrays of dtype ``config.param_dtype``; those of the layers are stacked on their first axis.

    Args:
      module: an NNX module class, such as ``nn.EncoderDecoder``.
      *args, **kwargs: its constructor arguments, except ``rngs``.

    Returns:
      ``Pure(init, apply)``. ``apply(params, ..., method="encode")`` calls another method.

    Raises:
      ValueError: from ``apply``: the parameters do not match the model. The message names those that are
        missing, unknown or of another shape.
    """
    graph, wanted = structure(lambda: module(*args, **kwargs, rngs=nnx.Rngs(0)))

    def init(key: Key) -> Params:
        return pure_dict(module(*args, **kwargs, rngs=nnx.Rngs(as_key("init", key))))

    def apply(params: Params, *inputs: Any, method: str = "__call__", **options: Any) -> Any:
        check_params(params, wanted)
        params = jax.tree.map(jnp.asarray, params)  # NumPy arrays too, as read from a file
        return getattr(nnx.merge(graph, params), method)(*inputs, **options)

    return Pure(init, apply)


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
