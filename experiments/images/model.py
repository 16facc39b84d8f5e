"""The classifier of images, and how it reads them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.images.config import Config
from experiments.init_from import PROCESSOR
from tfm_jax import nn, pretrained
from tfm_jax.types import Array, Key, Params

__all__ = ["check_images", "encoder_of", "make_model", "reader"]

Read = Callable[[Array], Array]
"""Of images float32 [B, height, width, channels] in [0, 1]; what the model takes."""


def encoder_of(config: Config, shape: tuple[int, int, int]) -> nn.Config:
    """The encoder, with the patches of the weights that it begins with, or else of the images.

    Args:
        config: says how large a patch is.
        shape: height, width and channels of the images.

    Returns:
        The config of the encoder.

    Raises:
        ValueError: a patch does not divide the image.
    """
    if config.model.patches is not None:
        return config.model
    patches = nn.Patches(*shape, config.patch_size or max(1, shape[0] // 4))
    return dataclasses.replace(config.model, patches=patches)


def reader(directory: Path, channels: int) -> Read:
    """How images become what the model takes.

    Equivalent to::

        images                                                       # without a preprocessor_config.json
        load_image_processor(directory)(round(255 * images))         # with one; grey is three equal colours

    Args:
        directory: of the run.
        channels: that the model takes.

    Returns:
        The function.

    Raises:
        ValueError: as `pretrained.load_image_processor`.
    """
    if not (directory / PROCESSOR).is_file():
        return lambda images: images
    processor = pretrained.load_image_processor(directory)

    def read(images: Array) -> Array:
        pixels = jnp.round(255 * images).astype(jnp.uint8)
        return processor(jnp.repeat(pixels, channels, -1) if pixels.shape[-1] == 1 else pixels)

    return read


def check_images(encoder: nn.Config, read: Read, shape: tuple[int, int, int]) -> None:
    """Raises a ValueError where the model does not take images of this height, width and channels."""
    patches, images = encoder.patches, jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    wanted = (patches.height, patches.width, patches.channels)
    if (got := jax.eval_shape(read, images).shape[1:]) != wanted:
        sides = lambda shape: " x ".join(map(str, shape))
        how = f"--data.size {patches.height} {patches.width} scales pictures, but not their channels"
        if got != tuple(shape):
            how = f"its {PROCESSOR} makes them of those of {sides(shape)}"
        raise ValueError(f"the model takes images of {sides(wanted)}, got {sides(got)}: {how}")


def make_model(encoder: nn.Config, classes: int, read: Read) -> nn.Pure:
    """A classifier of images in [0, 1]: of its class token, where it has one, or else of the mean.

    Args:
        encoder: its encoder.
        classes: of the images.
        read: what is done to images first.

    Returns:
        An ``nn.Classifier``, whose ``apply`` reads the images itself.

    Raises:
        ValueError: the parts of the encoder do not fit together.
    """
    patches = encoder.patches
    pooling = "first" if patches.class_token else "mean"
    init, apply = nn.functionalize(nn.Classifier, encoder, classes, pooling)
    image = jnp.zeros((1, patches.height, patches.width, patches.channels))
    jax.eval_shape(lambda key: apply(init(key), image), jax.random.key(0))  # are there as many positions?

    def read_and_apply(params: Params, images: Array, *, key: Key | None = None) -> Array:
        return apply(params, read(images), key=key)

    return nn.Pure(init, read_and_apply)
