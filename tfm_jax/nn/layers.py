"""Linear layer over one or several axes."""

import jax.numpy as jnp
from flax import nnx

from tfm_jax.checks import as_array, check_shapes
from tfm_jax.nn._parameters import constant, initialize
from tfm_jax.nn.initializers import GlorotUniform
from tfm_jax.nn.variants import Initializer
from tfm_jax.ops.projection import project
from tfm_jax.types import Array

__all__ = ["Linear"]

_GLOROT = GlorotUniform()


class Linear(nnx.Module):
    """Linear layer from the last axes of its input to new axes.

    Equivalent to::

        jnp.tensordot(x, kernel, axes=len(inputs)) + bias

    Args:
      inputs: sizes of the contracted axes, such as ``(D,)`` or ``(N, H)``.
      outputs: sizes of the new axes.
      axes: the letters of the inputs and the outputs, such as ``"D N H"``, for ``axes()``.
      bias: add a learned bias, initially zero.
      dtype: of the parameters.
      initializer: of the kernel, over all input and output axes.
      rngs: initializes the kernel.

    Raises:
      ValueError: ``axes`` has not one letter per axis.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        axes: str,
        bias: bool,
        dtype: str = "float32",
        initializer: Initializer = _GLOROT,
        rngs: nnx.Rngs,
    ):
        shape, n = (*inputs, *outputs), len(inputs)
        if not isinstance(axes, str) or len(axes.split()) != len(shape):
            raise ValueError(f"nn.Linear: got axes={axes!r}; wanted {len(shape)} letters, such as 'D N H'.")
        self.n_inputs, self.letters = n, axes
        self.kernel = initialize(initializer, rngs.params(), shape, dtype, inputs=n)
        self.bias = constant(0.0, outputs, dtype) if bias else None

    def axes(self) -> dict[str, str]:
        """The letters of the parameters."""
        bias = " ".join(self.letters.split()[self.n_inputs :])
        return {"kernel": self.letters} | ({} if self.bias is None else {"bias": bias})

    def __call__(self, x: Array) -> Array:
        """Maps x ``[..., *inputs]`` to ``[..., *outputs]`` in x's dtype."""
        x = as_array("nn.Linear", "x", x)
        inputs = self.kernel.shape[: self.n_inputs]
        check_shapes("nn.Linear", x=(x, f"... {' '.join(map(str, inputs))}", "float"))
        out = project(x, self.kernel[...], self.n_inputs)
        if self.bias is None:
            return out
        # Broadcast before the cast: the gradient is cast before its sum, which the devices add.
        return out + jnp.broadcast_to(self.bias[...], out.shape).astype(x.dtype)
