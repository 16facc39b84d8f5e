"""Tokens, patches and positions into vectors, against plain numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import nn, ops
from tfm_jax.nn.positions import PositionBias, PositionEmbedding, count_positions
from tfm_jax.ops import masks

CONFIG = nn.Config(
    d_model=5, n_heads=1, d_ff=4, n_layers=1, positions=None, patches=nn.Patches(4, 6, channels=3, size=2)
)


@pytest.mark.parametrize("height, width", [(2, 2), (4, 3)])
def test_patches_are_read_row_by_row(height, width):
    size = height if height == width else (height, width)
    patches = dataclasses.replace(CONFIG.patches, size=size)
    model = nn.functionalize(nn.PatchEmbedding, dataclasses.replace(CONFIG, patches=patches))
    params = model.init(jax.random.key(0))
    image = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    kernel, bias = params["projection"]["kernel"], params["projection"]["bias"]
    wanted = [
        image[row : row + height, column : column + width].reshape(-1) @ kernel + bias
        for row in range(0, 4, height)
        for column in range(0, 6, width)
    ]
    assert len(wanted) == patches.count
    np.testing.assert_allclose(model.apply(params, jnp.asarray(image)), wanted, rtol=1e-5, atol=1e-6)


def test_a_class_token_comes_first():
    config = dataclasses.replace(CONFIG, patches=dataclasses.replace(CONFIG.patches, class_token=True))
    model = nn.functionalize(nn.PatchEmbedding, config)
    params = model.init(jax.random.key(0))
    params["class_token"] = jnp.arange(5.0)[None]
    out = model.apply(params, jnp.ones((2, 4, 6, 3)))
    assert out.shape == (2, 7, 5)
    np.testing.assert_array_equal(out[:, 0], [np.arange(5.0)] * 2)


def test_an_image_of_another_size():
    model = nn.functionalize(nn.PatchEmbedding, CONFIG)
    with pytest.raises(ValueError, match=r"= \(4, 6, 3\), got \(2, 6, 4, 3\)"):
        model.apply(model.init(jax.random.key(0)), jnp.ones((2, 6, 4, 3)))


def test_learned_positions_are_rows_of_the_table():
    config = dataclasses.replace(CONFIG, positions=nn.Learned(max_length=9))
    model = nn.functionalize(PositionEmbedding, config)
    params = model.init(jax.random.key(0))
    positions = jnp.array([[0, 3, 8], [1, 1, 2]])
    got = model.apply(params, jnp.ones((2, 3, 5)), positions)
    np.testing.assert_allclose(got, 1.0 + params["table"][positions], rtol=1e-6)
    # A position that is only known when it runs is never some other position.
    assert bool(jnp.isnan(model.apply(params, jnp.ones((1, 3, 5)), jnp.array([[0, 1, 9]]))[0, 2]).all())


def test_token_types_are_added_to_the_tokens():
    config = nn.Config(vocab_size=7, d_model=4, n_heads=1, d_ff=4, token_types=3)
    model = nn.functionalize(nn.Embedding, config)
    params = model.init(jax.random.key(0))
    tokens, types = jnp.array([[1, 6, 2], [0, 3, 3]]), jnp.array([[0, 2, 1], [1, 1, 0]])
    wanted = 2.0 * params["table"][tokens] + params["token_types"][types]
    np.testing.assert_allclose(model.apply(params, tokens, types), wanted, rtol=1e-6)
    of_the_first = 2.0 * params["table"][tokens] + params["token_types"][jnp.zeros_like(types)]
    np.testing.assert_allclose(model.apply(params, tokens), of_the_first, rtol=1e-6)
    assert bool(jnp.isnan(model.apply(params, tokens, types + 1)[0, 1]).all())


def test_token_types_where_there_are_none():
    config = nn.Config(vocab_size=7, d_model=4, n_heads=1, d_ff=4)
    model = nn.functionalize(nn.Encoder, config)
    with pytest.raises(ValueError, match="knows no token types"):
        model.apply(model.init(jax.random.key(0)), jnp.array([1, 2]), token_types=jnp.array([0, 1]))
    typed = dataclasses.replace(config, token_types=2)
    with pytest.raises(ValueError, match="a decoder reads tokens of one type"):
        nn.functionalize(nn.Decoder, typed)
    with pytest.raises(ValueError, match="patches have none"):
        nn.functionalize(nn.Encoder, dataclasses.replace(CONFIG, token_types=2))


def test_a_norm_before_the_first_layer():
    config = nn.Config(
        vocab_size=7, d_model=4, n_heads=1, d_ff=4, n_layers=1, positions=nn.Learned(5), embedding_norm=True
    )
    model = nn.functionalize(nn.EncoderStack, config)
    params = model.init(jax.random.key(0))
    params["embedding_norm"]["scale"] = jnp.array([1.0, 2.0, 3.0, 4.0])
    x = jax.random.normal(jax.random.key(1), (3, 4))
    got = model.apply(params, x, jnp.arange(3), method="enter")
    wanted = ops.layer_norm(x + params["position_embedding"]["table"][:3], jnp.arange(1.0, 5.0))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_relative_bias_is_looked_up_by_bucket():
    config = nn.Config(d_model=6, n_heads=3, d_ff=4, n_layers=1, positions=nn.RelativeBias(6, 8))
    model = nn.functionalize(PositionBias, config, bidirectional=True)
    params = model.init(jax.random.key(0))
    q, k = jnp.arange(4), jnp.arange(5)
    bias = model.apply(params, q, k)(q, k)
    buckets = ops.relative_buckets(q, k, buckets=6, max_distance=8, bidirectional=True)
    assert bias.shape == (3, 4, 5)
    for head in range(3):
        np.testing.assert_array_equal(bias[head], np.asarray(params["table"])[np.asarray(buckets), head])


def test_relative_bias_of_parameters_in_bfloat16_is_float32():
    config = nn.Config(d_model=6, n_heads=3, d_ff=4, n_layers=1, positions=nn.RelativeBias(6, 8))
    model = nn.functionalize(PositionBias, config, bidirectional=True)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.init(jax.random.key(0)))
    q, k = jnp.arange(4), jnp.arange(5)
    bias = model.apply(half, q, k)(q, k)
    assert bias.dtype == jnp.float32
    whole = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    np.testing.assert_array_equal(bias, model.apply(whole, q, k)(q, k))


def test_a_model_with_a_relative_bias_runs_in_bfloat16():
    config = nn.Config(
        vocab_size=7, d_model=6, n_heads=3, d_ff=4, n_layers=1, positions=nn.RelativeBias(6, 8)
    )
    tokens = jnp.arange(6) % 7
    params = nn.functionalize(nn.Decoder, config).init(jax.random.key(0))
    params["stack"]["position_bias"]["table"] *= 9.0  # so that it is seen
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    narrow = nn.functionalize(nn.Decoder, dataclasses.replace(config, dtype="bfloat16"))
    wanted = nn.functionalize(nn.Decoder, config).apply(params, tokens)
    np.testing.assert_allclose(narrow.apply(half, tokens), wanted, atol=0.1)
    half["stack"]["position_bias"]["table"] *= 0.0
    assert np.abs(narrow.apply(half, tokens) - wanted).max() > 0.2


def test_a_decoders_relative_bias_has_one_direction():
    config = nn.Config(d_model=6, n_heads=3, d_ff=4, n_layers=1, positions=nn.RelativeBias(6, 8))
    model = nn.functionalize(PositionBias, config, bidirectional=False)
    positions = jnp.arange(4)
    bias = model.apply(model.init(jax.random.key(0)), positions, positions)(positions, positions)
    np.testing.assert_array_equal(bias[:, 0, 1], bias[:, 0, 3])  # all of the future is one bucket


VALID = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=2, max_size=2).map(np.array)


@given(VALID, st.integers(0, 3))
def test_positions_count_the_tokens_that_are_no_padding(valid, padding_id):
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
def test_positions_are_counted_by_all_padding_that_a_mask_joins(valid, other):
    config = nn.Config(vocab_size=9, positions=nn.Learned(6), count_padding=False)
    tokens, padding = jnp.ones((2, 5), jnp.int32), masks.padding(jnp.asarray(valid))
    alone = count_positions(config, tokens, padding)
    for mask in (padding & masks.causal(), masks.causal() & masks.window(2) & padding, padding & padding):
        np.testing.assert_array_equal(count_positions(config, tokens, mask), alone)
    got = count_positions(config, tokens, padding & masks.padding(jnp.asarray(other[0])))
    want = count_positions(config, tokens, masks.padding(jnp.asarray(valid & other[0])))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("module", [nn.Encoder, nn.Decoder])
def test_padding_that_cannot_be_counted_is_refused_and_positions_serve(module):
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
    for mask in (masks.segments(tokens), ~masks.causal() | masks.causal()):  # nothing of padding
        assert count_positions(config, tokens, mask) is None
    with pytest.raises(ValueError, match=r"got valid of shape \[2, 4\]"):
        model.apply(params, tokens, masks.padding(jnp.ones((2, 4), bool)))


def test_a_decoder_counts_by_padding_in_its_causal_mask():
    config = nn.Config(vocab_size=9, d_model=4, n_heads=2, n_layers=1, count_padding=False)
    model = nn.functionalize(nn.Decoder, config)
    params, tokens = model.init(jax.random.key(0)), jnp.array([[1, 2, 3], [4, 5, 6]])
    padding = masks.padding(jnp.array([[False, True, True], [True, True, True]]))
    want = model.apply(params, tokens, padding)
    np.testing.assert_array_equal(model.apply(params, tokens, causal=masks.causal() & padding), want)
    assert not np.allclose(model.apply(params, tokens, padding, positions=jnp.arange(3))[0, 1:], want[0, 1:])


def test_learned_positions_without_a_padding_id_are_looked_up_as_they_are():
    model = nn.functionalize(PositionEmbedding, dataclasses.replace(CONFIG, positions=nn.Learned(9)))
    params = model.init(jax.random.key(0))
    program = jax.make_jaxpr(model.apply)(params, jnp.ones((2, 3, 5)), jnp.ones((2, 3), jnp.int32))
    added = [e.invars[0].aval.dtype for e in program.eqns if e.primitive.name == "add"]
    assert added == [jnp.float32]


def test_padding_has_a_vector_of_its_own_before_the_positions():
    config = nn.Config(vocab_size=9, d_model=4, n_heads=2, positions=nn.Learned(3, padding_id=1))
    model = nn.functionalize(PositionEmbedding, config)
    params = model.init(jax.random.key(0))
    assert params["table"].shape == (4, 4)
    got = model.apply(params, jnp.zeros((5, 4)), jnp.array([-1, 0, 2, 3, -2], jnp.int32))
    np.testing.assert_array_equal(got[:3], params["table"][jnp.array([0, 1, 3])])
    assert jnp.isnan(got[3:]).all()


def test_what_counts_no_padding_has_its_limits():
    config = nn.Config(vocab_size=9, d_model=4, n_heads=2, positions=nn.Learned(3, padding_id=1))
    with pytest.raises(ValueError, match="a decoder counts every token: got Learned"):
        nn.functionalize(nn.Decoder, config)
    with pytest.raises(ValueError, match="a sequence of 4 is longer than the learned position table of 3"):
        count_positions(config, jnp.ones((1, 4), jnp.int32), None)
    with pytest.raises(ValueError, match=r"nn.Embedding: got tokens=\[\[1, 2\]\], a list"):
        count_positions(config, [[1, 2]], None)
