"""Token embedding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import nn, ops


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
    with pytest.raises(ValueError, match=r"got token_types=2; wanted 0. Patches have no types"):
        nn.functionalize(
            nn.Encoder, nn.Config(d_model=6, n_heads=1, d_ff=4, patches=nn.Patches(4, 6), token_types=2)
        )


def test_embedding_norm():
    config = nn.Config(
        vocab_size=7, d_model=4, n_heads=1, d_ff=4, n_layers=1, positions=nn.Learned(5), embedding_norm=True
    )
    model = nn.functionalize(nn.EncoderStack, config)
    params = model.init(jax.random.key(0))
    params["embedding_norm"]["scale"] = jnp.array([1.0, 2.0, 3.0, 4.0])
    x = jax.random.normal(jax.random.key(1), (3, 4))
    got = model.apply(params, x, jnp.arange(3), method="embed_positions")
    wanted = ops.layer_norm(x + params["position_embedding"]["table"][:3], jnp.arange(1.0, 5.0))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
