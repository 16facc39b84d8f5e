"""Training and evaluation steps as pure functions, made from a loss."""

from collections.abc import Callable
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import optax

from tfm_jax.checks import check_shapes
from tfm_jax.ops import projection
from tfm_jax.ranges import POSITIVE, RATE, SIZE, check_number
from tfm_jax.train.state import TrainState
from tfm_jax.types import Array, BatchT, Key, Params, SumWeight

__all__ = ["EvalStep", "LossFn", "Metrics", "TrainStep", "make_eval_step", "make_train_step"]

Tree = TypeVar("Tree")
Metrics = dict[str, SumWeight]
"""Named ``(sum, weight)`` pairs."""
LossFn = Callable[[Params, BatchT, Key | None], tuple[SumWeight, Metrics]]
"""``loss_fn(params, batch, key) -> ((sum, weight), metrics)``; ``key`` is None in evaluation."""
TrainStep = Callable[[TrainState, BatchT], tuple[TrainState, Metrics]]
"""``step(state, batch) -> (state, metrics)``"""
EvalStep = Callable[[Params, BatchT], Metrics]
"""``eval_step(params, batch) -> metrics``"""


def make_train_step(
    loss_fn: LossFn[BatchT],
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    clip_norm: float | None = None,
    ema_decay: float | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    gradient_dtype: Literal["float32", "bfloat16"] = "float32",
) -> TrainStep[BatchT]:
    """Makes a training step, a pure function for ``jax.jit(step, donate_argnums=0)``.

    Equivalent to (one microbatch, one device)::

        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
        ((total, weight), metrics), gradients = jax.value_and_grad(loss_fn)(params, batch, key)  # of the sum
        gradients = gradients / weight
        gradients = gradients * min(1, clip_norm / norm(gradients))
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        ema = d * ema + (1 - d) * params                 # d = min(ema_decay, (1 + t) / (10 + t))

    Gradients and weights are summed over microbatches and devices and divided once, so the result is that of
    the whole batch up to rounding, however the weight is distributed.

    Args:
      loss_fn: ``(params, batch, key) -> ((sum, weight), {name: (sum, weight)})``. ``key`` is for dropout
        and differs for each step, microbatch and device. The weight may not depend on ``params``. The
        names "loss" and "grad_norm" are reserved.
      optimizer: an optax optimizer.
      accumulate: number of microbatches for gradient accumulation, run in sequence; divides the batch
        (under ``axis_name``, the batch of one device). Microbatch ``i`` has the examples
        ``i::accumulate``, so that a batch sharded over devices is not moved.
      clip_norm: largest global norm of the gradient, > 0; None does not clip.
      ema_decay: decay of the moving average of the weights, in [0, 1). It is lower in the first steps, so
        that the random initialization is forgotten. None for a state without an average.
      axis_name: the mapped axis to sum over, or several, under ``pmap``, ``shard_map`` or ``vmap``, nested
        too. None under ``jit``, also on a mesh, where the compiler sums. With several devices their dropout
        differs from jit's.
      gradient_dtype: the dtype in which devices add their gradients. Under ``jit`` it is that of the products
        of ``nn`` layers and of ``linear_cross_entropy`` in a model that computes in bfloat16, except for
        those of experts, which are bfloat16 there. "bfloat16" halves what devices send, and rounds each
        device's part. Microbatches are added in float32.

    Returns:
      ``step(state, batch) -> (state, metrics)``. The metrics are "loss", those of ``loss_fn``, and
      "grad_norm" (before clipping, with weight 1), all ``(sum, weight)`` in float32. A batch of weight 0
      has gradient 0; the optimizer's momentum and weight decay still change the weights.

    Raises:
      ValueError: for an ``axis_name`` that is no name, or another ``gradient_dtype``; at trace time, when the
        batch is not divisible by ``accumulate``, a metric has a reserved name, or only one of the state and
        the step has a moving average.
    """
    check_number("make_train_step", "accumulate", accumulate, SIZE)
    if clip_norm is not None:
        check_number("make_train_step", "clip_norm", clip_norm, POSITIVE)
    if ema_decay is not None:
        check_number("make_train_step", "ema_decay", ema_decay, RATE)
    if gradient_dtype not in ("float32", "bfloat16"):
        raise ValueError(
            f"make_train_step: got gradient_dtype={gradient_dtype!r}; wanted 'float32' or 'bfloat16'."
        )
    axis_names = _axis_names("make_train_step", axis_name)

    def step(state: TrainState, batch: BatchT) -> tuple[TrainState, Metrics]:
        if (state.ema is None) != (ema_decay is None):
            raise ValueError(
                f"make_train_step: got ema_decay={ema_decay} and a state of init_state(ema="
                f"{state.ema is not None}); wanted both ema=True and a decay, or neither."
            )
        key = jax.random.fold_in(state.key, state.step)
        if jax.lax.axis_size(axis_names) > 1:  # one device: as without an axis
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_names))
        params = _vary(state.params, axis_names)
        with projection.gradient_dtype(gradient_dtype):
            gradients, metrics = _gradients(loss_fn, params, _microbatches(batch, accumulate), key)
        gradients = _cast(_sum(_cast(gradients, gradient_dtype), axis_names), "float32")
        metrics = _sum(metrics, axis_names)
        weight = metrics["loss"][1]
        gradients = jax.tree.map(lambda g: g / jnp.where(weight == 0, 1.0, weight), gradients)
        norm = optax.tree.norm(gradients)
        if clip_norm is not None:
            scale = clip_norm / jnp.maximum(norm, clip_norm)
            gradients = jax.tree.map(lambda g: g * scale, gradients)
        gradients = jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, state.params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes: a float to the power of an int32
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = jax.tree.map(optax.apply_updates, state.params, updates)
        ema = state.ema
        if ema is not None and ema_decay is not None:
            ema = _update_ema(ema, params, state.step, ema_decay)
        metrics["grad_norm"] = (norm, jnp.ones_like(norm))
        return TrainState(state.step + 1, params, opt_state, ema, state.key), metrics

    return step


