"""The laws check functions of Flax, Optax and NumPy."""

import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import settings

from tfm_jax import laws

EXAMPLES = settings().max_examples


def flax_norm(x, **options):
    return flax.nnx.LayerNorm(x.shape[-1], epsilon=1e-5, rngs=flax.nnx.Rngs(0), **options)(x)


def test_flax_layer_norm_with_and_without_fast_variance():
    suite = laws.layer_norm.only("definition", "large_mean", "constant_vectors", "vectors_are_independent")
    exact = jax.jit(lambda x: flax_norm(x, use_fast_variance=False))
    assert laws.check(exact, suite, examples=EXAMPLES).ok
    assert laws.check(jax.jit(flax_norm), suite, examples=EXAMPLES).violated == ("large_mean",)


def test_flax_dropout():
    def drop(x, rate, key):
        return flax.nnx.Dropout(rate, deterministic=False)(x, rngs=flax.nnx.Rngs(key))

    suite = laws.dropout.only(
        "kept_elements_are_scaled",
        "rate_0_is_identity",
        "dropped_fraction_is_the_rate",
        "different_keys_differ",
    )
    assert laws.check(drop, suite, examples=EXAMPLES).ok


def test_optax_sums_in_the_dtype_of_the_logits():
    def loss(logits, labels, weights, smoothing):
        target = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), smoothing)
        losses = optax.softmax_cross_entropy(logits, target)
        weights = jnp.ones(labels.shape) if weights is None else weights
        return (losses * weights.astype(losses.dtype)).sum(), weights.sum()

    report = laws.check(jax.jit(loss, static_argnums=3), laws.cross_entropy, examples=EXAMPLES)
    assert report.violated == ("computed_in_float32",) and not report.unsupported


@pytest.mark.slow
def test_numpy_does_not_support_gradients():
    def norm(x):
        x = np.asarray(x)
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    suite = laws.layer_norm.only("definition", "variance_is_one", "gradients", "compiled_matches_eager")
    report = laws.check(norm, suite, examples=EXAMPLES)
    assert not report.violated and report.unsupported == ("gradients", "compiled_matches_eager")
