"""Mixture of experts against float64 references: routing, each way to multiply, capacity, losses, meshes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import references
from tfm_jax import ops

G, T, D, F, E, K = 4, 6, 6, 10, 4, 2
WAYS = {
    "tiled": {"implementation": "tiled"},
    "ragged": {"implementation": "ragged"},
    "buffered": {"capacity_factor": float(E)},  # room for every token
}


def silu(x):
    return x / (1 + np.exp(-x))


def draw(seed=0, dtype=jnp.float32, experts=E, gated=True):
    rng = np.random.default_rng(seed)
    shapes = [(G, T, D), (G, T, experts), (experts, D, F), (experts, F, D), (experts, D, F)]
    x, logits, *weights = (jnp.asarray(rng.normal(size=shape) / 2, dtype) for shape in shapes)
    return x, logits, weights if gated else [*weights[:2], None]


def mix(x, logits, weights, *, k=K, **options):
    experts, gates = ops.top_k_routing(logits, k)
    return ops.mixture_of_experts(x, experts, gates, *weights, **options)


def dense(x, logits, weights, *, k=K):
    """The same by the products of all experts, for gradients."""
    w_in, w_out, w_gate = weights
    experts, gates = ops.top_k_routing(logits, k)
    hidden = jnp.einsum("...D,EDF->...EF", x, w_in)
    hidden = jax.nn.silu(jnp.einsum("...D,EDF->...EF", x, w_gate)) * hidden
    y = jnp.einsum("...EF,EFD->...ED", hidden, w_out)
    return jnp.einsum("...kD,...k->...D", jnp.take_along_axis(y, experts[..., None], -2), gates)


def assert_close(got, wanted, tolerance=1e-5):
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance), got, wanted)


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 5]), st.booleans())
def test_routing_is_the_reference(seed, k, normalize):
    logits = np.random.default_rng(seed).integers(-3, 3, (2, 3, 5)) / 2  # with ties
    experts, gates = ops.top_k_routing(jnp.asarray(logits, jnp.float32), k, normalize=normalize)
    wanted = references.top_k_routing(logits, k, normalize=normalize)
    np.testing.assert_array_equal(experts, wanted[0])
    np.testing.assert_allclose(gates, wanted[1], rtol=1e-6)
    assert experts.dtype == jnp.int32 and gates.dtype == jnp.float32


def test_routing_of_bfloat16_is_in_float32():
    logits = jnp.asarray([1.0, 2.0, 0.5], jnp.bfloat16)
    _, gates = ops.top_k_routing(logits, 2)
    assert gates.dtype == jnp.float32
    np.testing.assert_allclose(
        gates, references.top_k_routing(np.asarray(logits, np.float64), 2)[1], rtol=1e-6
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gated", [True, False])
def test_each_way_is_the_reference(way, gated):
    x, logits, weights = draw(gated=gated)
    y, (dropped, choices) = jax.jit(functools.partial(mix, **WAYS[way]))(x, logits, weights)
    wanted, _ = references.mixture_of_experts(x, *references.top_k_routing(logits, K), weights, silu)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    assert (float(dropped), float(choices)) == (0, G * T * K)


@settings(max_examples=5)
@given(st.integers(0, 10**6), st.sampled_from([1, 3]), st.sampled_from(list(WAYS)))
def test_unequal_use_of_the_experts(seed, k, way):
    x, logits, weights = draw(seed)
    logits = logits + 8 * jnp.arange(E, dtype=jnp.float32)[None, None]  # nearly all choose the last ones
    y, _ = mix(x, logits, weights, k=k, **WAYS[way])
    wanted, _ = references.mixture_of_experts(x, *references.top_k_routing(logits, k), weights, silu)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 7, 300])
def test_tiles_of_each_size(n):
    x, logits, weights = draw()
    x = jnp.tile(x.reshape(-1, D), (n, 1))[: n * 5]
    logits = jnp.tile(logits.reshape(-1, E), (n, 1))[: n * 5] + jnp.sin(jnp.arange(n * 5.0))[:, None]
    got, wanted = (gradients(f, x, logits, weights) for f in (lambda *a: mix(*a, **WAYS["tiled"])[0], dense))
    assert_close(got, wanted, 2e-4)


def gradients(function, x, logits, weights, seed=1):
    cotangent = jnp.asarray(np.random.default_rng(seed).normal(size=x.shape), x.dtype)
    total = jax.grad(lambda *args: jnp.sum(function(*args) * cotangent), (0, 1, 2))
    return jax.jit(total)(x, logits, weights)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_those_of_all_products(way):
    args = draw()
    got = gradients(lambda *a: mix(*a, **WAYS[way])[0], *args)
    assert float(jnp.abs(got[1]).max()) > 1e-2  # through the gates
    assert_close(got, gradients(dense, *args))


@pytest.mark.parametrize("way", WAYS)
def test_one_expert_is_the_dense_layer(way):
    x, _, weights = draw(experts=1)
    logits = jnp.zeros((G, T, 1))
    y, _ = mix(x, logits, weights, k=1, **WAYS[way])
    w_in, w_out, w_gate = (w[0] for w in weights)
    np.testing.assert_allclose(y, ops.gated_feed_forward(x, w_gate, w_in, w_out), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [0.2, 0.7, 1.25])
def test_capacity_drops_the_last_choices_of_each_sequence(factor):
    x, logits, weights = draw(3)
    y, (dropped, choices) = mix(x, logits, weights, capacity_factor=factor)
    routing = references.top_k_routing(logits, K)
    capacity = math.ceil(factor * K * T / E)
    wanted, n = references.mixture_of_experts(x, *routing, weights, silu, capacity=capacity)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    assert (float(dropped), float(choices)) == (n, G * T * K)
    assert n > 0 or factor > 1


@pytest.mark.parametrize("way", [*WAYS, "capacity"])
def test_tokens_that_are_not_valid_reach_no_output_and_no_gradient(way):
    options = WAYS.get(way, {"capacity_factor": 0.7})
    x, logits, weights = draw()
    valid = np.random.default_rng(2).random((G, T)) < 0.6
    poisoned = jnp.where(valid[..., None], x, jnp.nan), jnp.where(valid[..., None], logits, jnp.nan)

    def function(x, logits, weights):
        return mix(x, logits, weights, valid=jnp.asarray(valid), **options)[0]

    y = function(*poisoned, weights)
    capacity = None if way != "capacity" else math.ceil(0.7 * K * T / E)
    routing = references.top_k_routing(logits, K)
    wanted, _ = references.mixture_of_experts(x, *routing, weights, silu, capacity=capacity, valid=valid)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    got = gradients(function, *poisoned, weights)
    assert not np.asarray(got[0])[~valid].any()
    got = got[0], jnp.where(valid[..., None], got[1], 0), got[2]
    assert_close(got, gradients(function, x, logits, weights))


@pytest.mark.parametrize("way", WAYS)
def test_a_nan_reaches_no_other_token(way):
    x, logits, weights = draw()
    y = mix(x, logits, weights, **WAYS[way])[0]
    got = mix(x.at[1, 2].set(jnp.nan), logits.at[1, 2].set(jnp.nan), weights, **WAYS[way])[0]
    wanted = y.at[1, 2].set(jnp.nan)
    assert_close(got, wanted)


@pytest.mark.parametrize("way", WAYS)
def test_bfloat16(way):
    x, logits, weights = draw(dtype=jnp.bfloat16)
    y, (dropped, _) = mix(x, logits, weights, **WAYS[way])
    wanted = dense(*jax.tree.map(lambda a: a.astype(jnp.float32), (x, logits, weights)))
    assert y.dtype == jnp.bfloat16 and dropped.dtype == jnp.float32
    np.testing.assert_allclose(y.astype(jnp.float32), wanted, rtol=0.05, atol=0.02)
    got = gradients(lambda *a: mix(*a, **WAYS[way])[0], x, logits, weights)
    assert {g.dtype for g in jax.tree.leaves(got)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("way", WAYS)
def test_dropout_of_a_choice_depends_on_its_token_alone(way):
    x, logits, weights = draw()
    key, rate = jax.random.key(0), 0.3
    got = mix(x, logits, weights, dropout_rate=rate, key=key, **WAYS[way])[0]
    experts, gates = ops.top_k_routing(logits, K)
    w_in, w_out, w_gate = weights
    hidden = jnp.einsum("gtD,EDF->gtEF", x, w_in) * jax.nn.silu(jnp.einsum("gtD,EDF->gtEF", x, w_gate))
    hidden = ops.dropout(jnp.take_along_axis(hidden, experts[..., None], -2), rate, key)
    wanted = jnp.einsum("gtkF,gtkFD,gtk->gtD", hidden, w_out[experts], gates)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_leading_axes_and_one_token():
    x, logits, weights = draw()
    y = mix(x, logits, weights)[0]
    np.testing.assert_allclose(mix(x[1, 2], logits[1, 2], weights)[0], y[1, 2], atol=1e-6)
    np.testing.assert_allclose(mix(x[1], logits[1], weights)[0], y[1], atol=1e-6)
    assert mix(x[:, :0], logits[:, :0], weights)[0].shape == (G, 0, D)
    assert mix(x[:0], logits[:0], weights, capacity_factor=1.0)[0].shape == (0, T, D)


@pytest.mark.parametrize("way", WAYS)
def test_vmap_over_sequences_and_over_weights(way):
    x, logits, weights = draw()

    def gradient(x, logits, weights):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(mix(*a, **WAYS[way])[0])), (0, 2))(x, logits, weights)

    def total(x, weights):
        return jnp.sum(jnp.sin(jax.vmap(lambda x, y: mix(x, y, weights, **WAYS[way])[0])(x, logits)))

    wanted = jax.jit(gradient)(x, logits, weights)
    assert_close(jax.jit(jax.grad(total, (0, 1)))(x, weights), wanted)
    pairs = jax.tree.map(lambda a: jnp.stack([a / 2, a]), (x, logits, weights))
    got = jax.jit(jax.vmap(gradient))(*pairs)
    assert_close(jax.tree.map(lambda a: a[1], got), wanted)


def test_load_balance_loss_is_the_reference():
    _, logits, _ = draw(5)
    experts, _ = ops.top_k_routing(logits, K)
    weights = np.random.default_rng(1).integers(0, 3, (G, T)).astype(np.float32)
    weights[2] = 0
    for w in (weights, np.ones((G, T))):
        got = ops.load_balance_loss(logits, experts, weights=jnp.asarray(w, jnp.float32))
        np.testing.assert_allclose(got, references.load_balance_loss(logits, experts, w), rtol=1e-5)
    np.testing.assert_allclose(ops.load_balance_loss(logits, experts), got, rtol=1e-6)
    poisoned = jnp.where(weights[..., None] > 0, logits, jnp.nan)
    got = ops.load_balance_loss(poisoned, experts, weights=weights)
    np.testing.assert_allclose(got, references.load_balance_loss(logits, experts, weights), rtol=1e-5)
    gradient = jax.grad(lambda x: ops.load_balance_loss(x, experts, weights=weights)[0])(poisoned)
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[weights == 0].any()


def test_load_balance_loss_is_1_for_equal_use_and_E_over_k_for_k_experts():
    experts = jnp.asarray([[[0, 1], [2, 3]]])
    np.testing.assert_allclose(ops.load_balance_loss(jnp.zeros((1, 2, 4)), experts), (2, 2), rtol=1e-6)
    logits = jnp.asarray([[[50.0, 50, 0, 0]] * 3])
    experts, _ = ops.top_k_routing(logits, 2)
    np.testing.assert_allclose(ops.load_balance_loss(logits, experts), (3 * 2, 3), rtol=1e-6)


def test_router_z_loss_is_the_reference():
    _, logits, _ = draw(5)
    weights = np.random.default_rng(1).integers(0, 3, (G, T)).astype(np.float32)
    z = np.log(np.exp(np.asarray(logits, np.float64)).sum(-1)) ** 2
    np.testing.assert_allclose(ops.router_z_loss(logits), (z.sum(), G * T), rtol=1e-5)
    poisoned = jnp.where(weights[..., None] > 0, logits, jnp.nan)
    got = ops.router_z_loss(poisoned, weights=weights)
    np.testing.assert_allclose(got, ((weights * z).sum(), weights.sum()), rtol=1e-5)


def test_wrong_arguments():
    x, logits, weights = draw()
    experts, gates = ops.top_k_routing(logits, K)
    with pytest.raises(ValueError, match=r"top_k_routing: got k=5 of 4 experts; wanted at most"):
        ops.top_k_routing(logits, 5)
    with pytest.raises(ValueError, match=r"top_k_routing: got k=0; wanted an integer from 1"):
        ops.top_k_routing(logits, 0)
    with pytest.raises(ValueError, match=r"top_k_routing: got logits int32"):
        ops.top_k_routing(experts, 1)
    with pytest.raises(ValueError, match=r"mixture_of_experts: got .*w_out has F = 6, not 10"):
        ops.mixture_of_experts(x, experts, gates, weights[0], weights[0])
    with pytest.raises(ValueError, match=r"gates .*\[4, 6, 1\].*Pass the experts and gates of top_k_routing"):
        ops.mixture_of_experts(x, experts, gates[..., :1], *weights)
    with pytest.raises(ValueError, match=r"Cast x or the weights"):
        ops.mixture_of_experts(x.astype(jnp.bfloat16), experts, gates, *weights)
    with pytest.raises(ValueError, match=r"capacity_factor=0.0; wanted a finite number above 0"):
        ops.mixture_of_experts(x, experts, gates, *weights, capacity_factor=0.0)
    with pytest.raises(ValueError, match=r"dropout_rate=1.0; wanted a number in \[0, 1\)"):
        ops.mixture_of_experts(x, experts, gates, *weights, dropout_rate=1.0)
    with pytest.raises(ValueError, match=r"implementation='fast'; wanted auto, ragged or tiled"):
        ops.mixture_of_experts(x, experts, gates, *weights, implementation="fast")
    with pytest.raises(ValueError, match=r"load_balance_loss: got .*experts"):
        ops.load_balance_loss(logits, experts[:2])
    with pytest.raises(ValueError, match=r"router_z_loss: got .*weights"):
        ops.router_z_loss(logits, weights=gates)
