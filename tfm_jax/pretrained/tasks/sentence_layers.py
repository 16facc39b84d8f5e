"""Pooling and the layers after it, as in sentence-transformers."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from tfm_jax import pytrees
from tfm_jax.types import Array

__all__ = ["ACTIVATIONS", "POOLINGS", "DenseLayer", "Layer", "LayerNorm", "Pooling", "pooled", "unit"]

Layer = Callable[[Array], Array]
Pooling = Literal["mean", "first", "last", "max", "weighted_mean", "mean_sqrt_len"]


def unit(x: Array) -> Array:
    """Vectors [B, D] scaled to length 1; vectors of length 0 stay 0."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@pytrees.register
@dataclasses.dataclass(frozen=True, eq=False)
class DenseLayer:
    """A dense layer with an activation and an optional residual connection.

    Equivalent to::

        activation(x @ kernel + bias) + x @ residual        # without those that are None

    Args:
      kernel: float32 [D, F].
      bias: float32 [F], or None.
      activation: an elementwise function.
      residual: float32 [D, F], or None.
    """

    kernel: Array
    bias: Array | None
    activation: Layer = dataclasses.field(metadata={"static": True})
    residual: Array | None = None

    def __call__(self, x: Array) -> Array:
        """Maps [B, D] to [B, F]."""
        out = x @ self.kernel
        out = self.activation(out if self.bias is None else out + self.bias[None])
        return out if self.residual is None else out + x @ self.residual


@pytrees.register
@dataclasses.dataclass(frozen=True, eq=False)
class LayerNorm:
    """Layer norm with ``scale`` and ``bias`` float32 [D]."""

    scale: Array
    bias: Array

    def __call__(self, x: Array) -> Array:
        """Maps [B, D] to [B, D]."""
        centered = x - x.mean(-1, keepdims=True)
        normed = centered * jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
        return normed * self.scale[None] + self.bias[None]


ACTIVATIONS: dict[str, Layer] = {
    "Identity": lambda x: x,
    "Tanh": jnp.tanh,
    "ReLU": jax.nn.relu,
    "ReLU6": jax.nn.relu6,
    "GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "Sigmoid": jax.nn.sigmoid,
    "SiLU": jax.nn.silu,
    "Mish": jax.nn.mish,
    "ELU": jax.nn.elu,
    "LeakyReLU": lambda x: jax.nn.leaky_relu(x, 0.01),
    "Softplus": jax.nn.softplus,
    "Hardswish": jax.nn.hard_swish,
}
"""Activations by the names of their classes in ``torch.nn``, with the default arguments."""


def _first(x: Array, counted: Array) -> Array:
    return jnp.take_along_axis(x, counted.argmax(-1)[..., None, None], -2)[..., 0, :]


def _last(x: Array, counted: Array) -> Array:
    index = counted.shape[-1] - 1 - jnp.flip(counted, -1).argmax(-1)
    last = jnp.take_along_axis(x, index[..., None, None], -2)[..., 0, :]
    return jnp.where(counted.any(-1, keepdims=True), last, 0.0)


def _max(x: Array, counted: Array) -> Array:
    largest = jnp.where(counted[..., None], x, -jnp.inf).max(-2)
    return jnp.where(counted.any(-1, keepdims=True), largest, 0.0)


def _mean(x: Array, counted: Array) -> Array:
    return _sum(x, counted) / jnp.maximum(counted.sum(-1, keepdims=True).astype(x.dtype), 1.0)


def _mean_sqrt_len(x: Array, counted: Array) -> Array:
    return _sum(x, counted) / jnp.sqrt(jnp.maximum(counted.sum(-1, keepdims=True).astype(x.dtype), 1.0))


def _weighted_mean(x: Array, counted: Array) -> Array:
    weights = jnp.where(counted, jnp.arange(1, counted.shape[-1] + 1, dtype=x.dtype)[None], 0.0)
    return _sum(x * weights[..., None], counted) / jnp.maximum(weights.sum(-1, keepdims=True), 1.0)


def _sum(x: Array, counted: Array) -> Array:
    return jnp.where(counted[..., None], x, 0.0).sum(-2)


POOLINGS: dict[Pooling, Callable[[Array, Array], Array]] = {
    "first": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len": _mean_sqrt_len,
    "weighted_mean": _weighted_mean,
    "last": _last,
}
"""Poolings by name: functions of vectors [B, T, D] and of the counted positions bool [B, T]."""


def pooled(x: Array, modes: Sequence[Pooling], counted: Array) -> Array:
    """Pools each sequence to one vector; the vectors of several poolings are concatenated.

    Equivalent to::

        x[counted].mean(0)        # of one sequence, for "mean"
        x[counted].max(0)                                # "max"; likewise "first" and "last"
        (x * w)[counted].sum(0) / w[counted].sum(0)      # "weighted_mean", with w = 1 + arange(T)
        x[counted].sum(0) / sqrt(counted.sum())          # "mean_sqrt_len"

    Args:
      x: float32 [B, T, D]; the sequences start at position 0.
      modes: names in ``POOLINGS``.
      counted: bool [B, T], the positions that are pooled.

    Returns:
      [B, D * len(modes)]; where no position is counted 0, and the vector at position 0 for "first".
    """
    return jnp.concatenate([POOLINGS[mode](x, counted) for mode in modes], -1)
