"""The laws of attention with a dense mask, ``attend(q, k, v, mask) -> out``.

The laws see the output only. Where a law needs the attention weights, it calls the function with identity
values.
"""

import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import TOLERANCE, Law, Suite, Violation, assert_close, law, show
from tfm_jax.laws.suites.cases.attention import (
    AttentionCase,
    AttentionSubject,
    attention_weights,
    cases,
    causal,
    diagonal_unmasked,
    first_query_masked,
    gradients_of,
    has_unmasked_key,
    no_fully_masked_row,
    some_key_masked,
    square,
    weighted_sum,
)

__all__ = ["attention"]

NONFINITE = {"NaN": np.nan, "Inf": np.inf, "-Inf": -np.inf}


def _with_key(x: AttentionCase, at: int, value: float) -> tuple[np.ndarray, np.ndarray]:
    """The keys and the values, with ``value`` in those at position ``at``."""
    k, v = x.k.copy(), x.v.copy()
    k[:, at], v[:, at] = value, value
    return k, v


@law(cases())
def definition(attend: AttentionSubject, x: AttentionCase) -> None:
    """The output is softmax(q k^T / sqrt(H)) v over the unmasked keys."""
    wanted = weighted_sum(attention_weights(x.q, x.k, x.mask), x.v)
    some = has_unmasked_key(x)  # fully masked rows have a law of their own
    got = attend(x.q, x.k, x.v, x.mask)
    assert_close(np.where(some, got, 0), np.where(some, wanted, 0), atol=TOLERANCE)


@law(cases(masked=False))
def no_mask(attend: AttentionSubject, x: AttentionCase) -> None:
    """Without a mask every query may attend to every key."""
    wanted = weighted_sum(attention_weights(x.q, x.k, x.mask), x.v)
    assert_close(attend(x.q, x.k, x.v), wanted, atol=TOLERANCE)


@law(cases())
def weights_sum_to_one(attend: AttentionSubject, x: AttentionCase) -> None:
    """The attention weights of a query sum to 1, unless all its keys are masked."""
    some = x.unmasked.any(-1)
    total = attend.weights(x.q, x.k, x.mask).sum(-1)
    assert_close(np.where(some, total, 1), 1, atol=TOLERANCE, what="sums of weights")


@law(cases().map(first_query_masked), severity="contract")
def fully_masked_rows(attend: AttentionSubject, x: AttentionCase) -> None:
    """A query whose keys are all masked gives output 0."""
    assert_close(attend(x.q, x.k, x.v, x.mask)[:, 0], 0, what="output of query 0")


