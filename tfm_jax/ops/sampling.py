"""Truncation sampling and penalties on logits: masked tokens get -inf, NaN stays NaN."""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import Declared, as_array, check_shapes
from tfm_jax.ops.tracing import definitely, is_symbolic
from tfm_jax.ranges import FINITE, POSITIVE, SHARE, SIZE, Range, check_each, check_number
from tfm_jax.types import Array

__all__ = [
    "frequency_penalty",
    "mask_tokens",
    "min_p",
    "no_repeat_ngram",
    "repetition_penalty",
    "temperature",
    "token_counts",
    "top_k",
    "top_p",
]


def temperature(logits: Array, t: float | Array) -> Array:
    """Temperature scaling: t < 1 makes likely tokens likelier, t > 1 less likely.

    Equivalent to::

        logits / t

    Args:
      logits: [..., V] float.
      t: > 0, one number or one per sequence [...]; not checked if it is traced.

    Returns:
      [..., V] in the logits' dtype. -inf stays; a quotient beyond the dtype's range is inf, so for greedy
      decoding take the argmax, not a t near 0.

    Raises:
      ValueError: the logits are not float [..., V], or t is not > 0, not finite, or of another shape.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.3.
    """
    logits = as_array("temperature", "logits", logits)
    _check_logits("temperature", logits)
    t = _per_sequence("temperature", "t", t, logits, POSITIVE)
    return (logits.astype(t.dtype) / t).astype(logits.dtype)


def top_k(logits: Array, k: int) -> Array:
    """Top-k truncation: keeps the k largest logits.

    Equivalent to::

        jnp.where(logits >= jnp.sort(logits)[..., -k, None], logits, -jnp.inf)

    Args:
      logits: [..., V] float.
      k: from 1 to V, a Python number.

    Returns:
      [..., V] in the logits' dtype, kept logits unchanged. Ties with the k-th largest are all kept.

    Raises:
      ValueError: the logits are not float [..., V], or k is outside 1 .. V.

    Fan et al. 2018, "Hierarchical Neural Story Generation"; Holtzman et al. 2020, section 3.2.
    """
    logits = as_array("top_k", "logits", logits)
    _check_logits("top_k", logits)
    check_number("top_k", "k", k, SIZE)
    if k > logits.shape[-1]:
        raise ValueError(f"top_k: got k={k}; wanted at most V = {logits.shape[-1]}, the vocabulary's size.")
    return mask_tokens(logits, logits < jax.lax.top_k(logits, k)[0][..., -1:])


def top_p(logits: Array, p: float | Array) -> Array:
    """Top-p (nucleus) truncation: keeps the fewest most likely tokens of total probability at least p.

    Equivalent to::

        ordered = jnp.sort(logits)[..., ::-1]
        probability = jax.nn.softmax(ordered)
        before = jnp.cumsum(probability, -1) - probability          # of likelier tokens
        threshold = jnp.where(before < p, ordered, jnp.inf).min(-1, keepdims=True)
        jnp.where(logits >= threshold, logits, -jnp.inf)

    Args:
      logits: [..., V] float.
      p: in (0, 1], one number or one per sequence [...]; not checked if it is traced.

    Returns:
      [..., V] in the logits' dtype, kept logits unchanged. Ties with the least likely kept token are all
      kept; at least one token is kept; p = 1 keeps every token. Logits with a NaN, and logits that are all
      -inf, are returned unchanged.

    Raises:
      ValueError: the logits are not float [..., V], or p is outside (0, 1] or of another shape.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1, equation 2.
    """
    logits = as_array("top_p", "logits", logits)
    _check_logits("top_p", logits)
    p = _per_sequence("top_p", "p", p, logits, SHARE)
    wide = logits.astype(p.dtype)
    top = wide.max(-1, keepdims=True)
    mass = jnp.exp(wide - jnp.where(top == -jnp.inf, 0, top))
    spare = (1 - p) * mass.sum(-1, keepdims=True)
    order = _order(wide)
    # Bisects between the lowest and the highest logit for the threshold below which the mass can be spared:
    # many times faster than sorting a vocabulary.
    low, high = order.min(-1, keepdims=True), order.max(-1, keepdims=True)

    def halve(_, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low | high) - ((low ^ high) >> 1)  # rounded up, without overflow
        spared = jnp.where(order < middle, mass, 0).sum(-1, keepdims=True) <= spare
        return jnp.where(spared, middle, low), jnp.where(spared, high, middle - 1)

    threshold, _ = jax.lax.fori_loop(0, 8 * order.dtype.itemsize, halve, (low, high))
    # With p = 1, masses that round to 0 are kept too.
    return mask_tokens(logits, (order < threshold) & (p < 1))