def make_eval_step(
    loss_fn: LossFn[BatchT], *, axis_name: str | tuple[str, ...] | None = None
) -> EvalStep[BatchT]:
    """Makes an evaluation step, a pure function without randomness.

    Equivalent to::

        pair, metrics = loss_fn(params, batch, None)
        {"loss": pair, **metrics}

    Args:
      loss_fn: as for `make_train_step`; its key is None.
      axis_name: the mapped axis to sum over, or several, if any.

    Returns:
      ``eval_step(params, batch) -> {name: (sum, weight)}``. `evaluate` sums the pairs over batches; a batch
      of padding alone has weight 0.

    Raises:
      ValueError: for an ``axis_name`` that is no name; at trace time, when ``loss_fn`` names a metric "loss"
        or "grad_norm".
    """

    axis_names = _axis_names("make_eval_step", axis_name)

    def eval_step(params: Params, batch: BatchT) -> Metrics:
        pair, metrics = loss_fn(params, batch, None)
        metrics = _with_loss(pair, metrics)
        return _sum(metrics, axis_names)

    return eval_step


def _with_loss(loss: SumWeight, metrics: Metrics) -> Metrics:
    if taken := {"loss", "grad_norm"} & set(metrics):
        raise ValueError(
            f"loss_fn: got metrics named {sorted(taken)}; wanted other names, as the step has those."
        )
    pairs = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {"loss": loss, **metrics})
    scalars = {f"{name}[{i}]": (x, "") for name, pair in pairs.items() for i, x in enumerate(pair)}
    check_shapes("loss_fn", scalars, fix="Sum over the batch: a loss or metric is (sum, weight).")
    return pairs


