"""Layer norm and RMS norm over the last axis; statistics in float32, results in the input's dtype."""

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_array
from tfm_jax.ranges import NOT_NEGATIVE, check_number
from tfm_jax.types import Array

__all__ = ["layer_norm", "rms_norm"]


def layer_norm(
    x: Array, scale: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> Array:
    """Layer norm: normalizes each vector to mean 0 and variance 1, then applies ``scale`` and ``bias``.

    Equivalent to::

        centred = x - x.mean(-1, keepdims=True)
        centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps) * scale + bias

    Args:
      x: [..., D] float.
      scale: [D] float, of any floating dtype, or None for 1.
      bias: [D] float, of any floating dtype, or None for 0.
      eps: added to the variance; small and positive.

    Returns:
      [..., D] in x's dtype. A vector of equal elements gives ``bias`` (or zeros).

    Raises:
      ValueError: x is not floating or has no last axis, ``scale`` or ``bias`` is not [D], or ``eps`` is
        negative or not finite.

    Ba et al. 2016, "Layer Normalization", equations 3 and 4 (the variance is the biased one).
    """
    x, scale, bias = _checked("layer_norm", x, scale=scale, bias=bias)
    check_number("layer_norm", "eps", eps, NOT_NEGATIVE)
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    # From the centred values: mean(x^2) - mean(x)^2 cancels where the mean is large.
    centred = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return _affine(centred * jax.lax.rsqrt(variance + eps), scale, bias).astype(x.dtype)


def rms_norm(x: Array, scale: Array | None = None, *, eps: float = 1e-6) -> Array:
    """RMS norm: normalizes each vector to root mean square 1, then applies ``scale``.

    Equivalent to::

        x / jnp.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale

    Args:
      x: [..., D] float.
      scale: [D] float, of any floating dtype, or None for 1. If a model stores ``scale - 1``, add the 1.
      eps: added to the mean square; small and positive.

    Returns:
      [..., D] in x's dtype. A vector of zeros gives zeros.

    Raises:
      ValueError: x is not floating or has no last axis, ``scale`` is not [D], or ``eps`` is negative or
        not finite.

    Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
    """
    x, scale = _checked("rms_norm", x, scale=scale)
    check_number("rms_norm", "eps", eps, NOT_NEGATIVE)
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    mean_square = jnp.square(wide).mean(-1, keepdims=True)
    return _affine(wide * jax.lax.rsqrt(mean_square + eps), scale, None).astype(x.dtype)


def _affine(x: Array, scale: Array | None, bias: Array | None) -> Array:
    if scale is not None:
        x = x * jnp.broadcast_to(scale.astype(x.dtype), x.shape)
    if bias is not None:
        x = x + jnp.broadcast_to(bias.astype(x.dtype), x.shape)
    return x


def _checked(function: str, x: Array, **vectors: Array | None) -> tuple[Array | None, ...]:
    x = as_array(function, "x", x)
    vectors = {
        name: vector if vector is None else as_array(function, name, vector)
        for name, vector in vectors.items()
    }
    if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{function}: got x of shape {x.shape} and dtype {x.dtype}; wanted [..., D] of a floating dtype."
        )
    for name, vector in vectors.items():
        if vector is not None and (
            vector.shape != x.shape[-1:] or not jnp.issubdtype(vector.dtype, jnp.floating)
        ):
            raise ValueError(
                f"{function}: got {name} of shape {vector.shape} and dtype {vector.dtype} with x of shape "
                f"{x.shape}; wanted [D] = {x.shape[-1:]} of a floating dtype. The norm is over the last axis."
            )
    return x, *vectors.values()
