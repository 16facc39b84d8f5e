"""Initializers of kernels and embeddings."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax.nn import initializers

from tfm_jax.fields import check_fields
from tfm_jax.nn.variants import Initializer, register_variant
from tfm_jax.ranges import Positive
from tfm_jax.types import Array, Key

__all__ = ["GlorotUniform", "Initializers", "LecunNormal", "Normal", "TruncatedNormal"]


def _axes(
    shape: tuple[int, ...], in_axes: tuple[int, ...], out_axes: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """The axes by their names in ``jax.nn.initializers``; a batch axis is neither input nor output."""
    others = tuple(i for i in range(len(shape)) if i not in (*in_axes, *out_axes))
    return {"in_axis": in_axes, "out_axis": out_axes, "batch_axis": others}


@register_variant
@dataclass(frozen=True)
class GlorotUniform(Initializer):
    """Uniform with variance 2 / (inputs + outputs) (Glorot and Bengio 2010)."""

    def __call__(
        self, key: Key, shape: tuple[int, ...], *, in_axes: tuple[int, ...], out_axes: tuple[int, ...]
    ) -> Array:
        return initializers.glorot_uniform(**_axes(shape, in_axes, out_axes))(key, shape, jnp.float32)


@register_variant
@dataclass(frozen=True)
class LecunNormal(Initializer):
    """Truncated normal with variance 1 / inputs (LeCun et al. 1998)."""

    def __call__(
        self, key: Key, shape: tuple[int, ...], *, in_axes: tuple[int, ...], out_axes: tuple[int, ...]
    ) -> Array:
        return initializers.lecun_normal(**_axes(shape, in_axes, out_axes))(key, shape, jnp.float32)


@register_variant
@dataclass(frozen=True)
class Normal(Initializer):
    """Normal with mean 0.

    Args:
      std: the standard deviation; None is outputs ** -0.5, such as D ** -0.5 for an embedding [V, D].
    """

    std: Positive | None = None

    def __post_init__(self):
        check_fields(self)

    def __call__(
        self, key: Key, shape: tuple[int, ...], *, in_axes: tuple[int, ...], out_axes: tuple[int, ...]
    ) -> Array:
        std = math.prod(shape[i] for i in out_axes) ** -0.5 if self.std is None else self.std
        return initializers.normal(std)(key, shape, jnp.float32)


@register_variant
@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normal with mean 0, truncated at two standard deviations (``std`` is that before truncation)."""

    std: Positive = 0.02

    def __post_init__(self):
        check_fields(self)

    def __call__(
        self, key: Key, shape: tuple[int, ...], *, in_axes: tuple[int, ...], out_axes: tuple[int, ...]
    ) -> Array:
        return initializers.truncated_normal(self.std)(key, shape, jnp.float32)


@dataclass(frozen=True)
class Initializers:
    """The initial values of a model's parameters; biases start at 0, the scales of norms at 1.

    Args:
      kernel: of all projections, in attention, feed-forward layers, patches, poolers and heads.
      embedding: of the tables of tokens, token types and ``Learned`` positions.
    """

    kernel: Initializer = GlorotUniform()
    embedding: Initializer = Normal()

    def __post_init__(self):
        check_fields(self)