def _microbatches(batch: BatchT, accumulate: int) -> BatchT:
    """[B, ...] -> [accumulate, B / accumulate, ...], with stride ``accumulate``."""

    def split(path: tuple[object, ...], x: Array) -> Array:
        if jnp.ndim(x) == 0 or x.shape[0] % accumulate:
            raise ValueError(
                f"make_train_step: got batch{jax.tree_util.keystr(path)} of shape {jnp.shape(x)}; wanted a "
                f"first axis that is a multiple of accumulate={accumulate}."
            )
        return jnp.moveaxis(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 1, 0)

    return jax.tree_util.tree_map_with_path(split, batch)


def _gradients(
    loss_fn: LossFn[BatchT], params: Params, microbatches: BatchT, key: Key
) -> tuple[Params, Metrics]:
    """The gradient of the summed loss (in float32) and the metrics, summed over the microbatches."""

    def summed(params: Params, batch: BatchT, key: Key) -> tuple[Array, Metrics]:
        pair, metrics = loss_fn(params, batch, key)
        metrics = _with_loss(pair, metrics)
        return metrics["loss"][0], metrics

    def add(total: Params, indexed: tuple[Array, BatchT]) -> tuple[Params, Metrics]:
        index, batch = indexed
        gradients, metrics = jax.grad(summed, has_aux=True)(params, batch, jax.random.fold_in(key, index))
        return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, gradients), metrics

    zeros = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)
    accumulate = jax.tree.leaves(microbatches)[0].shape[0]
    if accumulate == 1:  # without a loop XLA optimizes across it
        return add(zeros, (jnp.int32(0), jax.tree.map(lambda x: x[0], microbatches)))
    gradients, metrics = jax.lax.scan(add, zeros, (jnp.arange(accumulate), microbatches))
    return gradients, jax.tree.map(lambda x: x.sum(0), metrics)


def _axis_names(function: str, axis_name: object) -> tuple[str, ...]:
    names = axis_name if isinstance(axis_name, tuple) else () if axis_name is None else (axis_name,)
    found = tuple(name for name in names if isinstance(name, str) and name)
    if len(found) < len(names) or len(set(found)) < len(found):
        raise ValueError(
            f"{function}: got axis_name={axis_name!r}; wanted the name of a mapped axis, such as 'data', or "
            "a tuple of different names."
        )
    return found


def _manual(axis_names: tuple[str, ...]) -> tuple[str, ...]:
    """The names that ``shard_map`` or ``pmap`` maps; ``vmap`` maps the others."""
    manual = jax.sharding.get_abstract_mesh().manual_axes
    return tuple(name for name in axis_names if name in manual)


def _vary(tree: Tree, axis_names: tuple[str, ...]) -> Tree:
    """Casts replicated arrays to device-varying ones under ``shard_map(check_vma=True)``.

    There the gradient of a replicated value is already summed over the devices; a second sum would multiply
    it by their number. Elsewhere this is the identity.
    """
    manual = set(_manual(axis_names))

    def vary(x: Array) -> Array:
        axes = tuple(manual - jax.typeof(x).manual_axis_type.varying)
        return jax.lax.pcast(x, axes, to="varying") if axes else x

    return jax.tree.map(vary, tree)


def _sum(tree: Tree, axis_names: tuple[str, ...]) -> Tree:
    """The sum over mapped axes, of values that are equal along one of them too."""
    manual = _manual(axis_names)
    others = tuple(name for name in axis_names if name not in manual)
    # In two steps: psum takes no axis of vmap beside one of shard_map.
    tree = jax.lax.psum(tree, others) if others else tree
    return jax.lax.psum(_vary(tree, manual), manual) if manual else tree


def _cast(tree: Params, dtype: str) -> Params:
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def _update_ema(ema: Params, params: Params, step: Array, decay: float) -> Params:
    count = step.astype(jnp.float32)
    rate = 1.0 - jnp.minimum(decay, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda e, p: e + rate * (p.astype(jnp.float32) - e), ema, params)
