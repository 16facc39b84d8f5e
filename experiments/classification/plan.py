"""``tfm plan classification``: the training step on a batch of the longest texts."""

import dataclasses
from collections.abc import Sequence

from experiments import command_line
from experiments.classification.config import Config
from experiments.classification.run import NAME, make_loss
from experiments.planning import Batch, make_task
from tfm_jax import nn
from tfm_jax.train.plan.flops import step_flops
from tfm_jax.train.plan.task import Task

__all__ = ["parse", "plan"]
CLASSES = 16
"""The classes are those of the data, which a plan does not load; they change nothing that it shows."""


def parse(argv: Sequence[str]) -> Config:
    """The config of these options."""
    return command_line.parse(Config, argv, prog=f"tfm plan {NAME}")


def plan(config: Config) -> Task:
    """The task of a config, with texts of --data.max-length."""
    encoder = dataclasses.replace(config.model, vocab_size=config.model.vocab_size or config.data.vocab_size)
    model = nn.functionalize(nn.Classifier, encoder, CLASSES, config.head_pooling, config.head_dropout_rate)
    B, T = config.train.batch_size, config.data.max_length
    batch: Batch = {"tokens": ("int32", (B, T)), "valid": ("bool", (B, T))}
    labelled = (B, T) if config.data.task == "tokens" else (B,)
    batch |= {"labels": ("int32", labelled), "weights": ("float32", labelled)}
    if config.data.task == "pair" and encoder.token_types > 1:
        batch["token_types"] = ("int32", (B, T))
    flops = step_flops(model, examples=B, length=T)
    loss_fn = make_loss(model, config.label_smoothing)
    return make_task(config, model, loss_fn, batch, flops=flops, tokens=B * T)
