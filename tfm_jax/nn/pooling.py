"""Pooling of a sequence into one vector."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_array
from tfm_jax.fields import check_fields
from tfm_jax.nn.layers import Linear
from tfm_jax.nn.variants import Activation, Pooling, as_function, register_variant
from tfm_jax.ops.tracing import definitely
from tfm_jax.ranges import Rate
from tfm_jax.sharding import constrain
from tfm_jax.types import Array, Key

if TYPE_CHECKING:
    from tfm_jax.nn.config import Config

__all__ = ["PoolBy", "Pooler", "pool"]


@register_variant
@dataclass(frozen=True)
class Pooler(Pooling):
    """BERT's pooler: ``activation(x W + b)`` of the first token's vector.

    Args:
      activation: a name that ``ops.activation`` knows, or an ``nn.Activation``.
      dropout_rate: on the input, in [0, 1) (0 in BERT, not in RoBERTa's head).
    """

    reads: ClassVar[Literal["mean", "first"]] = "first"
    activation: str | Activation = "tanh"
    dropout_rate: Rate = 0.0

    def __post_init__(self):
        check_fields(self)
        as_function(self.activation)  # raises for an unknown name

    def build(self, config: "Config", *, rngs: nnx.Rngs) -> "PoolerLayer":
        return PoolerLayer(self, config, rngs=rngs)


PoolBy = Literal["mean", "first"] | None


def pool(x: Array, pooling: PoolBy, valid: Array | None = None) -> Array:
    """Pools a sequence into one vector.

    Equivalent to::

        x[valid].mean(0)          # "mean", of one sequence; "first": x[0]; None: x

    Args:
      x: [..., T, D] float.
      pooling: ``"mean"``, ``"first"``, or None for no pooling.
      valid: bool [..., T], the positions of the mean; None is all.

    Returns:
      [..., D], or x if ``pooling`` is None; 0 if no position is valid or T = 0.
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
    """The first vector of x [..., T, D], or 0 if T = 0."""
    return x[..., 0, :] if definitely(lambda: x.shape[-2] > 0) else x[..., :1, :].sum(-2)


class PoolerLayer(nnx.Module):
    """BERT's pooler: a dense layer over the first token's vector.

    Equivalent to::

        activation(dropout(x[..., 0, :]) @ kernel + bias)

    Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers", section 3.1.
    """

    def __init__(self, pooler: Pooler, config: "Config", *, rngs: nnx.Rngs):
        self.pooler = pooler
        self.dense = Linear(
            (config.d_model,),
            (config.d_model,),
            axes="D D",
            bias=True,
            dtype=config.param_dtype,
            initializer=config.initializers.kernel,
            rngs=rngs,
        )

    def __call__(self, x: Array, valid: Array | None = None, *, key: Key | None = None) -> Array:
        """Maps x [..., T, D] to [..., D]. ``key`` is for dropout; None is no dropout."""
        first = ops.dropout(_first(as_array("nn.Pooler", "x", x)), self.pooler.dropout_rate, key)
        return constrain(as_function(self.pooler.activation)(self.dense(constrain(first, "B D"))), "B D")
