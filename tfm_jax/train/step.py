"""One training step and one evaluation step, as pure functions of a loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tfm_jax.ranges import POSITIVE, RATE, SIZE, check_number
from tfm_jax.train.state import TrainState
from tfm_jax.types import Array, Batch, Key, Params, SumWeight

__all__ = ["EvalStep", "LossFn", "Metrics", "TrainStep", "make_eval_step", "make_train_step"]

Metrics = dict[str, SumWeight]
"""Named ``(sum, weight)`` pairs."""
LossFn = Callable[[Params, Batch, Key | None], tuple[SumWeight, Metrics]]
"""``loss_fn(params, batch, key) -> ((sum, weight), metrics)``; ``key`` is None in evaluation."""
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
"""``step(state, batch) -> (state, metrics)``"""
EvalStep = Callable[[Params, Batch], Metrics]
"""``eval_step(params, batch) -> metrics``"""


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    clip_norm: float | None = None,
    ema_decay: float | None = None,
    axis_name: str | None = None,
) -> TrainStep:
    """A pure ``step(state, batch) -> (state, metrics)``, ready for ``jax.jit(step, donate_argnums=0)``.

    Equivalent to (one microbatch, one device)::

        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
        ((total, weight), metrics), gradients = jax.value_and_grad(loss_fn)(params, batch, key)  # of the sum
        gradients = gradients / weight
        gradients = gradients * min(1, clip_norm / norm(gradients))
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        ema = d * ema + (1 - d) * params                 # d = min(ema_decay, (1 + t) / (10 + t))

    Sums of gradients and of weights are added over microbatches and devices and divided once, so the step
    equals that of the large batch up to rounding, however unevenly the weight is spread.

    Args:
        loss_fn: ``(params, batch, key) -> ((sum, weight), {name: (sum, weight)})``. It draws its dropout from
            ``key``, one of its own for every step, microbatch and device. Its weight may not depend on
            ``params``. The names "loss" and "grad_norm" are taken.
        optimizer: an optax optimizer.
        accumulate: number of microbatches, run one after the other; it divides the batch (the part of it that
            one device has, under ``axis_name``). Microbatch ``i`` is the rows ``i::accumulate``, so that a
            batch sharded over devices stays where it is.
        clip_norm: largest global norm of the gradient, > 0; None does not clip.
        ema_decay: decay of the average of the weights, in [0, 1), ramped up over the first steps so that it
            never leans on the random initialization; None for a state without one.
        axis_name: the mapped axis to add over, under ``pmap``, ``shard_map`` or ``vmap``. Under ``jit`` on a
            mesh there is none: the compiler adds. On several devices dropout is drawn otherwise than there.

    Returns:
        The step. Its metrics are "loss", those of ``loss_fn``, and "grad_norm" (before clipping, weight 1),
        all ``(sum, weight)`` in float32. A batch of weight 0 has the gradient 0; the optimizer's momentum and
        weight decay still move the weights.

    Raises:
        ValueError: at trace time, when the batch does not divide by ``accumulate``, a name is taken, or the
            state has an average where the step has no decay, or the other way round.
    """
    check_number("make_train_step", "accumulate", accumulate, SIZE)
    if clip_norm is not None:
        check_number("make_train_step", "clip_norm", clip_norm, POSITIVE)
    if ema_decay is not None:
        check_number("make_train_step", "ema_decay", ema_decay, RATE)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if (state.ema is None) != (ema_decay is None):
            raise ValueError(
                f"init_state(ema={state.ema is not None}) does not fit "
                f"make_train_step(ema_decay={ema_decay}): an average needs both ema=True and a decay"
            )
        key = jax.random.fold_in(state.key, state.step)
        if axis_name is not None and jax.lax.axis_size(axis_name) > 1:  # one device draws as without an axis
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        params = _vary(state.params, axis_name)
        gradients, metrics = _gradients(loss_fn, params, _microbatches(batch, accumulate), key)
        if axis_name is not None:
            gradients, metrics = jax.lax.psum((gradients, metrics), axis_name)
        weight = metrics["loss"][1]
        gradients = jax.tree.map(lambda g: g / jnp.where(weight == 0, 1.0, weight), gradients)
        norm = optax.tree.norm(gradients)
        if clip_norm is not None:
            gradients = jax.tree.map(lambda g: g * (clip_norm / jnp.maximum(norm, clip_norm)), gradients)
        gradients = jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, state.params)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of an int32 count
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None if ema_decay is None else _average(state.ema, params, state.step, ema_decay)
        metrics["grad_norm"] = (norm, jnp.ones_like(norm))
        return TrainState(state.step + 1, params, opt_state, ema, state.key), metrics

    return step


def make_eval_step(loss_fn: LossFn, *, axis_name: str | None = None) -> EvalStep:
    """A pure ``eval_step(params, batch) -> {name: (sum, weight)}``, without randomness.

    Equivalent to::

        pair, metrics = loss_fn(params, batch, None)
        {"loss": pair, **metrics}

    Args:
        loss_fn: as for `make_train_step`; its key is None.
        axis_name: the mapped axis to add over, if any.

    Returns:
        The step. Its pairs add over batches (`total`); the weight is 0 where a batch holds only filling.

    Raises:
        ValueError: at trace time, when ``loss_fn`` names a metric "loss" or "grad_norm".
    """

    def eval_step(params: Params, batch: Batch) -> Metrics:
        pair, metrics = loss_fn(params, batch, None)
        metrics = _named(pair, metrics)
        return metrics if axis_name is None else jax.lax.psum(metrics, axis_name)

    return eval_step


def _named(loss: SumWeight, metrics: Metrics) -> Metrics:
    if taken := {"loss", "grad_norm"} & set(metrics):
        raise ValueError(f"loss_fn returned metrics named {sorted(taken)}; the step uses those names itself")
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {"loss": loss, **metrics})


def _microbatches(batch: Batch, accumulate: int) -> Any:
    """[B, ...] -> [accumulate, B / accumulate, ...], by stride."""

    def split(path: Any, x: Array) -> Array:
        if jnp.ndim(x) == 0 or x.shape[0] % accumulate:
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} has shape {jnp.shape(x)}; its first axis does not divide "
                f"into accumulate={accumulate} microbatches of one size"
            )
        return jnp.moveaxis(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 1, 0)

    return jax.tree_util.tree_map_with_path(split, batch)


def _gradients(loss_fn: LossFn, params: Params, microbatches: Any, key: Key) -> tuple[Params, Metrics]:
    """Sums, over the microbatches, of the gradient of the summed loss (in float32) and of the metrics."""

    def summed(params: Params, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        pair, metrics = loss_fn(params, batch, key)
        metrics = _named(pair, metrics)
        return metrics["loss"][0], metrics

    def add(total: Params, indexed: tuple[Array, Batch]) -> tuple[Params, Metrics]:
        index, batch = indexed
        gradients, metrics = jax.grad(summed, has_aux=True)(params, batch, jax.random.fold_in(key, index))
        return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, gradients), metrics

    zeros = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)
    accumulate = jax.tree.leaves(microbatches)[0].shape[0]
    if accumulate == 1:  # no loop: the compiler sees straight through
        return add(zeros, (jnp.int32(0), jax.tree.map(lambda x: x[0], microbatches)))
    gradients, metrics = jax.lax.scan(add, zeros, (jnp.arange(accumulate), microbatches))
    return gradients, jax.tree.map(lambda x: x.sum(0), metrics)


def _vary(params: Params, axis_name: str | None) -> Params:
    """Makes replicated params differ, in type, by device.

    In ``shard_map(check_vma=True)`` the gradient of a replicated value arrives already added over the
    devices; adding it once more would make it too large by their number. Elsewhere nothing is to be done.
    """
    manual = jax.sharding.get_abstract_mesh().manual_axes
    if axis_name is None or axis_name not in manual:
        return params
    return jax.tree.map(lambda p: jax.lax.pcast(p, axis_name, to="varying"), params)


def _average(ema: Params, params: Params, step: Array, decay: float) -> Params:
    count = step.astype(jnp.float32)
    rate = 1.0 - jnp.minimum(decay, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda e, p: e + rate * (p.astype(jnp.float32) - e), ema, params)
