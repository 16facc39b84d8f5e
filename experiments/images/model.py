"""The image classifier and its preprocessing."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.images.config import Config
from experiments.images.sizes import choose_patch
from experiments.runner import check_inputs
from tfm_jax import nn, pretrained, processes
from tfm_jax.runs import PROCESSOR_FILE
from tfm_jax.train.run_directory import replace_text
from tfm_jax.types import Array

__all__ = [
    "ImageClassifier",
    "check_images",
    "encoder_config",
    "make_model",
    "make_preprocess",
    "patches_of",
    "pooling_of",
    "write_preprocessing",
]

_BICUBIC = 3
"""Pillow's number of the filter with which image files are resized."""


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Images float32 [B, height, width, channels] in [0, 1] -> the input of the model.

    Equivalent to::

        images                                      # without a processor
        processor(round(255 * images))              # with one; grey is repeated to the model's channels
    """

    processor: pretrained.ImageProcessor | None
    channels: int

    def __call__(self, images: Array) -> Array:
        if self.processor is None:
            return images
        pixels = jnp.round(255 * images).astype(jnp.uint8)
        return self.processor(jnp.repeat(pixels, self.channels, -1) if pixels.shape[-1] == 1 else pixels)

    def resized(self, sides: tuple[int, int]) -> tuple[int, int]:
        """The height and width to which images of these sides are resized, before a crop."""
        if self.processor is None:
            return sides
        image = jax.ShapeDtypeStruct((*sides, len(self.processor.mean)), jnp.uint8)
        height, width, _ = jax.eval_shape(dataclasses.replace(self.processor, crop=None), image).shape
        return height, width


class ImageClassifier(nn.Classifier):
    """A classifier that preprocesses its images; the parameters are those of ``nn.Classifier``."""

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

    def __call__(self, inputs: Array, *args: Any, **options: Any) -> Any:
        return super().__call__(self.preprocess(inputs), *args, **options)


def patches_of(encoder: nn.Config) -> nn.Patches:
    """The patches of an encoder; a ValueError for patches from elsewhere, whose images are unknown."""
    if not isinstance(encoder.patches, nn.Patches):
        raise ValueError(f"the model: got patches={encoder.patches}; wanted nn.Patches. Choose another model")
    return encoder.patches


def pooling_of(encoder: nn.Config) -> Literal["mean", "first"]:
    """What the head of a classifier reads: the class token, or the mean without one."""
    return "first" if patches_of(encoder).class_token else "mean"


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
    patches = nn.Patches(*shape, config.patch_size or choose_patch(*shape[:2]))
    return dataclasses.replace(config.model, patches=patches)


def make_preprocess(directory: Path, patches: nn.Patches) -> Preprocess:
    """The preprocessing of images in [0, 1], by the ``preprocessor_config.json`` of a run's directory.

    Args:
      directory: of the run.
      patches: of the model. A file that does no more than `write_preprocessing` wrote for images of their
        size is no preprocessing of images in [0, 1].

    Raises:
      ValueError: as `pretrained.load_image_processor`.
    """
    has_file = (directory / PROCESSOR_FILE).is_file()
    processor = pretrained.load_image_processor(directory) if has_file else None
    sides, C = (patches.height, patches.width), patches.channels
    plain = pretrained.ImageProcessor(sides, mean=(0.0,) * C, std=(1.0,) * C, method="cubic")
    return Preprocess(None if processor == plain else processor, C)


def write_preprocessing(
    directory: Path, preprocess: Preprocess, size: tuple[int, int] | None, patches: nn.Patches
) -> None:
    """Writes the ``preprocessor_config.json`` that makes of an image file what training makes of it.

    Training resizes image files as Pillow does by default (bicubic), and takes their pixels in [0, 1] through
    the preprocessing of the initial weights. A file that is right stays as it is.

    Args:
      directory: of the run.
      preprocess: of the images in [0, 1].
      size: to which image files are resized first; None takes them as they are.
      patches: of the model.

    Raises:
      ValueError: the preprocessing resizes images of this size again, which one file cannot say.
    """
    path, processor = directory / PROCESSOR_FILE, preprocess.processor
    if processor is None:
        size = size or (patches.height, patches.width)
        settings: dict[str, object] = {
            "image_processor_type": "ViTImageProcessor",
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": False,
            "image_mean": [0.0] * patches.channels,
            "image_std": [1.0] * patches.channels,
            "do_convert_rgb": patches.channels == 3,
        }
    elif size is None:
        return
    else:
        if (resized := preprocess.resized(size)) != size:
            raise ValueError(
                f"--data.size: got {describe_shape(size)}; wanted {describe_shape(resized)}, to which the "
                f"{PROCESSOR_FILE} of --init-from resizes them"
            )
        settings = json.loads(path.read_text(encoding="utf-8"))
    resizing = {"do_resize": True, "size": {"height": size[0], "width": size[1]}, "resample": _BICUBIC}
    text = json.dumps({**settings, **resizing}, indent=2) + "\n"
    processes.from_main("preprocessing", lambda: replace_text(path, text))


def check_images(encoder: nn.Config, preprocess: Preprocess, shape: tuple[int, int, int]) -> None:
    """Raises a ValueError for images of a height, width and channels that the model does not take."""
    patches, images = patches_of(encoder), jax.ShapeDtypeStruct((1, *shape), jnp.float32)
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


def make_model(encoder: nn.Config, classes: int, preprocess: Preprocess) -> nn.Pure[ImageClassifier]:
    """Makes a classifier of images in [0, 1]. The head reads the class token, or the mean without one.

    Args:
      encoder: the config of the encoder.
      classes: number of classes.
      preprocess: the preprocessing of images.

    Raises:
      ValueError: the parts of the encoder do not fit together.
    """
    patches = patches_of(encoder)
    model = nn.functionalize(ImageClassifier, encoder, classes, pooling_of(encoder), preprocess=preprocess)
    image = (1, patches.height, patches.width, patches.channels)
    check_inputs(model, image, dtype="float32")  # raises if there are fewer positions
    return model
