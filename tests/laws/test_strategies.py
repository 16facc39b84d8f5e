"""``laws.strategies``: shapes, dtypes and ranges, the simplest case, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.ops import masks

SETTINGS = settings(database=None, derandomize=True)


@given(st.data())
def test_arrays(data):
    x = data.draw(strategies.normal((2, 3), scale=2.0))
    assert x.shape == (2, 3) and x.dtype == np.float32 and np.allclose(5 * x, np.round(5 * x), atol=1e-5)
    assert (data.draw(strategies.normal((50,), shift=0.05)) != 0).all()
    y = data.draw(strategies.distinct((2, 5)))
    assert y.dtype == np.float32 and (np.diff(np.sort(y), axis=-1) >= 0.25).all()
    tokens = data.draw(strategies.tokens(2, 3, vocab_size=4))
    assert tokens.shape == (2, 3) and tokens.dtype == np.int32 and (tokens >= 0).all() and (tokens < 4).all()
    positions = data.draw(strategies.positions((2, 3), largest=5))
    assert positions.shape == (2, 3) and positions.dtype == np.int32 and positions.max() <= 5
    assert jnp.issubdtype(data.draw(strategies.keys()).dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize("make", [strategies.normal, strategies.distinct])
def test_a_seed_makes_the_numbers_and_a_generator_the_next_ones(make):
    first, second = (find(make((9,), seed=3), lambda x: True, settings=SETTINGS) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    rng, drawn = np.random.default_rng(3), []
    pairs = st.tuples(make((9,), seed=rng), make((9,), seed=rng))
    find(pairs, lambda pair: drawn.append(pair) is None, settings=SETTINGS)
    assert (drawn[0][0] == first).all() and (drawn[0][1] != first).any()


@given(st.data())
def test_padding(data):
    lengths = data.draw(strategies.lengths(3, 4, shortest=2))
    assert lengths.shape == (3,) and lengths.dtype == np.int32 and lengths.min() >= 2 and lengths.max() <= 4
    right, left = (data.draw(strategies.valid(3, 4, side=side)) for side in ("right", "left"))
    for valid in (right, left[:, ::-1]):
        assert valid.dtype == bool and valid[:, 0].all() and (valid[:, 1:] <= valid[:, :-1]).all()
    assert data.draw(strategies.valid(2, 3, shortest=3)).all()


def test_another_side_is_an_error():
    with pytest.raises(ValueError, match=r"valid: got side='both'; wanted \"left\" or \"right\"\."):
        strategies.valid(1, 2, side="both")


@given(strategies.segment_ids(2, 6, segments=3))
def test_segment_ids_are_in_order(ids):
    assert ids.shape == (2, 6) and ids.dtype == np.int32 and (np.diff(ids) >= 0).all()
    assert ids.min() >= 0 and ids.max() <= 2


@given(st.data())
def test_queries_keys_and_values(data):
    shape = data.draw(strategies.attention_shapes(lambda shape: shape.T < shape.S))
    assert shape.T < shape.S and shape.N % shape.K == 0
    q, k, v = data.draw(strategies.qkv(shape))
    assert q.shape == (shape.B, shape.T, shape.N, shape.H)
    assert k.shape == v.shape == (shape.B, shape.S, shape.K, shape.H)
    table = data.draw(strategies.dense_masks(shape.B, shape.T, shape.S))
    assert table.shape == (shape.B, 1, shape.T, shape.S) and table.dtype == bool


def test_the_simplest_dense_mask_masks_nothing_and_some_row_is_fully_masked():
    cases = strategies.dense_masks(1, 2, 2)
    assert find(cases, lambda table: True, settings=SETTINGS).all()
    assert find(cases, lambda table: not table.any(-1).all(), settings=SETTINGS).sum() == 2


@pytest.mark.parametrize("kind", strategies.MASK_KINDS)
def test_a_mask_of_a_kind_is_its_table(kind):
    for seed in range(3):
        mask, table = strategies.mask_of_kind(kind, seed, (2,), 3, T=4, S=5)
        assert isinstance(mask, masks.Mask)
        got = np.broadcast_to(masks.to_heads(mask, (2,), 3, 4, 5), table.shape)
        np.testing.assert_array_equal(got, table)


def test_another_kind_is_an_error():
    with pytest.raises(ValueError, match=r"mask_of_kind: got 'diagonal'; wanted one of causal, window"):
        strategies.mask_of_kind("diagonal", 0, (), 1, T=2, S=2)
