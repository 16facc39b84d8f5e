"""What a training run carries from step to step, as one pytree."""

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
    """Everything that a step changes or needs: save it, restore it, and training goes on as if never stopped.

    Args:
        step: int32 scalar, the number of updates made.
        params: nested dict of arrays.
        opt_state: the optimizer's state.
        ema: float32 copy of ``params``, their exponential moving average, or None.
        key: the run's PRNG key. It never changes: step ``t`` draws from ``fold_in(key, t)``.
    """

    step: Array
    params: Params
    opt_state: optax.OptState
    ema: Params | None
    key: Key


def init_state(
    params: Params, optimizer: optax.GradientTransformation, key: Key, ema: bool = False
) -> TrainState:
    """The state before the first step.

    Equivalent to::

        TrainState(jnp.int32(0), params, optimizer.init(params), params if ema else None, key)

    Args:
        params: nested dict of arrays, float32. The optimizer's moments have their dtype, and in bfloat16
            small updates are lost: compute in bfloat16 in the model instead.
        optimizer: an optax optimizer; the same one goes to ``make_train_step``.
        key: the run's PRNG key, a scalar.
        ema: whether to keep an average of the weights; ``make_train_step`` then needs ``ema_decay``.

    Returns:
        A `TrainState`. Its ``ema`` is a float32 copy: in bfloat16 an average would stand still, and one
        buffer in two places could not be donated.
    """
    average = jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params) if ema else None
    return TrainState(
        jnp.zeros((), jnp.int32), params, optimizer.init(params), average, as_key("init_state", key)
    )
