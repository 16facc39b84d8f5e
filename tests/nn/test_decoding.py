"""Incremental decoding equals one forward pass, for every position scheme."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import parameters
from tests.marks import slow, slow_but
from tfm_jax import nn
from tfm_jax.nn.decoding import left_pad
from tfm_jax.ops import masks

V, D, N, F, L, B, T, S = 13, 16, 4, 10, 2, 3, 7, 5
CONFIG = nn.Config(vocab_size=V, d_model=D, n_heads=N, d_ff=F, n_layers=L)
POSITIONS = {
    "none": None,
    "sinusoidal": nn.Sinusoidal(),
    "learned": nn.Learned(max_length=9),
    "rope": nn.Rope(),
    "alibi": nn.Alibi(),
    "relative": nn.RelativeBias(buckets=6, max_distance=8),
}
EXTRAS = {
    "pre": {},
    "post, window, grouped": {
        "norm_placement": "post",
        "final_norm": False,
        "window": 3,
        "n_kv_heads": 2,
        "embedding_norm": True,
        "qk_norm": True,
        "attention_scale": 0.7,
    },
}
VARIANTS = {
    f"{position}, {extra}": {"positions": POSITIONS[position], **EXTRAS[extra]}
    for position, extra in itertools.product(POSITIONS, EXTRAS)
}
VARIANTS["partial rotary, parallel"] = {
    "positions": nn.Rope(fraction=0.5),
    "norm_placement": "parallel",
}
QUICK = ["learned, pre", "relative, pre", "rope, post, window, grouped", "alibi, post, window, grouped"]
QUICK += ["partial rotary, parallel"]
CHUNKS = ([7], [3, 1, 3])


@functools.cache
def build(module, **fields):
    model = nn.functionalize(module, dataclasses.replace(CONFIG, **fields))
    return model, parameters.draw(model), jax.jit(model.apply)


@functools.cache
def decode_step_of(model):
    return jax.jit(functools.partial(nn.decode_step, model))


def tokens(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).integers(0, V, shape), jnp.int32)


def in_chunks(model, params, cache, inputs, chunks):
    logits, start = [], 0
    for n in chunks:
        chunk, cache = decode_step_of(model)(params, inputs[:, start : start + n], cache)
        logits.append(chunk)
        start += n
    return jnp.concatenate(logits, axis=1), cache


@pytest.mark.parametrize("name", slow_but(QUICK, VARIANTS))
def test_chunked_decoding_equals_one_forward_pass(name):
    fields = VARIANTS[name]
    model, params, apply = build(nn.Decoder, **fields)
    inputs = tokens(B, T)
    expected = apply(params, inputs)
    for chunks in CHUNKS:
        got, cache = in_chunks(model, params, nn.init_cache(model, params, B, 9), inputs, chunks)
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)
    assert int(cache.slots.length) == T
    heads, slots = fields.get("n_kv_heads", N), 2 if "window" in fields else 9
    for layer in cache.layers:
        assert [x.shape for x in layer] == [(B, heads, slots, D // N)] * 2


@pytest.mark.parametrize(
    "fields", [*slow({}), {"positions": nn.RelativeBias(6, 8), "window": 3, "n_kv_heads": 2}]
)
def test_chunked_decoding_with_cross_attention(fields):
    model, params, apply = build(nn.EncoderDecoder, **fields)
    source, target = tokens(B, S), tokens(B, T)
    mask = masks.padding(jnp.arange(S)[None] < jnp.array([[5], [3], [4]]))
    expected = apply(params, source, target, source_mask=mask)
    empty = nn.init_cache(model, params, source, 8, source_mask=mask)
    for chunks in CHUNKS:
        got, cache = in_chunks(model, params, empty, target, chunks)
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, cache.memory, empty.memory)
    assert [k.shape for k, v in cache.memory] == [(B, fields.get("n_kv_heads", N), S, D // N)] * L


def test_memory_mask_has_one_row_per_target_token():
    model, params, apply = build(nn.EncoderDecoder)
    source, target = tokens(B, S), tokens(B, T)
    table = jnp.asarray(np.random.default_rng(1).random((T, S)) < 0.5)
    expected = apply(params, source, target, memory_mask=table)
    for chunks in CHUNKS:
        cache = nn.init_cache(model, params, source, T, memory_mask=table)
        got, _ = in_chunks(model, params, cache, target, chunks)
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


def test_config_window_equals_the_window_mask():
    _, params, apply = build(nn.Decoder, window=3)
    _, _, plain = build(nn.Decoder)
    inputs = tokens(B, T)
    wanted = plain(params, inputs, masks.window(left=2))
    np.testing.assert_allclose(apply(params, inputs), wanted, atol=1e-6)
    assert np.abs(np.asarray(plain(params, inputs) - wanted)).max() > 1e-3


@pytest.mark.parametrize("fields", [{}, {"window": 3}])
def test_one_compilation_serves_every_length(fields):
    model, params, _ = build(nn.Decoder, **fields)
    step = jax.jit(functools.partial(nn.decode_step, model))
    cache = nn.init_cache(model, params, B, 9)
    for token in tokens(9, B):
        logits, cache = step(params, token[:, None], cache)
        assert np.isfinite(logits).all()
    assert step._cache_size() == 1


def test_full_cache_is_an_error_and_nan_under_jit():
    model, params, _ = build(nn.Decoder)
    cache = nn.init_cache(model, params, B, 3)
    _, cache = decode_step_of(model)(params, tokens(B, 2), cache)
    with pytest.raises(ValueError, match="got T = 2 tokens for a cache of S = 3 slots, 2 of them in use"):
        nn.decode_step(model, params, tokens(B, 2), cache)
    logits, cache = decode_step_of(model)(params, tokens(B, 2), cache)
    assert np.isnan(logits).all()
    logits, _ = decode_step_of(model)(params, tokens(B, 1), cache)
    assert np.isnan(logits).all()


def test_capacity_above_learned_positions():
    model, params, _ = build(nn.Decoder, positions=nn.Learned(max_length=9))
    with pytest.raises(ValueError, match="Learned: got a sequence of 10; wanted at most max_length=9"):
        nn.init_cache(model, params, B, 10)


@pytest.mark.parametrize("tokens", [jnp.ones((2, 3)), jnp.int32(4), jnp.ones(2, jnp.int32), [[1]]])
def test_tokens_of_a_decode_step_are_checked(tokens):
    model, params, _ = build(nn.Decoder)
    with pytest.raises(ValueError, match=r"^nn.decode_step: got .*tokens"):
        nn.decode_step(model, params, tokens, nn.init_cache(model, params, 2, 4))


def test_masks_and_tokens_are_no_arguments_of_a_decoders_empty_cache():
    model, params, _ = build(nn.Decoder)
    with pytest.raises(
        ValueError, match=r"^nn.init_cache: got inputs int32\[2, 3\] with a decoder-only model"
    ):
        nn.init_cache(model, params, jnp.ones((2, 3), jnp.int32), 4)
    with pytest.raises(
        ValueError, match=r"^nn.init_cache: got source_mask or memory_mask with a decoder-only"
    ):
        nn.init_cache(model, params, 2, 4, memory_mask=masks.causal())
    shapes = [x.shape for x in nn.init_cache(model, params, (2, 3), 4).layers[0]]
    assert shapes == [(2, 3, N, 4, D // N)] * 2


def test_left_pad():
    padded = jnp.array([[4, 0, 5, 0], [0, 0, 0, 6], [7, 8, 9, 1]])
    got, positions = left_pad(padded, padded != 0)
    np.testing.assert_array_equal(got, [[0, 0, 4, 5], [0, 0, 0, 6], [7, 8, 9, 1]])
    np.testing.assert_array_equal(positions, [[-1, -1, 0, 1], [-1, -1, -1, 0], [0, 1, 2, 3]])
    with pytest.raises(
        ValueError, match=r"left_pad: got .* valid int32\[3, 4\]; wanted .* valid bool\[..., T\], but"
    ):
        left_pad(padded, padded)


def test_cross_attention_requires_the_memory_of_a_source():
    model, params, _ = build(nn.EncoderDecoder)
    cache = model.bind(params).empty_cache((B,), 8)
    with pytest.raises(ValueError, match=r"^nn.DecoderBlock: got memory=None; wanted a memory"):
        nn.decode_step(model, params, tokens(B, 2), cache)


def test_unembed_checks_its_argument():
    model, params, _ = build(nn.Decoder)
    wanted = r"^nn.unembed: got hidden .*; wanted hidden float\[..., D\], but hidden has"
    for hidden in (jnp.ones((B, D + 1)), jnp.ones((B, D), jnp.int32)):
        with pytest.raises(ValueError, match=wanted):
            nn.unembed(model, params, hidden)


@pytest.mark.parametrize("tied", [True, False])
def test_unembed_function_equals_unembed(tied):
    model, params, _ = build(nn.Decoder, tie_embeddings=tied)
    hidden = jax.random.normal(jax.random.key(0), (B, D))
    wanted = nn.unembed(model, params, hidden)
    for batch_size in (1, B):
        project = model.bind(params).unembed_function(batch_size)
        transposed = all(x.shape != (V, D) for x in jax.make_jaxpr(project)(hidden).consts)
        assert transposed == (not tied or batch_size > 1)
        got = project(hidden)
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_scale_and_bias(tied):
    plain, params, _ = build(nn.Decoder, tie_embeddings=tied)
    fields = {"tie_embeddings": tied, "logits_scale": 0.25}
    scaled = nn.functionalize(nn.Decoder, dataclasses.replace(CONFIG, **fields))
    model = nn.functionalize(nn.Decoder, dataclasses.replace(CONFIG, **fields, logits_bias=True))
    hidden = jax.random.normal(jax.random.key(0), (B, D))
    unscaled = nn.unembed(plain, params, hidden)
    np.testing.assert_allclose(nn.unembed(scaled, params, hidden), 0.25 * unscaled, rtol=1e-5)
    kernel, none = scaled.bind(params).output_projection()
    assert none is None
    np.testing.assert_allclose(hidden @ kernel, 0.25 * unscaled, rtol=1e-4, atol=1e-6)
    bias = jnp.arange(float(V))
    params = {**params, "logits_bias": bias}
    for batch_size in (1, B):
        got = model.bind(params).unembed_function(batch_size)(hidden)
        np.testing.assert_allclose(got, 0.25 * unscaled + bias[None], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(nn.unembed(model, params, hidden), got, rtol=1e-5, atol=1e-6)
    kernel, found = model.bind(params).output_projection()
    np.testing.assert_allclose(hidden @ kernel + found[None], got, rtol=1e-5, atol=1e-6)
