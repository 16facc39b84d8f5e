"""The masked language model: the head of BERT on an encoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import nn, ops

CONFIG = nn.Config(
    vocab_size=9, d_model=6, n_heads=2, d_ff=5, n_layers=1, norm=nn.LayerNorm(0.1), token_types=2
)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_by_its_equations(tied):
    config = dataclasses.replace(CONFIG, tie_embeddings=tied)
    model = nn.functionalize(nn.MaskedLanguageModel, config, activation="tanh")
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)
    tokens, types = jnp.array([1, 8, 3]), jnp.array([0, 1, 1])
    x = nn.functionalize(nn.Encoder, config).apply(params["encoder"], tokens, token_types=types)
    x = np.tanh(np.asarray(x) @ params["dense"]["kernel"] + params["dense"]["bias"][None])
    x = ops.layer_norm(x, params["norm"]["scale"], params["norm"]["bias"], eps=0.1)
    table = params["encoder"]["embedding"]["table"].T if tied else params["head"]["projection"]["kernel"]
    got = model.apply(params, tokens, token_types=types)
    np.testing.assert_allclose(got, x @ table + params["bias"][None], rtol=1e-4, atol=1e-5)
    assert got.dtype == jnp.float32
