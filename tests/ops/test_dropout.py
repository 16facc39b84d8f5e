"""Dropout: dropped elements are 0, kept ones are scaled, and no key means no dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax.ops.dropout import drop_at, dropout

SHAPES = [(7,), (3, 5), (2, 3, 4)]


@pytest.mark.parametrize("rate", [0, 0.0, 0.5])
def test_no_key_or_rate_0_returns_x(rate):
    x = jnp.arange(6.0)
    assert dropout(x, rate, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x


@given(st.integers(0, 2**31 - 1), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from(SHAPES))
def test_every_element_is_zero_or_scaled(seed, rate, shape):
    x = jnp.asarray(np.random.default_rng(seed).normal(size=shape) + 3, jnp.float32)
    y = np.asarray(dropout(x, rate, jax.random.key(seed)))
    kept = y != 0
    np.testing.assert_allclose(y[kept], (np.asarray(x, np.float64) / (1 - rate))[kept], rtol=1e-6)


@given(
    st.integers(0, 2**31 - 1), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([jnp.float32, jnp.bfloat16])
)
def test_the_mean_is_kept(seed, rate, dtype):
    n = 20_000
    y = dropout(jnp.ones(n, dtype), rate, jax.random.key(seed))
    assert y.dtype == dtype
    deviation = np.sqrt(rate / (1 - rate) / n)  # of the mean of n values that are 0 or 1 / (1 - rate)
    rounding = 2**-8 if dtype == jnp.bfloat16 else 0
    assert abs(np.asarray(y, np.float64).mean() - 1) < 5 * deviation + rounding
    assert abs(np.mean(np.asarray(y) == 0) - rate) < 5 * np.sqrt(rate * (1 - rate) / n)


def test_bfloat16_does_not_round_the_rate():
    x = jnp.linspace(1, 2, 1000).astype(jnp.bfloat16)
    y = dropout(x, 0.1, jax.random.key(0))
    want = (x.astype(jnp.float32) / 0.9).astype(jnp.bfloat16)
    np.testing.assert_array_equal(y, jnp.where(y == 0, y, want))


def test_the_key_decides_the_mask():
    x = jnp.ones((50, 4))
    a, b, c = (dropout(x, 0.5, jax.random.key(seed)) for seed in (1, 1, 2))
    assert (a == b).all() and (a != c).any()


def test_the_gradient_is_the_mask():
    x = jnp.arange(1.0, 31.0)

    def f(x):
        return dropout(x, 0.25, jax.random.key(3))

    grad = jax.grad(lambda x: f(x).sum())(x)
    np.testing.assert_allclose(grad * x, f(x), rtol=1e-6)


def test_dropped_elements_do_not_change_the_output():
    x = jnp.ones(40)
    zero = dropout(x, 0.5, jax.random.key(5)) == 0
    bad = jnp.where(zero, jnp.inf, x)
    assert jnp.isfinite(dropout(bad, 0.5, jax.random.key(5))).all()


def test_under_jit_vmap_and_shard_map():
    x = jnp.ones((8, 6))
    keys = jax.random.split(jax.random.key(0), 8)
    want = jnp.stack([dropout(row, 0.5, key) for row, key in zip(x, keys, strict=True)])
    rows = jax.jit(jax.vmap(lambda row, key: dropout(row, 0.5, key)))
    np.testing.assert_array_equal(rows(x, keys), want)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    np.testing.assert_array_equal(
        jax.shard_map(rows, mesh=mesh, in_specs=(spec, spec), out_specs=spec)(x, keys), want
    )


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1, 2.0, float("nan")])
def test_a_rate_out_of_range_is_an_error_with_and_without_a_key(rate):
    for key in (None, jax.random.key(0)):
        with pytest.raises(ValueError, match=r"dropout: got rate=.*; wanted a number in \[0, 1\)"):
            dropout(jnp.ones(3), rate, key)


def test_integers_are_an_error():
    with pytest.raises(ValueError, match="int32"):
        dropout(jnp.arange(3), 0.5, jax.random.key(0))


# --- drop_at ---


def test_a_tile_drops_what_the_full_table_drops():
    x = jnp.arange(1.0, 1 + 6 * 10).reshape(6, 10)
    key, rows, cols = jax.random.key(1), jnp.arange(6), jnp.arange(10)
    full = drop_at(x, rows, cols, 0.4, key)
    assert np.any(full == 0) and np.any(full != 0)
    for i, j, n, m in [(0, 0, 2, 3), (3, 5, 3, 5), (5, 9, 1, 1)]:
        part = drop_at(x[i : i + n, j : j + m], rows[i : i + n], cols[j : j + m], 0.4, key)
        np.testing.assert_allclose(part, full[i : i + n, j : j + m], rtol=1e-6)
    kept = full != 0
    np.testing.assert_allclose(full, np.where(kept, x / 0.6, 0), rtol=1e-6)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_elements_are_dropped_independently_at_the_rate(impl):
    ones, cols = jnp.ones((2, 60, 50)), jnp.arange(50)
    rows = jnp.arange(120).reshape(2, 60)
    kept = np.asarray(drop_at(ones, rows, cols, 0.3, jax.random.key(2, impl=impl)) != 0)
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.3 * 0.7 / kept.size)
    # neither rows nor columns repeat, and (row, column) is not (column, row)
    assert len(np.unique(kept.reshape(120, 50), axis=0)) == 120
    assert len(np.unique(kept.reshape(120, 50).T, axis=0)) == 50
    square = kept[0, :50]
    assert abs((square == square.T).mean() - 0.58) < 0.1
    other = np.asarray(drop_at(ones, rows, cols, 0.3, jax.random.key(3, impl=impl)) != 0)
    assert abs((kept == other).mean() - 0.58) < 0.05


def test_a_tile_keeps_its_dtype():
    got = drop_at(jnp.ones((3, 4), jnp.bfloat16), jnp.arange(3), jnp.arange(4), 0.25, jax.random.key(0))
    assert got.dtype == jnp.bfloat16 and set(np.unique(np.asarray(got, np.float32))) <= {
        0,
        np.float32(1.3359375),
    }
