"""The training step of an experiment as a task of ``tfm plan``, from its config alone."""

import dataclasses
from typing import Any

import jax
import optax
from flax import nnx

from experiments.config import RunConfig
from experiments.runner import make_step
from tfm_jax import nn, train
from tfm_jax.train.plan.task import Task
from tfm_jax.types import Key

__all__ = ["Batch", "make_task"]
Batch = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape of each array of a batch."""


def make_task(
    config: RunConfig,
    model: nn.Pure[nnx.Module],
    loss_fn: train.LossFn[Any],
    batch: Batch,
    *,
    flops: float,
    tokens: int,
) -> Task:
    """The task of a config.

    Args:
      config: of the run; ``--parallel pmap`` is not planned.
      model: the model, with its vocabulary or classes.
      loss_fn: of the experiment.
      batch: dtype and shape of each array of a batch.
      flops: model FLOPs of a step.
      tokens: positions of a batch.

    Raises:
      ValueError: the config has pmap, or an optimizer that does not fit its steps.
    """
    if config.parallel != "jit":
        raise ValueError(f"plan: got --parallel {config.parallel}; wanted jit, which shards the state.")
    settings = config.train
    optimizer: optax.GradientTransformation
    optimizer, _ = settings.optimizer.build(config.model.d_model, settings.steps)

    def make_state(key: Key) -> train.TrainState:
        return train.init_state(model.init(key), optimizer, key, ema=settings.ema_decay is not None)

    return Task(
        model=model,
        step=make_step(settings, loss_fn, optimizer),
        make_state=make_state,
        batch={name: jax.ShapeDtypeStruct(shape, dtype) for name, (dtype, shape) in batch.items()},
        flops=flops,
        tokens=tokens,
        accumulate=settings.accumulate,
        gradient_dtype=settings.gradient_dtype,
        mesh=dataclasses.asdict(config.mesh),
    )
