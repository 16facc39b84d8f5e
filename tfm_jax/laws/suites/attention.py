"""The laws of attention: of any ``attend(q, k, v, mask) -> out``.

Each law asks the function as its users would, and reads its weights, where it needs them, by values that are
the identity: nothing but the output is looked at.
"""

import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.law import TOLERANCE, Law, Suite, Violation, law, same, show
from tfm_jax.laws.suites.cases.attention import (
    AttentionCase,
    AttentionSubject,
    cases,
    causal,
    first_query_closed,
    mix,
    never_empty,
    self_seeing,
    slopes_of,
    square,
    weights_of,
)

__all__ = ["attention"]


@law(cases())
def definition(attend: AttentionSubject, x: AttentionCase) -> None:
    """The output is softmax(q k^T / sqrt(H)) v over the open keys."""
    wanted = mix(weights_of(x.q, x.k, x.mask), x.v)
    some = np.moveaxis(x.open.any(-1), 1, 2)[..., None]  # an empty row is another law's
    got = attend(x.q, x.k, x.v, x.mask)
    same(np.where(some, got, 0), np.where(some, wanted, 0), atol=TOLERANCE)


@law(cases(masked=False))
def no_mask(attend: AttentionSubject, x: AttentionCase) -> None:
    """Without a mask every query may attend to every key."""
    same(attend(x.q, x.k, x.v), mix(weights_of(x.q, x.k, x.mask), x.v), atol=TOLERANCE)


@law(cases())
def weights_sum_to_one(attend: AttentionSubject, x: AttentionCase) -> None:
    """The weights of a row sum to 1, in a row where something is open."""
    some = x.open.any(-1)
    total = attend.weights(x.q, x.k, x.mask).sum(-1)
    same(np.where(some, total, 1), 1, atol=TOLERANCE, what="sums of weights")


@law(cases().map(first_query_closed))
def empty_rows(attend: AttentionSubject, x: AttentionCase) -> None:
    """A query that may attend to nothing gives 0."""
    same(attend(x.q, x.k, x.v, x.mask)[:, 0], 0, what="output of query 0")


