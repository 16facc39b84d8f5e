"""Layer norm and RMS norm: statistics, invariances, precision, and equality with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax.ops.normalization import layer_norm, rms_norm

SHAPES = [(5,), (3, 7), (2, 3, 4)]
seeds, shapes = st.integers(0, 2**31 - 1), st.sampled_from(SHAPES)


def layer_norm_reference(x, scale=1.0, bias=0.0, eps=1e-5):
    x = np.asarray(x, np.float64)
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps) * scale + bias


def rms_norm_reference(x, scale=1.0, eps=1e-6):
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def draw(seed, shape, loc=0.0):
    rng = np.random.default_rng(seed)
    x, scale, bias = rng.normal(loc, 2, shape), rng.normal(size=shape[-1:]), rng.normal(size=shape[-1:])
    return tuple(jnp.asarray(a, jnp.float32) for a in (x, scale, bias))


@given(seeds, shapes)
def test_layer_norm_is_the_reference(seed, shape):
    x, scale, bias = draw(seed, shape)
    np.testing.assert_allclose(layer_norm(x), layer_norm_reference(x), atol=1e-5)
    want = layer_norm_reference(x, np.float64(scale), np.float64(bias), eps=1e-3)
    np.testing.assert_allclose(layer_norm(x, scale, bias, eps=1e-3), want, atol=1e-5)
    np.testing.assert_allclose(
        layer_norm(x, None, bias), layer_norm_reference(x, 1, np.float64(bias)), atol=1e-5
    )


@given(seeds, shapes)
def test_rms_norm_is_the_reference(seed, shape):
    x, scale, _ = draw(seed, shape)
    np.testing.assert_allclose(rms_norm(x), rms_norm_reference(x), atol=1e-5)
    want = rms_norm_reference(x, np.float64(scale), eps=1e-3)
    np.testing.assert_allclose(rms_norm(x, scale, eps=1e-3), want, atol=1e-5)


@given(seeds, shapes)
def test_layer_norm_gives_mean_zero_and_variance_one(seed, shape):
    y = np.asarray(layer_norm(draw(seed, shape)[0], eps=1e-12), np.float64)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(-1), 1, rtol=1e-4)


@given(seeds, shapes)
def test_rms_norm_gives_mean_square_one(seed, shape):
    y = np.asarray(rms_norm(draw(seed, shape)[0], eps=1e-12), np.float64)
    np.testing.assert_allclose((y**2).mean(-1), 1, rtol=1e-4)


@given(seeds, shapes, st.sampled_from([-3.0, 40.0]), st.sampled_from([0.5, 8.0]))
def test_layer_norm_is_invariant_to_shift_and_scale_and_rms_norm_to_scale(seed, shape, shift, factor):
    x = draw(seed, shape)[0]
    np.testing.assert_allclose(layer_norm(x * factor + shift, eps=0), layer_norm(x, eps=0), atol=2e-4)
    np.testing.assert_allclose(rms_norm(x * factor, eps=0), rms_norm(x, eps=0), atol=1e-5)
    assert np.abs(rms_norm(x + shift) - rms_norm(x)).max() > 1e-3
    np.testing.assert_allclose(layer_norm(-x), -layer_norm(x), atol=1e-6)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_a_vector_depends_on_itself_only(norm):
    x = draw(0, (3, 4, 5))[0]
    other = x.at[1, 2].set(9.0)
    same = np.asarray(norm(x) == norm(other)).all(-1)
    assert same.sum() == 11 and not same[1, 2]


def test_a_large_mean_does_not_cancel_the_variance():
    x = draw(1, (4, 64))[0] + 10_000
    np.testing.assert_allclose(layer_norm(x), layer_norm_reference(x), atol=2e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_computes_in_float32(dtype):
    x, scale, bias = draw(2, (3, 256), loc=5.0)
    half = (x * 200).astype(dtype)  # the squares overflow float16
    for got, want in [
        (layer_norm(half, scale, bias), layer_norm_reference(half, np.float64(scale), np.float64(bias))),
        (rms_norm(half, scale), rms_norm_reference(half, np.float64(scale))),
    ]:
        assert got.dtype == dtype
        # One rounding, of the result.
        np.testing.assert_allclose(np.float64(got), want, rtol=float(jnp.finfo(dtype).eps), atol=1e-4)


def test_equal_elements_and_zeros_are_finite_with_their_gradients():
    for norm, want in ((layer_norm, 0), (rms_norm, 1)):
        np.testing.assert_allclose(norm(jnp.full((2, 3), 7.0)), want, atol=1e-6)
        grad = jax.grad(lambda x, norm=norm: norm(x).sum())(jnp.zeros((2, 3)))
        assert jnp.isfinite(grad).all()
    np.testing.assert_array_equal(rms_norm(jnp.zeros((2, 3))), 0)


def test_under_jit_vmap_and_shard_map():
    x, scale, bias = draw(3, (8, 3, 4))
    want = layer_norm(x, scale, bias)
    mapped = jax.vmap(layer_norm, in_axes=(0, None, None))
    np.testing.assert_allclose(jax.jit(mapped)(x, scale, bias), want, atol=1e-6)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec, replicated = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    sharded = jax.shard_map(layer_norm, mesh=mesh, in_specs=(spec, replicated, replicated), out_specs=spec)
    np.testing.assert_allclose(sharded(x, scale, bias), want, atol=1e-6)


@pytest.mark.parity
def test_norms_equal_torch_forward_and_backward():
    torch = pytest.importorskip("torch")
    x, scale, bias = draw(4, (3, 5, 8))
    twins = {
        layer_norm: lambda x, s, b: torch.nn.functional.layer_norm(x, (8,), s, b),
        lambda x, s, b: rms_norm(x, s): lambda x, s, b: torch.nn.functional.rms_norm(x, (8,), s, eps=1e-6),
    }
    for ours, theirs in twins.items():
        tensors = [torch.tensor(np.asarray(a), requires_grad=True) for a in (x, scale, bias)]
        out = theirs(*tensors)
        (out**3).sum().backward()
        np.testing.assert_allclose(ours(x, scale, bias), out.detach().numpy(), atol=1e-5)
        grads = jax.grad(lambda *a, f=ours: (f(*a) ** 3).sum(), argnums=(0, 1, 2))(x, scale, bias)
        for got, tensor in zip(grads, tensors, strict=True):
            want = 0 if tensor.grad is None else tensor.grad.numpy()
            np.testing.assert_allclose(got, want, atol=1e-3, rtol=1e-4)


def test_wrong_arguments():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"layer_norm: got x .*int32"):
        layer_norm(jnp.ones((2, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"rms_norm: got x float32\[\]; wanted x float\[..., D\]"):
        rms_norm(jnp.float32(1))
    with pytest.raises(
        ValueError,
        match=r"scale float32\[2\].*scale float\[D\].*D = 2, not 3. The norm is over the last axis",
    ):
        layer_norm(x, jnp.ones(2))
    with pytest.raises(ValueError, match=r"bias float32\[1\].*D = 1, not 3"):
        layer_norm(x, None, jnp.ones(1))
    with pytest.raises(ValueError, match=r"rms_norm: .*scale float32\[2, 3\].*rank 2, not 1\."):
        rms_norm(x, x)


@pytest.mark.parametrize("eps", [-1e-5, float("nan"), float("inf"), "0", None, True])
def test_wrong_eps(eps):
    for norm in (layer_norm, rms_norm):
        with pytest.raises(
            ValueError, match=f"{norm.__name__}: got eps=.*; wanted a finite number of at least 0"
        ):
            norm(jnp.ones(3), eps=eps)


@pytest.mark.parametrize(("norm", "n"), [(layer_norm, 2), (rms_norm, 1)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_backward_pass_saves_the_input_and_statistics(norm, n, dtype):
    x, scale = jnp.ones((3, 5, 7), dtype), jnp.ones(7)
    _, backward = jax.vjp(norm, x, scale)
    saved = sorted((str(leaf.dtype), leaf.shape) for leaf in jax.tree.leaves(backward))
    assert saved == sorted([(dtype, (3, 5, 7)), ("float32", (7,)), *[("float32", (3, 5, 1))] * n])


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_forward_mode_equals_reverse_mode(norm):
    x, scale, _ = draw(0, (3, 7))
    forward, reverse = jax.jacfwd(norm, (0, 1))(x, scale), jax.jacrev(norm, (0, 1))(x, scale)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), forward, reverse)
