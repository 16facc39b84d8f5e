"""Functions of other libraries are asked as they are; and what a suite's options and cases say."""

import importlib
import pkgutil

import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import find, settings
from hypothesis.errors import NoSuchExample

from tests.mutants.layer_norm import norm
from tfm_jax import laws, ops
from tfm_jax.laws.suites.cases import logits, positions, vectors
from tfm_jax.laws.suites.cross_entropy import cases as cross_entropy_cases
from tfm_jax.laws.suites.dropout import cases as dropout_cases
from tfm_jax.laws.suites.rotary import cases as rotary_cases

EXAMPLES = settings().max_examples


def flax_norm(x, **options):
    return flax.nnx.LayerNorm(x.shape[-1], epsilon=1e-5, rngs=flax.nnx.Rngs(0), **options)(x)


def test_flax_keeps_the_variance_where_it_is_told_to():
    suite = laws.layer_norm.only("definition", "large_mean", "constant_vectors", "vectors_are_independent")
    careful = jax.jit(lambda x: flax_norm(x, use_fast_variance=False))
    assert laws.check(careful, suite, examples=EXAMPLES).ok
    assert laws.check(jax.jit(flax_norm), suite, examples=EXAMPLES).broken == ("large_mean",)


def test_flax_dropout():
    drop = lambda x, rate, key: flax.nnx.Dropout(rate, deterministic=False)(x, rngs=flax.nnx.Rngs(key))
    suite = laws.dropout.only("kept_elements_are_scaled", "rate_0_is_identity", "dropped_fraction_is_the_rate", "different_keys_differ")
    assert laws.check(drop, suite, examples=EXAMPLES).ok


def test_optax_sums_in_the_dtype_of_the_logits():
    def loss(logits, labels, weights, smoothing):
        target = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), smoothing)
        losses = optax.softmax_cross_entropy(logits, target)
        weights = jnp.ones(labels.shape) if weights is None else weights
        return (losses * weights.astype(losses.dtype)).sum(), weights.sum()

    report = laws.check(jax.jit(loss, static_argnums=3), laws.cross_entropy, examples=EXAMPLES)
    assert report.broken == ("computed_in_float32",) and not report.unasked


@pytest.mark.slow
def test_numpy_cannot_be_asked_for_gradients():
    def normed(x):
        x = np.asarray(x)
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    suite = laws.layer_norm.only("definition", "variance_is_one", "gradients", "compiled_matches_eager")
    report = laws.check(normed, suite, examples=EXAMPLES)
    assert not report.broken and report.unasked == ("gradients", "compiled_is_eager")


def test_another_eps_pairing_or_theta_is_seen():
    turned = laws.rotary.only("definition")
    assert laws.check(norm, laws.layer_norm.only("definition"), examples=EXAMPLES, eps=1e-3).broken
    assert laws.check(ops.rotary, turned, pairing="interleaved").broken
    assert laws.check(ops.rotary, turned, theta=100.0).broken
    with pytest.raises(ValueError, match="got pairing='odd'; wanted one of half, interleaved"):
        laws.check(ops.rotary, turned, pairing="odd")


def test_keys_after_the_query_count_where_they_are_asked_for():
    def before_only(q, k):
        return ops.alibi(4, q, k) * jnp.where(q[:, None] >= k[None], 1.0, -3.0)[None]

    before_only = jax.jit(before_only)
    suite = laws.alibi.only("never_positive", "decreases_with_distance", "slopes")
    assert laws.check(before_only, suite, after=False).ok
    assert laws.check(before_only, suite).broken == ("never_positive", "farther_is_less", "slopes")


def test_buckets_of_another_number_or_direction_are_seen():
    suite = laws.relative_buckets.only("definition", "direction")
    assert laws.check(ops.relative_buckets, suite, buckets=16).broken == ("definition",)
    assert laws.check(ops.relative_buckets, suite, bidirectional=False).broken == ("definition", "direction")
    report = laws.check(
        lambda q, k: ops.relative_buckets(q, k).astype(jnp.float32), suite.only("definition"), examples=2
    )
    assert "dtype: got float32, wanted whole numbers" in str(report)


