"""The image classifier and its preprocessing."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.images.config import Config
from experiments.init_from import PROCESSOR_FILE
from tfm_jax import nn, pretrained
from tfm_jax.types import Array

__all__ = ["check_images", "encoder_config", "make_model", "make_preprocess"]

Preprocess = Callable[[Array], Array]
"""Images float32 [B, height, width, channels] in [0, 1] -> the input of the model."""


def encoder_config(config: Config, shape: tuple[int, int, int]) -> nn.Config:
    """The encoder's config, with the patches of the initial weights or else of the images.

    Args:
      config: the settings, with the size of a patch.
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


def make_preprocess(directory: Path, channels: int) -> Preprocess:
    """Makes the preprocessing of images.

    Equivalent to::

        images                                                       # without a preprocessor_config.json
        load_image_processor(directory)(round(255 * images))         # with one; grey is repeated to RGB

    Args:
      directory: of the run.
      channels: of the model's input.

    Returns:
      The function.

    Raises:
      ValueError: as `pretrained.load_image_processor`.
    """
    if not (directory / PROCESSOR_FILE).is_file():
        return lambda images: images
    processor = pretrained.load_image_processor(directory)

    def preprocess(images: Array) -> Array:
        pixels = jnp.round(255 * images).astype(jnp.uint8)
        return processor(jnp.repeat(pixels, channels, -1) if pixels.shape[-1] == 1 else pixels)

    return preprocess


def check_images(encoder: nn.Config, preprocess: Preprocess, shape: tuple[int, int, int]) -> None:
    """Raises a ValueError for images of a height, width and channels that the model does not take."""
    patches, images = encoder.patches, jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    wanted = (patches.height, patches.width, patches.channels)
    if (got := jax.eval_shape(preprocess, images).shape[1:]) != wanted:
        fix = f"--data.size {patches.height} {patches.width} resizes pictures; it does not change channels"
        if got != tuple(shape):
            fix = f"Its {PROCESSOR_FILE} makes them from images of {describe_shape(shape)}"
        raise ValueError(
            f"the model: got images of {describe_shape(got)}; wanted {describe_shape(wanted)}. {fix}"
        )


def describe_shape(shape: Sequence[int]) -> str:
    """``8 x 12 x 1``"""
    return " x ".join(map(str, shape))


class ImageClassifier(nn.Classifier):
    """A classifier that preprocesses its images."""

    def __init__(
        self,
        config: nn.Config,
        n_classes: int,
        pooling: Literal["mean", "first"],
        *,
        preprocess: Preprocess,
        rngs: nnx.Rngs,
    ):
        super().__init__(config, n_classes, pooling, rngs=rngs)
        self.preprocess = preprocess

    def __call__(self, inputs: Array, *args, **kwargs):
        return super().__call__(self.preprocess(inputs), *args, **kwargs)


def make_model(encoder: nn.Config, classes: int, preprocess: Preprocess) -> nn.Pure:
    """Makes a classifier of images in [0, 1]. The head reads the class token, or the mean without one.

    Args:
      encoder: the config of the encoder.
      classes: number of classes.
      preprocess: the preprocessing of images.

    Returns:
      An ``ImageClassifier``.

    Raises:
      ValueError: the parts of the encoder do not fit together.
    """
    pooling = "first" if encoder.patches.class_token else "mean"
    model = nn.functionalize(ImageClassifier, encoder, classes, pooling, preprocess=preprocess)
    patches = encoder.patches
    image = jnp.zeros((1, patches.height, patches.width, patches.channels))
    # Raises if there are fewer positions.
    jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0)), image)
    return model
