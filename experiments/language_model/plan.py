"""``tfm plan language_model``: the training step on a batch of packed texts."""

import dataclasses
from collections.abc import Sequence

from experiments import command_line
from experiments.language_model.config import Config
from experiments.language_model.run import NAME, make_loss
from experiments.planning import Batch, make_task
from tfm_jax import data, nn
from tfm_jax.train.plan.flops import step_flops
from tfm_jax.train.plan.task import Task

__all__ = ["parse", "plan"]


def parse(argv: Sequence[str]) -> Config:
    """The config of these options."""
    return command_line.parse(Config, argv, prog=f"tfm plan {NAME}")


def plan(config: Config) -> Task:
    """The task of a config. The vocabulary is --model.vocab-size, or else that of the tokenizer's option."""
    settings = config.data
    vocabulary = settings.vocab_size if settings.tokenizer == "bpe" else data.ByteTokenizer().vocab_size
    decoder = dataclasses.replace(config.model, vocab_size=config.model.vocab_size or vocabulary)
    model = nn.functionalize(nn.Decoder, decoder)
    B, T = config.train.batch_size, settings.length
    batch: Batch = {"weights": ("float32", (B, T))}
    batch |= dict.fromkeys(("tokens", "labels", "segment_ids", "positions"), ("int32", (B, T)))
    flops = step_flops(model, examples=B, length=T)
    return make_task(config, model, make_loss(model, 1.0), batch, flops=flops, tokens=B * T)
