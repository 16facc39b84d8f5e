"""Pooling of sequences, and BERT's pooler."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import nn

CONFIG = nn.Config(vocab_size=11, d_model=6, n_heads=2, d_ff=5, n_layers=2)


def head(pooling):
    model = nn.functionalize(nn.ClassificationHead, CONFIG, 4, pooling)
    return model, model.init(jax.random.key(0))


def test_mean_pooling_counts_only_valid_positions():
    model, params = head("mean")
    x = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)
    valid = np.arange(5) < np.array([[5], [2], [0]])
    x[1, 3] = np.nan  # NaN at a masked position must not reach the output
    got = model.apply(params, jnp.asarray(x), jnp.asarray(valid))
    kernel, bias = params["dense"]["kernel"], params["dense"]["bias"]
    np.testing.assert_allclose(got[0], x[0].mean(0) @ kernel + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1], x[1, :2].mean(0) @ kernel + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[2], bias, atol=1e-6)
    np.testing.assert_allclose(model.apply(params, jnp.asarray(x[:1])), got[:1], rtol=1e-5, atol=1e-6)


def test_first_pooling_reads_the_first_position():
    model, params = head("first")
    x = jax.random.normal(jax.random.key(1), (3, 5, 6))
    got = model.apply(params, x)
    np.testing.assert_array_equal(got, model.apply(params, x.at[:, 1:].set(0.0)))
    assert not np.allclose(got, model.apply(params, x.at[:, 0].set(0.0)), atol=1e-3)


def test_pooler_reads_the_first_token():
    config = dataclasses.replace(CONFIG, pooler=nn.Pooler("relu"))
    tokens = jnp.array([[1, 2, 3, 4]])
    encoder = nn.functionalize(nn.Encoder, config)
    params = encoder.init(jax.random.key(0))
    pooled = encoder.bind(params).pooled(tokens)
    dense = params["pooler"]["dense"]
    first = encoder.apply(params, tokens)[:, 0]
    np.testing.assert_allclose(pooled, jax.nn.relu(first @ dense["kernel"]), rtol=1e-5, atol=1e-6)
    model = nn.functionalize(nn.Classifier, config, 3, "first")
    classifier = model.init(jax.random.key(1)) | {"encoder": params}
    wanted = pooled @ classifier["head"]["dense"]["kernel"]
    np.testing.assert_allclose(model.apply(classifier, tokens), wanted, rtol=1e-5, atol=1e-6)


def test_dropout_before_the_pooler():
    def pooled(rate, key):
        config = dataclasses.replace(CONFIG, pooler=nn.Pooler("relu", rate))
        encoder = nn.functionalize(nn.Encoder, config)
        return encoder.bind(encoder.init(jax.random.key(0))).pooled(jnp.array([1, 2, 3]), key=key)

    plain = pooled(0.0, jax.random.key(3))
    np.testing.assert_array_equal(plain, pooled(0.9, None))
    assert not np.allclose(plain, pooled(0.9, jax.random.key(3)), atol=1e-3)


def test_unknown_pooling():
    with pytest.raises(ValueError, match="got pooling='max'; wanted 'mean', 'first' or None"):
        head("max")
