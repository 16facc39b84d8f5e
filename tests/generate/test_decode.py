"""Decoding equals the plain loop that its docstring promises."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tfm_jax import generate, nn
from tfm_jax.ops import masks

CONFIG = nn.Config(vocab_size=9, d_model=12, n_heads=2, d_ff=10, n_layers=2)
B, S, LENGTH = 3, 5, 6


@functools.cache
def build(module):
    model = nn.functionalize(module, CONFIG)
    # Large parameters: the tokens then vary instead of repeating.
    return model, jax.tree.map(lambda p: p * 3.0, model.init(jax.random.key(2)))


@functools.cache
def padded_logits(model):
    """The logits after the first ``n`` tokens, by a forward pass over a row padded to one length."""

    def logits(params, n, *inputs):
        *source, tokens = inputs
        return model.apply(params, *source, tokens)[n - 1]

    return jax.jit(logits)


def pad(tokens, length=10):
    return jnp.asarray([*tokens, *[0] * (length - len(tokens))], jnp.int32)


def plain_greedy(model, params, source, max_length):
    tokens = [1]
    while tokens[-1] != 2 and len(tokens) <= max_length:
        tokens.append(int(padded_logits(model)(params, len(tokens), source, pad(tokens)).argmax()))
    return tokens[1:] + [0] * (max_length + 1 - len(tokens))


def test_greedy_equals_the_plain_loop():
    model, params = build(nn.EncoderDecoder)
    source = jnp.asarray(np.random.default_rng(0).integers(3, 9, (B, S)), jnp.int32)
    lengths = [5, 3, 4]
    valid = jnp.arange(S)[None] < jnp.array(lengths)[:, None]
    got = jax.jit(functools.partial(generate.greedy, model, max_length=LENGTH))(
        params, source, source_mask=masks.padding(valid)
    )
    assert got.shape == (B, LENGTH) and got.dtype == jnp.int32
    for row in range(B):
        wanted = plain_greedy(model, params, source[row, : lengths[row]], LENGTH)
        np.testing.assert_array_equal(got[row], wanted)
    assert len(np.unique(got)) > 2


def test_a_row_that_has_ended_is_padded_while_others_go_on():
    model, params = build(nn.EncoderDecoder)
    source = jnp.asarray(np.random.default_rng(1).integers(3, 9, (20, S)), jnp.int32)
    greedy = jax.jit(functools.partial(generate.greedy, model, max_length=LENGTH))
    end = int(greedy(params, source)[0, 1])  # a token that occurs, taken as the end
    got = np.asarray(greedy(params, source, eos_id=end))
    ends = [list(row).index(end) if end in row else None for row in got]
    assert any(e is not None for e in ends) and len(set(ends)) > 1
    for row, e in zip(got, ends, strict=True):
        if e is not None:
            assert (row[e + 1 :] == 0).all()


def test_sample_equals_the_plain_loop():
    model, params = build(nn.Decoder)
    prompt, key = jnp.array([[3, 4], [5, 6]]), jax.random.key(7)
    got = jax.jit(functools.partial(generate.sample, model, max_length=LENGTH, temperature=0.7))(
        params, prompt, key=key
    )
    keys = [jax.random.fold_in(key, step) for step in range(LENGTH)]
    rows = [list(map(int, row)) for row in prompt]
    for step in range(LENGTH):
        logits = [padded_logits(model)(params, len(row), pad(row)) for row in rows]
        chosen = jax.random.categorical(keys[step], jnp.stack(logits) / 0.7)
        rows = [[*row, int(token)] for row, token in zip(rows, chosen, strict=True)]
    np.testing.assert_array_equal(got, np.array(rows)[:, 2:])


def test_sample_follows_the_models_distribution():
    model, params = build(nn.Decoder)
    prompt = jnp.tile(jnp.array([[3, 4]]), (4000, 1))
    got = np.asarray(
        generate.sample(model, params, prompt, key=jax.random.key(0), max_length=1, temperature=2.0)
    )
    wanted = jax.nn.softmax(model.apply(params, prompt[0])[-1] / 2.0)
    np.testing.assert_allclose(np.bincount(got[:, 0], minlength=9) / 4000, wanted, atol=0.04)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"max_length": 3, "temperature": 0.0}, "temperature must be above 0, got 0.0"),
    ],
)
def test_bad_options(options, message):
    model, params = build(nn.Decoder)
    with pytest.raises(ValueError, match=message):
        generate.sample(model, params, jnp.ones((1, 2), jnp.int32), key=jax.random.key(0), **options)


def test_an_empty_prompt():
    model, params = build(nn.Decoder)
    with pytest.raises(
        ValueError, match=r"prompt must be integer ids of two axes \[B, length >= 1\], got int32\[1, 0\]"
    ):
        generate.sample(model, params, jnp.ones((1, 0), jnp.int32), key=jax.random.key(0), max_length=3)


def test_an_id_outside_the_vocabulary_is_never_taken_for_another():
    model, params = build(nn.EncoderDecoder)
    got = generate.greedy(model, params, jnp.ones((2, S), jnp.int32), max_length=3, bos_id=99)
    np.testing.assert_array_equal(got, -1)
    model, params = build(nn.Decoder)
    got = generate.sample(model, params, jnp.array([[3, 50]]), key=jax.random.key(0), max_length=3)
    np.testing.assert_array_equal(got, -1)


def test_a_source_mask_that_says_nothing_of_cross_attention():
    model, params = build(nn.EncoderDecoder)
    source = jnp.asarray(np.random.default_rng(0).integers(3, 9, (B, S)), jnp.int32)
    for mask in (masks.causal(), jnp.tril(jnp.ones((S, S), bool)), masks.segments(jnp.ones(S, jnp.int32))):
        with pytest.raises(ValueError, match="pass memory_mask too"):
            generate.greedy(model, params, source, max_length=S, source_mask=mask)


def test_inside_shard_map():
    model, params = build(nn.EncoderDecoder)
    source = jnp.asarray(np.random.default_rng(0).integers(3, 9, (4, S)), jnp.int32)
    greedy = functools.partial(generate.greedy, model, max_length=LENGTH)
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    sharded = jax.shard_map(greedy, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    np.testing.assert_array_equal(jax.jit(sharded)(params, source), jax.jit(greedy)(params, source))


@pytest.mark.parametrize("source", [jnp.ones(S, jnp.int32), jnp.ones((B, S)), jnp.ones((B, 0), jnp.int32)])
def test_a_source_that_is_none(source):
    model, params = build(nn.EncoderDecoder)
    with pytest.raises(ValueError, match="source must be integer ids of two axes"):
        generate.greedy(model, params, source, max_length=3)


def test_longer_than_a_learned_position_table():
    model = nn.functionalize(nn.Decoder, dataclasses.replace(CONFIG, positions=nn.Learned(max_length=4)))
    with pytest.raises(ValueError, match="longer than the learned position table of 4"):
        generate.sample(
            model,
            model.init(jax.random.key(0)),
            jnp.ones((1, 2), jnp.int32),
            key=jax.random.key(0),
            max_length=9,
        )
