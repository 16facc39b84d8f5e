"""Functions of ``ops`` satisfy the laws of norms, positions, losses, dropout and feed-forward layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings

from tests.marks import slow, slow_rows
from tfm_jax import laws, ops

EXAMPLES = settings().max_examples
PAIRINGS = ("half", "interleaved")


def check(function, suite, **options):
    report = laws.check(function, suite, examples=EXAMPLES, **options)
    assert not report.violated, report
    assert not any(found.unsupported for found in report.findings), report


@pytest.mark.parametrize("eps", [1e-5, *slow(1e-12, 1e-3)])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_norms(name, eps):
    check(functools.partial(getattr(ops, name), eps=eps), laws.SUITES[name], eps=eps)


def test_norms_with_unit_parameters():
    def layer_norm(x):
        return ops.layer_norm(x, jnp.ones(x.shape[-1]), jnp.zeros(x.shape[-1]))

    check(layer_norm, laws.layer_norm)
    check(lambda x: ops.rms_norm(x, jnp.ones(x.shape[-1])), laws.rms_norm)


@pytest.mark.parametrize("theta", [10_000.0, *slow(500_000.0)])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_rotary(pairing, theta):
    options = {"pairing": pairing, "theta": theta}
    check(functools.partial(ops.rotary, **options), laws.rotary, **options)


@pytest.mark.parametrize("dim", [2, 6])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_sinusoidal(pairing, dim):
    options = {"theta": 50.0 * dim, "pairing": pairing}
    check(lambda positions: ops.sinusoidal(positions, dim, **options), laws.sinusoidal, **options)


@pytest.mark.parametrize("N", [1, 4, 6])
def test_alibi(N):
    check(functools.partial(ops.alibi, N), laws.alibi)


@pytest.mark.parametrize(
    "buckets, max_distance, bidirectional",
    [(32, 128, True), (6, 20, False), *slow_rows([(32, 128, False), (6, 20, True)])],
)
def test_relative_buckets(buckets, max_distance, bidirectional):
    options = {"buckets": buckets, "max_distance": max_distance, "bidirectional": bidirectional}
    check(functools.partial(ops.relative_buckets, **options), laws.relative_buckets, **options)


def test_learned_bias_of_buckets():
    table = jnp.asarray(np.random.default_rng(0).standard_normal((3, 32)), jnp.float32)
    check(lambda q, k: table[:, ops.relative_buckets(q, k)], laws.position_bias)


def test_dropout():
    check(ops.dropout, laws.dropout)


@pytest.mark.parametrize("ignore_index", [None, *slow(-100)])
def test_cross_entropy(ignore_index):
    def loss(logits, labels, weights, smoothing):
        return ops.cross_entropy(
            logits, labels, weights=weights, label_smoothing=smoothing, ignore_index=ignore_index
        )

    check(loss, laws.cross_entropy, ignore_index=ignore_index)


def test_linear_cross_entropy_with_identity_kernel():
    def loss(logits, labels, weights, smoothing):
        kernel = jnp.eye(logits.shape[-1], dtype=logits.dtype)
        return ops.linear_cross_entropy(
            logits, kernel, labels, weights=weights, label_smoothing=smoothing, ignore_index=-1, chunk_size=2
        )

    # Under jit, because an eager call would compile its scan each time.
    check(jax.jit(loss, static_argnums=3), laws.cross_entropy, ignore_index=-1)


@pytest.mark.parametrize("gated", [False, True])
def test_feed_forward(gated):
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape) / 3 for shape in ((5, 7), (5, 7), (7, 5))]

    def layer(x):
        w_gate, w_in, w_out = (jnp.asarray(w, x.dtype) for w in weights)
        return ops.gated_feed_forward(x, w_gate, w_in, w_out) if gated else ops.feed_forward(x, w_in, w_out)

    check(layer, laws.feed_forward, dim=5)
