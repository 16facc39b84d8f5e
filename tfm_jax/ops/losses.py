"""Cross-entropy with integer labels, as (sum, weight) pairs that add over microbatches, devices and hosts."""

import jax.numpy as jnp

from tfm_jax.checks import as_array, as_optional_array, check_shapes
from tfm_jax.ops._chunked_loss import Inputs, Loss, summed_loss, token_losses, weighted
from tfm_jax.ops.projection import parameter_dtype
from tfm_jax.ranges import NOT_NEGATIVE, SIZE, UNIT, check_number, check_static
from tfm_jax.types import Array, SumWeight

__all__ = ["cross_entropy", "linear_cross_entropy"]

_FIX = {
    "labels": "Pass one label for each vector; for soft labels, use optax.softmax_cross_entropy.",
    "weights": "Broadcast them first.",
    "D": "Transpose an embedding table [V, D] first.",
}
_PROJECTION_FIX = {**_FIX, "dtype": "Cast the kernel to the dtype of the computation, a floating one."}


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    weights: Array | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_index: int | None = None,
) -> SumWeight:
    """Cross-entropy loss: the weighted negative log-likelihoods of the labels, summed over all tokens.

    Equivalent to::

        log_p = jax.nn.log_softmax(logits)
        target = (1 - label_smoothing) * jax.nn.one_hot(labels, V) + label_smoothing / V
        loss = -(target * log_p).sum(-1) + z_loss * jax.nn.logsumexp(logits, -1) ** 2
        weights = jnp.where(labels == ignore_index, 0, weights)
        (weights * loss).sum(), weights.sum()

    Args:
      logits: [..., V] float.
      labels: [...] integer in [0, V), or ``ignore_index``.
      weights: [...] float, bool or integer, or None for 1 each.
      label_smoothing: the probability that the target distributes evenly over all V classes, in [0, 1].
      z_loss: the factor of the squared log-partition function; not negative.
      ignore_index: the label of ignored tokens, such as -100, or None.

    Returns:
      (sum, weight): two float32 scalars. weight is the sum of the weights of the tokens that are not ignored,
      and sum / weight the mean loss; both are 0 where all tokens are ignored. An ignored token adds nothing
      to either and has gradient exactly 0, even if its logits are NaN or Inf. A token of weight 0 does too,
      but only if its loss is finite: ignore others by their label. A label outside [0, V) that is not ignored
      makes the sum and the token's gradient NaN, even with weight 0: it is never clipped to another class.

    Raises:
      ValueError: a shape does not fit, a dtype is wrong, or a factor is out of range.

    Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", section 7 (smoothing);
    Chowdhery et al. 2022, "PaLM: Scaling Language Modeling with Pathways", section 5 (z-loss).
    """
    logits, labels = as_array("cross_entropy", "logits", logits), as_array("cross_entropy", "labels", labels)
    weights = as_optional_array("cross_entropy", "weights", weights)
    check_shapes(
        "cross_entropy",
        logits=(logits, "... V", "float"),
        labels=(labels, "...", "int"),
        weights=(weights, "..."),
        fix=_FIX,
    )
    _check_factors("cross_entropy", label_smoothing, z_loss)
    # Small integer types cannot hold V; larger ones stay: a cast could wrap a label into the range.
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    weights = jnp.ones(labels.shape, jnp.float32) if weights is None else weights.astype(jnp.float32)
    used = None if ignore_index is None else labels != ignore_index
    loss = Loss(label_smoothing, z_loss, ignore_index)
    tokens = token_losses(logits.astype(jnp.float32), labels, weights, used, loss)
    total, weight, _ = weighted(tokens, weights, used)
    return total, weight


def linear_cross_entropy(
    hidden: Array,
    kernel: Array,
    labels: Array,
    *,
    bias: Array | None = None,
    weights: Array | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_index: int | None = None,
    chunk_size: int = 1024,
) -> SumWeight:
    """Chunked cross-entropy of a linear projection: the logits of all tokens never exist at once.

    Equivalent to::

        cross_entropy(hidden @ kernel + bias, labels, weights=weights, ...)     # with the logits in float32

    but a device has the logits of at most ``chunk_size`` tokens at any time: a scan over chunks, which also
    sums the gradients. On a mesh (``jax.set_mesh``) each device scans its own tokens, with the kernel
    gathered over the tokens' axes once, in hidden's dtype, and the kernel's gradient is summed over devices
    once, in float32. Where the rules shard the classes, a device has those of its shard alone.

    Args:
      hidden: [..., D] float; on a mesh the axes before D are B, or B and T.
      kernel: [D, V], of hidden's dtype, or float32: it is cast, and its gradient is float32.
      labels: [...] integer in [0, V), or ``ignore_index``.
      bias: [V] float, or None for 0.
      weights, label_smoothing, z_loss, ignore_index: as in ``cross_entropy``.
      chunk_size: the largest number of tokens in a chunk of a device, at least 1. The n tokens of a device
        make c = ceil(n / chunk_size) even chunks of ceil(n / c).

    Returns:
      (sum, weight): two float32 scalars, the same for every ``chunk_size`` up to rounding. Ignored tokens and
      labels out of range are as in ``cross_entropy``. Tokens that are ignored or of weight 0 may have hidden
      states that are NaN or Inf. With bfloat16 hidden states the three products are bfloat16, summed in
      float32: the gradient of the logits is rounded, as the logits' factors are.

    Raises:
      ValueError: a shape does not fit, a dtype is wrong, or a factor or ``chunk_size`` is out of range; on a
        mesh, B, T or V is not divisible by the mesh axes of its letter.
    """
    arrays = {"hidden": hidden, "kernel": kernel, "labels": labels}
    hidden, kernel, labels = (as_array("linear_cross_entropy", *argument) for argument in arrays.items())
    bias = as_optional_array("linear_cross_entropy", "bias", bias)
    weights = as_optional_array("linear_cross_entropy", "weights", weights)
    check_shapes(
        "linear_cross_entropy",
        hidden=(hidden, "... D", "float"),
        kernel=(kernel, "D V", parameter_dtype(kernel, hidden)),
        bias=(bias, "V", "float"),
        labels=(labels, "...", "int"),
        weights=(weights, "..."),
        fix=_PROJECTION_FIX,
    )
    _check_factors("linear_cross_entropy", label_smoothing, z_loss)
    check_number("linear_cross_entropy", "chunk_size", chunk_size, SIZE)
    weights = jnp.ones(labels.shape, jnp.float32) if weights is None else weights.astype(jnp.float32)
    inputs = Inputs(hidden, kernel, bias, weights, labels)
    return summed_loss(inputs, Loss(label_smoothing, z_loss, ignore_index), chunk_size)


def _check_factors(function: str, label_smoothing: float, z_loss: float) -> None:
    check_static(function, "label_smoothing", label_smoothing, UNIT)
    check_static(function, "z_loss", z_loss, NOT_NEGATIVE)
