"""Cross-entropy with integer labels, as sums that add over microbatches, devices and hosts."""

import math

import jax
import jax.export
import jax.numpy as jnp

from tfm_jax.checks import as_array
from tfm_jax.ranges import NOT_NEGATIVE, SIZE, UNIT, check_number, check_static
from tfm_jax.types import Array, SumWeight

__all__ = ["cross_entropy", "linear_cross_entropy"]


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    weights: Array | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_index: int | None = None,
) -> SumWeight:
    """Sums the weighted negative log-likelihoods of the labels over all tokens.

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
      label_smoothing: the share of the target that is spread evenly over all V classes, in [0, 1].
      z_loss: the factor of the squared log-partition; not negative.
      ignore_index: the label of tokens that do not count, such as -100, or None where all count.

    Returns:
      (sum, weight): two float32 scalars. weight is the sum of the weights of the tokens that count, and
      sum / weight the mean loss; both are 0 where none counts. An ignored token has no part in either and a
      gradient of exactly zero, whatever its logits are; so does one of weight 0 whose loss is finite, but not
      where logits are not: ignore such tokens by their label. A label outside [0, V) that is not ignored
      makes the sum and the token's gradient NaN, even with weight 0: it is never clipped to another class.

    Raises:
      ValueError: a shape does not fit, a dtype is wrong, or a factor is out of range.

    Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", section 7 (smoothing);
    Chowdhery et al. 2022, "PaLM: Scaling Language Modeling with Pathways", section 5 (z-loss).
    """
    logits = as_array("cross_entropy", "logits", logits)
    labels, weights = _checked("cross_entropy", logits.shape[:-1], labels, weights, label_smoothing, z_loss)
    if logits.ndim < 1 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"cross_entropy: got logits of shape {logits.shape} and dtype {logits.dtype}; wanted [..., V] of "
            "a floating dtype."
        )
    logits = logits.astype(jnp.float32)
    # Small integer types cannot hold V; larger ones stay, as a cast could bring a label into range.
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    weights = jnp.ones(labels.shape, jnp.float32) if weights is None else weights.astype(jnp.float32)
    valid = (labels >= 0) & (labels < logits.shape[-1])
    factor = jnp.where(valid, weights, jnp.nan)
    if ignore_index is not None:
        counts = labels != ignore_index
        # Before the softmax, so that logits which are not finite cannot reach the gradient as 0 * inf.
        logits = jnp.where(counts[..., None], logits, 0)
        factor, weights = jnp.where(counts, factor, 0), jnp.where(counts, weights, 0)
    # Relative to the largest logit: the logarithm of a sum near 1 keeps digits that log_z - logit would lose.
    peak = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    logits = logits - peak
    log_sum = jnp.log(jnp.sum(jnp.exp(logits), axis=-1))
    classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    # A comparison rather than a gather: it fuses into the sum, and works where V is split over devices.
    of_label = jnp.sum(jnp.where(classes == labels[..., None], logits, 0), axis=-1)
    loss = log_sum - of_label
    if label_smoothing:
        loss = (1 - label_smoothing) * loss + label_smoothing * (log_sum - logits.mean(-1))
    if z_loss:
        loss = loss + z_loss * jnp.square(log_sum + peak[..., 0])
    return jnp.sum(factor * loss), jnp.sum(weights)


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
    """Projects hidden states to logits and sums their cross-entropy, a chunk of tokens at a time.

    Equivalent to::

        cross_entropy(hidden @ kernel + bias, labels, weights=weights, ...)     # with the logits in float32

    but the logits of no more than ``chunk_size`` tokens exist at any time: the chunks are scanned, and the
    backward pass computes the logits of each again instead of keeping them.

    Args:
      hidden: [..., D] float.
      kernel: [D, V], of hidden's dtype.
      labels: [...] integer in [0, V), or ``ignore_index``.
      bias: [V] float, or None for 0.
      weights, label_smoothing, z_loss, ignore_index: as for ``cross_entropy``.
      chunk_size: the most tokens at a time, at least 1. All n are dealt evenly to c = ceil(n / chunk_size)
        chunks of ceil(n / c). Where they are split over devices by explicit mesh axes, that size must be a
        multiple of the devices: it is one if ``chunk_size`` is and divides n.

    Returns:
      (sum, weight): two float32 scalars, the same for every ``chunk_size`` up to rounding. What
      ``cross_entropy`` says of ignored tokens and of labels out of range holds here. Tokens that are ignored
      or of weight 0 may have hidden states that are not finite.

    Raises:
      ValueError: a shape does not fit, a dtype is wrong, or a factor or ``chunk_size`` is out of range.

    The loss is that of ``cross_entropy``; to compute again instead of storing is Chen et al. 2016, "Training
    Deep Nets with Sublinear Memory Cost", section 4.
    """
    hidden, kernel = (
        as_array("linear_cross_entropy", name, x) for name, x in (("hidden", hidden), ("kernel", kernel))
    )
    bias = None if bias is None else as_array("linear_cross_entropy", "bias", bias)
    labels, weights = _checked(
        "linear_cross_entropy", hidden.shape[:-1], labels, weights, label_smoothing, z_loss
    )
    _check_projection(hidden, kernel, bias)
    check_number("linear_cross_entropy", "chunk_size", chunk_size, SIZE)
    n_tokens = math.prod(labels.shape)
    n_chunks, size = _chunks(n_tokens, chunk_size)
    weights = jnp.ones(labels.shape, jnp.float32) if weights is None else weights.astype(jnp.float32)

    def split(
        x, rank, fill=0
    ):  # [..., (D)] -> [n_chunks, size, (D)]; what fills the last places has weight 0
        flat = x.reshape(n_tokens, *x.shape[x.ndim - rank :])
        flat = jnp.pad(flat, [(0, n_chunks * size - n_tokens), *[(0, 0)] * rank], constant_values=fill)
        # A chunk takes every n_chunks-th token, so that tokens split over devices stay split in every chunk.
        return flat.reshape(size, n_chunks, *flat.shape[1:]).swapaxes(0, 1)

    # The gradients of the chunks add up in this copy's dtype; in bfloat16 the later ones would be lost.
    wide_kernel = kernel.astype(jnp.float32)

    @jax.checkpoint
    def chunk(args):
        hidden, labels, weights = args
        unused = weights == 0 if ignore_index is None else (weights == 0) | (labels == ignore_index)
        # The gradient of the kernel has a product with the hidden states, where 0 * nan is nan.
        unused = unused & ~jnp.isfinite(hidden).all(-1)
        hidden = jnp.where(unused[..., None], 0, hidden)
        logits = jnp.matmul(hidden, wide_kernel.astype(kernel.dtype), preferred_element_type=jnp.float32)
        if bias is not None:
            logits = logits + jnp.broadcast_to(bias.astype(jnp.float32), logits.shape)
        return cross_entropy(
            logits,
            labels,
            weights=weights,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            ignore_index=ignore_index,
        )

    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    # The bias is the logits of what fills: a label that it rules out by -inf would give 0 * inf = nan.
    likely = 0 if bias is None else jnp.argmax(bias).astype(labels.dtype)
    # The sums come out chunk by chunk: a carry would have to be born with the devices' axes of the inputs.
    sums, counts = jax.lax.map(chunk, (split(hidden, 1), split(labels, 0, likely), split(weights, 0)))
    return sums.sum(), counts.sum()


