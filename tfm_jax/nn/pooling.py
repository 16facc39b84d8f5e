"""The variants of the Transformer, as frozen values."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_array
from tfm_jax.fields import check_fields
from tfm_jax.nn.layers import Linear
from tfm_jax.ops import activation
from tfm_jax.ops.tracing import definitely
from tfm_jax.ranges import Rate
from tfm_jax.types import Array, Key

if TYPE_CHECKING:
    from tfm_jax.nn.config import Config

__all__ = ["Pooler", "PoolerLayer", "Pooling", "pool"]


@dataclass(frozen=True)
class Pooler:
    """The vector of the first token through one more dense layer: ``activation(x W + b)`` (BERT).

    Args:
      activation: by the name that ``ops.activation`` takes.
      dropout_rate: on what the layer reads, in [0, 1) (RoBERTa's head has it, BERT's not).
    """

    activation: str = "tanh"
    dropout_rate: Rate = 0.0

    def __post_init__(self):
        check_fields(self)
        activation(self.activation)


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
    if valid is None and definitely(lambda: x.shape[-2] > 0):
        return x.mean(-2)
    valid = jnp.ones(x.shape[:-1], bool) if valid is None else valid
    weights = valid[..., None].astype(x.dtype)
    total = jnp.where(valid[..., None], x, 0.0).sum(-2)
    return total / jnp.maximum(weights.sum(-2), 1.0)


def _first(x: Array) -> Array:
    """The first of the vectors [..., T, D], or 0 where there is none."""
    return x[..., 0, :] if definitely(lambda: x.shape[-2] > 0) else x[..., :1, :].sum(-2)


class PoolerLayer(nnx.Module):
    """The vector of the first token through one more dense layer.

    Equivalent to::

        activation(dropout(x[..., 0, :]) @ kernel + bias)

    Args:
      config: D and ``pooler``.
      rngs: draws the kernel.

    Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers", section 3.1.
    """

    def __init__(self, config: "Config", *, rngs: nnx.Rngs):
        self.pooler = config.pooler
        D = config.d_model
        self.dense = Linear((D,), (D,), bias=True, dtype=config.param_dtype, rngs=rngs)

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        """The vector [..., D] of x [..., T, D]; ``key`` is for dropout, None is none."""
        first = ops.dropout(_first(as_array("nn.PoolerLayer", "x", x)), self.pooler.dropout_rate, key)
        return ops.activation(self.pooler.activation)(self.dense(first))
