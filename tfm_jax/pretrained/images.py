"""Images into what a model reads, by the recipe that a checkpoint names."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tfm_jax.pretrained.files import read_json
from tfm_jax.pretrained.hub import directory_of
from tfm_jax.pretrained.settings import wanted
from tfm_jax.types import Array

__all__ = ["ImageProcessor", "load_image_processor"]

_METHODS = {0: "nearest", 1: "lanczos3", 2: "linear", 3: "cubic"}  # by the numbers that Pillow gives them
_KINDS = r"ViT(FeatureExtractor|ImageProcessor(Fast|Pil)?)"
_NOT_DONE = ("do_center_crop", "do_pad", "do_flip_channel_order", "do_reduce_labels", "do_thumbnail")


@dataclass(frozen=True)
class ImageProcessor:
    """Images resized, scaled and normalized.

    Equivalent to::

        pixels = round(resize(images, (height, width)))        # the columns, then the rows
        (pixels * scale - mean) / std

    Args:
      size: (height, width) in pixels; None leaves images as they are.
      scale: what pixels are multiplied by.
      mean, std: one number a channel.
      method: of ``jax.image.resize``. Each pixel is within one of 255 steps of what Pillow gives.
    """

    size: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    method: Literal["nearest", "lanczos3", "linear", "cubic"] = "linear"

    def __call__(self, images: Array) -> Array:
        """Maps images uint8 [..., H, W, C] to float32 [..., height, width, C].

        Another dtype, and another number of channels than of ``mean``, are a ValueError.
        """
        if images.dtype != jnp.uint8 or images.ndim < 3 or images.shape[-1] != len(self.mean):
            raise ValueError(
                f"images must be uint8 [..., H, W, C] with C = {len(self.mean)}, got "
                f"{images.dtype}{list(images.shape)}"
            )
        pixels = jnp.asarray(images, jnp.float32)
        for axis in () if self.size is None else (-2, -3):  # in Pillow's order: it rounds after each
            pixels = _resized(pixels, axis, self.size[axis + 3], self.method)
        along = lambda numbers: jnp.broadcast_to(jnp.asarray(numbers, jnp.float32), pixels.shape)
        return (pixels * self.scale - along(self.mean)) / along(self.std)


def _resized(pixels: Array, axis: int, size: int, method: str) -> Array:
    shape = list(pixels.shape)
    if shape[axis] == size:
        return pixels
    shape[axis] = size
    return jnp.clip(
        jnp.floor(jax.image.resize(pixels, shape, method) + 0.5), 0, 255
    )  # halves go up, as there


def load_image_processor(path_or_repo_id: str | Path) -> ImageProcessor:
    """Reads the ``preprocessor_config.json`` of a checkpoint.

    Args:
      path_or_repo_id: as ``load`` takes it.

    Returns:
      The ``ImageProcessor``.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: for a step that is not done here, such as cropping, and a size that is no height and width.
    """
    path = directory_of(path_or_repo_id) / "preprocessor_config.json"
    settings = {name: value for name, value in read_json(path).items() if value is not None}
    try:
        return _processor(settings)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _processor(settings: dict[str, Any]) -> ImageProcessor:
    for name in ("image_processor_type", "feature_extractor_type"):
        # Another class, such as DeiT's or CLIP's, crops or resizes by its own defaults.
        if not re.fullmatch(_KINDS, kind := str(settings.get(name, "ViTImageProcessor"))):
            raise ValueError(f"{name}={kind!r} is not supported, only 'ViTImageProcessor'")
    wanted(settings, **dict.fromkeys(_NOT_DONE, False))
    size, method = settings.get("size", 224), settings.get("resample", 2)
    if isinstance(size, dict) and size.keys() != {"height", "width"}:
        raise ValueError(f"size must say height and width, got {size}")
    if method not in _METHODS:
        raise ValueError(f"resample={method!r} is not supported, only {sorted(_METHODS)}")
    sides = (size["height"], size["width"]) if isinstance(size, dict) else (size, size)
    mean, std = (tuple(settings.get(f"image_{name}", [0.5] * 3)) for name in ("mean", "std"))
    normalized = settings.get("do_normalize", True)
    return ImageProcessor(
        sides if settings.get("do_resize", True) else None,
        settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0,
        mean if normalized else (0.0,) * len(mean),
        std if normalized else (1.0,) * len(std),
        _METHODS[method],
    )
