"""``tfm plan translation``: the training step on a batch of the longest pairs."""

import dataclasses
from collections.abc import Sequence

from experiments import command_line
from experiments.planning import Batch, make_task
from experiments.translation.config import Config
from experiments.translation.run import NAME, make_loss
from tfm_jax import nn
from tfm_jax.train.plan.flops import step_flops
from tfm_jax.train.plan.task import Task

__all__ = ["parse", "plan"]


def parse(argv: Sequence[str]) -> Config:
    """The config of these options."""
    return command_line.parse(Config, argv, prog=f"tfm plan {NAME}")


def plan(config: Config) -> Task:
    """The task of a config: --data.batch-tokens as pairs of --data.max-length on both sides."""
    settings, length = config.data, config.data.max_length
    vocabulary = config.model.vocab_size or settings.vocab_size
    model = nn.functionalize(nn.EncoderDecoder, dataclasses.replace(config.model, vocab_size=vocabulary))
    B = config.train.batch_size
    if settings.batch_tokens is not None:
        B = max(1, settings.batch_tokens // length)
    batch: Batch = {"valid": ("bool", (B, length)), "weights": ("float32", (B, length))}
    batch |= dict.fromkeys(("source", "target", "labels"), ("int32", (B, length)))
    flops = step_flops(model, examples=B, length=length, source_length=length)
    loss_fn = make_loss(model, config.label_smoothing)
    return make_task(config, model, loss_fn, batch, flops=flops, tokens=2 * B * length)
