"""Pooling and the classifier."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import nn

CONFIG = nn.Config(vocab_size=11, d_model=6, n_heads=2, d_ff=5, n_layers=2)


def head(pooling, **options):
    model = nn.functionalize(nn.ClassificationHead, CONFIG, 4, pooling, **options)
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
    with pytest.raises(ValueError, match="n_classes=0; wanted an integer from 1 to"):
        nn.functionalize(nn.ClassificationHead, CONFIG, 0, "mean")


def test_first_pooling_reads_the_first_position():
    model, params = head("first")
    x = jax.random.normal(jax.random.key(1), (3, 5, 6))
    got = model.apply(params, x)
    np.testing.assert_array_equal(got, model.apply(params, x.at[:, 1:].set(0.0)))
    assert not np.allclose(got, model.apply(params, x.at[:, 0].set(0.0)), atol=1e-3)


def test_without_pooling_every_vector_has_logits():
    model, params = head(None)
    x = jax.random.normal(jax.random.key(1), (3, 5, 6))
    got = model.apply(params, x, jnp.ones((3, 5), bool))
    assert got.shape == (3, 5, 4)
    first, _ = head("first")
    np.testing.assert_allclose(got[:, 0], first.apply(params, x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1, 3], model.apply(params, x[1, 3]), rtol=1e-5, atol=1e-6)


def test_dropout_is_on_what_the_classes_are_read_from():
    model, params = head("first", dropout_rate=0.5)
    x = jnp.ones((400, 2, 6))
    np.testing.assert_array_equal(model.apply(params, x), head("first")[0].apply(params, x))
    got = model.apply(params, x, key=jax.random.key(2))
    kept = jax.random.bernoulli(jax.random.key(2), 0.5, (400, 6))
    wanted = jnp.where(kept, 2.0, 0.0) @ params["dense"]["kernel"]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"got dropout_rate=1; wanted a number in \[0, 1\)"):
        head("first", dropout_rate=1)


def test_a_pooler_reads_the_first_token():
    config = dataclasses.replace(CONFIG, pooler=nn.Pooler("relu"))
    tokens = jnp.array([[1, 2, 3, 4]])
    encoder = nn.functionalize(nn.Encoder, config)
    params = encoder.init(jax.random.key(0))
    pooled = encoder.apply(params, tokens, method="pooled")
    dense = params["pooler"]["dense"]
    first = encoder.apply(params, tokens)[:, 0]
    np.testing.assert_allclose(pooled, jax.nn.relu(first @ dense["kernel"]), rtol=1e-5, atol=1e-6)
    model = nn.functionalize(nn.Classifier, config, 3, "first")
    own = model.init(jax.random.key(1)) | {"encoder": params}
    wanted = pooled @ own["head"]["dense"]["kernel"]
    np.testing.assert_allclose(model.apply(own, tokens), wanted, rtol=1e-5, atol=1e-6)


def test_dropout_before_the_pooler():
    def pooled(rate, key):
        config = dataclasses.replace(CONFIG, pooler=nn.Pooler("relu", rate))
        encoder = nn.functionalize(nn.Encoder, config)
        return encoder.apply(encoder.init(jax.random.key(0)), jnp.array([1, 2, 3]), method="pooled", key=key)

    plain = pooled(0.0, jax.random.key(3))
    np.testing.assert_array_equal(plain, pooled(0.9, None))
    assert not np.allclose(plain, pooled(0.9, jax.random.key(3)), atol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", None])
def test_a_pooler_beside_another_pooling(pooling):
    config = dataclasses.replace(CONFIG, pooler=nn.Pooler())
    with pytest.raises(ValueError, match=f"pass pooling='first', got pooling={pooling!r}"):
        nn.functionalize(nn.Classifier, config, 3, pooling)


@pytest.mark.parametrize("module", [nn.Decoder, nn.EncoderDecoder, nn.MaskedLanguageModel])
def test_a_pooler_that_nothing_would_read(module):
    with pytest.raises(ValueError, match="a pooler is of an Encoder or a Classifier"):
        nn.functionalize(module, dataclasses.replace(CONFIG, pooler=nn.Pooler()))


def test_tokens_are_classified_by_their_types_and_positions():
    config = dataclasses.replace(CONFIG, token_types=2)
    model = nn.functionalize(nn.Classifier, config, 3, None)
    params, tokens = model.init(jax.random.key(0)), jnp.array([[1, 2, 3, 4]])
    plain = model.apply(params, tokens)
    assert plain.shape == (1, 4, 3)
    for options in ({"token_types": jnp.ones(4, int)}, {"positions": jnp.arange(4) + 2}):
        assert not np.allclose(plain, model.apply(params, tokens, **options), atol=1e-4)


def test_another_pooling():
    with pytest.raises(ValueError, match="got pooling='max'; wanted 'mean', 'first' or None"):
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
