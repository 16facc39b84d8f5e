"""Adapters: functions of torch, of NumPy and with heads first, under jit, vmap, grad and the laws."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from tfm_jax import laws, ops
from tfm_jax.laws import strategies

EXAMPLES = settings().max_examples
MARKS = (pytest.mark.parity, pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch"))


def parity(test):
    """Marks a test that needs torch."""
    for mark in MARKS:
        test = mark(test)
    return test


X = np.float32([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]])


def softplus(x):
    return np.log1p(np.exp(x))


def softplus_gradient(cotangent, x):
    return cotangent / (1 + np.exp(-x))


def numpy_softplus():
    return laws.numpy(softplus, softplus_gradient)


def torch_softplus():
    import torch

    return laws.torch(torch.nn.functional.softplus)


@pytest.mark.parametrize("make", [numpy_softplus, pytest.param(torch_softplus, marks=MARKS)])
def test_a_function_of_another_library_under_jit_vmap_and_grad(make):
    f = make()
    for call in (f, jax.jit(f), jax.vmap(f), jax.jit(jax.vmap(f))):
        out = call(jnp.asarray(X))
        assert isinstance(out, jax.Array) and out.dtype == jnp.float32
        np.testing.assert_allclose(out, jax.nn.softplus(X), rtol=1e-6)

    def total(x):
        return (f(x) * X[0]).sum()

    wanted = jax.nn.sigmoid(X[1]) * X[0]
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(X[1])), wanted, rtol=1e-5)
    by_example = jax.jit(jax.vmap(jax.grad(total)))(jnp.asarray(X))
    np.testing.assert_allclose(by_example, jax.nn.sigmoid(X) * X[:1], rtol=1e-5)


@pytest.mark.parametrize("make", [numpy_softplus, pytest.param(torch_softplus, marks=MARKS)])
def test_a_function_of_another_library_satisfies_the_laws_of_transformations(make):
    report = laws.check(make(), laws.transformations(), examples=2)
    assert report.ok, report


def test_numpy_without_a_gradient_does_not_support_its_laws():
    def norm(x):
        assert type(x) is np.ndarray
        x -= x.mean(-1, keepdims=True)  # the arguments are copies
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)

    suite = laws.layer_norm.only("definition", "gradients", "compiled_matches_eager")
    report = laws.check(laws.numpy(norm), suite, examples=EXAMPLES)
    assert not report.violated and report.unsupported == ("gradients",), report
    assert "laws.numpy: got no gradient; wanted gradient=" in str(report)


def test_arguments_and_outputs_of_any_kind():
    seen = []

    def f(x, seed, *, scale, shift, name):
        seen.append((type(seed), type(scale), x.dtype, name))
        return {"sum": np.float64(scale * x.sum() + shift[0]), "counts": (x > 0).sum(-1)}

    g = laws.numpy(
        f, lambda cotangent, x, seed, *, scale, shift, name: (cotangent * scale + 0 * x, 0 * shift)
    )
    options = {"scale": 2.0, "shift": X[0], "name": "n"}
    for call in (g, jax.jit(lambda x, key, **rest: g(x, key, **options))):
        out = call(jnp.asarray(X), jax.random.key(7), **(options if call is g else {}))
        assert out["sum"].dtype == jnp.float32 and out["counts"].dtype == jnp.int32
        np.testing.assert_allclose(out["sum"], 2 * X.sum() + 1)
        np.testing.assert_array_equal(out["counts"], (X > 0).sum(-1))
    assert set(seen) == {(int, float, np.dtype("float32"), "n")}
    gradient = jax.grad(lambda x: g(x, jax.random.key(7), **options)["sum"])(jnp.asarray(X))
    np.testing.assert_array_equal(gradient, np.full_like(X, 2))


def test_keys_become_seeds():
    draw = laws.numpy(lambda x, seed: x + seed)
    for call in (draw, jax.jit(draw)):
        assert call(jnp.zeros(()), jax.random.key(31)) == 31
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    np.testing.assert_array_equal(jax.vmap(draw)(jnp.zeros(3), keys), [0, 1, 2])


def test_heads_first_swaps_the_first_three_arguments_and_the_output():
    seen = {}

    def attend(q, k, v, mask, *, extra):
        seen.update(q=q.shape, k=k.shape, v=v.shape, mask=mask.shape, extra=extra.shape)
        return q, q[..., 0]

    q, k = np.zeros((2, 3, 4, 5)), np.zeros((2, 7, 1, 5))
    mask = np.zeros((2, 1, 3, 7), bool)
    out, first = laws.heads_first(attend)(q, k, k, mask, extra=q)
    assert seen == {
        "q": (2, 4, 3, 5),
        "k": (2, 1, 7, 5),
        "v": (2, 1, 7, 5),
        "mask": mask.shape,
        "extra": q.shape,
    }
    assert out.shape == q.shape and first.shape == (2, 4, 3)


def test_numpy_attention_with_heads_first():
    def attend(q, k, v, mask):
        k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
        logits = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max(-1, keepdims=True)) * (1 if mask is None else mask)
        return (weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30) @ v).astype(q.dtype)

    suite = laws.attention.only("definition", "no_mask", "fully_masked_rows", "compiled_matches_eager")
    for f in (laws.heads_first(laws.numpy(attend)), laws.numpy(laws.heads_first(attend))):
        assert laws.check(f, suite, examples=EXAMPLES).ok


@parity
def test_scaled_dot_product_attention_of_torch():
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    names = (
        "definition",
        "fully_masked_rows",
        "masked_values_do_not_leak",
        "gradients",
        "dtype_is_preserved",
    )
    suite = laws.attention.only(*names, "compiled_matches_eager")
    attend = laws.heads_first(laws.torch(lambda *x: sdpa(*x, enable_gqa=True)))
    report = laws.check(attend, suite, examples=EXAMPLES)
    assert report.violated == ("masked_values_do_not_leak",) and not report.unsupported, report


@parity
def test_torch_dtypes_seeds_and_gradients():
    import torch

    def loss(logits, labels, seed, scale):
        assert labels.dtype == torch.int64 and isinstance(seed, int) and scale is None
        logits.mul_(2)  # in place, which torch forbids for a leaf of the graph
        return torch.nn.functional.cross_entropy(logits, labels), labels.max()

    f = laws.torch(loss)
    labels, key = jnp.asarray([2, 0]), jax.random.key(1)
    value, largest = jax.jit(lambda x: f(x, labels, key, None))(X)
    wanted = -jax.nn.log_softmax(2 * X)[np.arange(2), labels].mean()
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    assert largest == 2 and largest.dtype == jnp.int32
    gradient = jax.grad(lambda x: f(x, labels, key, None)[0])(jnp.asarray(X))
    right = jax.grad(lambda x: -jax.nn.log_softmax(2 * x)[np.arange(2), labels].mean())(jnp.asarray(X))
    np.testing.assert_allclose(gradient, right, atol=1e-6)
    half = f(jnp.asarray(X, jnp.bfloat16), labels, key, None)[0]
    assert half.dtype == jnp.bfloat16 and abs(float(half) - float(wanted)) < 0.02


@parity
def test_what_torch_does_not_differentiate_has_gradient_0():
    import torch

    f = laws.torch(lambda x, y: torch.ones(2) * 3)
    np.testing.assert_array_equal(jax.grad(lambda x: f(x, x).sum())(jnp.asarray(X)), np.zeros_like(X))
    g = laws.torch(lambda x, y: x * 2)
    np.testing.assert_array_equal(jax.grad(lambda y: g(X, y).sum())(jnp.asarray(X)), np.zeros_like(X))


@parity
def test_a_number_beside_the_tensors_of_torch_has_no_gradient():
    f = laws.torch(lambda x: (x.double() * 2, 3.0))
    out, number = f(jnp.asarray(X))
    assert out.dtype == number.dtype == jnp.float32 and number == 3
    np.testing.assert_array_equal(jax.grad(lambda x: f(x)[0].sum())(jnp.asarray(X)), np.full_like(X, 2))


@parity
def test_a_module_of_torch():
    import torch

    module, threads = torch.nn.Linear(3, 2), torch.get_num_threads()
    out = jax.jit(laws.torch(module))(X)
    assert laws.torch(lambda x: torch.tensor(torch.get_num_threads()))(X) == 1
    assert torch.get_num_threads() == threads
    np.testing.assert_allclose(out, module(torch.tensor(X)).detach(), rtol=1e-6)


def test_without_torch_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"laws\.torch: got no torch; wanted it installed\. pip install"):
        laws.torch(softplus)


def test_adapters_agree_with_a_jax_function():
    arguments = st.tuples(strategies.normal((2, 3, 2, 4)))
    suite = laws.transformations(arguments).only("jit_matches_eager", "vmap_matches_loop")
    rotate = laws.heads_first(lambda x: ops.rotary(x.swapaxes(-3, -2), jnp.arange(2)).swapaxes(-3, -2))
    assert laws.check(rotate, suite, examples=2).ok
