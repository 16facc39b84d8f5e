"""Feed-forward networks and activations against float64 references, position by position."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax.ops.dropout import dropout
from tfm_jax.ops.feed_forward import activation, feed_forward, gated_feed_forward

seeds, leads = st.integers(0, 2**31 - 1), st.sampled_from([(), (4,), (2, 3)])
D, F = 5, 7


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_10": lambda x: np.clip(ACTIVATIONS["gelu"](x), -10, 10),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "silu": lambda x: x * sigmoid(x),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "laplace": lambda x: 0.5 * (1 + np.vectorize(math.erf)((x - 0.707107) / (0.282095 * math.sqrt(2)))),
    "sqrtsoftplus": lambda x: np.sqrt(np.log1p(np.exp(x))),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "identity": lambda x: x,
}
names = st.sampled_from(sorted(ACTIVATIONS))


def draw(seed, *shapes, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_by_name_are_the_references(name):
    x = jnp.linspace(-12, 12, 101)
    np.testing.assert_allclose(activation(name)(x), ACTIVATIONS[name](np.float64(x)), rtol=1e-6, atol=1e-6)
    assert activation(name)(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_gelu_of_bfloat16_rounds_once_and_keeps_one_residual():
    x = jnp.linspace(-6, 6, 101).astype(jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    out, back = jax.vjp(activation("gelu"), x)
    np.testing.assert_allclose(np.float64(out), ACTIVATIONS["gelu"](wide), rtol=2**-8, atol=1e-6)
    slope = ACTIVATIONS["gelu"](wide + 1e-6) - ACTIVATIONS["gelu"](wide - 1e-6)
    np.testing.assert_allclose(np.float64(back(jnp.ones_like(x))[0]), slope / 2e-6, rtol=2**-7, atol=1e-5)
    assert [kept.dtype for kept in jax.tree.leaves(back) if kept.size > 1] == [jnp.bfloat16]


def test_an_unknown_activation_is_an_error_with_the_known_names():
    with pytest.raises(ValueError, match=r"got 'swoosh'; wanted one of relu, .*silu"):
        activation("swoosh")


@pytest.mark.parametrize("name", ["prelu", "xielu"])
def test_an_activation_with_parameters_is_an_error(name):
    with pytest.raises(ValueError, match=f"activation: got '{name}', which has parameters"):
        activation(name)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("swish", "silu"),
        ("gelu_python", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_fast", "gelu_tanh"),
        ("gelu_accurate", "gelu_tanh"),
        ("gelu_python_tanh", "gelu_tanh"),
    ],
)
def test_aliases(alias, name):
    x = jnp.linspace(-6, 6, 101)
    np.testing.assert_array_equal(activation(alias)(x), activation(name)(x))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("gelu", {"approximate": "none"}), ("gelu_tanh", {"approximate": "tanh"}), ("silu", {}), ("relu", {})],
)
@pytest.mark.parity
def test_activations_equal_torch(ours, theirs):
    torch = pytest.importorskip("torch")
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    want = getattr(torch.nn.functional, ours.removesuffix("_tanh"))(torch.tensor(x), **theirs)
    np.testing.assert_allclose(activation(ours)(jnp.asarray(x)), want.numpy(), atol=1e-6)


@given(seeds, leads, names)
def test_feed_forward_is_the_reference(seed, lead, name):
    x, w_in, w_out, b_in, b_out = args = draw(seed, (*lead, D), (D, F), (F, D), (F,), (D,))
    x, w_in, w_out, b_in, b_out = (np.float64(a) for a in args)
    act = ACTIVATIONS[name]
    got = feed_forward(*args, activation=activation(name))
    np.testing.assert_allclose(got, act(x @ w_in + b_in) @ w_out + b_out, rtol=1e-4, atol=1e-4)
    got = feed_forward(*args[:3], activation=activation(name))
    np.testing.assert_allclose(got, act(x @ w_in) @ w_out, rtol=1e-4, atol=1e-4)


@given(seeds, leads, names)
def test_gated_feed_forward_is_the_reference(seed, lead, name):
    args = draw(seed, (*lead, D), (D, F), (D, F), (F, D))
    x, w_gate, w_in, w_out = (np.float64(a) for a in args)
    got = gated_feed_forward(*args, activation=activation(name))
    want = (ACTIVATIONS[name](x @ w_gate) * (x @ w_in)) @ w_out
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-4)


def test_the_defaults_are_relu_and_silu():
    x, w_gate, w_in, w_out = draw(0, (3, D), (D, F), (D, F), (F, D))
    plain = feed_forward(x, w_in, w_out, activation=jax.nn.relu)
    gated = gated_feed_forward(x, w_gate, w_in, w_out, activation=jax.nn.silu)
    np.testing.assert_array_equal(feed_forward(x, w_in, w_out), plain)
    np.testing.assert_array_equal(gated_feed_forward(x, w_gate, w_in, w_out), gated)


def test_a_position_depends_on_itself_only():
    x, w_gate, w_in, w_out = draw(0, (2, 3, D), (D, F), (D, F), (F, D))
    for f in (lambda x: feed_forward(x, w_in, w_out), lambda x: gated_feed_forward(x, w_gate, w_in, w_out)):
        jacobian = jax.jacobian(f)(x)  # [2, 3, D, 2, 3, D]
        diagonal = np.einsum("btdbte->btde", np.asarray(jacobian))
        np.testing.assert_allclose(np.abs(jacobian).sum(), np.abs(diagonal).sum(), rtol=1e-6)
        assert np.abs(diagonal).sum() > 0


def test_dropout_applies_to_the_hidden_elements():
    x, w_gate, w_in, w_out = draw(0, (6, D), (D, F), (D, F), (F, D))
    key = jax.random.key(0)
    got = feed_forward(x, w_in, w_out, dropout_rate=0.5, key=key)
    want = dropout(jax.nn.relu(x @ w_in), 0.5, key) @ w_out
    np.testing.assert_allclose(got, want, atol=1e-6)
    got = gated_feed_forward(x, w_gate, w_in, w_out, dropout_rate=0.5, key=key)
    want = dropout(jax.nn.silu(x @ w_gate) * (x @ w_in), 0.5, key) @ w_out
    np.testing.assert_allclose(got, want, atol=1e-6)
    without = feed_forward(x, w_in, w_out, dropout_rate=0.5, key=None)
    np.testing.assert_array_equal(without, feed_forward(x, w_in, w_out))


def test_bfloat16_stays_bfloat16():
    x, w_gate, w_in, w_out, b_in, b_out = draw(
        0, (3, D), (D, F), (D, F), (F, D), (F,), (D,), dtype=jnp.bfloat16
    )
    key = jax.random.key(0)
    assert feed_forward(x, w_in, w_out, b_in, b_out, dropout_rate=0.1, key=key).dtype == jnp.bfloat16
    assert gated_feed_forward(x, w_gate, w_in, w_out, dropout_rate=0.1, key=key).dtype == jnp.bfloat16


def test_under_jit_vmap_and_shard_map():
    x, w_in, w_out, b_in, b_out = draw(1, (8, 3, D), (D, F), (F, D), (F,), (D,))
    want = feed_forward(x, w_in, w_out, b_in, b_out)

    def f(x):
        return feed_forward(x, w_in, w_out, b_in, b_out)

    np.testing.assert_allclose(jax.jit(jax.vmap(f))(x), want, atol=1e-5)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    np.testing.assert_allclose(jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)(x), want, atol=1e-5)


def test_float32_parameters_are_cast_to_the_dtype_of_x():
    x, w_in, w_out, b_in, b_out = draw(0, (3, D), (D, F), (F, D), (F,), (D,))
    x = x.astype(jnp.bfloat16)

    def half(*parameters):
        return [p.astype(jnp.bfloat16) for p in parameters]

    np.testing.assert_array_equal(
        feed_forward(x, w_in, w_out, b_in, b_out), feed_forward(x, *half(w_in, w_out, b_in, b_out))
    )
    np.testing.assert_array_equal(
        gated_feed_forward(x, w_in, w_in, w_out), gated_feed_forward(x, *half(w_in, w_in, w_out))
    )


def test_wrong_arguments():
    x, w_in, w_out, b_in = draw(0, (3, D), (D, F), (F, D), (F,))
    with pytest.raises(
        ValueError, match=r"w_in float32\[7, 5\].*wanted .*w_in float32\[D, F\].*, but w_in has D = 7, not 5"
    ):
        feed_forward(x, w_in.T, w_out)
    with pytest.raises(
        ValueError, match=r"w_out float32\[5, 7\].*w_out float32\[F, D\].*, but w_out has F = 5, not 7"
    ):
        feed_forward(x, w_in, w_in)
    with pytest.raises(
        ValueError, match=r"b_out float32\[7\].*b_out float32\[D\], but b_out has D = 7, not 5"
    ):
        feed_forward(x, w_in, w_out, b_in, b_in)
    with pytest.raises(
        ValueError, match=r"gated_feed_forward: got .*w_gate float32\[7, 5\].*, but w_gate has D = 7, not 5"
    ):
        gated_feed_forward(x, w_out, w_in, w_out)
    with pytest.raises(
        ValueError, match=r"wanted .*w_in float32\[.*w_in has dtype bfloat16. Cast x or the parameters"
    ):
        feed_forward(x, w_in.astype(jnp.bfloat16), w_out)
    with pytest.raises(ValueError, match=r"got x .*int32"):
        feed_forward(jnp.ones((3, D), jnp.int32), w_in, w_out)
    with pytest.raises(ValueError, match=r"rate=1.5"):
        feed_forward(x, w_in, w_out, dropout_rate=1.5)
