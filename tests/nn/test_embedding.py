"""Token embedding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.nn.models import TINY, B, D, T, V, assert_close, build, run
from tfm_jax import nn


def test_token_types_are_added_to_the_tokens():
    config = nn.Config(vocab_size=7, d_model=4, n_heads=1, d_ff=4, token_types=3)
    model = nn.functionalize(nn.Embedding, config)
    params = model.init(jax.random.key(0))
    tokens, types = jnp.array([[1, 6, 2], [0, 3, 3]]), jnp.array([[0, 2, 1], [1, 1, 0]])
    wanted = 2.0 * params["table"][tokens] + params["token_types"][types]
    np.testing.assert_allclose(model.apply(params, tokens, types), wanted, rtol=1e-6)
    type_0 = 2.0 * params["table"][tokens] + params["token_types"][jnp.zeros_like(types)]
    np.testing.assert_allclose(model.apply(params, tokens), type_0, rtol=1e-6)
    assert bool(jnp.isnan(model.apply(params, tokens, types + 1)[0, 1]).all())


def test_token_types_without_config_token_types():
    config = nn.Config(vocab_size=7, d_model=4, n_heads=1, d_ff=4)
    model = nn.functionalize(nn.Encoder, config)
    with pytest.raises(ValueError, match=r"got token_types with config.token_types=0; wanted None"):
        model.apply(model.init(jax.random.key(0)), jnp.array([1, 2]), token_types=jnp.array([0, 1]))
    typed = dataclasses.replace(config, token_types=2)
    with pytest.raises(ValueError, match="Decoder: got token_types=2; wanted token_types=0"):
        nn.functionalize(nn.Decoder, typed)
    with pytest.raises(ValueError, match=r"got token_types=2 with patches; wanted 0. Patches have no types"):
        nn.functionalize(
            nn.Encoder, nn.Config(d_model=6, n_heads=1, d_ff=4, patches=nn.Patches(4, 6), token_types=2)
        )


@given(st.integers(0, 2**31 - 1))
def test_scale_embeddings(seed):
    x = jnp.asarray(np.random.default_rng(seed).integers(0, V, 4), jnp.int32)
    model = nn.functionalize(nn.Embedding, TINY)
    params = {"table": jax.random.normal(jax.random.key(seed), (V, D))}
    assert_close(run(model, params, x), params["table"][x] * np.float32(np.sqrt(D)))
    plain = nn.functionalize(nn.Embedding, dataclasses.replace(TINY, scale_embeddings=False))
    np.testing.assert_array_equal(plain.apply(params, x), params["table"][x])


def test_token_outside_the_vocabulary_gives_nan():
    model, params = build(nn.Encoder)
    for bad in (V, -1):
        out = model.apply(params, jnp.array([1, bad, 2]))
        assert bool(jnp.isnan(out).any())


def test_float_tokens():
    model, params = build(nn.Encoder)
    with pytest.raises(ValueError, match=r"Embedding: got tokens float32\[2, 5\]; wanted tokens int\[...\]"):
        model.apply(params, jnp.ones((B, T)))
