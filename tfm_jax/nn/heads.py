"""What stands on top of the vectors: logits over tokens, or over classes."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx

from tfm_jax.nn.config import Config
from tfm_jax.nn.linear import Linear
from tfm_jax.types import Array

__all__ = ["ClassificationHead", "LanguageModelHead"]


class LanguageModelHead(nnx.Module):
    """An output projection of its own, for models that do not tie it to the embedding.

    Equivalent to::

        logits = x @ kernel

    Args:
      config: D, V.
      rngs: draws the kernel [D, V].
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.projection = Linear((config.d_model,), (config.vocab_size,), bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """The logits [..., T, V], float32, of x [..., T, D]."""
        kernel = self.projection.kernel[...].astype(x.dtype)
        return jnp.einsum("...D,DV->...V", x, kernel, preferred_element_type=jnp.float32)


class ClassificationHead(nnx.Module):
    """Pools the vectors of a sequence into one and maps it to class logits.

    Equivalent to::

        pooled = x.mean(-2)          # "mean", over the valid positions;  x[..., 0, :] for "first"
        logits = pooled @ kernel + bias

    Args:
      config: D.
      n_classes: how many logits.
      pooling: ``"mean"`` or ``"first"`` (a class token).
      rngs: draws the kernel.

    Raises:
      ValueError: for another pooling, or less than one class.
    """

    def __init__(self, config: Config, n_classes: int, pooling: Literal["mean", "first"], *, rngs: nnx.Rngs):
        if pooling not in ("mean", "first"):
            raise ValueError(f"pooling must be 'mean' or 'first', got {pooling!r}")
        if n_classes < 1:
            raise ValueError(f"n_classes must be at least 1, got {n_classes}")
        self.pooling = pooling
        self.dense = Linear((config.d_model,), (n_classes,), bias=True, rngs=rngs)

    def __call__(self, x: Array, valid: Array | None = None) -> Array:
        """The logits [..., n_classes], float32, of x [..., T, D].

        ``valid`` bool [..., T] says which positions the mean counts; a row without one pools to 0. Of another
        shape or dtype it raises a ValueError.
        """
        if valid is not None and (valid.shape != x.shape[:-1] or valid.dtype != bool):
            raise ValueError(
                f"valid must be bool [..., T] = {x.shape[:-1]}, got {valid.dtype}{list(valid.shape)}"
            )
        x = x.astype(jnp.float32)
        if self.pooling == "first":
            return self.dense(x[..., 0, :])
        if valid is None:
            return self.dense(x.mean(-2))
        weights = valid[..., None].astype(x.dtype)
        total = jnp.where(valid[..., None], x, 0.0).sum(-2)
        return self.dense(total / jnp.maximum(weights.sum(-2), 1.0))
