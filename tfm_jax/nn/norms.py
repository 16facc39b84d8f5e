"""Layer normalization and RMS normalization: their values, and the layers with their parameters.

To add a norm, see docs/variants.md: subclass ``nn.Norm``, in your own code or here.
"""

from dataclasses import dataclass

from flax import nnx

from tfm_jax import ops
from tfm_jax.fields import check_fields
from tfm_jax.nn._parameters import constant
from tfm_jax.nn.variants import Norm, NormModule, check_output, register_variant
from tfm_jax.ranges import Positive
from tfm_jax.types import Array

__all__ = ["LayerNorm", "RMSNorm", "normalize"]


def normalize(norm: NormModule | None, x: Array) -> Array:
    """x [..., D] after a norm, with the same shape and dtype; None is x."""
    return x if norm is None else check_output(type(norm).__name__, x, norm(x))


@register_variant
@dataclass(frozen=True)
class LayerNorm(Norm):
    """Layer normalization with a learned scale and shift (Ba et al. 2016)."""

    eps: Positive = 1e-5

    def __post_init__(self):
        check_fields(self)

    def build(self, size: int, *, axis: str, dtype: str, rngs: nnx.Rngs) -> "LayerNormLayer":
        return LayerNormLayer(self, size, axis=axis, dtype=dtype)


@register_variant
@dataclass(frozen=True)
class RMSNorm(Norm):
    """Root-mean-square normalization with a learned scale (Zhang and Sennrich 2019)."""

    eps: Positive = 1e-6

    def __post_init__(self):
        check_fields(self)

    def build(self, size: int, *, axis: str, dtype: str, rngs: nnx.Rngs) -> "RMSNormLayer":
        return RMSNormLayer(self, size, axis=axis, dtype=dtype)


class LayerNormLayer(nnx.Module):
    """``LayerNorm`` with its parameters: the scale starts at one, the shift at zero.

    Equivalent to::

        ops.layer_norm(x, scale, bias, eps=norm.eps)
    """

    def __init__(self, norm: LayerNorm, size: int, *, axis: str, dtype: str):
        self.norm, self.axis = norm, axis
        self.scale = constant(1.0, size, dtype)
        self.bias = constant(0.0, size, dtype)

    def axes(self) -> dict[str, str]:
        """The letters of the parameters."""
        return {"scale": self.axis, "bias": self.axis}

    def __call__(self, x: Array) -> Array:
        """Normalizes x [..., D] over D, in x's dtype with statistics in float32."""
        return ops.layer_norm(x, self.scale[...], self.bias[...], eps=self.norm.eps)


class RMSNormLayer(nnx.Module):
    """``RMSNorm`` with its parameter: the scale starts at one.

    Equivalent to::

        ops.rms_norm(x, scale, eps=norm.eps)
    """

    def __init__(self, norm: RMSNorm, size: int, *, axis: str, dtype: str):
        self.norm, self.axis = norm, axis
        self.scale = constant(1.0, size, dtype)

    def axes(self) -> dict[str, str]:
        """The letters of the parameters."""
        return {"scale": self.axis}

    def __call__(self, x: Array) -> Array:
        """Normalizes x [..., D] over D, in x's dtype with statistics in float32."""
        return ops.rms_norm(x, self.scale[...], eps=self.norm.eps)
