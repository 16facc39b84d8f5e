"""Pooling and the classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import nn

CONFIG = nn.Config(vocab_size=11, d_model=6, n_heads=2, d_ff=5, n_layers=2)


def head(pooling):
    model = nn.functionalize(nn.ClassificationHead, CONFIG, 4, pooling)
    return model, model.init(jax.random.key(0))


def test_mean_pooling_counts_valid_positions_only():
    model, params = head("mean")
    x = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)
    valid = np.arange(5) < np.array([[5], [2], [0]])
    x[1, 3] = np.nan  # what is under padding cannot poison
    got = model.apply(params, jnp.asarray(x), jnp.asarray(valid))
    kernel, bias = params["dense"]["kernel"], params["dense"]["bias"]
    np.testing.assert_allclose(got[0], x[0].mean(0) @ kernel + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1], x[1, :2].mean(0) @ kernel + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[2], bias, atol=1e-6)
    np.testing.assert_allclose(model.apply(params, jnp.asarray(x[:1])), got[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("valid", [np.ones((3, 1), bool), np.ones((3, 5), np.int32), np.ones(5, bool)])
def test_valid_of_another_shape_or_dtype(valid):
    model, params = head("mean")
    with pytest.raises(ValueError, match=r"valid must be bool \[..., T\] = \(3, 5\), got"):
        model.apply(params, jnp.ones((3, 5, 6)), jnp.asarray(valid))


def test_no_classes():
    with pytest.raises(ValueError, match="n_classes must be at least 1, got 0"):
        nn.functionalize(nn.ClassificationHead, CONFIG, 0, "mean")


def test_first_pooling_reads_the_first_position():
    model, params = head("first")
    x = jax.random.normal(jax.random.key(1), (3, 5, 6))
    got = model.apply(params, x)
    np.testing.assert_array_equal(got, model.apply(params, x.at[:, 1:].set(0.0)))
    assert not np.allclose(got, model.apply(params, x.at[:, 0].set(0.0)), atol=1e-3)


def test_another_pooling():
    with pytest.raises(ValueError, match="'mean' or 'first', got 'max'"):
        head("max")


def test_the_classifier_ignores_padding():
    model = nn.functionalize(nn.Classifier, CONFIG, n_classes=3)
    params = model.init(jax.random.key(0))
    tokens = jnp.array([[1, 2, 3, 4, 0, 0, 0]])
    padded = model.apply(params, tokens, jnp.arange(7)[None] < 4)
    np.testing.assert_allclose(padded, model.apply(params, tokens[:, :4]), rtol=1e-5, atol=1e-6)
    logits, weights = model.apply(params, tokens, jnp.arange(7)[None] < 4, return_weights=True)
    np.testing.assert_array_equal(logits, padded)
    assert weights["encoder"].shape == (2, 1, 2, 7, 7)
    np.testing.assert_array_equal(weights["encoder"][..., 4:], 0.0)
