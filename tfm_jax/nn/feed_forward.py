"""Position-wise feed-forward layer, plain or gated."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flax import nnx
from jax.nn.initializers import glorot_uniform

from tfm_jax import ops
from tfm_jax.checks import as_array
from tfm_jax.fields import check_fields
from tfm_jax.nn._parameters import constant, initialize
from tfm_jax.ops import activation
from tfm_jax.types import Array, Key

if TYPE_CHECKING:
    from tfm_jax.nn.config import Config

__all__ = ["FeedForward", "Glu", "Mlp"]


@dataclass(frozen=True)
class Mlp:
    """Two-layer perceptron: ``activation(x W_in + b_in) W_out + b_out`` (Vaswani et al. 2017, equation 2)."""

    activation: str = "relu"
    bias: bool = True

    def __post_init__(self):
        check_fields(self)
        activation(self.activation)


@dataclass(frozen=True)
class Glu:
    """Gated linear unit: ``(activation(x W_gate) * (x W_in)) W_out`` (Shazeer 2020)."""

    activation: str = "silu"

    def __post_init__(self):
        check_fields(self)
        activation(self.activation)


class FeedForward(nnx.Module):
    """Position-wise feed-forward layer.

    Equivalent to::

        ops.feed_forward(x, w_in, w_out, b_in, b_out)      # Mlp
        ops.gated_feed_forward(x, w_gate, w_in, w_out)     # Glu

    Args:
      config: D, F, ``feed_forward``, ``feed_forward_dropout_rate``.
      rngs: initializes the kernels.
    """

    def __init__(self, config: "Config", *, rngs: nnx.Rngs):
        self.config = config
        D, F = config.d_model, config.d_ff
        variant, dtype = config.feed_forward, config.param_dtype

        def kernel(*shape: int) -> nnx.Param:
            return initialize(glorot_uniform(), rngs.params(), shape, dtype)

        self.w_in, self.w_out = kernel(D, F), kernel(F, D)
        gated = isinstance(variant, Glu)
        self.w_gate = kernel(D, F) if gated else None
        bias = not gated and variant.bias
        self.b_in = constant(0.0, F, dtype) if bias else None
        self.b_out = constant(0.0, D, dtype) if bias else None

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        """Maps x [..., D] to [..., D]. ``key`` is for dropout on the hidden units; None is no dropout."""
        x = as_array("nn.FeedForward", "x", x)

        def cast(param: nnx.Param | None) -> Array | None:
            return None if param is None else param[...].astype(x.dtype)

        options = {
            "activation": ops.activation(self.config.feed_forward.activation),
            "dropout_rate": self.config.feed_forward_dropout_rate,
            "key": key,
        }
        w_in, w_out = cast(self.w_in), cast(self.w_out)
        if self.w_gate is not None:
            return ops.gated_feed_forward(x, cast(self.w_gate), w_in, w_out, **options)
        return ops.feed_forward(x, w_in, w_out, cast(self.b_in), cast(self.b_out), **options)