@law(cases())
def convex_hull(attend: AttentionSubject, x: AttentionCase) -> None:
    """Each element of an output lies between the smallest and the largest of the unmasked values."""
    v = np.moveaxis(np.repeat(x.v, x.q.shape[2] // x.v.shape[2], axis=2), 1, 2)[:, :, None]  # [B, N, 1, S, H]
    unmasked = x.unmasked[..., None]
    low, high = np.where(unmasked, v, np.inf).min(-2), np.where(unmasked, v, -np.inf).max(-2)
    out = np.moveaxis(attend(x.q, x.k, x.v, x.mask), 1, 2).astype(np.float64)  # [B, N, T, H]
    inside = (out >= low - TOLERANCE) & (out <= high + TOLERANCE)
    outside = np.asarray(x.unmasked.any(-1))[..., None] & ~inside
    if outside.any():
        b, n, t, h = np.argwhere(outside)[0]
        raise Violation(
            f"output[{b}, {t}, {n}, {h}]: got {out[b, n, t, h]:.4f}; wanted a number in "
            f"[{low[b, n, t, h]:.4f}, {high[b, n, t, h]:.4f}]"
        )


@law(cases())
def larger_product_larger_weight(attend: AttentionSubject, x: AttentionCase) -> None:
    """Of two unmasked keys, the one with the larger inner product with the query gets the larger weight."""
    got = attend.weights(x.q, x.k, x.mask)
    k = np.repeat(x.k, x.q.shape[2] // x.k.shape[2], axis=2).astype(np.float64)
    products = np.einsum("btnh,bsnh->bnts", x.q.astype(np.float64), k)
    both = x.unmasked[..., :, None] & x.unmasked[..., None, :]
    larger = both & (products[..., :, None] > products[..., None, :] + 0.05)
    wrong = larger & ~(got[..., :, None] > got[..., None, :])
    if wrong.any():
        b, n, t, i, j = np.argwhere(wrong)[0]
        raise Violation(
            f"weights of query {t}, head {n}: got {got[b, n, t, i]:.4f} for key {i} (product "
            f"{products[b, n, t, i]:.2f}) and {got[b, n, t, j]:.4f} for key {j} ({products[b, n, t, j]:.2f})"
            "; wanted more for the larger product"
        )


@law(cases())
def divided_by_sqrt_h(attend: AttentionSubject, x: AttentionCase) -> None:
    """Logits are divided by sqrt(H), so that their variance does not grow with H."""
    got, wanted = attend.weights(x.q, x.k, x.mask), attention_weights(x.q, x.k, x.mask)
    first = x.unmasked.argmax(-1)[..., None]  # weights determine logits up to a constant
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = [np.log(w) - np.log(np.take_along_axis(w, first, -1)) for w in (got, wanted)]
    masked = (np.where(x.unmasked, logit, 0) for logit in logits)
    assert_close(*masked, atol=1e-3, what="logits minus the first unmasked one")


@law(cases(masked=False))
def weights_mix_values(attend: AttentionSubject, x: AttentionCase) -> None:
    """Keys whose logits are log(0.5), log(0.1), ... mix their values in the proportions 0.5, 0.1, ..."""
    q, k = np.zeros_like(x.q), np.zeros_like(x.k)
    share = x.rng.dirichlet(np.ones(k.shape[1])) * 0.9 + 0.1 / k.shape[1]
    q[..., 0] = np.sqrt(q.shape[-1])
    k[..., 0] = np.log(share)[:, None]
    weights = np.broadcast_to(share, x.unmasked.shape)
    assert_close(attend(q, k, x.v, x.mask), weighted_sum(weights, x.v), atol=TOLERANCE)


@law(cases())
def zero_query_gives_the_mean(attend: AttentionSubject, x: AttentionCase) -> None:
    """A query of zeros gives the mean of the unmasked values."""
    n = x.unmasked.sum(-1, keepdims=True)
    wanted = weighted_sum(x.unmasked / np.maximum(n, 1), x.v)
    got = attend(np.zeros_like(x.q), x.k, x.v, x.mask)
    assert_close(np.where(has_unmasked_key(x), got, 0), wanted, atol=TOLERANCE)


@law(cases(masked=False))
def every_unmasked_key_contributes(attend: AttentionSubject, x: AttentionCase) -> None:
    """Changing any unmasked value changes the output."""
    at = x.some_key
    moved = x.v.copy()
    moved[:, at] += 1
    change = attend(x.q, x.k, moved, x.mask) - attend(x.q, x.k, x.v, x.mask).astype(np.float64)
    if not (change > 1e-6).all():
        raise Violation(
            f"output with 1 added to value {at}: got changes of {show(change)}; wanted more than 0"
        )


@law(cases())
def permutation_invariant_in_keys(attend: AttentionSubject, x: AttentionCase) -> None:
    """Permuting the keys, with their values and their mask, does not change the output."""
    order = x.rng.permutation(x.k.shape[1])
    got = attend(x.q, x.k[:, order], x.v[:, order], x.mask[..., order])
    assert_close(got, attend(x.q, x.k, x.v, x.mask), atol=TOLERANCE)


@law(cases())
def permutation_equivariant_in_queries(attend: AttentionSubject, x: AttentionCase) -> None:
    """Permuting the queries, with their mask, permutes the outputs."""
    order = x.rng.permutation(x.q.shape[1])
    got = attend(x.q[:, order], x.k, x.v, x.mask[:, :, order])
    assert_close(got, attend(x.q, x.k, x.v, x.mask)[:, order], atol=TOLERANCE)


@law(cases(fits=square).map(causal))
def causality(attend: AttentionSubject, x: AttentionCase) -> None:
    """Under a causal mask, keys and values after a query do not change its output by one bit."""
    at = x.some_query
    k, v = x.k.copy(), x.v.copy()
    k[:, at + 1 :] += 3
    v[:, at + 1 :] -= 5
    before = slice(0, at + 1)
    assert_close(
        attend(x.q, k, v, x.mask)[:, before],
        attend(x.q, x.k, x.v, x.mask)[:, before],
        what=f"outputs up to query {at}, with other keys and values after it",
    )


@law(cases())
def masked_keys_are_ignored(attend: AttentionSubject, x: AttentionCase) -> None:
    """Masked keys and values do not change the output by one bit."""
    at = x.some_key
    k, v = x.k.copy(), x.v.copy()
    k[:, at] *= -2
    v[:, at] += 7
    masked = np.moveaxis(~x.unmasked[..., at] & x.unmasked.any(-1), 1, 2)[..., None]
    got, wanted = attend(x.q, k, v, x.mask), attend(x.q, x.k, x.v, x.mask)
    assert_close(
        np.where(masked, got, 0),
        np.where(masked, wanted, 0),
        what=f"output of queries for which key {at} is masked, with another key and value there",
    )


@law(cases(), severity="contract")
def masked_values_do_not_leak(attend: AttentionSubject, x: AttentionCase) -> None:
    """NaN or Inf in masked keys and values never reaches the output."""
    at = x.some_key
    masked = np.moveaxis(~x.unmasked[..., at] & x.unmasked.any(-1), 1, 2)[..., None]
    wanted = attend(x.q, x.k, x.v, x.mask)
    for name, value in NONFINITE.items():
        k, v = _with_key(x, at, value)
        what = f"output of queries for which key {at} is masked, with {name} there"
        assert_close(np.where(masked, attend(x.q, k, v, x.mask), 0), np.where(masked, wanted, 0), what=what)


@law(cases(fits=lambda shape: shape.S > 1).map(some_key_masked), severity="contract")
def masked_values_do_not_reach_gradients(attend: AttentionSubject, x: AttentionCase) -> None:
    """NaN or Inf in a key and a value that are masked for every query never reaches a gradient."""
    at, cotangent = x.some_key, x.rng.standard_normal(x.q.shape).astype(np.float32)
    wanted = gradients_of(x, cotangent)
    for name, value in NONFINITE.items():
        k, v = _with_key(x, at, value)
        got = attend.run(lambda k=k, v=v: attend.gradient(x.q, k, v, x.mask, cotangent))
        for argument, ours, right in zip("qkv", got, wanted, strict=True):
            what = f"gradient by {argument}, with {name} at masked key {at}"
            assert_close(ours, right, atol=5 * TOLERANCE, what=what)


@law(cases().map(no_fully_masked_row))
def masked_values_have_no_gradient(attend: AttentionSubject, x: AttentionCase) -> None:
    """The gradient of an output with respect to a masked key or value is exactly 0."""
    t = x.some_query
    cotangent = np.zeros_like(x.q)
    cotangent[:, t] = x.rng.standard_normal(x.q.shape[-1])
    gradients = attend.run(lambda: attend.gradient(x.q, x.k, x.v, x.mask, cotangent))[1:]
    masked = ~x.mask[:, 0, t, :, None, None]
    for name, gradient in zip("kv", gradients, strict=True):
        what = f"gradient of output {t} by {name}, at masked keys"
        assert_close(np.where(masked, gradient, 0), 0, what=what)


@law(cases())
def gradients(attend: AttentionSubject, x: AttentionCase) -> None:
    """The gradients by q, k and v are those of the definition, and 0 from a fully masked row."""
    _check_gradients(attend, no_fully_masked_row(x), None)
    if not x.mask.any(-1).all():  # whose gradient is a contract, as its output is
        _check_gradients(attend, x, "contract")


def _check_gradients(attend: AttentionSubject, x: AttentionCase, severity: str | None) -> None:
    cotangent = x.rng.standard_normal(x.q.shape).astype(np.float32)
    got = attend.run(lambda: attend.gradient(x.q, x.k, x.v, x.mask, cotangent))
    for name, ours, right in zip("qkv", got, gradients_of(x, cotangent), strict=True):
        try:
            assert_close(ours, right, atol=5 * TOLERANCE, what=f"gradient by {name}")
        except Violation as violation:
            raise Violation(str(violation), case=x, severity=severity) from None


@law(cases())
def padding(attend: AttentionSubject, x: AttentionCase) -> None:
    """Appending keys that are masked for every query changes nothing."""
    (B, _, K, H), extra = x.k.shape, 2
    more = x.rng.standard_normal((2, B, extra, K, H)).astype(np.float32)
    k, v = np.concatenate([x.k, more[0]], 1), np.concatenate([x.v, more[1]], 1)
    mask = np.pad(x.mask, ((0, 0), (0, 0), (0, 0), (0, extra)))
    some = has_unmasked_key(x)
    got, wanted = attend(x.q, k, v, mask), attend(x.q, x.k, x.v, x.mask)
    assert_close(np.where(some, got, 0), np.where(some, wanted, 0), atol=TOLERANCE)


@law(cases(fits=square).map(diagonal_unmasked))
def packed_sequences_are_independent(attend: AttentionSubject, x: AttentionCase) -> None:
    """Two packed sequences, masked from each other, give the outputs that each gives alone."""
    T = x.q.shape[1]
    cut = T - T // 2
    first = np.arange(T) < cut
    packed = attend(x.q, x.k, x.v, x.mask & (first[:, None] == first[None]))
    for part in (slice(0, cut), slice(cut, T)):
        if part.start < T:
            alone = attend(x.q[:, part], x.k[:, part], x.v[:, part], x.mask[:, :, part, part])
            what = f"outputs {part.start} to {part.stop - 1}"
            assert_close(packed[:, part], alone, atol=TOLERANCE, what=what)


@law(cases().map(no_fully_masked_row))
def heads_are_independent(attend: AttentionSubject, x: AttentionCase) -> None:
    """The output is that of each head alone, concatenated."""
    G = x.q.shape[2] // x.k.shape[2]
    alone = [
        attend(
            x.q[:, :, n : n + 1],
            x.k[:, :, n // G : n // G + 1],
            x.v[:, :, n // G : n // G + 1],
            x.mask,
        )
        for n in range(x.q.shape[2])
    ]
    assert_close(attend(x.q, x.k, x.v, x.mask), np.concatenate(alone, 2), atol=TOLERANCE)


@law(cases().map(no_fully_masked_row))
def grouped_query_heads(attend: AttentionSubject, x: AttentionCase) -> None:
    """K key/value heads serve N query heads as if each were repeated N / K times consecutively."""
    G = x.q.shape[2] // x.k.shape[2]
    repeated = attend(x.q, np.repeat(x.k, G, 2), np.repeat(x.v, G, 2), x.mask)
    assert_close(attend(x.q, x.k, x.v, x.mask), repeated, atol=TOLERANCE)


@law(cases().map(no_fully_masked_row))
def examples_are_independent(attend: AttentionSubject, x: AttentionCase) -> None:
    """An example gives the same output in a batch as alone."""
    alone = [attend(*(y[b : b + 1] for y in (x.q, x.k, x.v, x.mask))) for b in range(len(x.q))]
    assert_close(attend(x.q, x.k, x.v, x.mask), np.concatenate(alone), atol=TOLERANCE)


@law(cases().map(no_fully_masked_row))
def shift_invariance(attend: AttentionSubject, x: AttentionCase) -> None:
    """Adding one vector to all keys changes nothing: softmax depends on differences of logits only."""
    shift = x.rng.standard_normal(x.k.shape[-1]).astype(np.float32)
    got, wanted = attend(x.q, x.k + shift, x.v, x.mask), attend(x.q, x.k, x.v, x.mask)
    assert_close(got, wanted, atol=5 * TOLERANCE)


@law(cases().map(no_fully_masked_row))
def linear_in_values(attend: AttentionSubject, x: AttentionCase) -> None:
    """The output for a sum of values is the sum of the outputs."""
    other = x.rng.standard_normal(x.v.shape).astype(np.float32)
    wanted = attend(x.q, x.k, x.v, x.mask).astype(np.float64) + attend(x.q, x.k, other, x.mask)
    assert_close(attend(x.q, x.k, x.v + other, x.mask), wanted, atol=5 * TOLERANCE)


@law(cases().map(no_fully_masked_row))
def large_logits(attend: AttentionSubject, x: AttentionCase) -> None:
    """Logits of tens of thousands do not overflow: the largest gets all the weight."""
    q = x.q * np.float32(1e4)
    got, wanted = attend.weights(q, x.k, x.mask), attention_weights(q, x.k, x.mask)
    got = np.where(x.unmasked.any(-1, keepdims=True), got, 0)
    # The tolerance is for near ties, which the rounding of the logits decides.
    assert_close(got, wanted, atol=0.05, what="weights with q * 10,000")


@law(cases().map(no_fully_masked_row), severity="contract")
def dtype_is_preserved(attend: AttentionSubject, x: AttentionCase) -> None:
    """bfloat16 inputs give a bfloat16 output, close to the float32 output."""
    q, k, v = half = [y.astype(jnp.bfloat16) for y in (x.q, x.k, x.v)]
    out = attend(q, k, v, x.mask)
    if out.dtype != jnp.bfloat16:
        raise Violation(f"dtype: got {out.dtype}; wanted bfloat16")
    q, k, v = (y.astype(np.float32) for y in half)
    wanted = weighted_sum(attention_weights(q, k, x.mask), v)
    assert_close(out, wanted, atol=2**-6, what="output in bfloat16")


@law(cases().map(no_fully_masked_row))
def compiled_matches_eager(attend: AttentionSubject, x: AttentionCase) -> None:
    """Under jit, and under vmap over the batch, the output is that of the plain call."""
    plain = attend(x.q, x.k, x.v, x.mask)
    for name, call in {"jit": attend.compiled, "vmap": attend.per_example}.items():
        got = attend.run(lambda call=call: np.asarray(call(x.q, x.k, x.v, x.mask)))
        assert_close(got, plain, atol=TOLERANCE, what=f"output under {name}")


attention = Suite(
    "attention",
    "attend(q [B, T, N, H], k [B, S, K, H], v [B, S, K, H], mask bool [B, 1, T, S] or None) -> [B, T, N, H]",
    AttentionSubject,
    tuple(found for found in list(globals().values()) if isinstance(found, Law)),
)
