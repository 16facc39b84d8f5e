"""From logits to those that are sampled from: a closed token is -inf, a nan stays where it is."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import as_array
from tfm_jax.ops.tracing import definitely
from tfm_jax.ranges import FINITE, POSITIVE, SHARE, SIZE, Range, check_each, check_number
from tfm_jax.types import Array

__all__ = [
    "check_array",
    "check_logits",
    "close",
    "frequency_penalty",
    "min_p",
    "no_repeat_ngram",
    "per_row",
    "repetition_penalty",
    "temperature",
    "token_counts",
    "top_k",
    "top_p",
]


def temperature(logits: Array, t: float | Array) -> Array:
    """Divides the logits by a temperature: below 1 the likely tokens become likelier, above 1 less so.

    Equivalent to::

        logits / t

    Args:
      logits: [..., V] float.
      t: above 0, one number or one a row [...]; it may be traced, and is then not checked.

    Returns:
      [..., V] in the logits' dtype. -inf stays; a quotient too large for the dtype is inf, so for the
      likeliest token take the argmax, not a t near 0.

    Raises:
      ValueError: the logits are not float [..., V], or t is not above 0, not finite, or of another shape.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.3.
    """
    logits = check_logits("temperature", logits)
    t = per_row("temperature", "t", t, logits, POSITIVE)
    return (logits.astype(t.dtype) / t).astype(logits.dtype)


def top_k(logits: Array, k: int) -> Array:
    """Keeps the k largest logits of a row.

    Equivalent to::

        jnp.where(logits >= jnp.sort(logits)[..., -k, None], logits, -jnp.inf)

    Args:
      logits: [..., V] float.
      k: from 1 to V, a Python number.

    Returns:
      [..., V] in the logits' dtype, what is kept unchanged. Tokens equal to the k-th largest are all kept.

    Raises:
      ValueError: the logits are not float [..., V], or k is outside 1 .. V.

    Fan et al. 2018, "Hierarchical Neural Story Generation"; Holtzman et al. 2020, section 3.2.
    """
    logits = check_logits("top_k", logits)
    check_number("top_k", "k", k, SIZE)
    if k > logits.shape[-1]:
        raise ValueError(f"top_k: got k={k}; wanted at most V = {logits.shape[-1]}, the vocabulary's size.")
    return close(logits, logits < jax.lax.top_k(logits, k)[0][..., -1:])


def top_p(logits: Array, p: float | Array) -> Array:
    """Keeps the fewest most likely tokens of a row whose probability together is at least p.

    Equivalent to::

        ordered = jnp.sort(logits)[..., ::-1]
        probability = jax.nn.softmax(ordered)
        before = jnp.cumsum(probability, -1) - probability          # of what is likelier
        border = jnp.where(before < p, ordered, jnp.inf).min(-1, keepdims=True)
        jnp.where(logits >= border, logits, -jnp.inf)

    Args:
      logits: [..., V] float.
      p: in (0, 1], one number or one a row [...]; it may be traced, and is then not checked.

    Returns:
      [..., V] in the logits' dtype, what is kept unchanged. Tokens equal to the least likely one kept are
      all kept; at least one token is kept; p = 1 keeps every token, however unlikely. A row with a nan, or
      of nothing but -inf, is returned as it is.

    Raises:
      ValueError: the logits are not float [..., V], or p is outside (0, 1] or of another shape.

    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1, equation 2.
    """
    logits = check_logits("top_p", logits)
    p = per_row("top_p", "p", p, logits, SHARE)
    wide = logits.astype(p.dtype)
    top = wide.max(-1, keepdims=True)
    mass = jnp.exp(wide - jnp.where(top == -jnp.inf, 0, top))
    spare = (1 - p) * mass.sum(-1, keepdims=True)
    order = _order(wide)
    # Between the lowest and the highest logit, halved again and again, the border below which the mass can be
    # spared: many times faster than to sort a vocabulary.
    low, high = order.min(-1, keepdims=True), order.max(-1, keepdims=True)

    def halve(_, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low | high) - ((low ^ high) >> 1)  # rounded up, and never too large for the integer
        spared = jnp.where(order < middle, mass, 0).sum(-1, keepdims=True) <= spare
        return jnp.where(spared, middle, low), jnp.where(spared, high, middle - 1)

    border, _ = jax.lax.fori_loop(0, 8 * order.dtype.itemsize, halve, (low, high))
    # A mass may be rounded to 0, and would then be spared by p = 1.
    return close(logits, (order < border) & (p < 1))


def _order(x: Array) -> Array:
    """Integers in the order of floats."""
    bits = jax.lax.bitcast_convert_type(x + 0, jnp.dtype(f"int{8 * x.dtype.itemsize}"))  # + 0: -0 is 0
    return jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)


def min_p(logits: Array, p: float | Array) -> Array:
    """Keeps the tokens of a row that are at least p times as likely as its likeliest.

    Equivalent to::

        probability = jax.nn.softmax(logits)
        jnp.where(probability >= p * probability.max(-1, keepdims=True), logits, -jnp.inf)

    Args:
      logits: [..., V] float.
      p: in (0, 1], one number or one a row [...]; it may be traced, and is then not checked.

    Returns:
      [..., V] in the logits' dtype, what is kept unchanged. The likeliest tokens are always kept. A row with
      a nan, or of nothing but -inf, is returned as it is.

    Raises:
      ValueError: the logits are not float [..., V], or p is outside (0, 1] or of another shape.

    Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs", sec. 3.
    """
    logits = check_logits("min_p", logits)
    p = per_row("min_p", "p", p, logits, SHARE)
    wide = logits.astype(p.dtype)
    return close(logits, wide < wide.max(-1, keepdims=True) + jnp.log(p))


def repetition_penalty(logits: Array, seen: Array, penalty: float | Array) -> Array:
    """Makes the tokens seen less likely, by a factor of their logits.

    Equivalent to::

        penalised = jnp.where(logits > 0, logits / penalty, logits * penalty)
        jnp.where(seen, penalised, logits)

    Args:
      logits: [..., V] float.
      seen: [..., V] bool, the tokens that the row has already.
      penalty: above 0, one number or one a row [...]; 1 changes nothing, below 1 makes them likelier. It may
        be traced, and is then not checked.

    Returns:
      [..., V] in the logits' dtype. -inf stays.

    Raises:
      ValueError: the logits are not float [..., V], ``seen`` is not bool of their shape, or the penalty is
        not above 0, not finite, or of another shape.

    Keskar et al. 2019, "CTRL: A Conditional Transformer Language Model for Controllable Generation", section
    4.1. There every logit is divided; a negative one would become likelier by that, so it is multiplied.
    """
    logits = check_logits("repetition_penalty", logits)
    seen = check_array("repetition_penalty", "seen", seen, logits.shape, jnp.bool_)
    penalty = per_row("repetition_penalty", "penalty", penalty, logits, POSITIVE)
    wide = logits.astype(penalty.dtype)
    penalised = jnp.where(wide > 0, wide / penalty, wide * penalty)
    return jnp.where(seen, penalised.astype(logits.dtype), logits)


def frequency_penalty(logits: Array, counts: Array, penalty: float | Array) -> Array:
    """Makes a token the less likely the more often it was seen.

    Equivalent to::

        logits - penalty * counts

    Args:
      logits: [..., V] float.
      counts: [..., V] int, how often the row has each token already.
      penalty: any finite number or one a row [...]; below 0 makes them likelier. It may be traced, and is
        then not checked.

    Returns:
      [..., V] in the logits' dtype. -inf stays.

    Raises:
      ValueError: the logits are not float [..., V], ``counts`` is not int of their shape, or the penalty is
        not finite or of another shape.
    """
    logits = check_logits("frequency_penalty", logits)
    counts = check_array("frequency_penalty", "counts", counts, logits.shape, jnp.integer)
    penalty = per_row("frequency_penalty", "penalty", penalty, logits, FINITE)
    return (logits.astype(penalty.dtype) - penalty * counts.astype(penalty.dtype)).astype(logits.dtype)


def no_repeat_ngram(logits: Array, tokens: Array, length: int | Array, n: int) -> Array:
    """Closes every token that would complete n tokens in a row which are there already.

    Equivalent to::

        row = tokens[:length]                                        # of each row
        for i in range(length - n + 1):
            gram = row[i : i + n]
            if (gram >= 0).all() and (gram[:-1] == row[length - n + 1 :]).all():
                logits[gram[-1]] = -jnp.inf

    Args:
      logits: [..., V] float.
      tokens: [..., M] int; a negative entry is a hole (padding), which equals nothing.
      length: how many entries there are so far, holes counted, from 0 to M, of every row; int or int scalar,
        which may be traced, and is then not checked.
      n: at least 1, a Python number. 1 closes every token that is there.

    Returns:
      [..., V] in the logits' dtype. Fewer than n entries close nothing; a token above the vocabulary is
      compared like any other. All may come out closed.

    Raises:
      ValueError: the logits are not float [..., V], the tokens not int [..., M] of as many rows, n is below
        1, or the length is not one integer in 0 .. M.

    Paulus et al. 2018, "A Deep Reinforced Model for Abstractive Summarization", section 2.5 (n = 3).
    """
    logits = check_logits("no_repeat_ngram", logits)
    tokens = check_array("no_repeat_ngram", "tokens", tokens, (*logits.shape[:-1], None), jnp.integer)
    check_number("no_repeat_ngram", "n", n, SIZE)
    M = tokens.shape[-1]
    if jax.export.is_symbolic_dim(length):
        length = jnp.asarray(length, jnp.int32)
    scalar = jnp.ndim(length) == 0 and jnp.issubdtype(jnp.result_type(length), jnp.integer)
    known = not isinstance(length, jax.core.Tracer)
    if not scalar or (known and (length < 0 or definitely(lambda: length > M))):
        raise ValueError(f"no_repeat_ngram: got length={length}; wanted one integer from 0 to M = {M}.")
    if definitely(lambda: n > M):
        return logits
    tokens = tokens.astype(jnp.int32)
    if not definitely(lambda: n <= M):  # a symbol that may be less: holes make room for one n-gram
        holes = jnp.full((*tokens.shape[:-1], n), -1, jnp.int32)
        tokens, M = jnp.concatenate([tokens, holes], axis=-1), M + n
    starts = M - n + 1
    begin = jnp.asarray(length, jnp.int32) - (n - 1)
    # Where there are fewer than n - 1 entries this reads others, and the next line lets no window stand.
    last = jax.lax.dynamic_slice_in_dim(tokens, begin, n - 1, axis=-1)
    same = jnp.broadcast_to(jnp.arange(starts, dtype=jnp.int32) < begin, (*tokens.shape[:-1], starts))
    for i in range(n - 1):
        entry = tokens[..., i : i + starts]
        same &= (entry == last[..., i : i + 1]) & (entry >= 0)
    return close(logits, token_counts(jnp.where(same, tokens[..., n - 1 :], -1), logits.shape[-1]) > 0)


def token_counts(tokens: Array, V: int) -> Array:
    """How often each token of the vocabulary occurs in a row.

    Equivalent to::

        (tokens[..., None] == jnp.arange(V)).sum(-2)

    Args:
      tokens: [..., M] int.
      V: the size of the vocabulary, at least 1, a Python number.

    Returns:
      int32 [..., V]. What is outside 0 .. V - 1, such as the -1 of a hole, counts for nothing; a row of
      nothing gives zeros.

    Raises:
      ValueError: the tokens are not int [..., M], or V is below 1.
    """
    check_number("token_counts", "V", V, SIZE)
    tokens = as_array("token_counts", "tokens", tokens)
    tokens = check_array("token_counts", "tokens", tokens, (*tokens.shape[:-1], None), jnp.integer)
    tokens = tokens.astype(jnp.int32)
    # A negative index would count from the end.
    tokens = jnp.where((tokens >= 0) & (tokens < V), tokens, V)
    count = lambda row: jnp.zeros(V, jnp.int32).at[row].add(1, mode="drop")
    return jnp.vectorize(count, signature="(m)->(v)")(tokens)


def close(logits: Array, closed: Array) -> Array:
    """Sets the logits of closed tokens (bool, of their shape) to -inf; leaves a nan in sight."""
    return jnp.where(closed & ~jnp.isnan(logits), -jnp.inf, logits)


def per_row(where: str, name: str, value: float | Array, logits: Array, wanted: Range) -> Array:
    """A parameter in the dtype that is computed in, in a shape that broadcasts against the logits."""
    dtype = np.promote_types(logits.dtype, np.float32)
    check_each(where, name, value, wanted)
    value = jnp.asarray(value, dtype)
    if value.ndim and value.shape != logits.shape[:-1]:
        raise ValueError(
            f"{where}: got {name} of shape {value.shape} with logits of shape {logits.shape}; wanted one "
            f"number, or one a row: {logits.shape[:-1]}."
        )
    return value[..., None] if value.ndim else value


def check_logits(where: str, logits: Array) -> Array:
    logits = as_array(where, "logits", logits)
    if logits.ndim < 1 or logits.shape[-1] < 1 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"{where}: got logits of shape {logits.shape} and dtype {logits.dtype}; wanted [..., V] of "
            "a floating dtype, V at least 1."
        )
    return logits


def check_array(where: str, name: str, array: Array, shape: tuple[int | None, ...], dtype: type) -> Array:
    array = as_array(where, name, array)
    fits = array.ndim == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    if not fits or not jnp.issubdtype(array.dtype, dtype):
        sizes = ", ".join("M" if size is None else str(size) for size in shape)
        kind = "bool" if dtype is jnp.bool_ else "int"
        raise ValueError(
            f"{where}: got {name} of shape {array.shape} and dtype {array.dtype}; wanted {kind} [{sizes}]."
        )
    return array
