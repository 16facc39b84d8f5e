"""Training images moved, turned, stretched and bent, anew at every step and inside the compiled step."""

import dataclasses
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
    """How far each training image is changed, at most; 0 does not change it in that way."""

    rotate: NotNegative = 12.0
    """Degrees, either way."""
    scale: NotNegative = 0.1
    """Share of the height and of the width, each by itself, larger or smaller."""
    shear: NotNegative = 0.1
    """Lean, as a share of the other side."""
    shift: NotNegative = 0.06
    """Share of each side."""
    elastic: NotNegative = 0.04
    """Standard deviation, in shares of each side, by which the image is bent at 4 x 4 places."""

    def __post_init__(self) -> None:
        check_fields(self)


def augment(images: Array, key: Key, config: AugmentConfig) -> Array:
    """Changes each image of a batch in its own way.

    Equivalent to::

        place = turned_sheared_and_scaled(pixel) + shift + bend[pixel]       # for each pixel of the result
        result[pixel] = image[place]                     # between four pixels; 0 outside the image

    Args:
        images: float32 [B, height, width, channels].
        key: consumed.
        config: how far.

    Returns:
        float32 [B, height, width, channels], in the range of the images and 0.
    """
    one = lambda image, key: _augment_one(image, key, config)
    with jax.enable_x64(False):  # the same draws and numbers wherever a run goes on
        return jax.vmap(one)(images, jax.random.split(key, images.shape[0]))


def _augment_one(image: Array, key: Key, config: AugmentConfig) -> Array:
    height, width, _ = image.shape
    affine_key, bend_key = jax.random.split(key)
    draws = jax.random.uniform(affine_key, (7,), minval=-1.0, maxval=1.0)
    angle = draws[0] * math.radians(config.rotate)
    turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    stretch, lean = jnp.exp(draws[1:3] * config.scale), draws[3:5] * config.shear
    linear = turn @ jnp.array([[stretch[0], lean[0]], [lean[1], stretch[1]]])
    # The middle is 0, and each side is 1 long.
    sides = [(np.arange(n, dtype=np.float32) + 0.5) / n - 0.5 for n in (height, width)]
    places = jnp.einsum("ij,jyx->iyx", linear, np.stack(np.meshgrid(*sides, indexing="ij")))
    places += draws[5:7, None, None] * config.shift
    if config.elastic:
        bend = config.elastic * jax.random.normal(bend_key, (2, 4, 4))
        places += jax.image.resize(bend, (2, height, width), "cubic")
    rows, columns = (places[0] + 0.5) * height - 0.5, (places[1] + 0.5) * width - 0.5
    read = lambda channel: map_coordinates(channel, [rows, columns], order=1, mode="constant")
    return jax.vmap(read, in_axes=-1, out_axes=-1)(image)
