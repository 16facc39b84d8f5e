"""Several models trained in one program, such as one model from several seeds."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

__all__ = ["replica", "replicas"]

R = TypeVar("R")
Tree = TypeVar("Tree")


def replicas(function: Callable[..., R]) -> Callable[..., R]:
    """A function of one model as a function of several replicas, which run as one program.

    Equivalent to::

        jax.vmap(function, in_axes=(0, None))                # and None for each further argument

    Small models use a device better together, and compile once.

    Args:
      function: pure, such as ``key -> TrainState``, a step of `make_train_step` or of `make_eval_step`. Its
        first argument is the replica's own; the replicas share the others, such as the batch.

    Returns:
      The function, whose first argument and whose result have a first axis of replicas: keys [n], or a state
      that was made from them. A metric is ``(sum [n], weight [n])``. The replicas' results are those of each
      alone, up to rounding: each has its own dropout, by the key of its state. Wrap it in ``jax.jit``.

    Raises:
      ValueError: at each call, when the arrays of the first argument have no first axis of the same size.
    """

    def mapped(first: Any, *shared: Any) -> R:
        _count("replicas", first)
        return jax.vmap(function, in_axes=(0, *[None] * len(shared)))(first, *shared)

    return mapped


def replica(tree: Tree, index: int) -> Tree:
    """One replica's part of a state, of metrics or of another result of `replicas`.

    Equivalent to::

        jax.tree.map(lambda x: x[index], tree)

    Args:
      tree: a pytree of arrays with a first axis of replicas.
      index: of the replica, from 0; negative counts from the last.

    Returns:
      The same tree, of arrays without that axis: a state to train on, evaluate or save as any other.

    Raises:
      ValueError: there is no such replica, or the arrays have no first axis of the same size.
    """
    n = _count("replica", tree)
    if not -n <= index < n:
        raise ValueError(f"replica: got index={index}; wanted one of {n} replicas, {-n} to {n - 1}.")
    return jax.tree.map(lambda x: x[index], tree)


def _count(function: str, tree: Any) -> int:
    """The number of replicas."""
    shapes = {jax.tree_util.keystr(p): np.shape(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}
    sizes = {shape[:1] for shape in shapes.values()}
    if len(sizes) != 1 or sizes == {()}:
        found = ", ".join(f"{path} {list(shape)}" for path, shape in list(shapes.items())[:4]) or "none"
        raise ValueError(
            f"{function}: got arrays of shapes {found}; wanted a first axis of replicas, of one size in all. "
            "Make the first argument by replicas too, from keys of jax.random.split."
        )
    return sizes.pop()[0]
