"""Learning-rate schedules, Adam and AdamW for Transformers.

A schedule is a function of the step, 0 for the first update. Warm-up uses ``step + 1``: a rate of 0 would
waste the first step.
"""

import functools
import re
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from tfm_jax.ranges import NOT_NEGATIVE, POSITIVE, RATE, SIZE, check_number, check_numbers
from tfm_jax.types import Array, Params

__all__ = [
    "NO_DECAY",
    "Schedule",
    "adam_noam",
    "adamw",
    "decay_mask",
    "hold",
    "inverse_sqrt",
    "noam",
    "rewarm",
    "warmup_constant",
    "warmup_cosine",
]

Schedule = Callable[[ArrayLike], Array]
"""``schedule(step) -> rate``; the first update is step 0."""

NO_DECAY = r"(^|[/_])(bias|b|norm\d*|scale|positions?|position_\w+)([/_]|$)"
"""Regular expression of the paths (``decoder/blocks/norm/scale``) without weight decay: biases, norms,
position embeddings."""


def noam(d_model: int, warmup: int, scale: float = 1.0) -> Schedule:
    """The paper's schedule: linear warm-up, then inverse square-root decay.

    Equivalent to::

        lambda step: scale * d_model**-0.5 * min((step + 1)**-0.5, (step + 1) * warmup**-1.5)

    Args:
      d_model: the model's width, > 0.
      warmup: steps to the peak, ``scale * (d_model * warmup)**-0.5``; > 0.
      scale: a factor; 1 in the paper.

    Returns:
      The schedule: a step, int or int array -> float32 of its shape.

    Raises:
      ValueError: for a width or warm-up below 1, or a ``scale`` that is not above 0 and finite.

    Vaswani et al. 2017, equation 3; its step_num counts from 1.
    """
    check_numbers("noam", SIZE, d_model=d_model, warmup=warmup)
    check_number("noam", "scale", scale, POSITIVE)

    def schedule(step: ArrayLike) -> Array:
        number = _number(step)
        return scale * d_model**-0.5 * jnp.minimum(number**-0.5, number * warmup**-1.5)

    return schedule


def inverse_sqrt(peak: float, warmup: int) -> Schedule:
    """Linear warm-up to ``peak``, then inverse square-root decay: `noam` with a given peak.

    Equivalent to::

        lambda step: peak * min((step + 1) / warmup, (warmup / (step + 1))**0.5)

    Args:
      peak: the highest rate, reached at update number ``warmup``.
      warmup: steps to the peak, > 0.

    Returns:
      The schedule: a step, int or int array -> float32 of its shape.

    Raises:
      ValueError: for a warm-up below 1, or a ``peak`` that is not above 0 and finite.
    """
    check_number("inverse_sqrt", "peak", peak, POSITIVE)
    check_number("inverse_sqrt", "warmup", warmup, SIZE)

    def schedule(step: ArrayLike) -> Array:
        number = _number(step)
        return peak * jnp.minimum(number / warmup, (warmup / number) ** 0.5)

    return schedule


