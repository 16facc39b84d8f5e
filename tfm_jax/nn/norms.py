"""Layer normalization and RMS normalization: their configs, and the layer with their parameters.

To add a norm: write the pure function in ``tfm_jax/ops/normalization.py``. In this file, add a frozen
dataclass with its hyperparameters, and its parameters and the call of the function to ``Norm``. Then add the
dataclass to the annotation of ``Config.norm`` in ``config.py``.
"""

from dataclasses import dataclass

from flax import nnx

from tfm_jax import ops
from tfm_jax.fields import check_fields
from tfm_jax.nn._parameters import constant
from tfm_jax.ranges import Positive
from tfm_jax.types import Array

__all__ = ["LayerNorm", "Norm", "RMSNorm"]


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization with a learned scale and shift (Ba et al. 2016)."""

    eps: Positive = 1e-5

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class RMSNorm:
    """Root-mean-square normalization with a learned scale (Zhang and Sennrich 2019)."""

    eps: Positive = 1e-6

    def __post_init__(self):
        check_fields(self)


class Norm(nnx.Module):
    """Normalization layer with learned parameters.

    Equivalent to::

        ops.layer_norm(x, scale, bias, eps=norm.eps)     # or ops.rms_norm(x, scale, eps=norm.eps)

    Args:
      norm: ``LayerNorm(eps)`` or ``RMSNorm(eps)``.
      size: of the last axis: D, or H for queries and keys.
      dtype: of the parameters.
      rngs: unused; the scale starts at one, the shift at zero.

    Raises:
      ValueError: ``norm`` is neither.
    """

    def __init__(self, norm: LayerNorm | RMSNorm, size: int, *, dtype: str = "float32", rngs: nnx.Rngs):
        del rngs
        if not isinstance(norm, LayerNorm | RMSNorm):
            raise ValueError(f"nn.Norm: got norm={norm!r}; wanted an instance of LayerNorm or RMSNorm.")
        self.norm = norm
        self.scale = constant(1.0, size, dtype)
        self.bias = constant(0.0, size, dtype) if isinstance(norm, LayerNorm) else None

    def __call__(self, x: Array) -> Array:
        """Normalizes x [..., D] over D, in x's dtype with statistics in float32."""
        if isinstance(self.norm, LayerNorm):
            return ops.layer_norm(x, self.scale[...], self.bias[...], eps=self.norm.eps)
        return ops.rms_norm(x, self.scale[...], eps=self.norm.eps)