def _chunks(n_tokens: int, chunk_size: int) -> tuple[int, int]:
    """How many chunks of how many tokens: as even as possible, but full ones of a symbolic number."""
    n_chunks = -(-n_tokens // chunk_size)
    if jax.export.is_symbolic_dim(n_tokens):
        return n_chunks, chunk_size
    n_chunks = max(1, n_chunks)
    return n_chunks, -(-n_tokens // n_chunks)


def _checked(
    function: str,
    tokens: tuple[int, ...],
    labels: Array,
    weights: Array | None,
    label_smoothing: float,
    z_loss: float,
) -> tuple[Array, Array | None]:
    labels = as_array(function, "labels", labels)
    weights = None if weights is None else as_array(function, "weights", weights)
    if labels.shape != tokens or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"{function}: got labels of shape {labels.shape} and dtype {labels.dtype}; wanted integers of "
            f"shape {tokens}, one for each vector. For soft labels, use optax.softmax_cross_entropy."
        )
    if weights is not None and weights.shape != tokens:
        raise ValueError(
            f"{function}: got weights of shape {weights.shape}; wanted {tokens}, one for each label. "
            "Broadcast them first."
        )
    check_static(function, "label_smoothing", label_smoothing, UNIT)
    check_static(function, "z_loss", z_loss, NOT_NEGATIVE)
    return labels, weights


def _check_projection(hidden: Array, kernel: Array, bias: Array | None) -> None:
    if not jnp.issubdtype(hidden.dtype, jnp.floating) or hidden.dtype != kernel.dtype:
        raise ValueError(
            f"linear_cross_entropy: got hidden of dtype {hidden.dtype} and kernel of dtype {kernel.dtype}; "
            "wanted one floating dtype. Cast the kernel to the dtype to compute in."
        )
    if hidden.ndim < 1 or kernel.ndim != 2 or hidden.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"linear_cross_entropy: got hidden of shape {hidden.shape} and kernel of shape {kernel.shape}; "
            "wanted [..., D] and [D, V]. Transpose an embedding table [V, D] first."
        )
    if bias is None:
        return
    if bias.shape != kernel.shape[1:] or not jnp.issubdtype(bias.dtype, jnp.floating):
        raise ValueError(
            f"linear_cross_entropy: got bias of shape {bias.shape} and dtype {bias.dtype} with kernel of "
            f"shape {kernel.shape}; wanted [V] = {kernel.shape[1:]} of a floating dtype."
        )
