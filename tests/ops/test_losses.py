"""Losses: sums add, ignored tokens add nothing, bad labels give NaN, the chunk size does not matter."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.programs import equations
from tfm_jax.ops.losses import cross_entropy, linear_cross_entropy

V, D = 11, 5
seeds = st.integers(0, 2**31 - 1)
leads = st.sampled_from([(), (6,), (2, 3)])
smoothings, z_losses = st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([0.0, 0.01])


def cross_entropy_reference(logits, labels, weights, label_smoothing=0.0, z_loss=0.0, ignore_index=None):
    """Token by token, with an explicit one-hot target."""
    logits = np.asarray(logits, np.float64)
    total, weight = 0.0, 0.0
    for token in np.ndindex(*labels.shape):
        label, x = labels[token], logits[token]
        if label == ignore_index:
            continue
        log_z = np.log(np.exp(x - x.max()).sum()) + x.max()
        target = np.full(V, label_smoothing / V)
        target[label] += 1 - label_smoothing
        total += weights[token] * ((target * (log_z - x)).sum() + z_loss * log_z**2)
        weight += weights[token]
    return total, weight


def draw(seed, lead, scale=3.0):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(0, scale, (*lead, V)), jnp.float32),
        jnp.asarray(rng.integers(0, V, lead), jnp.int32),
        jnp.asarray(rng.uniform(0, 2, lead), jnp.float32),
    )


def draw_linear(seed, lead):
    rng = np.random.default_rng(seed)
    hidden, kernel, bias = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((*lead, D), (D, V), (V,)))
    return hidden, kernel, bias, *draw(seed, lead)[1:]


@given(seeds, leads, smoothings, z_losses)
def test_cross_entropy_is_the_reference(seed, lead, label_smoothing, z_loss):
    logits, labels, weights = draw(seed, lead)
    kwargs = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    got = cross_entropy(logits, labels, weights=weights, **kwargs)
    want = cross_entropy_reference(logits, np.asarray(labels), np.float64(weights), **kwargs)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    ignored = int(labels.reshape(-1)[0])
    got = cross_entropy(logits, labels, ignore_index=ignored, **kwargs)
    want = cross_entropy_reference(logits, np.asarray(labels), np.ones(lead), ignore_index=ignored, **kwargs)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert all(x.dtype == jnp.float32 and x.shape == () for x in got)


@given(seeds)
def test_the_gradient_is_softmax_minus_one_hot(seed):
    logits, labels, weights = draw(seed, (2, 3))
    grad = jax.grad(lambda x: cross_entropy(x, labels, weights=weights)[0])(logits)
    want = weights[..., None] * (jax.nn.softmax(logits) - jax.nn.one_hot(labels, V))
    np.testing.assert_allclose(grad, want, atol=1e-5)


@given(seeds, smoothings, z_losses)
def test_sums_of_two_parts_add(seed, label_smoothing, z_loss):
    logits, labels, weights = draw(seed, (6,))
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss, "ignore_index": 3}
    total, first, second = (
        cross_entropy(logits[part], labels[part], weights=weights[part], **options)
        for part in (slice(None), slice(2), slice(2, None))
    )
    for i in range(2):
        np.testing.assert_allclose(total[i], first[i] + second[i], rtol=1e-5)


@given(seeds, st.sampled_from([-20.0, 500.0]))
def test_a_constant_added_to_all_logits_changes_nothing(seed, constant):
    logits, labels, _ = draw(seed, (6,))
    shifted = cross_entropy(logits + constant, labels, label_smoothing=0.1)[0]
    np.testing.assert_allclose(
        cross_entropy(logits, labels, label_smoothing=0.1)[0], shifted, rtol=1e-4, atol=1e-3
    )


@given(seeds)
def test_the_loss_is_at_least_the_entropy_of_the_target(seed):
    logits, labels, _ = draw(seed, (6,))
    assert cross_entropy(logits, labels)[0] >= 0
    p = np.full(V, 0.1 / V)
    p[0] += 0.9
    assert cross_entropy(logits, labels, label_smoothing=0.1)[0] >= 6 * -(p * np.log(p)).sum() - 1e-4


def test_the_loss_of_uniform_logits_is_log_v():
    got = cross_entropy(jnp.zeros((4, V)), jnp.arange(4), label_smoothing=0.3)
    np.testing.assert_allclose(got, (4 * np.log(V), 4), rtol=1e-6)


def extreme_logits(dtype):
    big = float(jnp.finfo(dtype).max)
    return [np.full(V, big), np.full(V, -big), np.eye(V)[3] * big, np.full(V, np.inf), np.full(V, np.nan)]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", range(5))
def test_an_ignored_token_adds_nothing_and_has_gradient_0_for_any_logits(dtype, kind):
    logits, labels, weights = draw(0, (2, 3))
    labels = labels.at[1, 1].set(-100)
    logits = logits.astype(dtype).at[1, 1].set(jnp.asarray(extreme_logits(dtype)[kind], dtype))

    def f(x):
        return cross_entropy(x, labels, weights=weights, label_smoothing=0.1, z_loss=1e-3, ignore_index=-100)

    (total, weight), vjp = jax.vjp(f, logits)
    (grad,) = vjp((jnp.float32(1), jnp.float32(0)))
    kept = np.ones((2, 3), bool)
    kept[1, 1] = False
    want = cross_entropy(logits[kept], labels[kept], weights=weights[kept], label_smoothing=0.1, z_loss=1e-3)
    np.testing.assert_allclose((total, weight), want, rtol=1e-6)
    assert (grad[1, 1] == 0).all() and grad.dtype == dtype
    assert (np.abs(np.asarray(grad, np.float32)).sum(-1)[kept] > 0).all()


def test_all_tokens_ignored_gives_sum_0_and_weight_0():
    logits, labels, _ = draw(0, (6,))
    assert cross_entropy(logits, jnp.full(6, -100), ignore_index=-100) == (0, 0)
    assert cross_entropy(logits, labels, weights=jnp.zeros(6)) == (0, 0)
    assert cross_entropy(logits[:0], labels[:0]) == (0, 0)


@pytest.mark.parametrize("label", [-1, -V, -100, V, V + 1, 2**31 - 1, -(2**31)])
def test_a_label_out_of_range_makes_the_sum_and_its_gradient_nan(label):
    logits, labels, weights = draw(0, (2, 3))
    bad = labels.at[0, 2].set(label)
    for ignore_index in (None, 7):
        for w in (None, weights, weights.at[0, 2].set(0)):

            def f(x, w=w, i=ignore_index):
                return cross_entropy(x, bad, weights=w, ignore_index=i)

            (total, weight), grad = f(logits), jax.grad(lambda x, f=f: f(x)[0])(logits)
            assert jnp.isnan(total) and jnp.isfinite(weight)
            np.testing.assert_array_equal(jnp.isnan(grad).any(-1), np.eye(6)[2].reshape(2, 3))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.uint16, jnp.uint32])
def test_labels_of_any_integer_type(dtype):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 300)), jnp.float32)
    labels = jnp.asarray([0, 7, 127])
    got = cross_entropy(logits, labels.astype(dtype))
    np.testing.assert_array_equal(got, cross_entropy(logits, labels))


@given(seeds)
def test_the_sum_is_linear_in_the_weights(seed):
    logits, labels, weights = draw(seed, (6,))

    def f(w):
        return cross_entropy(logits, labels, weights=w)[0]

    each = jax.grad(f)(jnp.zeros(6))
    np.testing.assert_allclose(
        each, [cross_entropy(x, y)[0] for x, y in zip(logits, labels, strict=True)], rtol=1e-5
    )
    np.testing.assert_allclose(f(weights), (weights * each).sum(), rtol=1e-5)
    np.testing.assert_array_equal(cross_entropy(logits, labels, weights=weights > 1)[1], (weights > 1).sum())


def test_bfloat16_logits_have_a_float32_loss():
    logits, labels, _ = draw(0, (2, 3))
    half = logits.astype(jnp.bfloat16)
    got = cross_entropy(half, labels, label_smoothing=0.1)
    np.testing.assert_array_equal(got, cross_entropy(half.astype(jnp.float32), labels, label_smoothing=0.1))
    assert got[0].dtype == got[1].dtype == jnp.float32


def test_large_and_minus_infinite_logits_are_finite():
    logits = jnp.asarray([[1e4, -1e4, 0.0], [5.0, -jnp.inf, 1.0]])

    def f(x):
        return cross_entropy(x, jnp.asarray([0, 0]))[0]

    np.testing.assert_allclose(f(logits), np.log1p(np.exp(-4)), rtol=1e-5)
    assert jnp.isfinite(jax.grad(f)(logits)).all()


def test_a_loss_near_0_is_exact_with_large_logits():
    logits = jnp.asarray([1000.0, 990.0, 988.0])
    want = np.log1p(np.exp(-10.0) + np.exp(-12.0))
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray(0))[0], want, rtol=2e-3)


def test_clean_under_debug_nans():
    logits, labels, _ = draw(0, (6,))
    with jax.debug_nans(True):
        for f in (jax.value_and_grad(lambda x: cross_entropy(x, labels, ignore_index=0, z_loss=0.1)[0]),):
            assert jnp.isfinite(f(logits)[0]) and jnp.isfinite(jax.jit(f)(logits)[0])


@pytest.mark.parity
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch_forward_and_backward(label_smoothing):
    torch = pytest.importorskip("torch")
    logits, labels, _ = draw(0, (6,))
    labels = labels.at[jnp.asarray([1, 4])].set(-100)
    tensor = torch.tensor(np.asarray(logits), requires_grad=True)
    want = torch.nn.functional.cross_entropy(
        tensor,
        torch.tensor(np.asarray(labels), dtype=torch.long),
        ignore_index=-100,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    want.backward()

    def f(x):
        return cross_entropy(x, labels, label_smoothing=label_smoothing, ignore_index=-100)

    np.testing.assert_allclose(f(logits), (want.item(), 4), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: f(x)[0])(logits), tensor.grad.numpy(), atol=1e-6)


def test_cross_entropy_equals_optax():
    import optax

    logits, labels, _ = draw(0, (2, 3))
    target = optax.smooth_labels(jax.nn.one_hot(labels, V), 0.1)
    got = cross_entropy(logits, labels, label_smoothing=0.1)[0]
    np.testing.assert_allclose(got, optax.softmax_cross_entropy(logits, target).sum(), rtol=1e-6)


# --- linear_cross_entropy ---


KWARGS = {"label_smoothing": 0.1, "z_loss": 0.01, "ignore_index": 0}


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(chunk_size, hidden, kernel, bias, weights, labels):
    """In chunks, or from all logits if `chunk_size` is None."""

    def f(hidden, kernel, bias, weights):
        if chunk_size is None:
            logits = hidden @ kernel
            return cross_entropy(
                logits + jnp.broadcast_to(bias, logits.shape), labels, weights=weights, **KWARGS
            )
        return linear_cross_entropy(
            hidden, kernel, labels, bias=bias, weights=weights, chunk_size=chunk_size, **KWARGS
        )

    return jax.value_and_grad(f, (0, 1, 2, 3), has_aux=True)(hidden, kernel, bias, weights)


@given(seeds, st.sampled_from([(), (7,), (2, 3)]), st.sampled_from([1, 4, 1024]))
def test_the_chunk_size_does_not_matter(seed, lead, chunk_size):
    hidden, kernel, bias, labels, weights = draw_linear(seed, lead)
    got = loss_and_gradients(chunk_size, hidden, kernel, bias, weights, labels)
    want = loss_and_gradients(None, hidden, kernel, bias, weights, labels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


def test_without_bias_and_weights():
    hidden, kernel, _, labels, _ = draw_linear(0, (2, 3))
    got = linear_cross_entropy(hidden, kernel, labels, chunk_size=4)
    np.testing.assert_allclose(got, cross_entropy(hidden @ kernel, labels), rtol=1e-6)
    assert linear_cross_entropy(hidden[:0], kernel, labels[:0]) == (0, 0)


def test_ignored_and_invalid_labels_in_chunks():
    hidden, kernel, _, labels, _ = draw_linear(0, (7,))

    def f(h, labels):
        return linear_cross_entropy(h, kernel, labels, ignore_index=-100, chunk_size=3)

    ignored = labels.at[2].set(-100)
    grad = jax.grad(lambda h: f(h, ignored)[0])(hidden)
    np.testing.assert_array_equal((grad == 0).all(-1), np.eye(7)[2])
    assert f(hidden, ignored)[1] == 6
    for label in (-1, V):
        assert jnp.isnan(f(hidden, labels.at[6].set(label))[0])


def test_padding_of_the_last_chunk_adds_nothing_with_a_bias_of_minus_inf():
    hidden, kernel, bias, labels, weights = draw_linear(0, (7,))
    args = hidden, kernel, bias.at[0].set(-jnp.inf), weights
    labels = jnp.maximum(labels, 1)

    def f(hidden, kernel, bias, weights, chunk_size):
        return linear_cross_entropy(
            hidden, kernel, labels, bias=bias, weights=weights, z_loss=0.01, chunk_size=chunk_size
        )[0]

    got, want = (jax.value_and_grad(f, (0, 1, 2, 3))(*args, chunk_size) for chunk_size in (4, 7))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(got))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_hidden_states_of_ignored_tokens_do_not_leak(bad):
    hidden, kernel, _, labels, weights = draw_linear(0, (7,))
    labels, weights = labels.at[2].set(-100), weights.at[5].set(0)

    def f(h, k, y, w):
        return linear_cross_entropy(h, k, y, weights=w, ignore_index=-100, chunk_size=4)[0]

    ours = jax.value_and_grad(f, (0, 1))
    total, (d_hidden, d_kernel) = ours(hidden.at[jnp.asarray([2, 5])].set(bad), kernel, labels, weights)
    kept = np.array([0, 1, 3, 4, 6])
    want = ours(hidden[kept], kernel, labels[kept], weights[kept])
    got = total, (d_hidden[kept], d_kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
    assert not np.any(d_hidden[np.array([2, 5])])


def test_the_logits_of_all_tokens_never_exist():
    tokens, vocabulary = 512, 1000
    args = (
        jax.ShapeDtypeStruct((4, tokens // 4, D), jnp.float32),
        jax.ShapeDtypeStruct((D, vocabulary), jnp.float32),
        jax.ShapeDtypeStruct((4, tokens // 4), jnp.int32),
    )

    def from_all_logits(h, k, y):
        return cross_entropy(h @ k, y, label_smoothing=0.1)[0]

    def from_chunks(h, k, y, size):
        return linear_cross_entropy(h, k, y, label_smoothing=0.1, chunk_size=size)[0]

    temp = {}
    for size in (16, 64, tokens, None):
        f = from_all_logits if size is None else functools.partial(from_chunks, size=size)
        compiled = jax.jit(jax.grad(f, (0, 1))).lower(*args).compile()
        temp[size] = compiled.memory_analysis().temp_size_in_bytes
    logits = tokens * vocabulary * 4
    assert temp[None] >= logits
    assert temp[64] < logits
    assert temp[16] < temp[64] < temp[tokens]


def test_bfloat16_has_float32_logits_and_sums_gradients_in_float32():
    tokens = 1024
    rng = np.random.default_rng(0)
    hidden, kernel = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((tokens, D), (D, V)))
    labels = jnp.asarray(rng.integers(0, V, tokens))

    def exact(h, k):
        return cross_entropy(jnp.matmul(h, k), labels)[0]

    want = jax.value_and_grad(exact, 1)(hidden.astype(jnp.float32), kernel.astype(jnp.float32))
    ours = jax.value_and_grad(lambda h, k: linear_cross_entropy(h, k, labels, chunk_size=2)[0], 1)
    got = ours(hidden, kernel)
    # The CPU compiler may keep more precision than the program has, so this reads the program.
    products = [e for e in equations(jax.make_jaxpr(ours)(hidden, kernel).jaxpr) if "dot" in e.primitive.name]
    assert len(products) == 2  # the logits once, and the kernel's gradient
    assert {x.aval.dtype.name for e in products for x in e.invars} == {"bfloat16"}
    assert {e.outvars[0].aval.dtype.name for e in products} == {"float32"}
    assert got[0].dtype == jnp.float32 and got[1].dtype == jnp.bfloat16
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    # In bfloat16 the sum over 512 chunks would be off by more than a tenth.
    error = jnp.linalg.norm(got[1].astype(jnp.float32) - want[1]) / jnp.linalg.norm(want[1])
    assert error < 0.01


def test_in_shard_map_and_on_meshes():
    hidden, kernel, _, labels, _ = draw_linear(1, (16, 3))

    def f(h, k, y, chunk=16):
        return linear_cross_entropy(h, k, y, chunk_size=chunk, ignore_index=2)

    want = jax.value_and_grad(lambda *a: f(*a)[0], (0, 1))(hidden, kernel, labels)
    P, AxisType = jax.sharding.PartitionSpec, jax.sharding.AxisType

    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        with jax.set_mesh(mesh):

            def shard(x, *spec, mesh=mesh):
                return jax.device_put(x, jax.NamedSharding(mesh, P(*spec)))

            args = shard(hidden, "data"), shard(kernel), shard(labels, "data")
            got = jax.jit(jax.value_and_grad(lambda *a: f(*a)[0], (0, 1)))(*args)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)

    specs = P("data"), P(), P("data")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def both(*a):
        return jax.value_and_grad(lambda *a: jax.lax.psum(f(*a, chunk=4)[0], "data"), (0, 1))(*a)

    got = jax.shard_map(both, mesh=mesh, in_specs=specs, out_specs=(P(), specs[:2]))(hidden, kernel, labels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


def test_a_sharded_vocabulary_is_not_gathered():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 16)), jnp.float32)
    labels = jnp.asarray([[1, 15, 0], [7, 8, 9]])

    def f(x, y):
        return cross_entropy(x, y, label_smoothing=0.1, z_loss=1e-3, ignore_index=0)[0]

    want = jax.value_and_grad(f)(logits, labels)
    for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("tensor",), axis_types=(kind,))
        split = jax.NamedSharding(mesh, jax.sharding.PartitionSpec(None, None, "tensor"))
        with jax.set_mesh(mesh):
            args = jax.device_put(logits, split), labels
            compiled = jax.jit(jax.value_and_grad(f)).lower(*args).compile()
            assert "all-gather" not in compiled.as_text()
            chex.assert_trees_all_close(compiled(*args), want, rtol=1e-5, atol=1e-6)


def test_under_vmap():
    hidden, kernel, _, labels, _ = draw_linear(0, (4, 3))

    def f(h, y):
        return linear_cross_entropy(h, kernel, y, chunk_size=2)

    sums, weights = jax.jit(jax.vmap(f))(hidden, labels)
    np.testing.assert_allclose((sums.sum(), weights.sum()), f(hidden, labels), rtol=1e-5)


def test_wrong_arguments():
    logits, labels, weights = draw(0, (2, 3))
    hidden, kernel, *_ = draw_linear(0, (2, 3))
    bad = [
        (r"logits has dtype int32. Cast logits first\.$", lambda: cross_entropy(labels, labels[:, 0])),
        (
            r"labels int32\[3\].*\[...\] = \[3\], not \[2, 3\]. Pass one label for each",
            lambda: cross_entropy(logits, labels[0]),
        ),
        (r"labels .*float32.*soft labels", lambda: cross_entropy(logits, weights)),
        (
            r"weights float32\[2, 1\].* Broadcast them first",
            lambda: cross_entropy(logits, labels, weights=weights[:, :1]),
        ),
        (r"logits .*int32", lambda: cross_entropy(labels, labels[:, 0])),
        (r"label_smoothing=1.5", lambda: cross_entropy(logits, labels, label_smoothing=1.5)),
        (r"z_loss=-1", lambda: cross_entropy(logits, labels, z_loss=-1.0)),
        (
            r"kernel float32\[11, 5\].*D = 11, not 5. Transpose",
            lambda: linear_cross_entropy(hidden, kernel.T, labels),
        ),
        (
            r"dtype bfloat16. Cast the kernel",
            lambda: linear_cross_entropy(hidden, kernel.astype(jnp.bfloat16), labels),
        ),
        (
            r"bias float32\[5\].*V = 5, not 11",
            lambda: linear_cross_entropy(hidden, kernel, labels, bias=hidden[0, 0]),
        ),
        (r"chunk_size=0", lambda: linear_cross_entropy(hidden, kernel, labels, chunk_size=0)),
        (
            r"linear_cross_entropy: got .*labels int32",
            lambda: linear_cross_entropy(hidden, kernel, labels[0]),
        ),
    ]
    for message, call in bad:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf, "0", None, True])
def test_wrong_numbers(wrong):
    logits, labels = jnp.ones((2, 3)), jnp.zeros(2, jnp.int32)
    with pytest.raises(
        ValueError, match=r"cross_entropy: got label_smoothing=.*; wanted a number in \[0, 1\]"
    ):
        cross_entropy(logits, labels, label_smoothing=wrong)
    with pytest.raises(
        ValueError, match=r"cross_entropy: got z_loss=.*; wanted a finite number of at least 0"
    ):
        cross_entropy(logits, labels, z_loss=wrong)
    with pytest.raises(ValueError, match=r"linear_cross_entropy: got chunk_size=.*; wanted an integer"):
        linear_cross_entropy(logits, jnp.ones((3, 4)), labels, chunk_size=wrong)
