"""``tfm plan images``: the training step on a batch of images."""

from collections.abc import Sequence

from experiments import command_line
from experiments.images.config import Config
from experiments.images.model import Preprocess, encoder_config, make_model, patches_of
from experiments.images.run import NAME, make_loss
from experiments.planning import Batch, make_task
from tfm_jax.train.plan.flops import step_flops
from tfm_jax.train.plan.task import Task

__all__ = ["parse", "plan"]


def parse(argv: Sequence[str]) -> Config:
    """The config of these options."""
    return command_line.parse(Config, argv, prog=f"tfm plan {NAME}")


def plan(config: Config) -> Task:
    """The task of a config: images of --data.size and --data.channels, or else the digits' 8 x 8 x 1."""
    height, width = config.data.size or (8, 8)
    shape = (height, width, config.data.channels or 1)
    encoder = encoder_config(config, shape)
    patches, B = patches_of(encoder), config.train.batch_size
    preprocess = Preprocess(None, patches.channels)
    model = make_model(encoder, config.data.classes or 10, preprocess)
    batch: Batch = {
        "images": ("float32", (B, *shape)),
        "labels": ("int32", (B,)),
        "weights": ("float32", (B,)),
    }
    length = patches.count + patches.class_token
    flops = step_flops(model, examples=B, length=length)
    loss_fn = make_loss(model, config.augment, config.label_smoothing)
    return make_task(config, model, loss_fn, batch, flops=flops, tokens=B * length)
