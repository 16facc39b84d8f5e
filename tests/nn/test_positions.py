"""Position schemes: embedding, default positions, relative bias."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import nn, ops
from tfm_jax.nn.positions import count_positions
from tfm_jax.ops import masks

D, F, T = 8, 10, 5
CONFIG = nn.Config(d_model=5, n_heads=1, d_ff=4, n_layers=1, positions=None)


def test_learned_positions_are_rows_of_the_table():
    config = dataclasses.replace(CONFIG, positions=nn.Learned(max_length=9))
    model = nn.functionalize(config.positions.build_embedding, config)
    params = model.init(jax.random.key(0))
    positions = jnp.array([[0, 3, 8], [1, 1, 2]])
    got = model.apply(params, jnp.ones((2, 3, 5)), positions)
    np.testing.assert_allclose(got, 1.0 + params["table"][positions], rtol=1e-6)
    # An out-of-range position gives NaN, never another row.
    assert bool(jnp.isnan(model.apply(params, jnp.ones((1, 3, 5)), jnp.array([[0, 1, 9]]))[0, 2]).all())


def test_relative_bias_is_looked_up_by_bucket():
    config = nn.Config(d_model=6, n_heads=3, d_ff=4, n_layers=1, positions=nn.RelativeBias(6, 8))
    model = nn.functionalize(config.positions.build_bias, config, bidirectional=True)
    params = model.init(jax.random.key(0))
    q, k = jnp.arange(4), jnp.arange(5)
    bias = model.apply(params, q, k)(q, k)
    buckets = ops.relative_buckets(q, k, buckets=6, max_distance=8, bidirectional=True)
    assert bias.shape == (3, 4, 5)
    for head in range(3):
        np.testing.assert_array_equal(bias[head], np.asarray(params["table"])[np.asarray(buckets), head])


def test_relative_bias_of_bfloat16_parameters_is_float32():
    config = nn.Config(d_model=6, n_heads=3, d_ff=4, n_layers=1, positions=nn.RelativeBias(6, 8))
    model = nn.functionalize(config.positions.build_bias, config, bidirectional=True)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.init(jax.random.key(0)))
    q, k = jnp.arange(4), jnp.arange(5)
    bias = model.apply(rounded, q, k)(q, k)
    assert bias.dtype == jnp.float32
    widened = jax.tree.map(lambda x: x.astype(jnp.float32), rounded)
    np.testing.assert_array_equal(bias, model.apply(widened, q, k)(q, k))


def test_relative_bias_in_bfloat16_models():
    config = nn.Config(
        vocab_size=7, d_model=6, n_heads=3, d_ff=4, n_layers=1, positions=nn.RelativeBias(6, 8)
    )
    tokens = jnp.arange(6) % 7
    params = nn.functionalize(nn.Decoder, config).init(jax.random.key(0))
    params["stack"]["position_bias"]["table"] *= 9.0  # large enough to matter
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    narrow = nn.functionalize(nn.Decoder, dataclasses.replace(config, dtype="bfloat16"))
    wanted = nn.functionalize(nn.Decoder, config).apply(params, tokens)
    np.testing.assert_allclose(narrow.apply(rounded, tokens), wanted, atol=0.1)
    rounded["stack"]["position_bias"]["table"] *= 0.0
    assert np.abs(narrow.apply(rounded, tokens) - wanted).max() > 0.2


def test_relative_bias_of_decoders_is_unidirectional():
    config = nn.Config(d_model=6, n_heads=3, d_ff=4, n_layers=1, positions=nn.RelativeBias(6, 8))
    model = nn.functionalize(config.positions.build_bias, config, bidirectional=False)
    positions = jnp.arange(4)
    bias = model.apply(model.init(jax.random.key(0)), positions, positions)(positions, positions)
    np.testing.assert_array_equal(bias[:, 0, 1], bias[:, 0, 3])  # all of the future is one bucket


VALID = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=2, max_size=2).map(np.array)


@given(VALID, st.integers(0, 3))
def test_positions_count_tokens_without_padding(valid, padding_id):
    tokens = jnp.asarray(np.where(valid, 4, padding_id))
    counted = np.cumsum(valid, 1) - 1
    by_id = nn.Config(vocab_size=9, positions=nn.Learned(6, padding_id=padding_id))
    got = count_positions(by_id, tokens, None)
    np.testing.assert_array_equal(got, np.where(valid, counted, -1))
    by_mask = nn.Config(vocab_size=9, positions=nn.Alibi(), count_padding=False)
    got = count_positions(by_mask, tokens, masks.padding(jnp.asarray(valid)))
    np.testing.assert_array_equal(got, np.where(valid, counted, 0))
    for mask in (None, masks.causal()):
        assert count_positions(by_mask, tokens, mask) is None
    assert count_positions(nn.Config(vocab_size=9), tokens, masks.padding(jnp.asarray(valid))) is None


@given(VALID, VALID)
def test_positions_count_with_all_padding_joined_by_and(valid, other):
    config = nn.Config(vocab_size=9, positions=nn.Learned(6), count_padding=False)
    tokens, padding = jnp.ones((2, 5), jnp.int32), masks.padding(jnp.asarray(valid))
    expected = count_positions(config, tokens, padding)
    for mask in (padding & masks.causal(), masks.causal() & masks.window(2) & padding, padding & padding):
        np.testing.assert_array_equal(count_positions(config, tokens, mask), expected)
    got = count_positions(config, tokens, padding & masks.padding(jnp.asarray(other[0])))
    want = count_positions(config, tokens, masks.padding(jnp.asarray(valid & other[0])))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("module", [nn.Encoder, nn.Decoder])
def test_uncountable_padding_is_an_error_unless_positions_are_passed(module):
    config = nn.Config(vocab_size=9, d_model=4, n_heads=2, n_layers=1, positions=None, count_padding=False)
    model = nn.functionalize(module, config)
    params, tokens = model.init(jax.random.key(0)), jnp.ones((2, 3), jnp.int32)
    valid = jnp.ones((2, 3), bool)
    for mask in (
        jnp.ones((2, 3, 3), bool),
        masks.dense(jnp.ones((3, 3), bool)) & masks.padding(valid),
        ~masks.padding(~valid),
        masks.padding(valid) | masks.causal(),
    ):
        with pytest.raises(ValueError, match=r"^mask: got an array, .* wanted masks.padding\(valid\)"):
            model.apply(params, tokens, mask)
        assert model.apply(params, tokens, mask, positions=jnp.arange(3)).shape[:2] == (2, 3)
    for mask in (masks.segments(tokens), ~masks.causal() | masks.causal()):  # no padding mask
        assert count_positions(config, tokens, mask) is None
    with pytest.raises(ValueError, match=r"got valid of shape \[2, 4\]"):
        model.apply(params, tokens, masks.padding(jnp.ones((2, 4), bool)))


def test_decoder_counts_by_padding_in_its_causal_mask():
    config = nn.Config(vocab_size=9, d_model=4, n_heads=2, n_layers=1, count_padding=False)
    model = nn.functionalize(nn.Decoder, config)
    params, tokens = model.init(jax.random.key(0)), jnp.array([[1, 2, 3], [4, 5, 6]])
    padding = masks.padding(jnp.array([[False, True, True], [True, True, True]]))
    want = model.apply(params, tokens, padding)
    np.testing.assert_array_equal(model.apply(params, tokens, causal=masks.causal() & padding), want)
    assert not np.allclose(model.apply(params, tokens, padding, positions=jnp.arange(3))[0, 1:], want[0, 1:])


def test_learned_positions_without_padding_id_add_no_offset():
    model = nn.functionalize(nn.Learned(9).build_embedding, CONFIG)
    params = model.init(jax.random.key(0))
    program = jax.make_jaxpr(model.apply)(params, jnp.ones((2, 3, 5)), jnp.ones((2, 3), jnp.int32))
    added = [e.invars[0].aval.dtype for e in program.eqns if e.primitive.name == "add"]
    assert added == [jnp.float32]


def test_padding_id_has_row_0_of_the_position_table():
    config = nn.Config(vocab_size=9, d_model=4, n_heads=2, positions=nn.Learned(3, padding_id=1))
    model = nn.functionalize(config.positions.build_embedding, config)
    params = model.init(jax.random.key(0))
    assert params["table"].shape == (4, 4)
    got = model.apply(params, jnp.zeros((5, 4)), jnp.array([-1, 0, 2, 3, -2], jnp.int32))
    np.testing.assert_array_equal(got[:3], params["table"][jnp.array([0, 1, 3])])
    assert jnp.isnan(got[3:]).all()


def test_padding_id_errors():
    config = nn.Config(vocab_size=9, d_model=4, n_heads=2, positions=nn.Learned(3, padding_id=1))
    with pytest.raises(ValueError, match=r"Decoder: got Learned.*; wanted padding_id=None"):
        nn.functionalize(nn.Decoder, config)
    with pytest.raises(ValueError, match="Learned: got a sequence of 4; wanted at most max_length=3"):
        count_positions(config, jnp.ones((1, 4), jnp.int32), None)
    with pytest.raises(ValueError, match=r"nn.Embedding: got tokens=\[\[1, 2\]\], a list"):
        count_positions(config, [[1, 2]], None)


@pytest.mark.parametrize(("pairing", "rotated"), [("half", 4), ("interleaved", 2)])
def test_position_fields_reach_ops(pairing, rotated):
    config = nn.Config(vocab_size=1, d_model=D, n_heads=2, d_ff=F, positions=nn.Sinusoidal(30.0, pairing))
    got = nn.functionalize(config.positions.build_embedding, config).apply(
        {}, jnp.zeros((T, D)), jnp.arange(T)
    )
    np.testing.assert_array_equal(got, ops.sinusoidal(jnp.arange(T), D, theta=30.0, pairing=pairing))

    attend = nn.functionalize(
        nn.MultiHeadAttention, dataclasses.replace(config, positions=nn.Rope(30.0, pairing, rotated / 4))
    )
    params = attend.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (T, D))
    q, k, v = (jnp.einsum("TD,DNH->TNH", x, params[name]["kernel"]) for name in ("query", "key", "value"))

    def rotate_by(y):
        return ops.rotary(y, jnp.arange(T), theta=30.0, pairing=pairing)

    q, k = (jnp.concatenate([rotate_by(y[..., :rotated]), y[..., rotated:]], -1) for y in (q, k))
    wanted = jnp.einsum("TNH,NHD->TD", ops.attention(q, k, v), params["output"]["kernel"])
    np.testing.assert_allclose(
        attend.apply(params, x, positions=jnp.arange(T))[0], wanted, rtol=1e-4, atol=1e-5
    )
