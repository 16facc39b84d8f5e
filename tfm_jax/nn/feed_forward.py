"""Position-wise feed-forward layer, plain or gated."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_array
from tfm_jax.fields import check_fields
from tfm_jax.nn._parameters import constant, initialize
from tfm_jax.nn.extras import Auxiliary
from tfm_jax.nn.variants import Activation, FeedForward, as_function, register_variant
from tfm_jax.types import Array, Key

if TYPE_CHECKING:
    from tfm_jax.nn.config import Config

__all__ = ["Glu", "Mlp"]


@register_variant
@dataclass(frozen=True)
class Mlp(FeedForward):
    """Two-layer perceptron: ``activation(x W_in + b_in) W_out + b_out`` (Vaswani et al. 2017, equation 2).

    Args:
      activation: a name that ``ops.activation`` knows, or an ``nn.Activation``.
      bias: whether both layers have a bias.
    """

    activation: str | Activation = "relu"
    bias: bool = True

    def __post_init__(self):
        check_fields(self)
        as_function(self.activation)  # raises for an unknown name

    def build(self, config: "Config", *, rngs: nnx.Rngs) -> "MlpLayer":
        return MlpLayer(self, config, rngs=rngs)


@register_variant
@dataclass(frozen=True)
class Glu(FeedForward):
    """Gated linear unit: ``(activation(x W_gate) * (x W_in)) W_out`` (Shazeer 2020).

    Args:
      activation: a name that ``ops.activation`` knows, or an ``nn.Activation``.
    """

    activation: str | Activation = "silu"

    def __post_init__(self):
        check_fields(self)
        as_function(self.activation)  # raises for an unknown name

    def build(self, config: "Config", *, rngs: nnx.Rngs) -> "GluLayer":
        return GluLayer(self, config, rngs=rngs)


class MlpLayer(nnx.Module):
    """``Mlp`` with its parameters.

    Equivalent to::

        ops.feed_forward(x, w_in, w_out, b_in, b_out)
    """

    def __init__(self, mlp: Mlp, config: "Config", *, rngs: nnx.Rngs):
        self.mlp, self.dropout_rate = mlp, config.feed_forward_dropout_rate
        D, F, dtype = config.d_model, config.d_ff, config.param_dtype
        self.w_in = initialize(config.initializers.kernel, rngs.params(), (D, F), dtype)
        self.w_out = initialize(config.initializers.kernel, rngs.params(), (F, D), dtype)
        self.b_in = constant(0.0, F, dtype) if mlp.bias else None
        self.b_out = constant(0.0, D, dtype) if mlp.bias else None

    def axes(self) -> dict[str, str]:
        """The letters of the parameters."""
        return {"w_in": "D F", "w_out": "F D"} | ({"b_in": "F", "b_out": "D"} if self.mlp.bias else {})

    def __call__(self, x: Array, *, key: Key | None = None) -> tuple[Array, Auxiliary]:
        """Maps x [..., D] to [..., D]. ``key`` is for dropout on the hidden units; None is no dropout."""
        x = as_array("nn.FeedForward", "x", x)
        y = ops.feed_forward(
            x,
            _parameter(self.w_in, x),
            _parameter(self.w_out, x),
            None if self.b_in is None else _parameter(self.b_in, x),
            None if self.b_out is None else _parameter(self.b_out, x),
            activation=as_function(self.mlp.activation),
            dropout_rate=self.dropout_rate,
            key=key,
        )
        return y, {}


class GluLayer(nnx.Module):
    """``Glu`` with its parameters.

    Equivalent to::

        ops.gated_feed_forward(x, w_gate, w_in, w_out)
    """

    def __init__(self, glu: Glu, config: "Config", *, rngs: nnx.Rngs):
        self.glu, self.dropout_rate = glu, config.feed_forward_dropout_rate
        D, F, dtype = config.d_model, config.d_ff, config.param_dtype
        self.w_in = initialize(config.initializers.kernel, rngs.params(), (D, F), dtype)
        self.w_out = initialize(config.initializers.kernel, rngs.params(), (F, D), dtype)
        self.w_gate = initialize(config.initializers.kernel, rngs.params(), (D, F), dtype)

    def axes(self) -> dict[str, str]:
        """The letters of the parameters."""
        return {"w_in": "D F", "w_out": "F D", "w_gate": "D F"}

    def __call__(self, x: Array, *, key: Key | None = None) -> tuple[Array, Auxiliary]:
        """Maps x [..., D] to [..., D]. ``key`` is for dropout on the hidden units; None is no dropout."""
        x = as_array("nn.FeedForward", "x", x)
        y = ops.gated_feed_forward(
            x,
            _parameter(self.w_gate, x),
            _parameter(self.w_in, x),
            _parameter(self.w_out, x),
            activation=as_function(self.glu.activation),
            dropout_rate=self.dropout_rate,
            key=key,
        )
        return y, {}


def _parameter(param: nnx.Param, x: Array) -> Array:
    """In x's dtype, or in float32: then its gradient is float32 too, and devices add it in float32."""
    value = param[...]
    return value if value.dtype == jnp.float32 else value.astype(x.dtype)
