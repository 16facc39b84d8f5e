"""The two smallest modules: a linear map over whole axes, and a norm."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_array
from tfm_jax.nn.parameters import constant, drawn
from tfm_jax.nn.variants import LayerNorm, RMSNorm
from tfm_jax.types import Array

__all__ = ["Linear", "Norm"]


class Linear(nnx.Module):
    """A linear map from the last axes of its input to new ones.

    Equivalent to::

        jnp.tensordot(x, kernel, axes=len(inputs)) + bias

    Args:
      inputs: the axes that are summed over, such as ``(D,)`` or ``(N, H)``.
      outputs: the axes that take their place.
      bias: add a learned vector, zero at first.
      dtype: of the parameters.
      rngs: draws the kernel, Glorot-uniform over all input and output axes.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        bias: bool,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        n = len(inputs)
        self.n_inputs = n
        init = jax.nn.initializers.glorot_uniform(
            in_axis=tuple(range(n)), out_axis=tuple(range(n, n + len(outputs)))
        )
        self.kernel = drawn(init, rngs.params(), (*inputs, *outputs), dtype)
        self.bias = constant(0.0, outputs, dtype) if bias else None

    def __call__(self, x: Array) -> Array:
        """Maps x ``[..., *inputs]`` to ``[..., *outputs]`` in x's dtype."""
        x = as_array("nn.Linear", "x", x)
        inputs = self.kernel.shape[: self.n_inputs]
        if x.shape[-self.n_inputs :] != inputs or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"this layer maps [..., {', '.join(map(str, inputs))}], floating, got {x.shape}, {x.dtype}"
            )
        # One matrix product, whatever the axes: the sums run over contiguous memory.
        flat = x.reshape(*x.shape[: x.ndim - self.n_inputs], math.prod(inputs))
        kernel = self.kernel[...].astype(x.dtype).reshape(math.prod(inputs), -1)
        out = (flat @ kernel).reshape(*flat.shape[:-1], *self.kernel.shape[self.n_inputs :])
        if self.bias is None:
            return out
        bias = self.bias[...].astype(x.dtype)
        return out + jnp.broadcast_to(bias, out.shape)


class Norm(nnx.Module):
    """Layer or root-mean-square normalization with its learned scale (and shift).

    Equivalent to::

        ops.layer_norm(x, scale, bias, eps=norm.eps)     # or ops.rms_norm(x, scale, eps=norm.eps)

    Args:
      norm: which one, as a value.
      size: of the last axis: D, or H for the queries and keys of one head.
      dtype: of the parameters.
      rngs: unused; scales start at one, shifts at zero.

    Raises:
      ValueError: for another norm than these two.
    """

    def __init__(self, norm: LayerNorm | RMSNorm, size: int, *, dtype: str = "float32", rngs: nnx.Rngs):
        del rngs
        if not isinstance(norm, LayerNorm | RMSNorm):
            raise ValueError(f"Norm: got norm={norm!r}; wanted an instance of LayerNorm or RMSNorm.")
        self.norm = norm
        self.scale = constant(1.0, size, dtype)
        self.bias = constant(0.0, size, dtype) if isinstance(norm, LayerNorm) else None

    def __call__(self, x: Array) -> Array:
        """Normalizes x ``[..., D]`` over D, in x's dtype with statistics in float32."""
        if isinstance(self.norm, LayerNorm):
            return ops.layer_norm(x, self.scale[...], self.bias[...], eps=self.norm.eps)
        return ops.rms_norm(x, self.scale[...], eps=self.norm.eps)
