"""What stands on top of the vectors: logits over tokens, or over classes."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_array
from tfm_jax.nn.config import Config
from tfm_jax.nn.linear import Linear
from tfm_jax.ops.tracing import surely
from tfm_jax.ranges import RATE, SIZE, check_number
from tfm_jax.types import Array, Key

__all__ = ["ClassificationHead", "LanguageModelHead", "PoolerLayer", "Pooling", "pool"]

Pooling = Literal["mean", "first"] | None


def pool(x: Array, pooling: Pooling, valid: Array | None = None) -> Array:
    """The vectors of a sequence as one.

    Equivalent to::

        x[valid].mean(0)          # of one sequence, for "mean"; "first": x[0]; None: x

    Args:
      x: [..., T, D] float.
      pooling: ``"mean"``, ``"first"``, or None.
      valid: bool [..., T], which positions the mean counts; None is all.

    Returns:
      [..., D], or x where ``pooling`` is None; 0 where the mean counts no position, or there is no first.
    """
    x = as_array("nn.pool", "x", x)
    if pooling is None:
        return x
    if pooling == "first":
        return _first(x)
    if pooling != "mean":
        raise ValueError(f"pool: got pooling={pooling!r}; wanted 'mean', 'first' or None.")
    if valid is None and surely(lambda: x.shape[-2] > 0):
        return x.mean(-2)
    valid = jnp.ones(x.shape[:-1], bool) if valid is None else valid
    weights = valid[..., None].astype(x.dtype)
    total = jnp.where(valid[..., None], x, 0.0).sum(-2)
    return total / jnp.maximum(weights.sum(-2), 1.0)


def _first(x: Array) -> Array:
    """The first of the vectors [..., T, D], or 0 where there is none."""
    return x[..., 0, :] if surely(lambda: x.shape[-2] > 0) else x[..., :1, :].sum(-2)


class LanguageModelHead(nnx.Module):
    """An output projection of its own, for models that do not tie it to the embedding.

    Equivalent to::

        logits = x @ kernel

    Args:
      config: D, V.
      rngs: draws the kernel [D, V].
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.projection = Linear(
            (config.d_model,), (config.vocab_size,), bias=False, dtype=config.param_dtype, rngs=rngs
        )

    def __call__(self, x: Array) -> Array:
        """The logits [..., T, V], float32, of x [..., T, D]."""
        x = as_array("nn.LanguageModelHead", "x", x)
        kernel = self.projection.kernel[...].astype(x.dtype)
        return jnp.einsum("...D,DV->...V", x, kernel, preferred_element_type=jnp.float32)


class PoolerLayer(nnx.Module):
    """The vector of the first token through one more dense layer.

    Equivalent to::

        activation(dropout(x[..., 0, :]) @ kernel + bias)

    Args:
      config: D and ``pooler``.
      rngs: draws the kernel.

    Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers", section 3.1.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.pooler = config.pooler
        D = config.d_model
        self.dense = Linear((D,), (D,), bias=True, dtype=config.param_dtype, rngs=rngs)

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        """The vector [..., D] of x [..., T, D]; ``key`` is for dropout, None is none."""
        first = ops.dropout(_first(as_array("nn.PoolerLayer", "x", x)), self.pooler.dropout_rate, key)
        return ops.activation(self.pooler.activation)(self.dense(first))


class ClassificationHead(nnx.Module):
    """Pools the vectors of a sequence into one and maps it to class logits, or maps each of them.

    Equivalent to::

        pooled = x.mean(-2)          # "mean", over the valid positions; "first": x[..., 0, :]; None: x
        logits = dropout(pooled) @ kernel + bias

    Args:
      config: D.
      n_classes: how many logits.
      pooling: ``"mean"``, ``"first"`` (a class token), or None: logits of every vector.
      dropout_rate: on what is mapped, in [0, 1).
      rngs: draws the kernel.

    Raises:
      ValueError: for another pooling, less than one class, a rate out of range.
    """

    def __init__(
        self, config: Config, n_classes: int, pooling: Pooling, dropout_rate: float = 0.0, *, rngs: nnx.Rngs
    ):
        if pooling not in ("mean", "first", None):
            raise ValueError(f"ClassificationHead: got pooling={pooling!r}; wanted 'mean', 'first' or None.")
        check_number("ClassificationHead", "n_classes", n_classes, SIZE)
        check_number("ClassificationHead", "dropout_rate", dropout_rate, RATE)
        self.pooling, self.dropout_rate = pooling, dropout_rate
        self.dense = Linear((config.d_model,), (n_classes,), bias=True, dtype=config.param_dtype, rngs=rngs)

    def __call__(self, x: Array, valid: Array | None = None, *, key: Key | None = None) -> Array:
        """The logits [..., n_classes], float32, of x [..., T, D]; [..., T, n_classes] without pooling.

        ``valid`` bool [..., T] says which positions the mean counts; a row without one pools to 0. Of another
        shape or dtype it raises a ValueError. ``key`` is for dropout, None is none.
        """
        x = as_array("nn.ClassificationHead", "x", x)
        valid = None if valid is None else as_array("nn.ClassificationHead", "valid", valid)
        if valid is not None and (valid.shape != x.shape[:-1] or valid.dtype != bool):
            raise ValueError(
                f"valid must be bool [..., T] = {x.shape[:-1]}, got {valid.dtype}{list(valid.shape)}"
            )
        return self.dense(
            ops.dropout(pool(x.astype(jnp.float32), self.pooling, valid), self.dropout_rate, key)
        )
