"""Layer norm and RMS norm over the last axis; statistics in float32, results in the input's dtype.

The backward pass saves the input in its dtype and the statistics of each vector, and recomputes the rest.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from tfm_jax.checks import as_array, as_optional_array, check_shapes
from tfm_jax.ranges import NOT_NEGATIVE, check_number
from tfm_jax.types import Array

__all__ = ["layer_norm", "rms_norm"]

_FIX = {"D": "The norm is over the last axis.", "rank": "The norm is over the last axis."}


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
    x, scale = as_array("layer_norm", "x", x), as_optional_array("layer_norm", "scale", scale)
    bias = as_optional_array("layer_norm", "bias", bias)
    check_shapes(
        "layer_norm",
        x=(x, "... D", "float"),
        scale=(scale, "D", "float"),
        bias=(bias, "D", "float"),
        fix=_FIX,
    )
    check_number("layer_norm", "eps", eps, NOT_NEGATIVE)
    return _layer_norm(x, scale, bias, eps)


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
    x, scale = as_array("rms_norm", "x", x), as_optional_array("rms_norm", "scale", scale)
    check_shapes("rms_norm", x=(x, "... D", "float"), scale=(scale, "D", "float"), fix=_FIX)
    check_number("rms_norm", "eps", eps, NOT_NEGATIVE)
    return _rms_norm(x, scale, eps)


_STATISTICS = "norm_statistics"
# Not a custom_vjp: forward mode stays. The scan over layers needs no barriers against CSE.
_saving_statistics = functools.partial(
    jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(_STATISTICS), prevent_cse=False
)


@_saving_statistics
def _layer_norm(x: Array, scale: Array | None, bias: Array | None, eps: float | Array) -> Array:
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    # From the centred values: mean(x^2) - mean(x)^2 cancels where the mean is large.
    centred = wide - checkpoint_name(wide.mean(-1, keepdims=True), _STATISTICS)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    inverse = checkpoint_name(jax.lax.rsqrt(variance + eps), _STATISTICS)
    return _affine(centred * inverse, scale, bias).astype(x.dtype)


@_saving_statistics
def _rms_norm(x: Array, scale: Array | None, eps: float | Array) -> Array:
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    mean_square = jnp.square(wide).mean(-1, keepdims=True)
    inverse = checkpoint_name(jax.lax.rsqrt(mean_square + eps), _STATISTICS)
    return _affine(wide * inverse, scale, None).astype(x.dtype)


def _affine(x: Array, scale: Array | None, bias: Array | None) -> Array:
    if scale is not None:
        x = x * jnp.broadcast_to(scale.astype(x.dtype), x.shape)
    if bias is not None:
        x = x + jnp.broadcast_to(bias.astype(x.dtype), x.shape)
    return x