@law(cases())
def convex_hull(attend: AttentionSubject, x: AttentionCase) -> None:
    """An output lies between the smallest and the largest of the values that its query may attend to."""
    v = np.moveaxis(np.repeat(x.v, x.q.shape[2] // x.v.shape[2], axis=2), 1, 2)[:, :, None]  # [B, N, 1, S, H]
    allowed = x.open[..., None]
    low, high = np.where(allowed, v, np.inf).min(-2), np.where(allowed, v, -np.inf).max(-2)
    out = np.moveaxis(attend(x.q, x.k, x.v, x.mask), 1, 2).astype(np.float64)  # [B, N, T, H]
    outside = x.open.any(-1)[..., None] & ~((out >= low - TOLERANCE) & (out <= high + TOLERANCE))
    if outside.any():
        b, n, t, h = np.argwhere(outside)[0]
        raise Violation(
            f"output[{b}, {t}, {n}, {h}]: got {out[b, n, t, h]:.4f}, wanted one within "
            f"[{low[b, n, t, h]:.4f}, {high[b, n, t, h]:.4f}]"
        )


@law(cases())
def larger_product_larger_weight(attend: AttentionSubject, x: AttentionCase) -> None:
    """Of two open keys, the one with the larger inner product with the query gets the larger weight."""
    got = attend.weights(x.q, x.k, x.mask)
    k = np.repeat(x.k, x.q.shape[2] // x.k.shape[2], axis=2).astype(np.float64)
    products = np.einsum("btnh,bsnh->bnts", x.q.astype(np.float64), k)
    both = x.open[..., :, None] & x.open[..., None, :]
    larger = both & (products[..., :, None] > products[..., None, :] + 0.05)
    wrong = larger & ~(got[..., :, None] > got[..., None, :])
    if wrong.any():
        b, n, t, i, j = np.argwhere(wrong)[0]
        raise Violation(
            f"weights of query {t}, head {n}: got {got[b, n, t, i]:.4f} for key {i} (product "
            f"{products[b, n, t, i]:.2f}) and {got[b, n, t, j]:.4f} for key {j} ({products[b, n, t, j]:.2f})"
        )


@law(cases())
def divided_by_sqrt_h(attend: AttentionSubject, x: AttentionCase) -> None:
    """Logits are divided by sqrt(H), so that their variance does not grow with H."""
    got, wanted = attend.weights(x.q, x.k, x.mask), weights_of(x.q, x.k, x.mask)
    first = x.open.argmax(-1)[..., None]  # only differences of logits can be seen
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = [np.log(w) - np.log(np.take_along_axis(w, first, -1)) for w in (got, wanted)]
    same(*(np.where(x.open, logit, 0) for logit in logits), atol=1e-3, what="logits less the first one")


@law(cases(masked=False))
def shares(attend: AttentionSubject, x: AttentionCase) -> None:
    """Weights of 50, 10, 30 and 10 % mix the values in these shares."""
    q, k = np.zeros_like(x.q), np.zeros_like(x.k)
    share = x.rng.dirichlet(np.ones(k.shape[1])) * 0.9 + 0.1 / k.shape[1]
    q[..., 0] = np.sqrt(q.shape[-1])
    k[..., 0] = np.log(share)[:, None]
    weights = np.broadcast_to(share, x.open.shape)
    same(attend(q, k, x.v, x.mask), mix(weights, x.v), atol=TOLERANCE)


@law(cases())
def no_preference(attend: AttentionSubject, x: AttentionCase) -> None:
    """A query of 0 gets the mean of the values that it may attend to."""
    n = x.open.sum(-1, keepdims=True)
    wanted = mix(x.open / np.maximum(n, 1), x.v)
    some = np.moveaxis(n > 0, 1, 2)
    got = attend(np.zeros_like(x.q), x.k, x.v, x.mask)
    same(np.where(some, got, 0), wanted, atol=TOLERANCE)


@law(cases(masked=False))
def every_open_key_is_read(attend: AttentionSubject, x: AttentionCase) -> None:
    """The same token in another context gets another vector: each open value counts."""
    at = x.some_key
    moved = x.v.copy()
    moved[:, at] += 1
    change = attend(x.q, x.k, moved, x.mask) - attend(x.q, x.k, x.v, x.mask).astype(np.float64)
    if not (change > 1e-6).all():
        raise Violation(
            f"with 1 added to value {at}, the output changed by {show(change)}, wanted more than 0"
        )


@law(cases())
def order_of_keys(attend: AttentionSubject, x: AttentionCase) -> None:
    """Keys in another order, with their values and their mask, give the same output."""
    order = x.rng.permutation(x.k.shape[1])
    got = attend(x.q, x.k[:, order], x.v[:, order], x.mask[..., order])
    same(got, attend(x.q, x.k, x.v, x.mask), atol=TOLERANCE)


@law(cases())
def order_of_queries(attend: AttentionSubject, x: AttentionCase) -> None:
    """Queries in another order give the outputs in that order."""
    order = x.rng.permutation(x.q.shape[1])
    got = attend(x.q[:, order], x.k, x.v, x.mask[:, :, order])
    same(got, attend(x.q, x.k, x.v, x.mask)[:, order], atol=TOLERANCE)


@law(cases(fits=square).map(causal))
def causality(attend: AttentionSubject, x: AttentionCase) -> None:
    """Under the decoder's mask, what comes after a query does not change its output by one bit."""
    at = x.some_query
    k, v = x.k.copy(), x.v.copy()
    k[:, at + 1 :] += 3
    v[:, at + 1 :] -= 5
    before = slice(0, at + 1)
    same(
        attend(x.q, k, v, x.mask)[:, before],
        attend(x.q, x.k, x.v, x.mask)[:, before],
        what=f"outputs up to query {at}, with other keys and values after it",
    )


@law(cases())
def closed_keys_are_not_read(attend: AttentionSubject, x: AttentionCase) -> None:
    """What the mask closes to a query does not change its output by one bit."""
    at = x.some_key
    k, v = x.k.copy(), x.v.copy()
    k[:, at] *= -2
    v[:, at] += 7
    unseen = np.moveaxis(~x.open[..., at] & x.open.any(-1), 1, 2)[..., None]
    got, wanted = attend(x.q, k, v, x.mask), attend(x.q, x.k, x.v, x.mask)
    same(
        np.where(unseen, got, 0),
        np.where(unseen, wanted, 0),
        what=f"output of those to whom key {at} is closed, with another key and value there",
    )


@law(cases())
def closed_values_cannot_poison(attend: AttentionSubject, x: AttentionCase) -> None:
    """A key and value that are nan reach no output of those to whom they are closed."""
    at, k, v = x.some_key, x.k.copy(), x.v.copy()
    k[:, at], v[:, at] = np.nan, np.nan
    some = np.moveaxis(~x.open[..., at] & x.open.any(-1), 1, 2)[..., None]
    got, wanted = attend(x.q, k, v, x.mask), attend(x.q, x.k, x.v, x.mask)
    same(
        np.where(some, got, 0), np.where(some, wanted, 0), what=f"output with nan at key {at}, closed to all"
    )


@law(cases().map(never_empty))
def closed_values_have_no_gradient(attend: AttentionSubject, x: AttentionCase) -> None:
    """The gradient of an output is exactly 0 at keys and values that are closed to its query."""
    t = x.some_query
    weight = np.zeros_like(x.q)
    weight[:, t] = x.rng.standard_normal(x.q.shape[-1])
    slopes = attend.given(lambda: attend.gradient(x.q, x.k, x.v, x.mask, weight))[1:]
    closed = ~x.mask[:, 0, t, :, None, None]
    for name, slope in zip("kv", slopes, strict=True):
        same(np.where(closed, slope, 0), 0, what=f"gradient of output {t} at closed keys, by {name}")


@law(cases())
def gradients(attend: AttentionSubject, x: AttentionCase) -> None:
    """The gradients by q, k and v are those of the definition, and 0 from an empty row."""
    slope = x.rng.standard_normal(x.q.shape).astype(np.float32)
    got = attend.given(lambda: attend.gradient(x.q, x.k, x.v, x.mask, slope))
    wanted = slopes_of(x.q, x.k, x.v, x.mask, slope)
    for name, ours, right in zip("qkv", got, wanted, strict=True):
        same(ours, right, atol=5 * TOLERANCE, what=f"gradient by {name}")


@law(cases())
def padding(attend: AttentionSubject, x: AttentionCase) -> None:
    """Further keys that are closed to everyone change nothing."""
    (B, _, K, H), extra = x.k.shape, 2
    more = x.rng.standard_normal((2, B, extra, K, H)).astype(np.float32)
    k, v = np.concatenate([x.k, more[0]], 1), np.concatenate([x.v, more[1]], 1)
    mask = np.pad(x.mask, ((0, 0), (0, 0), (0, 0), (0, extra)))
    some = np.moveaxis(x.open.any(-1), 1, 2)[..., None]
    got, wanted = attend(x.q, k, v, mask), attend(x.q, x.k, x.v, x.mask)
    same(np.where(some, got, 0), np.where(some, wanted, 0), atol=TOLERANCE)


@law(cases(fits=square).map(self_seeing))
def packed_is_separate(attend: AttentionSubject, x: AttentionCase) -> None:
    """Two sequences in one row, each closed to the other, give what each gives alone."""
    T = x.q.shape[1]
    cut = T - T // 2
    first = np.arange(T) < cut
    packed = attend(x.q, x.k, x.v, x.mask & (first[:, None] == first[None]))
    for part in (slice(0, cut), slice(cut, T)):
        if part.start < T:
            alone = attend(x.q[:, part], x.k[:, part], x.v[:, part], x.mask[:, :, part, part])
            same(packed[:, part], alone, atol=TOLERANCE, what=f"outputs {part.start} to {part.stop - 1}")


@law(cases().map(never_empty))
def heads_are_teams(attend: AttentionSubject, x: AttentionCase) -> None:
    """Heads know nothing of each other: the output is that of each head alone, one beside the other."""
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
    same(attend(x.q, x.k, x.v, x.mask), np.concatenate(alone, 2), atol=TOLERANCE)


@law(cases().map(never_empty))
def grouped_heads_repeat(attend: AttentionSubject, x: AttentionCase) -> None:
    """K key/value heads serve N query heads as if each were repeated N / K times in a row."""
    G = x.q.shape[2] // x.k.shape[2]
    repeated = attend(x.q, np.repeat(x.k, G, 2), np.repeat(x.v, G, 2), x.mask)
    same(attend(x.q, x.k, x.v, x.mask), repeated, atol=TOLERANCE)


@law(cases().map(never_empty))
def rows_of_a_batch(attend: AttentionSubject, x: AttentionCase) -> None:
    """A row of a batch gives what it gives alone."""
    alone = [attend(*(y[b : b + 1] for y in (x.q, x.k, x.v, x.mask))) for b in range(len(x.q))]
    same(attend(x.q, x.k, x.v, x.mask), np.concatenate(alone), atol=TOLERANCE)


@law(cases().map(never_empty))
def only_differences_of_logits(attend: AttentionSubject, x: AttentionCase) -> None:
    """One vector added to all keys changes nothing: a softmax sees differences alone."""
    shift = x.rng.standard_normal(x.k.shape[-1]).astype(np.float32)
    same(attend(x.q, x.k + shift, x.v, x.mask), attend(x.q, x.k, x.v, x.mask), atol=5 * TOLERANCE)


@law(cases().map(never_empty))
def linear_in_values(attend: AttentionSubject, x: AttentionCase) -> None:
    """The output of a sum of values is the sum of the outputs."""
    other = x.rng.standard_normal(x.v.shape).astype(np.float32)
    apart = attend(x.q, x.k, x.v, x.mask).astype(np.float64) + attend(x.q, x.k, other, x.mask)
    same(attend(x.q, x.k, x.v + other, x.mask), apart, atol=5 * TOLERANCE)


@law(cases().map(never_empty))
def large_logits(attend: AttentionSubject, x: AttentionCase) -> None:
    """Logits of ten thousands overflow nothing: the largest gets all the weight."""
    q = x.q * np.float32(1e4)
    # Near a tie the rounding of the logits decides.
    got, wanted = attend.weights(q, x.k, x.mask), weights_of(q, x.k, x.mask)
    got = np.where(x.open.any(-1, keepdims=True), got, 0)
    same(got, wanted, atol=0.05, what="weights with q * 10,000")


@law(cases().map(never_empty))
def dtype_is_kept(attend: AttentionSubject, x: AttentionCase) -> None:
    """bfloat16 in is bfloat16 out, and near the output in float32."""
    half = [y.astype(jnp.bfloat16) for y in (x.q, x.k, x.v)]
    out = attend(*half, x.mask)
    if out.dtype != jnp.bfloat16:
        raise Violation(f"dtype: got {out.dtype}, wanted bfloat16")
    wide = [y.astype(np.float32) for y in half]
    wanted = mix(weights_of(*wide[:2], x.mask), wide[2])
    same(out, wanted, atol=2**-6, what="output in bfloat16")


@law(cases().map(never_empty))
def compiled_is_eager(attend: AttentionSubject, x: AttentionCase) -> None:
    """jit, and vmap over the batch, give what the plain call gives."""
    plain = attend(x.q, x.k, x.v, x.mask)
    for name, call in {"jit": attend.compiled, "vmap": attend.row_by_row}.items():
        got = attend.given(lambda call=call: np.asarray(call(x.q, x.k, x.v, x.mask)))
        same(got, plain, atol=TOLERANCE, what=f"output under {name}")


attention = Suite(
    "attention",
    "attend(q [B, T, N, H], k [B, S, K, H], v [B, S, K, H], mask bool [B, 1, T, S] or None) -> [B, T, N, H]",
    AttentionSubject,
    tuple(found for found in list(globals().values()) if isinstance(found, Law)),
)