def warmup_cosine(peak: float, warmup: int, steps: int, end: float = 0.0) -> Schedule:
    """Linear warm-up to ``peak``, cosine decay to ``end``, then constant.

    The rate is ``end`` at the step after the last: with an end of 0 the last step still changes the weights.

    Equivalent to::

        def schedule(step):
            done = clip((step + 1 - warmup) / (steps + 1 - warmup), 0, 1)
            cosine = end + (peak - end) * (1 + cos(pi * done)) / 2
            return min(peak * (step + 1) / warmup, cosine)

    Args:
      peak: the highest rate, reached at update number ``warmup``.
      warmup: steps to the peak, > 0.
      steps: total number of steps, > ``warmup``.
      end: the final rate, in [0, peak].

    Returns:
      The schedule: a step, int or int array -> float32 of its shape.

    Raises:
      ValueError: for a warm-up below 1, or one that is not shorter than ``steps``; for a ``peak`` that is
        not above 0 and finite, or an ``end`` outside [0, peak].

    Loshchilov and Hutter 2017, equation 5, one period.
    """
    check_number("warmup_cosine", "peak", peak, POSITIVE)
    check_numbers("warmup_cosine", SIZE, warmup=warmup, steps=steps)
    check_number("warmup_cosine", "end", end, NOT_NEGATIVE)
    if end > peak:
        raise ValueError(f"warmup_cosine: got end={end} with peak={peak}; wanted at most the peak.")
    if steps <= warmup:
        raise ValueError(
            f"warmup_cosine: got warmup={warmup} with steps={steps}; wanted fewer warm-up steps."
        )

    def schedule(step: ArrayLike) -> Array:
        number = _number(step)
        done = jnp.clip((number - warmup) / (steps + 1 - warmup), 0.0, 1.0)
        cosine = end + (peak - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return jnp.minimum(peak * number / warmup, cosine)

    return schedule


def warmup_constant(peak: float, warmup: int) -> Schedule:
    """Linear warm-up to ``peak``, then constant.

    Equivalent to::

        lambda step: peak * min((step + 1) / warmup, 1)

    Args:
      peak: the rate from update number ``warmup`` on.
      warmup: steps to the peak, > 0.

    Returns:
      The schedule: a step, int or int array -> float32 of its shape.

    Raises:
      ValueError: for a warm-up below 1, or a ``peak`` that is not above 0 and finite.
    """
    check_number("warmup_constant", "peak", peak, POSITIVE)
    check_number("warmup_constant", "warmup", warmup, SIZE)

    def schedule(step: ArrayLike) -> Array:
        return peak * jnp.minimum(_number(step) / warmup, 1.0)

    return schedule


def hold(schedule: Schedule, steps: int) -> Schedule:
    """A schedule that keeps the rate of its last step: for training beyond its ``steps``.

    Equivalent to::

        lambda step: schedule(min(step, steps - 1))

    Args:
      schedule: the schedule.
      steps: number of its steps, > 0.

    Returns:
      The schedule: a step, int or int array -> float32 of its shape.

    Raises:
      ValueError: for fewer steps than 1.
    """
    check_number("hold", "steps", steps, SIZE)
    return lambda step: schedule(jnp.minimum(jnp.asarray(step), steps - 1))


def rewarm(schedule: Schedule, steps: int, again: Schedule) -> Schedule:
    """A schedule and, after its ``steps``, another one from its first step, warm-up included.

    Equivalent to::

        lambda step: schedule(step) if step < steps else again(step - steps)

    Args:
      schedule: the schedule of the first steps.
      steps: number of its steps, > 0.
      again: the schedule of the steps after them.

    Returns:
      The schedule: a step, int or int array -> float32 of its shape.

    Raises:
      ValueError: for fewer steps than 1.

    Ibrahim et al. 2024, "Simple and Scalable Strategies to Continually Pre-train Large Language Models".
    """
    check_number("rewarm", "steps", steps, SIZE)

    def joined(step: ArrayLike) -> Array:
        step = jnp.asarray(step)
        return jnp.where(step < steps, schedule(step), again(step - steps))

    return joined


def adam_noam(d_model: int, warmup: int = 4000, scale: float = 1.0) -> optax.GradientTransformation:
    """The paper's optimizer: Adam with the `noam` schedule.

    Equivalent to::

        optax.adam(noam(d_model, warmup, scale), b1=0.9, b2=0.98, eps=1e-9)

    Args:
      d_model: the model's width, > 0.
      warmup: steps to the peak, > 0.
      scale: a factor of the rate; 1 in the paper.

    Returns:
      An optax optimizer.

    Raises:
      ValueError: for a width or warm-up below 1, or a ``scale`` that is not above 0 and finite.

    Vaswani et al. 2017, section 5.3.
    """
    return _in_float32(optax.adam(noam(d_model, warmup, scale), b1=0.9, b2=0.98, eps=1e-9))


def adamw(
    schedule: Schedule | float,
    weight_decay: float = 0.01,
    *,
    b1: float = 0.9,
    b2: float = 0.98,
    eps: float = 1e-9,
    no_decay: str = NO_DECAY,
    mu_dtype: Literal["bfloat16"] | None = None,
) -> optax.GradientTransformation:
    """AdamW without weight decay of biases and norms (`decay_mask`).

    Equivalent to::

        optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay, mask=decay_mask)

    Args:
      schedule: a function of the step, or a constant rate.
      weight_decay: decoupled weight decay, multiplied by the rate; 0 is Adam.
      b1: decay of the first moment of the gradient.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      no_decay: regular expression of the paths without weight decay.
      mu_dtype: of the first moment between steps; None is the dtype of the parameters. "bfloat16" saves two
        bytes a parameter. The second moment keeps the parameters' dtype: a step changes it by a fraction of
        ``1 - b2``, which bfloat16 would round away.

    Returns:
      An optax optimizer.

    Raises:
      ValueError: for a number out of its range: a rate or decay that is negative or not finite, b1 or b2
        outside [0, 1), an ``eps`` that is not above 0; for another ``mu_dtype``.

    Loshchilov and Hutter 2019, algorithm 2.
    """
    if not callable(schedule):
        check_number("adamw", "schedule", schedule, NOT_NEGATIVE)
    check_number("adamw", "weight_decay", weight_decay, NOT_NEGATIVE)
    check_numbers("adamw", RATE, b1=b1, b2=b2)
    check_number("adamw", "eps", eps, POSITIVE)
    if mu_dtype not in (None, "bfloat16"):
        raise ValueError(f"adamw: got mu_dtype={mu_dtype!r}; wanted None, the parameters', or 'bfloat16'.")
    mask = functools.partial(decay_mask, no_decay=no_decay)
    adamw = optax.adamw(
        schedule,
        b1=b1,
        b2=b2,
        eps=eps,
        mu_dtype=mu_dtype,
        weight_decay=weight_decay,
        mask=mask,
    )
    return _in_float32(adamw)


def decay_mask(params: Params, no_decay: str = NO_DECAY) -> Params:
    """Weight-decay mask by parameter path.

    Layers are stacked, so a bias is a matrix ``[L, D]`` and a mask by rank would be wrong.

    Equivalent to::

        {path: re.search(no_decay, path) is None for path in paths(params)}     # as a tree like params

    Args:
      params: nested dict of arrays.
      no_decay: regular expression, searched in the path ``decoder/blocks/norm/scale``.

    Returns:
      A tree of bools like ``params``: True means decayed.
    """
    pattern = re.compile(no_decay)

    def decays(path: tuple, _: Array) -> bool:
        return pattern.search(jax.tree_util.keystr(path, simple=True, separator="/")) is None

    return jax.tree_util.tree_map_with_path(decays, params)


def _in_float32(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Disables x64 in the update unless a gradient is float64: optax's bias corrections would be float64."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        wide = any(x.dtype.itemsize == 8 for x in jax.tree.leaves(updates))
        with jax.enable_x64(wide):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def _number(step: ArrayLike) -> Array:
    """The number of the update, from 1. (``optax.join_schedules`` also passes negative steps.)"""
    return jnp.maximum(jnp.asarray(step, jnp.float32), 0.0) + 1.0
