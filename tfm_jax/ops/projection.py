"""The product of a layer's input and its kernel; the dtype in which the kernel's gradient is summed."""

import functools
import math
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

from tfm_jax.ops.tracing import at_precision, current_precision, vary_with
from tfm_jax.types import Array

__all__ = ["gradient_dtype", "parameter_dtype", "project", "sum_dtype"]

# A part of the key of jit's caches.
_DTYPE = jax.make_user_context(default_value="float32")


def gradient_dtype(dtype: str) -> AbstractContextManager[Any]:
    """A context manager: the dtype in which the gradients of kernels are summed in what is traced inside it.

    Args:
      dtype: "float32", or "bfloat16".
    """
    return _DTYPE(dtype)


def sum_dtype(x: Array) -> Any:
    """The dtype in which devices add the gradient of x's kernel: float32, or the context's if x is narrow."""
    return jnp.float32 if x.dtype.itemsize >= 4 else jnp.dtype(_DTYPE.value)


def project(x: Array, kernel: Array, n_inputs: int = 1) -> Array:
    """Linear projection of the last axes, in x's dtype; its kernel's gradient is summed in float32.

    Equivalent to::

        jnp.tensordot(x, kernel.astype(x.dtype), axes=n_inputs)

    The gradient of a bfloat16 product is bfloat16, and devices would add their parts in bfloat16. Here the
    product that gives the kernel's gradient has bfloat16 factors and a float32 result, which the devices add.

    Args:
      x: [..., *inputs] float.
      kernel: [*inputs, *outputs] float.
      n_inputs: the number of axes that are contracted.

    Returns:
      [..., *outputs], in x's dtype. Under 32 bits it has no forward mode (``jax.jvp``).
    """
    if x.dtype.itemsize >= 4 or sum_dtype(x) == jnp.bfloat16:
        return _product(x, kernel, n_inputs)
    # Inside shard_map both vary over the same axes; JAX then sums the gradient of one that did not, as it is.
    return _project(current_precision(), vary_with(x, kernel), vary_with(kernel, x), n_inputs)


def parameter_dtype(parameter: Array | None, x: Array) -> Any:
    """The dtype that a parameter must have: x's, or float32, which is cast to it."""
    return jnp.float32 if parameter is not None and parameter.dtype == jnp.float32 else x.dtype


def _flat(kernel: Array, n_inputs: int) -> Array:
    """One matrix product over flattened axes contracts contiguous memory."""
    return kernel.reshape(math.prod(kernel.shape[:n_inputs]), -1)


def _product(x: Array, kernel: Array, n_inputs: int) -> Array:
    flat = x.reshape(*x.shape[: x.ndim - n_inputs], math.prod(kernel.shape[:n_inputs]))
    out = flat @ _flat(kernel.astype(x.dtype), n_inputs)
    return out.reshape(*flat.shape[:-1], *kernel.shape[n_inputs:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
@at_precision
def _project(x: Array, kernel: Array, n_inputs: int) -> Array:
    return _product(x, kernel, n_inputs)


@at_precision
def _forward(x: Array, kernel: Array, n_inputs: int) -> tuple[Array, tuple[Array, Array]]:
    # The kernel itself, not its copy in x's dtype: a scan over layers saves no second stack of weights.
    return _product(x, kernel, n_inputs), (x, kernel)


@at_precision
def _backward(n_inputs: int, saved: tuple[Array, Array], by_out: Array) -> tuple[Array, Array]:
    x, kernel = saved
    lead = x.ndim - n_inputs
    outputs = tuple(range(lead, by_out.ndim)), tuple(range(n_inputs, kernel.ndim))
    tokens = tuple(range(lead))
    by_x = jax.lax.dot_general(by_out, kernel.astype(x.dtype), (outputs, ((), ())))
    by_kernel = jax.lax.dot_general(
        x, by_out, ((tokens, tokens), ((), ())), preferred_element_type=jnp.float32
    )
    return by_x, by_kernel.astype(kernel.dtype)


_project.defvjp(_forward, _backward)