def test_a_layer_of_its_own_size_is_asked_at_that_size():
    sizes = set()
    suite = laws.feed_forward.only("vectors_are_independent")
    laws.check(lambda x: sizes.add(x.shape[-1]) or x, suite, examples=EXAMPLES, dim=5)
    assert sizes == {5}


def test_keys_are_made_as_the_function_takes_them():
    suite = laws.dropout.only("kept_elements_are_scaled", "same_key_same_mask")
    seen = set()

    def drop(x, rate, seed):
        seen.add(type(seed))
        return ops.dropout(x, rate, jax.random.key(seed))

    assert laws.check(drop, suite, examples=EXAMPLES, key=lambda seed: seed).ok
    assert seen == {int}


@pytest.mark.parametrize(
    "suite, wrong, said",
    [
        (laws.layer_norm, lambda x: x[..., :1], "shape: got [1, 1, 1], wanted [B, T, D] = [1, 1, 2]"),
        (laws.rotary, lambda x, at: x[0], "shape: got [1, 1, 2], wanted [B, T, N, H] = [1, 1, 1, 2]"),
        (laws.alibi, lambda q, k: q[:, None] + k[None], "wanted [N, T, S] = [1, 1, 1]"),
        (laws.sinusoidal, lambda at: at[:, None], "shape: got [1, 1], wanted [T, D] = [1, 0]"),
        (laws.cross_entropy, lambda x, *rest: (x[..., 0], x[..., 0]), "wanted the sum, a scalar = []"),
        (laws.feed_forward, lambda x: x[0], "shape: got [1, 8], wanted [B, T, D] = [1, 1, 8]"),
        (laws.top_p, lambda x, p: x[:, :1], "shape: got [1, 1], wanted [B, V] = [1, 2]"),
        (laws.logits_processor, lambda x, *rest: x[0], "shape: got [2], wanted [B, V] = [1, 2]"),
        (laws.dropout, lambda x, rate, key: x[0], "shape: got [16], wanted x's = [16, 16]"),
    ],
)
def test_another_shape_breaks_a_law(suite, wrong, said):
    report = laws.check(wrong, suite.only(next(iter(suite)).name), examples=5)
    assert said in str(report)


@pytest.mark.parametrize(
    "cases, smallest",
    [
        (vectors.cases(), "B = 1, T = 1, D = 2\nx = [["),
        (rotary_cases(), "B = 1, T = 1, N = 1, H = 2\nx = [["),
        (positions.cases(), "positions of queries [0], of keys [0]"),
        (cross_entropy_cases(), "B = 1, T = 1, V = 2\nlogits = [["),
        (logits.cases(lambda V: (1, V)), "B = 1, V = 2; called with 1\nlogits = [["),
        (logits.histories(), "B = 1, V = 2\nlogits = [["),
        (dropout_cases(), "x of shape [16, 16] = [["),
    ],
)
def test_cases_are_of_few_shapes_the_simplest_first_and_differ(cases, smallest):
    shapes, texts = set(), set()

    def collect(x):
        shapes.add(tuple(np.shape(y) for y in vars(x).values() if isinstance(y, np.ndarray)))
        texts.add(str(x))
        return False

    quietly = settings(max_examples=100, database=None, derandomize=True)
    with pytest.raises(NoSuchExample):
        find(cases, collect, settings=quietly)
    assert 2 <= len(shapes) <= 4 and len(texts) >= 50
    assert str(find(cases, lambda x: True, settings=quietly)).startswith(smallest)


def test_no_law_is_forgotten():
    asked = {id(each) for suite in laws.SUITES.values() for each in suite}
    for module in pkgutil.iter_modules(laws.__path__, "tfm_jax.laws."):
        for name, value in vars(importlib.import_module(module.name)).items():
            assert not isinstance(value, laws.Law) or id(value) in asked, f"{module.name}.{name}"
