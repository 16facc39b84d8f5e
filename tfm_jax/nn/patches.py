"""Patch embedding of images (Vision Transformer)."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from tfm_jax.checks import as_array, check_shapes
from tfm_jax.fields import check_fields
from tfm_jax.nn._parameters import constant
from tfm_jax.nn.layers import Linear
from tfm_jax.nn.variants import PatchEmbedding, register_variant
from tfm_jax.ranges import Size
from tfm_jax.sharding import constrain
from tfm_jax.types import Array

if TYPE_CHECKING:
    from tfm_jax.nn.config import Config

__all__ = ["Patches"]


@register_variant
@dataclass(frozen=True)
class Patches(PatchEmbedding):
    """Images as sequences of patches, in row-major order (Dosovitskiy et al. 2021).

    Args:
      height, width, channels: of the images, in pixels.
      size: the side of a square patch in pixels, or its (height, width); divides the image's.
      class_token: put a learned vector before the patches, for pooling ``"first"``.
    """

    height: Size
    width: Size
    channels: Size = 1
    size: Size | tuple[Size, Size] = 1
    class_token: bool = False

    def __post_init__(self):
        check_fields(self)
        if self.height % self.sides[0] or self.width % self.sides[1]:
            raise ValueError(
                f"Patches: got size={self.size} with images of {self.height} x {self.width}; "
                "wanted a size that divides both."
            )

    @property
    def sides(self) -> tuple[int, int]:
        """The height and the width of a patch."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @property
    def count(self) -> int:
        """The number of patches of an image."""
        return self.height // self.sides[0] * (self.width // self.sides[1])

    def build(self, config: "Config", *, rngs: nnx.Rngs) -> "PatchLayer":
        return PatchLayer(self, config, rngs=rngs)


class PatchLayer(nnx.Module):
    """``Patches`` with their parameters: one linear layer applied to each flattened patch.

    Equivalent to::

        patches = image.reshape(rows, height, columns, width, C).swapaxes(1, 2).reshape(T, height * width * C)
        x = patches @ kernel + bias                            # [T, D], after the class token if any
    """

    def __init__(self, patches: Patches, config: "Config", *, rngs: nnx.Rngs):
        self.patches, self.dtype = patches, config.dtype
        pixels = math.prod(patches.sides) * patches.channels
        self.projection = Linear(
            (pixels,),
            (config.d_model,),
            axes="P D",
            bias=True,
            dtype=config.param_dtype,
            initializer=config.initializers.kernel,
            rngs=rngs,
        )
        token = constant(0.0, (1, config.d_model), config.param_dtype) if patches.class_token else None
        self.class_token = token

    def axes(self) -> dict[str, str]:
        """The letters of the class token."""
        return {"class_token": "T D"} if self.patches.class_token else {}

    def __call__(self, images: Array) -> Array:
        """Maps images [..., height, width, channels] to [..., T, D]."""
        images = as_array("nn.PatchEmbedding", "images", images)
        p = self.patches
        check_shapes("nn.PatchEmbedding", images=(images, f"... {p.height} {p.width} {p.channels}"))
        lead, (height, width) = images.shape[:-3], p.sides
        x = images.reshape(*lead, p.height // height, height, p.width // width, width, p.channels)
        x = jnp.swapaxes(x, -4, -3).reshape(*lead, p.count, height * width * p.channels)
        x = constrain(self.projection(x.astype(self.dtype)), "B ? D")
        if self.class_token is None:
            return x
        token = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (*lead, 1, x.shape[-1]))
        return constrain(jnp.concatenate([token, x], axis=-2), "B T D")
