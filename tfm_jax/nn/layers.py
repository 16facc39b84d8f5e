"""Linear layer over one or several axes."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from tfm_jax.checks import as_array
from tfm_jax.nn._parameters import constant, initialize
from tfm_jax.types import Array

__all__ = ["Linear"]


class Linear(nnx.Module):
    """Linear layer from the last axes of its input to new axes.

    Equivalent to::

        jnp.tensordot(x, kernel, axes=len(inputs)) + bias

    Args:
      inputs: sizes of the contracted axes, such as ``(D,)`` or ``(N, H)``.
      outputs: sizes of the new axes.
      bias: add a learned bias, initially zero.
      dtype: of the parameters.
      rngs: initializes the kernel, Glorot-uniform over all input and output axes.
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
        self.kernel = initialize(init, rngs.params(), (*inputs, *outputs), dtype)
        self.bias = constant(0.0, outputs, dtype) if bias else None

    def __call__(self, x: Array) -> Array:
        """Maps x ``[..., *inputs]`` to ``[..., *outputs]`` in x's dtype."""
        x = as_array("nn.Linear", "x", x)
        inputs = self.kernel.shape[: self.n_inputs]
        if x.shape[-self.n_inputs :] != inputs or not jnp.issubdtype(x.dtype, jnp.floating):
            axes = ", ".join(map(str, inputs))
            raise ValueError(f"nn.Linear: got x {x.dtype}{list(x.shape)}; wanted float [..., {axes}].")
        # One matrix product over flattened axes contracts contiguous memory.
        flat = x.reshape(*x.shape[: x.ndim - self.n_inputs], math.prod(inputs))
        kernel = self.kernel[...].astype(x.dtype).reshape(math.prod(inputs), -1)
        out = (flat @ kernel).reshape(*flat.shape[:-1], *self.kernel.shape[self.n_inputs :])
        if self.bias is None:
            return out
        bias = self.bias[...].astype(x.dtype)
        return out + jnp.broadcast_to(bias, out.shape)
