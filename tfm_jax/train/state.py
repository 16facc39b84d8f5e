"""The training state, as one pytree."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from tfm_jax import pytrees
from tfm_jax.checks import as_key
from tfm_jax.types import Array, Key, Params

__all__ = ["TrainState", "init_state"]


@pytrees.register
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of training: all that a step reads or changes. A restored state continues the run exactly.

    Args:
      step: int32 scalar, number of updates so far.
      params: nested dict of arrays.
      opt_state: the optimizer's state.
      ema: float32 copy of ``params``, their exponential moving average (EMA), or None.
      key: the run's PRNG key. It stays the same: step ``t`` uses ``fold_in(key, t)``.
    """

    step: Array
    params: Params
    opt_state: optax.OptState
    ema: Params | None
    key: Key


def init_state(
    params: Params, optimizer: optax.GradientTransformation, key: Key, ema: bool = False
) -> TrainState:
    """The initial training state.

    Equivalent to::

        TrainState(jnp.int32(0), params, optimizer.init(params), params if ema else None, key)

    Args:
      params: nested dict of float32 arrays. The optimizer's moments have the dtype of params, and bfloat16
        loses small updates: compute in bfloat16 inside the model instead.
      optimizer: an optax optimizer, the same as for ``make_train_step``.
      key: the run's PRNG key, a scalar.
      ema: whether to keep a moving average of the weights; ``make_train_step`` then needs ``ema_decay``.

    Returns:
      A `TrainState`. Its ``ema`` is a float32 copy: a bfloat16 average would not move, and a buffer that is
      shared with ``params`` could not be donated.
    """
    average = jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params) if ema else None
    return TrainState(
        jnp.zeros((), jnp.int32), params, optimizer.init(params), average, as_key("init_state", key)
    )
