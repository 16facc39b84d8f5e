"""The shardings of a training state: parameters by their letters, the optimizer's state by its parameters."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from tfm_jax.sharding import ShardingRules, parameter_specs
from tfm_jax.train.state import TrainState
from tfm_jax.types import Params

__all__ = ["parameter_shardings", "state_shardings"]

_Path: TypeAlias = tuple[str, ...]


def parameter_shardings(axes: Params, params: Params, mesh: Mesh, rules: ShardingRules) -> Params:
    """The sharding of each parameter.

    Args:
      axes: the letters of each, ``model.axes()``.
      params: arrays or shapes: all parameters of the model, or some of them.
      mesh: the mesh.
      rules: the mesh axes that shard each letter.

    Returns:
      A tree like ``params`` of ``NamedSharding``.

    Raises:
      ValueError: a parameter without letters, or one that the mesh does not divide; the message names it.
    """
    letters = _by_path(axes)

    def of(path: tuple[Any, ...], x: Any) -> str:
        name = _names(path)
        if name not in letters:
            raise ValueError(
                f"Jit: got the parameter {'/'.join(name)} {list(np.shape(x))} without letters in axes; "
                "wanted those of each. Give axes=model.axes() of the same model."
            )
        return letters[name]

    specs = parameter_specs(jax.tree_util.tree_map_with_path(of, params), params, mesh, rules)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def state_shardings(state: TrainState, params: Params, replicated: NamedSharding) -> TrainState:
    """The sharding of each array of a state.

    Args:
      state: of arrays or shapes.
      params: the shardings of its parameters.
      replicated: that of everything else: counters, the key, factored moments.

    Returns:
      A tree like ``state``. An array of the optimizer's state whose path ends with that of a parameter and
      that has its shape, as Adam's moments do, is sharded as the parameter.
    """
    shardings = _by_path(params)
    shapes = {path: np.shape(x) for path, x in _by_path(state.params).items()}

    def of(path: tuple[Any, ...], x: Any) -> NamedSharding:
        names = _names(path)
        suffixes = (names[start:] for start in range(len(names) + 1))  # from the longest
        owner = next((suffix for suffix in suffixes if shapes.get(suffix) == np.shape(x)), None)
        return replicated if owner is None else shardings[owner]

    opt_state = jax.tree_util.tree_map_with_path(of, state.opt_state)
    ema = None if state.ema is None else params
    of_state: dict[str, Any] = {"step": replicated, "opt_state": opt_state, "key": replicated}
    return TrainState(params=params, ema=ema, **of_state)


def _by_path(tree: object) -> Mapping[_Path, Any]:
    return {_names(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _names(path: tuple[Any, ...]) -> _Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
