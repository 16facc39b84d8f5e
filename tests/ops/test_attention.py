"""Attention against float64 loops, its contracts, its laws, and JAX transformations."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from tests import references
from tests.marks import slow_but
from tests.programs import equations
from tfm_jax import ops
from tfm_jax.laws.strategies import mask_expressions
from tfm_jax.ops import masks
from tfm_jax.ops.backends import BACKENDS, Backend, Capabilities
from tfm_jax.ops.masks.leaves import Causal

B, T, S, N, K, H, V = 2, 3, 5, 4, 2, 8, 6
NAN, INF = np.nan, np.inf


def arrays(batch=(B,), T=T, S=S, N=N, K=K, H=H, V=V, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(T, N, H), (S, K, H), (S, K, V)]
    return tuple(jnp.asarray(rng.standard_normal((*batch, *shape)), dtype) for shape in shapes)


def gradients(q, k, v, mask=None, bias=None, **options):
    """Gradients of a sum with a different weight for every element of the output."""

    def weigh(out):
        return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))

    def loss(q, k, v):
        return weigh(ops.attention(q, k, v, mask, bias, **options))

    return jax.grad(loss, argnums=(0, 1, 2))(q, k, v)


# --- against the reference ---


@given(st.data())
def test_attention_is_the_reference(data):
    sizes = [((2,), 3, 5, 2), ((), 4, 4, 4), ((3, 2), 3, 5, 1)]  # few: each is compiled
    batch, T, S, K = data.draw(st.sampled_from(sizes))
    q, k, v = arrays(batch, T, S, K=K, seed=data.draw(st.integers(0, 99)))
    mask, allowed = data.draw(st.one_of(st.just((None, None)), mask_expressions(batch, N, T, S)))
    options = {
        "scale": data.draw(st.sampled_from([None, 1.0, 0.3])),
        "soft_cap": data.draw(st.sampled_from([None, 2.0])),
    }
    bias_shape = data.draw(st.sampled_from([None, (N, T, S), (*batch, N, 1, S), (*batch, 1, T, 1)]))
    bias = None
    if bias_shape is not None:
        bias = np.random.default_rng(1).standard_normal(bias_shape).astype(np.float32)
    out, weights = references.attention(q, k, v, allowed, bias, **options)
    got = ops.attention(q, k, v, mask, bias, **options)
    assert got.dtype == np.float32 and got.shape == (*batch, T, N, V)
    np.testing.assert_allclose(got, out, atol=2e-6, rtol=1e-5)
    got = ops.attention_weights(q, k, mask, bias, **options)
    assert got.dtype == np.float32 and got.shape == (*batch, N, T, S)
    np.testing.assert_allclose(got, weights, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_gradients_are_those_of_the_equivalent_code(kv_heads):
    q, k, v = arrays(K=kv_heads)
    bias = jnp.asarray(np.random.default_rng(1).standard_normal((N, T, S)), np.float32)
    table = np.random.default_rng(2).random((B, T, S)) < 0.6
    table[..., 0] = True

    def plain(q, k, v, bias):
        k, v = (jnp.repeat(x, N // kv_heads, axis=-2) for x in (k, v))
        logits = jnp.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(H).astype(np.float32)
        logits = 2.0 * jnp.tanh(logits / 2.0) + bias[None]
        weights = jax.nn.softmax(jnp.where(table[:, None], logits, -1e30))
        return jnp.einsum("bnts,bsnh->btnh", weights, v)

    def ours(q, k, v, bias):
        return ops.attention(q, k, v, table, bias, soft_cap=2.0)

    def weigh(f):
        return lambda *x: jnp.sum(f(*x) * jnp.cos(jnp.arange(V, dtype=np.float32))[None, None, None])

    expected = jax.jit(jax.grad(weigh(plain), argnums=(0, 1, 2, 3)))(q, k, v, bias)
    got = jax.jit(jax.grad(weigh(ours), argnums=(0, 1, 2, 3)))(q, k, v, bias)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)


def test_derivatives_against_finite_differences_in_float64():
    mask = masks.causal(1) & masks.prefix(3) & ~masks.prefix(1)  # query 0 reads key 1, the others 1 and 2
    with jax.enable_x64(True):
        q, k, v = arrays((), dtype=np.float64)
        bias = jnp.linspace(-1.0, 1.0, S).reshape(1, 1, S)
        f = jax.jit(lambda q, k, v, bias: ops.attention(q, k, v, mask, bias, soft_cap=3.0))
        assert f(q, k, v, bias).dtype == np.float64
        expected, _ = references.attention(q, k, v, mask.to_dense(T, S), bias, soft_cap=3.0)
        np.testing.assert_allclose(f(q, k, v, bias), expected, atol=1e-14)
        check_grads(f, (q, k, v, bias), order=2, modes=("fwd", "rev"))


@pytest.mark.parity
def test_against_torch():
    torch = pytest.importorskip("torch")
    q, k, v = arrays(V=H)
    table = np.random.default_rng(3).random((B, 1, T, S)) < 0.6
    table[..., 0] = True

    def to_torch(x):
        return torch.tensor(np.asarray(x)).transpose(-2, -3)

    for mask, scale in [(None, None), (table, 0.7)]:
        expected = torch.nn.functional.scaled_dot_product_attention(
            *map(to_torch, (q, k, v)),
            attn_mask=None if mask is None else torch.tensor(mask),
            scale=scale,
            enable_gqa=True,
        ).transpose(-2, -3)
        got = ops.attention(q, k, v, None if mask is None else mask[:, 0], scale=scale)
        np.testing.assert_allclose(got, expected, atol=1e-6)
    square = arrays(T=S, V=H)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *map(to_torch, square), is_causal=True, enable_gqa=True
    ).transpose(-2, -3)
    np.testing.assert_allclose(ops.attention(*square, masks.causal()), expected, atol=1e-6)


def test_bfloat16_inputs_have_a_softmax_in_float32():
    q, k, v = arrays(S=512, dtype=jnp.bfloat16)
    # A float32 bias whose steps are equal in bfloat16.
    bias = 100 + jnp.linspace(0, 1, 512)[None, None]
    out, weights = references.attention(*(np.asarray(x, np.float64) for x in (q, k, v)), None, bias)
    got = ops.attention(q, k, v, None, bias)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float64), out, atol=2e-3)
    got = ops.attention_weights(q, k, None, bias)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float64), weights, rtol=2**-8)
    assert all(g.dtype == jnp.bfloat16 for g in gradients(q, k, v, None, bias))


def test_both_products_of_bfloat16_accumulate_in_float32():
    jaxpr = jax.make_jaxpr(lambda *x: ops.attention(*x, masks.causal(2)))(*arrays(dtype=jnp.bfloat16))
    dots = [eqn for eqn in equations(jaxpr.jaxpr) if eqn.primitive.name == "dot_general"]
    assert dots and {eqn.outvars[0].aval.dtype for eqn in dots} == {np.dtype(np.float32)}
    assert {var.aval.dtype for eqn in dots for var in eqn.invars} == {np.dtype(jnp.bfloat16)}


def test_numpy_inputs_and_scalars_of_any_kind():
    q, k, v = arrays()
    expected = ops.attention(q, k, v, scale=2.0, soft_cap=3.0)
    got = ops.attention(*map(np.asarray, (q, k, v)), scale=2, soft_cap=np.float32(3))
    np.testing.assert_array_equal(got, expected)
    got = jax.jit(lambda scale, cap: ops.attention(q, k, v, scale=scale, soft_cap=cap))(2.0, 3.0)
    np.testing.assert_allclose(got, expected, atol=1e-6)


# --- fully masked rows, NaN and Inf ---


def fully_masking():
    """Pairs (mask, bias) that fully mask query 0 of example 0."""
    table = np.ones((B, T, S), bool)
    table[0, 0] = False
    minus = np.where(table, np.float32(0), -np.float32(INF))[:, None]
    keys = np.ones((B, S), bool)
    keys[0, :3] = False
    return {
        "dense": (masks.dense(table), None),
        "array": (jnp.asarray(table), None),
        "per head": (np.repeat(table[:, None], N, 1), None),
        "bias of -inf": (None, minus),
        "mask and bias": (masks.dense(table), minus),
        "offset": (masks.causal(np.array([-1, 2])), None),
        "padding and causal": (masks.padding(keys) & masks.causal(np.array([2, 1])), None),
        "prefix": (masks.prefix(np.array([0, 3])), None),
    }


@pytest.mark.parametrize(
    "dtype, jit", [(np.float32, False), (jnp.bfloat16, True)], ids=["float32, eager", "bfloat16, jit"]
)
@pytest.mark.parametrize("case", slow_but(["dense", "bias of -inf", "offset", "prefix"], fully_masking()))
def test_fully_masked_rows_have_output_0_and_gradient_0(case, dtype, jit):
    mask, bias = fully_masking()[case]
    q, k, v = arrays(dtype=dtype)
    wrap = jax.jit if jit else lambda f: f
    with jax.debug_nans(True):
        out = wrap(ops.attention)(q, k, v, mask, bias)
        weights = wrap(ops.attention_weights)(q, k, mask, bias)
        dq, dk, dv = wrap(gradients)(q, k, v, mask, bias)
        softly = wrap(lambda *x: gradients(*x, soft_cap=2.0))(q, k, v, mask, bias)
    assert not np.any(out[0, 0]) and not np.any(weights[0, :, 0]) and not np.any(dq[0, 0])
    assert np.all(np.any(np.asarray(out[1], bool), -1))
    for x in (dq, dk, dv, *softly):
        assert np.isfinite(np.asarray(x, np.float32)).all() and np.any(x[1])


def test_all_rows_fully_masked():
    q, k, v = arrays()
    with jax.debug_nans(True):
        for mask, bias in [(~masks.window(), None), (None, np.full((1, 1, 1), -INF, np.float32))]:
            assert not np.any(ops.attention(q, k, v, mask, bias))
            assert not any(np.any(g) for g in gradients(q, k, v, mask, bias))


def test_no_keys_and_no_queries():
    q, k, v = arrays(S=0)
    for mask in (None, masks.prefix(2), masks.dense(np.ones((N, T, 0), bool), per_head=True)):
        out = ops.attention(q, k, v, mask)
        assert out.shape == (B, T, N, V) and not np.any(out)
    assert ops.attention(*arrays(T=0), masks.causal(0)).shape == (B, 0, N, V)


def test_the_gradient_of_a_bias_is_0_at_masked_positions():
    q, k, v = arrays()
    bias = np.zeros((N, T, S), np.float32)
    bias[0, 0, 1] = bias[1, 2] = -INF
    mask = masks.prefix(3)
    with jax.debug_nans(True):
        got = jax.grad(lambda bias: jnp.sum(ops.attention(q, k, v, mask, bias) ** 2))(jnp.asarray(bias))
    assert not np.any(got[0, 0, 1]) and not np.any(got[1, 2]) and not np.any(got[..., 3:])
    assert np.all(np.asarray(got)[2:, :, :3] != 0)


@pytest.mark.parametrize("low", [-1e9, np.finfo(np.float32).min, -INF])
def test_additive_masks_of_other_libraries_work_as_bias(low):
    q, k, v = arrays()
    table = np.tri(T, S, 1, dtype=bool)
    bias = np.where(table, np.float32(0), np.float32(low))[None]
    np.testing.assert_allclose(ops.attention(q, k, v, None, bias), ops.attention(q, k, v, table), atol=1e-6)


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_nonfinite_masked_values_do_not_leak(bad, kv_heads):
    q, k, v = arrays(K=kv_heads)
    valid = np.ones((B, S), bool)
    valid[0, 3:] = valid[1] = False
    mask = masks.padding(valid)
    unread = np.broadcast_to(~valid[..., None, None], k.shape)
    k_bad, v_bad = jnp.where(unread, bad, k), jnp.where(unread[..., :1], bad, v)
    q_bad = q.at[1].set(bad)
    with jax.debug_nans(True):
        np.testing.assert_array_equal(ops.attention(q_bad, k_bad, v_bad, mask), ops.attention(q, k, v, mask))
        got, expected = gradients(q_bad, k_bad, v_bad, mask), gradients(q, k, v, mask)
    chex.assert_trees_all_equal(got, expected)
    # Without the mask they reach the output: the test can fail.
    assert not np.isfinite(ops.attention(q, k_bad, v_bad)).all()


def test_nan_in_a_row_does_not_reach_derivatives_at_masked_keys():
    q, k, v = (jax.random.normal(jax.random.key(i), (3, 2, 5)) for i in range(3))
    k, mask = k.at[0].set(jnp.nan), jnp.tile(jnp.array([True, True, False]), (3, 1))

    def weights(q):
        return ops.attention_weights(q, k, mask)

    _, tangent = jax.jvp(weights, (q,), (jnp.ones_like(q),))
    np.testing.assert_array_equal(tangent[..., 2], 0)

    def attend(q, v):
        return ops.attention(q, k, v, mask, implementation="reference").sum()

    second = jax.grad(lambda v: jax.grad(attend)(q, v).sum())(v)
    assert jnp.isnan(second[:2]).all() and not jnp.isnan(second[2]).any()


def test_nan_that_is_masked_for_a_whole_group_of_heads_does_not_leak():
    q, k, v = arrays()
    heads = np.ones((N, T, S), bool)
    heads[:2, :, 1] = False  # key 1 is masked for both query heads of key/value head 0
    heads[2, :, 2] = False  # key 2 is masked for one of those of head 1
    k_bad, v_bad = k.at[:, 1, 0].set(NAN), v.at[:, 1, 0].set(NAN)
    mask = masks.dense(heads, per_head=True)
    np.testing.assert_array_equal(ops.attention(q, k_bad, v_bad, mask), ops.attention(q, k, v, mask))
    assert np.isnan(ops.attention(q, k, v.at[:, 2, 1].set(NAN), mask)).any()


# --- laws ---


@given(st.data())
def test_weights_sum_to_one_or_zero_and_outputs_stay_in_the_convex_hull(data):
    q, k, v = arrays(K=data.draw(st.sampled_from([4, 2])), seed=data.draw(st.integers(0, 99)))
    mask, allowed = data.draw(mask_expressions((B,), N, T, S))
    weights = np.asarray(ops.attention_weights(q, k, mask))
    assert weights.min() >= 0 and not weights[~allowed].any() and (weights[allowed] > 0).all()
    np.testing.assert_allclose(weights.sum(-1), allowed.any(-1), atol=1e-6)
    out = np.asarray(ops.attention(q, k, v, mask))
    v = np.repeat(v, N // v.shape[-2], -2)
    for b, t, n in np.ndindex(B, T, N):
        seen = v[b, allowed[b, n, t], n] if allowed[b, n, t].any() else np.zeros((1, V))
        assert (seen.min(0) - 1e-6 <= out[b, t, n]).all() and (out[b, t, n] <= seen.max(0) + 1e-6).all()


@pytest.mark.parametrize(
    "mask",
    [masks.causal(), masks.window(1, 0), masks.window(2, 1), masks.causal() | masks.prefix(2)],
    ids=masks.Mask.expression,
)
def test_the_jacobian_is_exactly_zero_where_a_query_may_not_attend(mask):
    x = arrays((), T=5)
    allowed = np.asarray(mask.to_dense(5, 5))
    for argument in (1, 2):
        jacobian = jax.jit(jax.jacrev(lambda *x: ops.attention(*x, mask), argnums=argument))(*x)
        depends = np.any(np.asarray(jacobian), (1, 2, 4, 5))  # [T, S]
        if argument == 1:  # with one key, the weight is constant
            allowed = allowed & (allowed.sum(-1, keepdims=True) > 1)
        else:
            allowed = np.asarray(mask.to_dense(5, 5))
        np.testing.assert_array_equal(depends, allowed)


def test_permutations_of_keys_and_of_queries():
    q, k, v = arrays()
    table = np.random.default_rng(4).random((B, T, S)) < 0.7
    out = ops.attention(q, k, v, table)
    p = np.array([3, 0, 4, 2, 1])
    np.testing.assert_allclose(ops.attention(q, k[:, p], v[:, p], table[:, :, p]), out, atol=1e-6)
    p = np.array([2, 0, 1])
    np.testing.assert_allclose(ops.attention(q[:, p], k, v, table[:, p]), out[:, p], atol=1e-6)
    np.testing.assert_allclose(ops.attention(q[:, 1:2], k, v, table[:, 1:2]), out[:, 1:2], atol=1e-6)


def test_permutations_of_heads():
    q, k, v = arrays()
    bias = jnp.asarray(np.random.default_rng(5).standard_normal((N, T, S)), np.float32)
    p = np.array([2, 3, 0, 1])
    moved = ops.attention(q[:, :, p], k[:, :, ::-1], v[:, :, ::-1], masks.causal(2), bias[p])
    np.testing.assert_allclose(moved, ops.attention(q, k, v, masks.causal(2), bias)[:, :, p], atol=1e-6)


def test_grouped_heads_are_repeated_keys():
    q, k, v = arrays()
    mask = np.random.default_rng(6).random((B, N, T, S)) < 0.7
    k_all, v_all = (jnp.repeat(x, N // K, axis=-2) for x in (k, v))
    np.testing.assert_allclose(ops.attention(q, k, v, mask), ops.attention(q, k_all, v_all, mask), atol=1e-6)


def test_packed_sequences_equal_separate_ones():
    q, k, v = arrays((), T=7, S=7)
    ids = np.array([1, 1, 1, 2, 2, 2, 2])
    packed = ops.attention(q, k, v, masks.causal() & masks.segments(ids) & masks.window(left=2))
    for document in (slice(0, 3), slice(3, 7)):
        separate = ops.attention(q[document], k[document], v[document], masks.causal() & masks.window(left=2))
        np.testing.assert_allclose(packed[document], separate, atol=1e-6)


def test_padding_changes_nothing():
    q, k, v = arrays()

    def longer(x):
        return jnp.concatenate([x, jnp.full_like(x[:, :2], 1e9)], 1)

    valid = np.arange(S + 2) < S
    for mask in (masks.padding(valid), masks.prefix(S), np.broadcast_to(valid, (T, S + 2))):
        got = ops.attention(q, longer(k), longer(v), mask)
        np.testing.assert_allclose(got, ops.attention(q, k, v), atol=1e-6)


def test_decode_steps_equal_the_full_sequence():
    q, k, v = arrays(T=5)
    mask = masks.causal() & masks.window(left=2)
    full = ops.attention(q, k, v, mask)
    for i in range(5):
        got = ops.attention(q[:, i : i + 1], k, v, mask.with_offset(i))
        np.testing.assert_allclose(got, full[:, i : i + 1], atol=1e-6)
    # one position per sequence
    rows = jnp.stack([q[0, 1:2], q[1, 3:4]])
    got = ops.attention(rows, k, v, mask.with_offset(np.array([1, 3])))
    np.testing.assert_allclose(got, np.stack([full[0, 1:2], full[1, 3:4]]), atol=1e-6)


def test_a_constant_added_to_a_row_of_logits_changes_nothing():
    q, k, v = arrays()
    bias = np.linspace(-50, 50, T, dtype=np.float32).reshape(1, T, 1)
    np.testing.assert_allclose(ops.attention(q, k, v, None, bias), ops.attention(q, k, v), atol=1e-5)


def test_logits_of_any_size_stay_finite():
    q, k, v = arrays()
    for scale in (1e20, -1e20):
        out = ops.attention(q, k, v, masks.causal(2), scale=scale)
        best = np.asarray(ops.attention_weights(q, k, masks.causal(2), scale=scale)).max(-1)
        assert np.isfinite(out).all() and (best == 1).all()


# --- dropout ---


def test_without_a_key_there_is_no_dropout():
    q, k, v = arrays()
    plain = ops.attention(q, k, v)
    np.testing.assert_array_equal(ops.attention(q, k, v, dropout_rate=0.5), plain)
    np.testing.assert_array_equal(ops.attention(q, k, v, dropout_rate=0.0, key=jax.random.key(0)), plain)


def test_the_same_key_drops_the_same():
    q, k, v = arrays()
    one, same, other = (
        ops.attention(q, k, v, dropout_rate=0.5, key=jax.random.key(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)


def test_dropout_zeroes_weights_and_scales_the_others():
    rate, length = 0.3, 64
    q, k, _ = arrays(T=length, S=length)
    v = jnp.broadcast_to(jnp.eye(length)[None, :, None], (B, length, K, length))  # the output is the weights
    out = ops.attention(q, k, v, masks.causal(), dropout_rate=rate, key=jax.random.key(0))
    weights = np.asarray(ops.attention_weights(q, k, masks.causal())).swapaxes(1, 2)
    kept = np.asarray(out) != 0
    np.testing.assert_allclose(out, np.where(kept, weights / (1 - rate), 0), rtol=1e-5)
    used = weights > 1e-30
    share = 1 - kept[used].mean()
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / used.sum())
    # another pattern for every head and every example
    patterns = kept[:, -1].reshape(B * N, length)
    assert len(np.unique(patterns, axis=0)) == B * N


def test_gradients_use_the_kept_weights():
    q, k, v = arrays()
    key = jax.random.key(3)

    def f(v):
        return ops.attention(q, k, v, dropout_rate=0.5, key=key)

    # linear in v: the gradient at any v is the map itself
    direction = jnp.ones_like(v)
    np.testing.assert_allclose(jax.jvp(f, (v,), (direction,))[1], f(direction), rtol=1e-6)


# --- JAX transformations ---

VALID = np.random.default_rng(7).random((8, S)) < 0.7
OFFSETS = np.arange(8) % 3


def batched_masks(n):
    return {
        "none": None,
        "causal": masks.causal(2),
        "padding": masks.padding(jnp.asarray(VALID[:n])) & masks.window(),
        "offsets": masks.causal(jnp.asarray(OFFSETS[:n])) & ~masks.padding(jnp.asarray(VALID[:n])),
        "array": jnp.asarray(np.random.default_rng(8).random((n, N, T, S)) < 0.7),
    }


@pytest.mark.parametrize("name", list(batched_masks(1)))
def test_vmap_matches_the_batch_and_jit_matches_eager(name):
    q, k, v = arrays((4,))
    mask = batched_masks(4)[name]
    expected = ops.attention(q, k, v, mask)
    np.testing.assert_allclose(jax.jit(ops.attention)(q, k, v, mask), expected, atol=1e-6)
    axis = None if name == "causal" else 0  # its leaf is one int for the whole batch
    mapped = jax.jit(jax.vmap(ops.attention, in_axes=(0, 0, 0, axis)))
    np.testing.assert_allclose(mapped(q, k, v, mask), expected, atol=1e-6)
    weights = jax.jit(jax.vmap(ops.attention_weights, in_axes=(0, 0, axis)))(q, k, mask)
    np.testing.assert_allclose(weights, ops.attention_weights(q, k, mask), atol=1e-6)
    separate = ops.attention(q[2], k[2], v[2], mask if axis is None else jax.tree.map(lambda x: x[2], mask))
    np.testing.assert_allclose(separate, expected[2], atol=1e-6)


def test_more_leading_dims_are_a_batch_of_batches():
    q, k, v = arrays((3, 2))
    valid = np.random.default_rng(9).random((3, 2, S)) < 0.7

    def flat(x):
        return x.reshape(6, *x.shape[2:])

    got = ops.attention(q, k, v, masks.padding(valid) & masks.causal(2))
    expected = ops.attention(flat(q), flat(k), flat(v), masks.padding(flat(valid)) & masks.causal(2))
    np.testing.assert_allclose(flat(got), expected, atol=1e-6)


def test_scan_over_layers_and_over_the_batch():
    q, k, v = arrays((4,))
    mask = batched_masks(4)["padding"]
    expected = ops.attention(q, k, v, mask)
    _, got = jax.lax.scan(lambda carry, row: (carry, ops.attention(*row)), None, (q, k, v, mask))
    np.testing.assert_allclose(got, expected, atol=1e-6)

    def layer(x, _):
        return jax.checkpoint(ops.attention)(x, k[..., :1, :], k[..., :1, :], mask), None

    got, _ = jax.lax.scan(layer, q, length=2)
    once = layer(q, None)[0]
    np.testing.assert_allclose(got, layer(once, None)[0], atol=1e-6)


@pytest.mark.parametrize("name", ["causal", "offsets", "array"])
def test_pmap_and_shard_map_match_the_batch(name):
    q, k, v = arrays((8,))
    mask = batched_masks(8)[name]
    expected, slope = ops.attention(q, k, v, mask), jax.jit(gradients)(q, k, v, mask)[1]
    axis = None if name == "causal" else 0
    got = jax.pmap(ops.attention, in_axes=(0, 0, 0, axis))(q, k, v, mask)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    specs = (P("data"), P("data"), P("data"), P() if axis is None else P("data"))
    sharded = jax.shard_map(ops.attention, mesh=mesh, in_specs=specs, out_specs=P("data"))
    np.testing.assert_allclose(jax.jit(sharded)(q, k, v, mask), expected, atol=1e-6)
    weigh = jnp.cos(jnp.arange(expected.size, dtype=np.float32)).reshape(expected.shape)
    got = jax.jit(jax.grad(lambda k: jnp.sum(sharded(q, k, v, mask) * weigh)))(k)
    np.testing.assert_allclose(got, slope, atol=1e-5)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_batch_and_heads_on_a_mesh_need_no_collective(kind):
    q, k, v = arrays((4,), N=4, K=2)
    mask = masks.padding(jnp.asarray(VALID[:4])) & masks.causal(2)
    expected = ops.attention(q, k, v, mask)
    mesh = jax.make_mesh((4, 2), ("data", "heads"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):

        def place(x):
            return jax.device_put(x, NamedSharding(mesh, P("data", None, "heads")))

        rows = jax.tree.map(
            lambda x: jax.device_put(x, NamedSharding(mesh, P("data") if jnp.ndim(x) else P())), mask
        )
        compiled = jax.jit(ops.attention).lower(place(q), place(k), place(v), rows).compile()
        np.testing.assert_allclose(compiled(place(q), place(k), place(v), rows), expected, atol=1e-6)
    assert not any(x in compiled.as_text() for x in ("all-gather(", "all-reduce(", "all-to-all("))


def test_keys_are_not_repeated():
    q, k, v = arrays((), T=1, S=64, N=8, K=1)  # k is the largest array
    for implementation in ("auto", "reference", "cpu_decode"):
        attend = functools.partial(ops.attention, implementation=implementation)
        jaxpr = jax.make_jaxpr(attend)(q, k, v, masks.causal(63)).jaxpr
        sizes = [var.aval.size for eqn in equations(jaxpr) for var in eqn.outvars]
        assert max(sizes) == k.size == 64 * H


# --- arguments ---


@pytest.mark.parametrize(
    "change, message",
    [
        ({"q": (N, H)}, r"got q float32\[4, 8\].*rank 2, not 3 or more. Pass one head as N = 1"),
        ({"k": (S, K, H)}, r"k has \[...\] = \[\], not \[2\]. Broadcast"),
        ({"k": (3, S, K, H), "v": (3, S, K, V)}, r"k has \[...\] = \[3\], not \[2\]. Broadcast"),
        ({"v": (1, S, K, V)}, r"v has \[...\] = \[1\], not \[2\]. Broadcast"),
        ({"k": (B, S, K, 7)}, r"k float32\[\.\.\., S, K, H\].*, but k has H = 7, not 8"),
        ({"q": (B, T, N, 0), "k": (B, S, K, 0)}, "H is at least 1"),
        ({"v": (B, 4, K, V)}, "v has S = 4, not 5"),
        ({"v": (B, S, 4, V)}, "v has K = 4, not 2"),
        ({"k": (B, S, 3, H), "v": (B, S, 3, V)}, "K divides N, but H = 8, N = 4, K = 3"),
        ({"k": (B, S, 8, H), "v": (B, S, 8, V)}, "K divides N, but H = 8, N = 4, K = 8"),
        ({"k": (B, S, 0, H), "v": (B, S, 0, V)}, "K divides N"),
        (
            {"bias": (T, S)},
            r"got bias float32\[3, 5\]; wanted bias float\[N\|1, T\|1, S\|1\] or .*rank 2, not 3 or",
        ),
        ({"bias": (B, 1, T, 4)}, r"bias float32\[2, 1, 3, 4\].*S = 4, not 5"),
        ({"bias": (B, K, T, S)}, "N = 2, not 4"),
        ({"bias": (3, 1, T, S)}, r"bias has \[\.\.\.\] = \[3\], not \[2\]"),
        ({"bias": (1, B, N, T, S)}, r"bias has \[...\] = \[1, 2\], not \[2\]"),
    ],
)
def test_wrong_shapes(change, message):
    shapes = {"q": (B, T, N, H), "k": (B, S, K, H), "v": (B, S, K, V)} | change
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            ops.attention, **{name: jax.ShapeDtypeStruct(x, np.float32) for name, x in shapes.items()}
        )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mask": np.ones((T, S), np.int32)}, r"mask int32\[3, 5\]; wanted mask bool"),
        ({"mask": np.zeros((T, S), np.float32)}, r"mask float32\[3, 5\]; wanted mask bool.*bias"),
        ({"mask": np.ones((S,), bool)}, "masks.padding"),
        ({"mask": np.ones((T, 4), bool)}, "S = 4, not 5"),
        ({"mask": np.ones((B, 3, T, S), bool)}, r"got array bool\[2, 3, 3, 5\].*N = 3, not 4"),
        ({"mask": masks.causal()}, "T = 3 queries, S = 5 keys and no offset"),
        ({"mask": masks.padding(np.ones((3, S), bool))}, r"valid has \[\.\.\.\] = \[3\], not \[2\]"),
        ({"mask": masks.causal}, r"masks\.causal\(\)"),
        ({"bias": np.ones((N, T, S), bool)}, "bias has dtype bool. .*mask="),
        ({"scale": np.ones(N, np.float32)}, "wanted a scalar"),
        ({"scale": NAN}, "scale=nan; wanted a finite number"),
        ({"scale": np.float32(-INF)}, "scale=-inf"),
        ({"scale": jnp.float32(NAN)}, "scale=nan"),
        ({"soft_cap": 0.0}, "soft_cap=0.0; wanted a finite number > 0"),
        ({"soft_cap": -1}, "soft_cap=-1"),
        ({"soft_cap": INF}, "soft_cap=inf"),
        ({"soft_cap": np.float32(-1)}, "soft_cap=-1"),
        ({"soft_cap": jnp.float32(0)}, "soft_cap=0.0"),
        ({"dropout_rate": 1.0}, "rate=1.0"),
        ({"dropout_rate": -0.1, "key": jax.random.key(0)}, "rate=-0.1"),
        ({"implementation": "flash"}, "implementation='flash'; wanted one of 'auto', 'cudnn', 'splash'"),
        ({"implementation": None}, "implementation=None"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        ops.attention(*arrays(), **options)
    if not {"dropout_rate", "implementation"} & set(options):
        with pytest.raises(ValueError, match=message):
            ops.attention_weights(*arrays()[:2], **options)


@pytest.mark.parametrize(
    "dtypes, wrong",
    [
        (("float32", "bfloat16", "float32"), "k has dtype bfloat16"),
        (("int32",) * 3, "q has dtype int32"),
        (("float32", "float32", "float16"), "v has dtype float16"),
    ],
)
def test_wrong_dtypes(dtypes, wrong):
    with pytest.raises(ValueError, match=rf"wanted q float\[.*, but {wrong}. Cast with .astype\(q.dtype\)"):
        ops.attention(*(x.astype(dtype) for x, dtype in zip(arrays(), dtypes, strict=True)))


def test_a_backend_gets_the_mask_as_a_value(monkeypatch):
    seen = {}

    def spy(q, k, v, mask, bias, **options):
        seen.update(options, mask=mask, bias=bias)
        return v

    monkeypatch.setitem(BACKENDS, "spy", Backend("spy", spy, Capabilities()))
    q, k, v = arrays()
    mask = masks.causal(2) & masks.window(left=1, offset=2)
    assert ops.attention(q, k, v, mask, np.zeros((N, 1, 1), np.float32), implementation="spy") is v
    assert seen.pop("mask") is mask and seen.pop("bias").shape == (1, N, 1, 1)
    assert seen == {"scale": H**-0.5, "soft_cap": None, "dropout_rate": 0.0, "key": None}
    auto, reference = ops.attention(q, k, v, mask), ops.attention(q, k, v, mask, implementation="reference")
    np.testing.assert_allclose(auto, reference, atol=1e-6)


@pytest.mark.parametrize("name", ["auto", "reference", "cpu_decode", "xla", "chunked"])
def test_a_mask_is_checked_once_and_evaluated_once_a_backend(name, monkeypatch):
    n_backends = 2 if name == "auto" else 1  # few queries: cpu_decode on a CPU, another elsewhere
    jax.clear_caches()  # a cached trace evaluates nothing
    counts = {"check": 0, "evaluate": 0}
    for method in counts:
        original = getattr(Causal, method)

        def counted(self, sizes, method=method, original=original, **options):
            counts[method] += 1
            return original(self, sizes, **options)

        monkeypatch.setattr(Causal, method, counted)
    q, k, v = arrays(V=H)
    mask = masks.causal(2) & masks.padding(jnp.ones((B, S), bool))
    jax.make_jaxpr(lambda q, k, v: ops.attention(q, k, v, mask, implementation=name))(q, k, v)
    assert counts == {"check": 1, "evaluate": n_backends}
    jax.make_jaxpr(lambda q, k: ops.attention_weights(q, k, mask))(q, k)
    assert counts == {"check": 2, "evaluate": n_backends + 1}
    ops.explain_attention(q, k, v, mask)
    assert counts == {"check": 3, "evaluate": n_backends + 1}