def min_p(logits: Array, p: float | Array) -> Array:
    """Min-p truncation: keeps the tokens that are at least p times as likely as the likeliest.

    Equivalent to::

        probability = jax.nn.softmax(logits)
        jnp.where(probability >= p * probability.max(-1, keepdims=True), logits, -jnp.inf)

    Args:
      logits: [..., V] float.
      p: in (0, 1], one number or one per sequence [...]; not checked if it is traced.

    Returns:
      [..., V] in the logits' dtype, kept logits unchanged. The likeliest tokens are always kept. Logits with
      a NaN, and logits that are all -inf, are returned unchanged.

    Raises:
      ValueError: the logits are not float [..., V], or p is outside (0, 1] or of another shape.

    Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs", sec. 3.
    """
    logits = as_array("min_p", "logits", logits)
    _check_logits("min_p", logits)
    p = _per_sequence("min_p", "p", p, logits, SHARE)
    wide = logits.astype(p.dtype)
    return mask_tokens(logits, wide < wide.max(-1, keepdims=True) + jnp.log(p))


def repetition_penalty(logits: Array, seen: Array, penalty: float | Array) -> Array:
    """Repetition penalty: makes tokens that occurred less likely, by a factor of their logits.

    Equivalent to::

        penalised = jnp.where(logits > 0, logits / penalty, logits * penalty)
        jnp.where(seen, penalised, logits)

    Args:
      logits: [..., V] float.
      seen: [..., V] bool, the tokens that occur in the sequence so far.
      penalty: > 0, one number or one per sequence [...]; 1 changes nothing, < 1 makes them likelier. Not
        checked if it is traced.

    Returns:
      [..., V] in the logits' dtype. -inf stays.

    Raises:
      ValueError: the logits are not float [..., V], ``seen`` is not bool of their shape, or the penalty is
        not > 0, not finite, or of another shape.

    Keskar et al. 2019, "CTRL: A Conditional Transformer Language Model for Controllable Generation", section
    4.1. The paper divides every logit, which makes tokens with negative logits likelier; this function
    multiplies those.
    """
    logits, seen = (
        as_array("repetition_penalty", "logits", logits),
        as_array("repetition_penalty", "seen", seen),
    )
    _check_logits("repetition_penalty", logits, seen=(seen, "... V", "bool"))
    penalty = _per_sequence("repetition_penalty", "penalty", penalty, logits, POSITIVE)
    wide = logits.astype(penalty.dtype)
    penalised = jnp.where(wide > 0, wide / penalty, wide * penalty)
    return jnp.where(seen, penalised.astype(logits.dtype), logits)


def frequency_penalty(logits: Array, counts: Array, penalty: float | Array) -> Array:
    """Frequency penalty: lowers the logit of a token for each of its occurrences.

    Equivalent to::

        logits - penalty * counts

    Args:
      logits: [..., V] float.
      counts: [..., V] int, the occurrences of each token in the sequence so far.
      penalty: finite, one number or one per sequence [...]; < 0 makes them likelier. Not checked if it is
        traced.

    Returns:
      [..., V] in the logits' dtype. -inf stays.

    Raises:
      ValueError: the logits are not float [..., V], ``counts`` is not int of their shape, or the penalty is
        not finite or of another shape.
    """
    logits, counts = (
        as_array("frequency_penalty", "logits", logits),
        as_array("frequency_penalty", "counts", counts),
    )
    _check_logits("frequency_penalty", logits, counts=(counts, "... V", "int"))
    penalty = _per_sequence("frequency_penalty", "penalty", penalty, logits, FINITE)
    return (logits.astype(penalty.dtype) - penalty * counts.astype(penalty.dtype)).astype(logits.dtype)


