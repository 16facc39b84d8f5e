"""Language model, masked language model and classification heads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import nn, ops

CONFIG = nn.Config(vocab_size=11, d_model=6, n_heads=2, d_ff=5, n_layers=2)


def head(pooling, **options):
    model = nn.functionalize(nn.ClassificationHead, CONFIG, 4, pooling, **options)
    return model, model.init(jax.random.key(0))


@pytest.mark.parametrize("valid", [np.ones((3, 1), bool), np.ones((3, 5), np.int32), np.ones(5, bool)])
def test_valid_of_another_shape_or_dtype(valid):
    model, params = head("mean")
    with pytest.raises(
        ValueError,
        match=r"ClassificationHead: got .*valid .*; wanted .* valid bool\[..., T\], .* It is False",
    ):
        model.apply(params, jnp.ones((3, 5, 6)), jnp.asarray(valid))


def test_no_classes():
    with pytest.raises(ValueError, match="n_classes=0; wanted an integer from 1 to"):
        nn.functionalize(nn.ClassificationHead, CONFIG, 0, "mean")


def test_no_pooling_gives_logits_of_every_token():
    model, params = head(None)
    x = jax.random.normal(jax.random.key(1), (3, 5, 6))
    got = model.apply(params, x, jnp.ones((3, 5), bool))
    assert got.shape == (3, 5, 4)
    first, _ = head("first")
    np.testing.assert_allclose(got[:, 0], first.apply(params, x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1, 3], model.apply(params, x[1, 3]), rtol=1e-5, atol=1e-6)


def test_dropout_is_on_the_pooled_vector():
    model, params = head("first", dropout_rate=0.5)
    x = jnp.ones((400, 2, 6))
    np.testing.assert_array_equal(model.apply(params, x), head("first")[0].apply(params, x))
    got = model.apply(params, x, key=jax.random.key(2))
    kept = jax.random.bernoulli(jax.random.key(2), 0.5, (400, 6))
    wanted = jnp.where(kept, 2.0, 0.0) @ params["dense"]["kernel"]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"got dropout_rate=1; wanted a number in \[0, 1\)"):
        head("first", dropout_rate=1)


@pytest.mark.parametrize("pooling", ["mean", None])
def test_pooler_with_another_pooling(pooling):
    config = dataclasses.replace(CONFIG, pooler=nn.Pooler())
    with pytest.raises(ValueError, match=f"got pooling={pooling!r} with Pooler.*; wanted pooling='first'"):
        nn.functionalize(nn.Classifier, config, 3, pooling)


@pytest.mark.parametrize("module", [nn.Decoder, nn.EncoderDecoder, nn.MaskedLanguageModel])
def test_unused_pooler_is_an_error(module):
    with pytest.raises(ValueError, match=r"got pooler=Pooler.*; wanted pooler=None"):
        nn.functionalize(module, dataclasses.replace(CONFIG, pooler=nn.Pooler()))


def test_a_masked_language_model_of_images_is_an_error():
    config = dataclasses.replace(CONFIG, patches=nn.Patches(2, 2))
    with pytest.raises(ValueError, match=r"MaskedLanguageModel: got Patches.*; wanted patches=None"):
        nn.functionalize(nn.MaskedLanguageModel, config)


def test_classifier_uses_token_types_and_positions():
    config = dataclasses.replace(CONFIG, token_types=2)
    model = nn.functionalize(nn.Classifier, config, 3, None)
    params, tokens = model.init(jax.random.key(0)), jnp.array([[1, 2, 3, 4]])
    plain = model.apply(params, tokens)
    assert plain.shape == (1, 4, 3)
    for options in ({"token_types": jnp.ones(4, int)}, {"positions": jnp.arange(4) + 2}):
        assert not np.allclose(plain, model.apply(params, tokens, **options), atol=1e-4)


def test_classifier_ignores_padding():
    model = nn.functionalize(nn.Classifier, CONFIG, n_classes=3)
    params = model.init(jax.random.key(0))
    tokens = jnp.array([[1, 2, 3, 4, 0, 0, 0]])
    padded = model.apply(params, tokens, jnp.arange(7)[None] < 4)
    np.testing.assert_allclose(padded, model.apply(params, tokens[:, :4]), rtol=1e-5, atol=1e-6)
    logits, extras = model.apply(params, tokens, jnp.arange(7)[None] < 4, return_weights=True)
    np.testing.assert_array_equal(logits, padded)
    weights = extras["weights"]
    assert weights["encoder"].shape == (2, 1, 2, 7, 7)
    np.testing.assert_array_equal(weights["encoder"][..., 4:], 0.0)


@pytest.mark.parametrize("tied", [True, False])
def test_masked_language_model_equals_its_equations(tied):
    config = dataclasses.replace(CONFIG, norm=nn.LayerNorm(0.1), token_types=2, tie_embeddings=tied)
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
