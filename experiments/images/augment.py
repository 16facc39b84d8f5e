"""Image augmentation inside the compiled step: random affine transforms and elastic deformations."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from tfm_jax.fields import check_fields
from tfm_jax.ranges import NotNegative
from tfm_jax.types import Array, Key

__all__ = ["AugmentConfig", "augment"]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """The largest change of each kind; 0 switches a kind off."""

    rotate: NotNegative = 12.0
    """Degrees, in both directions."""
    scale: NotNegative = 0.1
    """Share of the height and of the width, independently, larger or smaller."""
    shear: NotNegative = 0.1
    """Share of the other side."""
    shift: NotNegative = 0.06
    """Share of each side."""
    elastic: NotNegative = 0.04
    """Standard deviation, as a share of each side, of the displacement at 4 x 4 control points."""

    def __post_init__(self) -> None:
        check_fields(self)


def augment(images: Array, key: Key, config: AugmentConfig) -> Array:
    """Augments each image of a batch with its own random transform.

    Equivalent to::

        point = linear @ pixel + shift + displacement[pixel]       # for each pixel of the result
        result[pixel] = image[point]                               # bilinear; 0 outside the image

    Args:
      images: float32 [B, height, width, channels].
      key: consumed.
      config: the largest changes.

    Returns:
      float32 [B, height, width, channels], in the range of the images, 0 included.
    """
    with jax.enable_x64(False):  # the same numbers with and without x64
        return jax.vmap(functools.partial(_augment_one, config))(images, jax.random.split(key, len(images)))


def _augment_one(config: AugmentConfig, image: Array, key: Key) -> Array:
    height, width, _ = image.shape
    affine_key, elastic_key = jax.random.split(key)
    draws = jax.random.uniform(affine_key, (7,), minval=-1.0, maxval=1.0)
    angle = draws[0] * math.radians(config.rotate)
    rotation = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    scale, shear = jnp.exp(draws[1:3] * config.scale), draws[3:5] * config.shear
    linear = rotation @ jnp.array([[scale[0], shear[0]], [shear[1], scale[1]]])
    # Coordinates: 0 is the center, and each side has length 1.
    sides = [(np.arange(n, dtype=np.float32) + 0.5) / n - 0.5 for n in (height, width)]
    points = jnp.einsum("ij,jyx->iyx", linear, np.stack(np.meshgrid(*sides, indexing="ij")))
    points += draws[5:7, None, None] * config.shift
    if config.elastic:
        displacement = config.elastic * jax.random.normal(elastic_key, (2, 4, 4))
        points += jax.image.resize(displacement, (2, height, width), "cubic")
    rows, columns = (points[0] + 0.5) * height - 0.5, (points[1] + 0.5) * width - 0.5

    def interpolate(channel: Array) -> Array:
        return map_coordinates(channel, [rows, columns], order=1, mode="constant")

    return jax.vmap(interpolate, in_axes=-1, out_axes=-1)(image)