def no_repeat_ngram(logits: Array, tokens: Array, length: int | Array, n: int) -> Array:
    """N-gram blocking: masks every token that would repeat an n-gram of the sequence.

    Equivalent to::

        sequence = tokens[:length]                                   # for each sequence
        for i in range(length - n + 1):
            ngram = sequence[i : i + n]
            if (ngram >= 0).all() and (ngram[:-1] == sequence[length - n + 1 :]).all():
                logits[ngram[-1]] = -jnp.inf

    Args:
      logits: [..., V] float.
      tokens: [..., M] int; a negative entry is padding, which matches nothing.
      length: the number of entries so far, padding included, from 0 to M, the same for all sequences; int or
        int scalar. Not checked if it is traced.
      n: at least 1, a Python number. 1 masks every token that occurs.

    Returns:
      [..., V] in the logits' dtype. Fewer than n entries mask nothing; a token id of V or more is compared
      like any other. All tokens may end up masked.

    Raises:
      ValueError: the logits are not float [..., V], the tokens not int [..., M] with the same leading dims,
        n is below 1, or the length is not one integer in 0 .. M.

    Paulus et al. 2018, "A Deep Reinforced Model for Abstractive Summarization", section 2.5 (n = 3).
    """
    logits, tokens = (
        as_array("no_repeat_ngram", "logits", logits),
        as_array("no_repeat_ngram", "tokens", tokens),
    )
    _check_logits("no_repeat_ngram", logits, tokens=(tokens, "... M", "int"))
    check_number("no_repeat_ngram", "n", n, SIZE)
    M = tokens.shape[-1]
    if is_symbolic(length):
        length = jnp.asarray(length, jnp.int32)
    scalar = jnp.ndim(length) == 0 and jnp.issubdtype(jnp.result_type(length), jnp.integer)
    static = not isinstance(length, jax.core.Tracer)
    if not scalar or (static and (length < 0 or definitely(lambda: length > M))):
        raise ValueError(f"no_repeat_ngram: got length={length}; wanted one integer from 0 to M = {M}.")
    if definitely(lambda: n > M):
        return logits
    tokens = tokens.astype(jnp.int32)
    if not definitely(lambda: n <= M):  # a symbolic M may be below n: pads to the length of one n-gram
        pad = jnp.full((*tokens.shape[:-1], n), -1, jnp.int32)
        tokens, M = jnp.concatenate([tokens, pad], axis=-1), M + n
    n_windows = M - n + 1
    start = jnp.asarray(length, jnp.int32) - (n - 1)
    # With fewer than n - 1 entries this reads other entries, and the next line drops every window.
    last = jax.lax.dynamic_slice_in_dim(tokens, start, n - 1, axis=-1)
    matches = jnp.broadcast_to(
        jnp.arange(n_windows, dtype=jnp.int32) < start, (*tokens.shape[:-1], n_windows)
    )
    for i in range(n - 1):
        entry = tokens[..., i : i + n_windows]
        matches &= (entry == last[..., i : i + 1]) & (entry >= 0)
    next_tokens = jnp.where(matches, tokens[..., n - 1 :], -1)
    return mask_tokens(logits, token_counts(next_tokens, logits.shape[-1]) > 0)


def token_counts(tokens: Array, V: int) -> Array:
    """The number of occurrences of each token of the vocabulary in a sequence.

    Equivalent to::

        (tokens[..., None] == jnp.arange(V)).sum(-2)

    Args:
      tokens: [..., M] int.
      V: the size of the vocabulary, at least 1, a Python number.

    Returns:
      int32 [..., V]. Entries outside 0 .. V - 1, such as -1 for padding, are not counted; an empty sequence
      gives zeros.

    Raises:
      ValueError: the tokens are not int [..., M], or V is below 1.
    """
    check_number("token_counts", "V", V, SIZE)
    tokens = as_array("token_counts", "tokens", tokens)
    check_shapes("token_counts", tokens=(tokens, "... M", "int"))
    tokens = tokens.astype(jnp.int32)
    # A negative index counts from the end.
    tokens = jnp.where((tokens >= 0) & (tokens < V), tokens, V)

    def count(sequence: Array) -> Array:
        return jnp.zeros(V, jnp.int32).at[sequence].add(1, mode="drop")

    return jnp.vectorize(count, signature="(m)->(v)")(tokens)


def mask_tokens(logits: Array, masked: Array) -> Array:
    """Sets the logits of masked tokens (bool, of the same shape) to -inf; NaN stays NaN."""
    return jnp.where(masked & ~jnp.isnan(logits), -jnp.inf, logits)


def _order(x: Array) -> Array:
    """Integers with the order of the floats."""
    bits = jax.lax.bitcast_convert_type(x + 0, jnp.dtype(f"int{8 * x.dtype.itemsize}"))  # + 0: -0 is 0
    return jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)


def _per_sequence(function: str, name: str, value: float | Array, logits: Array, wanted: Range) -> Array:
    """A parameter in the dtype of the computation, in a shape that broadcasts to the logits."""
    dtype = np.promote_types(logits.dtype, np.float32)
    check_each(function, name, value, wanted)
    value = jnp.asarray(value, dtype)
    if not value.ndim:
        return value
    fix = "Pass one number, or one per sequence."
    check_shapes(function, {"logits": (logits, "... V"), name: (value, "...")}, fix=fix)
    return value[..., None]


def _check_logits(function: str, logits: Array, **others: Declared) -> None:
    check_shapes(function, others, logits=(logits, "... V", "float"))
    if logits.shape[-1] < 1:
        raise ValueError(
            f"{function}: got logits {logits.dtype}{list(logits.shape)}; wanted [..., V], V at least 1."
        )
