"""One contract for every backend of attention: it computes what the reference computes, or it is an error.

Splash runs its kernel in interpret mode. cuDNN is replaced by XLA's implementation of the same function: this
tests its arguments, not the GPU kernel.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests import references
from tests.marks import slow, slow_but, slow_rows
from tfm_jax import ops
from tfm_jax.laws.strategies import mask_expressions
from tfm_jax.ops import masks
from tfm_jax.ops.backends import BACKENDS, Backend

NAN, INF = np.nan, np.inf
B, T, S, N, K, H, V = 2, 11, 19, 4, 2, 8, 6


def variant(name, *, platforms=None, dtypes=None, **options):
    backend = BACKENDS[name]
    changed = {key: frozenset(x) for key, x in {"platforms": platforms, "dtypes": dtypes}.items() if x}
    return Backend(
        name,
        functools.partial(backend.attention, **options),
        dataclasses.replace(backend.capabilities, **changed),
    )


RUNNABLE = {
    "reference": BACKENDS["reference"],
    "cpu_decode": BACKENDS["cpu_decode"],
    "xla": BACKENDS["xla"],
    "chunked": BACKENDS["chunked"],
    "chunked by 8": variant("chunked", tile=8),
    "splash": variant("splash", platforms=["cpu"], interpret=True),
    "cudnn": variant(
        "cudnn",
        platforms=["cpu"],
        dtypes=["float32", "bfloat16"],
        kernel=functools.partial(jax.nn.dot_product_attention, implementation="xla"),
    ),
}
# One tile for the whole sequence is the rarer case.
QUICK_BACKENDS = [name for name in RUNNABLE if name != "chunked"]
every_backend = pytest.mark.parametrize("name", slow_but(QUICK_BACKENDS, RUNNABLE))


def arrays(batch=(B,), T=T, S=S, N=N, K=K, H=H, V=V, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(T, N, H), (S, K, H), (S, K, V)]
    return tuple(jnp.asarray(rng.standard_normal((*batch, *shape)), dtype) for shape in shapes)


def run(name, q, k, v, mask=None, bias=None, **options):
    return ops.attention(q, k, v, mask, bias, implementation=RUNNABLE[name], **options)


def promotion(name):
    """The gradient of JAX's function promotes bfloat16."""
    return jax.numpy_dtype_promotion("standard" if name in ("xla", "cudnn") else "strict")


def unsupported(name, *args, **options):
    return ops.explain_attention(*args, **options, implementation=RUNNABLE[name]).implementation is None


def weigh(out):
    """A sum with a different weight for every element."""
    weight = np.cos(np.arange(out.size)).reshape(out.shape)
    out = out.astype(np.promote_types(out.dtype, np.float32))
    return jnp.sum(out * weight.astype(out.dtype))


def gradients(name, q, k, v, mask=None, bias=None, **options):
    return slopes_of(name, mask, bias, **options)(q, k, v)


def slopes_of(name, mask=None, bias=None, **options):
    """(q, k, v) -> their gradients, compiled once."""

    def loss(q, k, v):
        return weigh(run(name, q, k, v, mask, bias, **options))

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))


def output_and_gradients(name, q, k, v, mask=None, bias=None, **options):
    """Of one compiled program. Other tests run the forward pass without a gradient."""

    def both(*inputs):
        out, pullback = jax.vjp(lambda q, k, v: run(name, q, k, v, mask, bias, **options), *inputs)
        return out, pullback(jax.grad(weigh)(out))

    return jax.jit(both)(q, k, v)


def in_float64(q, k, v, mask=None, bias=None, **options):
    """Output and gradients of the reference in float64; test_attention.py tests its derivatives."""
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in (q, k, v)]
        if bias is not None and not callable(bias):
            bias = jnp.asarray(np.asarray(bias, np.float64))
        return output_and_gradients("reference", *wide, mask, bias, **options)


@functools.cache
def expected_of_case(case):
    """The same for every backend."""
    mask, sizes = CASES[case]
    return in_float64(*arrays(**sizes), mask)


@functools.cache
def expected_of_option(option):
    return in_float64(*arrays(V=H), PREFIX, **OPTIONS[option])


CASES = {
    "no mask": (None, {}),
    "causal": (masks.causal(), {"T": S}),
    "causal, 300 keys": (masks.causal(), {"T": 300, "S": 300}),
    "causal, static offset": (masks.causal(8), {}),
    "causal, one offset per sequence": (masks.causal(jnp.array([2, 8])), {}),
    "window": (masks.window(3, 0), {"T": S}),
    "window to both sides": (masks.window(2, 4, offset=5), {}),
    "causal and window": (masks.causal() & masks.window(5), {"T": S}),
    "prefix": (masks.prefix(np.array([3, 14])), {}),
    "causal or prefix": (masks.causal() | masks.prefix(jnp.array([3, 14])), {"T": S}),
    "padding": (masks.padding(jnp.asarray(np.random.default_rng(1).random((B, S)) < 0.6)), {}),
    "padding, even": (masks.padding(np.random.default_rng(1).random((B, 20)) < 0.6), {"T": 12, "S": 20}),
    "segments": (masks.segments(np.sort(np.random.default_rng(2).integers(0, 4, (B, S)))), {"T": S}),
    "packed": (
        masks.causal() & masks.segments(jnp.asarray(np.sort(np.random.default_rng(2).integers(0, 4, S)))),
        {"T": S},
    ),
    "dense": (masks.dense(np.random.default_rng(3).random((B, T, S)) < 0.5), {}),
    "one table per head": (masks.dense(np.random.default_rng(3).random((N, T, S)) < 0.5, per_head=True), {}),
    "not": (~masks.causal(4), {}),
    "grouped heads": (masks.causal(8), {"K": 1}),
    "no groups": (masks.causal(8), {"K": N}),
    "Hv = H": (masks.causal(8), {"V": H}),
    "Hv = H, T = S": (masks.causal(), {"V": H, "T": S}),
    "Hv = H, a prefix": (masks.prefix(np.array([3, 14])), {"V": H}),
    "Hv = H, padding": (
        masks.padding(np.random.default_rng(1).random((B, 20)) < 0.6) & masks.prefix(13),
        {"T": 12, "S": 20, "V": H},
    ),
    "Hv = H, a window": (masks.causal() & masks.window(3, 2), {"V": H, "T": S}),
    "Hv = H, no mask": (None, {"V": H}),
}
SUPPORTED = {
    "reference": set(CASES),
    "cpu_decode": set(CASES),
    "chunked": set(CASES),
    "chunked by 8": set(CASES),
    "xla": {name for name in CASES if name.startswith("Hv = H")},
    "splash": set(CASES)
    - {"causal, one offset per sequence", "causal or prefix", "dense", "one table per head", "not"},
    "cudnn": {name for name in CASES if name.startswith("Hv = H")} - {"Hv = H"},
}


# test_attention.py tests the reference; one tile runs the same code as many.
FEW = (
    "causal",
    "causal, 300 keys",
    "causal, one offset per sequence",
    "packed",
    "one table per head",
    "grouped heads",
)
PAIRS = [
    (name, case)
    for name in RUNNABLE
    for case in CASES
    if name not in ("reference", "chunked") or (name == "chunked" and case in FEW)
]
# One mask of each kind; the rest is slow. Backends that support few masks run them all.
KINDS = {
    "no mask",
    "causal, 300 keys",
    "causal, static offset",
    "causal, one offset per sequence",
    "packed",
    "dense",
    "window to both sides",
    "prefix",
    "causal or prefix",
    "padding",
    "one table per head",
    "grouped heads",
}
QUICK = [
    (name, case)
    for name, case in PAIRS
    if name in ("xla", "cudnn") or case not in SUPPORTED[name] or (case in KINDS and name != "chunked")
]


@pytest.mark.parametrize("name, case", [*QUICK, *slow_rows(pair for pair in PAIRS if pair not in QUICK)])
def test_output_and_gradients_are_the_reference_or_an_error(name, case):
    mask, sizes = CASES[case]
    q, k, v = arrays(**sizes)
    if case not in SUPPORTED[name]:
        with pytest.raises(
            ValueError, match=f"implementation='{RUNNABLE[name].name}', which does not support"
        ):
            run(name, q, k, v, mask)
        return
    out, slopes = expected_of_case(case)
    got, ours = output_and_gradients(name, q, k, v, mask)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, out, atol=5e-6)
    for our, theirs in zip(ours, slopes, strict=True):
        np.testing.assert_allclose(our, theirs, atol=5e-5)


PREFIX = masks.prefix(np.array([5, S]))
OPTIONS = {
    "scale": {"scale": 0.3},
    "soft cap": {"soft_cap": 2.0},
    "bias": {"bias": np.random.default_rng(4).standard_normal((N, T, S)).astype(np.float32)},
    "bias per sequence": {"bias": np.random.default_rng(4).standard_normal((B, 1, 1, S)).astype(np.float32)},
    "bias per query": {"bias": np.random.default_rng(4).standard_normal((1, T, 1)).astype(np.float32)},
    "bias of -inf": {"bias": np.where(np.tri(T, S, 4, dtype=bool), np.float32(0), np.float32(-INF))[None]},
    "alibi": {"bias": functools.partial(ops.alibi, N)},
    "all": {
        "bias": np.random.default_rng(4).standard_normal((N, 1, S)).astype(np.float32),
        "soft_cap": 2.0,
        "scale": -0.4,
    },
}
OPTIONS_OF = {
    "reference": set(OPTIONS),
    "cpu_decode": set(OPTIONS),
    "chunked": set(OPTIONS),
    "chunked by 8": set(OPTIONS),
    "xla": {"scale", "bias", "bias per sequence", "bias per query", "bias of -inf"},
    "splash": {"scale", "soft cap"},
    "cudnn": {"scale"},
}


@every_backend
@pytest.mark.parametrize(
    "option", slow_but(["scale", "soft cap", "bias", "bias of -inf", "alibi", "all"], OPTIONS)
)
def test_options_are_supported_or_an_error(name, option):
    q, k, v = arrays(V=H)
    options = OPTIONS[option]
    if option not in OPTIONS_OF[name]:
        with pytest.raises(ValueError, match=r"does not support (a bias|soft_cap)"):
            run(name, q, k, v, PREFIX, **options)
        return
    out, slopes = expected_of_option(option)
    got, ours = output_and_gradients(name, q, k, v, PREFIX, **options)
    np.testing.assert_allclose(got, out, atol=5e-6)
    for our, theirs in zip(ours, slopes, strict=True):
        np.testing.assert_allclose(our, theirs, atol=5e-5)


@pytest.mark.parametrize("name", ["cpu_decode", "xla", "chunked by 8", "splash", "cudnn"])
@given(st.data())
def test_any_mask_is_supported_or_an_error(name, data):
    batch, T, S, K = data.draw(st.sampled_from([((2,), 11, 19, 2), ((), 13, 13, 4)]))
    q, k, v = arrays(batch, T, S, K=K, V=H, seed=data.draw(st.integers(0, 99)))
    mask, allowed = data.draw(mask_expressions(batch, N, T, S))
    shape = data.draw(st.sampled_from([None, (N, T, S), (1, T, 1)]))
    bias = None if shape is None else np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    if unsupported(name, q, k, v, mask, bias):
        with pytest.raises(ValueError, match="does not support this call"):
            run(name, q, k, v, mask, bias)
        return
    out, _ = references.attention(q, k, v, allowed, bias)
    got = jax.jit(lambda q, k, v: run(name, q, k, v, mask, bias))(q, k, v)
    np.testing.assert_allclose(got, out, atol=5e-6)
    if name == "chunked by 8" and data.draw(st.integers(0, 4)) == 0:  # the others' gradients are JAX's
        for ours, theirs in zip(
            gradients(name, q, k, v, mask, bias), in_float64(q, k, v, mask, bias)[1], strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=5e-5)


# --- fully masked rows, NaN and Inf ---


def fully_masking():
    """Masks that fully mask query 0 of example 0."""
    table = np.ones((B, T, S), bool)
    table[0, 0] = False
    keys = np.ones((B, S), bool)
    keys[0, :3] = False
    return {
        "dense": masks.dense(table),
        "one offset per sequence": masks.causal(np.array([-1, 8])),
        "padding and causal": masks.padding(keys) & masks.causal(2),
        "segments": masks.segments(np.where(np.arange(T) == 0, 7, 0), np.zeros((B, S), int)),
        "prefix": masks.prefix(np.array([0, 3])),
        "everything": ~masks.window(),
    }


@every_backend
@pytest.mark.parametrize("dtype", [np.float32, *slow(jnp.bfloat16)])
@pytest.mark.parametrize("case", list(fully_masking()))
def test_fully_masked_rows_have_output_0_and_gradient_0(name, case, dtype):
    q, k, v = arrays(V=H, dtype=dtype)
    mask = fully_masking()[case]
    with promotion(name):
        if unsupported(name, q, k, v, mask):
            return
    with jax.debug_nans(True), promotion(name):
        out, (dq, dk, dv) = output_and_gradients(name, q, k, v, mask)
    assert not np.any(out[0, 0]) and not np.any(dq[0, 0])
    for x in (out, dq, dk, dv):
        assert np.isfinite(np.asarray(x, np.float32)).all()
        assert np.any(x[1]) != (case == "everything")


def test_every_backend_supports_a_fully_masking_mask():
    for name in RUNNABLE:
        assert any(not unsupported(name, *arrays(V=H), mask) for mask in fully_masking().values())


@every_backend
@pytest.mark.parametrize("bad", [NAN, INF, *slow(-INF)])
def test_nonfinite_masked_values_do_not_leak_and_unmasked_ones_give_nan(name, bad):
    q, k, v = arrays(T=12, S=20, V=H)
    valid = np.ones((B, 20), bool)
    valid[0, 7] = False
    mask = masks.padding(valid) & masks.prefix(np.array([20, 5]))
    masked = np.zeros((B, 20), bool)
    masked[0, 7], masked[1, 5:] = True, True
    k_bad, v_bad = (jnp.where(masked[..., None, None], bad, x) for x in (k, v))
    call, slopes = jax.jit(lambda q, k, v: run(name, q, k, v, mask)), slopes_of(name, mask)
    with jax.debug_nans(True):
        np.testing.assert_array_equal(call(q, k_bad, v_bad), call(q, k, v))
        chex.assert_trees_all_equal(slopes(q, k_bad, v_bad), slopes(q, k, v))
    # An unmasked key of example 0: its queries are NaN in the heads that read it, and no other example is.
    for k_new, v_new in [(k.at[0, 3, 0, 0].set(bad), v), (k, v.at[0, 3, 0, 0].set(bad))]:
        got = np.asarray(call(q, k_new, v_new))
        assert np.isnan(got[0, :, : N // K]).all()
        assert np.isfinite(got[0, :, N // K :]).all() and np.isfinite(got[1]).all()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_nonfinite_values_without_a_mask_are_as_in_the_reference(bad):
    q, k, v = arrays()
    for k_bad, v_bad in [(k.at[0, 3, 0, 0].set(bad), v), (k, v.at[0, 3, 0, 0].set(bad))]:
        got, wanted = (run(name, q, k_bad, v_bad) for name in ("cpu_decode", "reference"))
        np.testing.assert_allclose(got, wanted, atol=1e-6)


@every_backend
def test_nan_reaches_only_the_queries_that_may_attend_to_it(name):
    q, k, v = arrays(T=S, V=H)
    call = jax.jit(lambda q, k, v: run(name, q, k, v, masks.causal()))
    expected = call(q, k, v)
    for q_bad, k_bad, v_bad, first, last in [
        (q, k.at[0, 6].set(NAN), v, 6, S),
        (q, k, v.at[0, 6, 0, 0].set(INF), 6, S),
        (q.at[0, 6, 1, 0].set(NAN), k, v, 6, 7),
    ]:
        got = call(q_bad, k_bad, v_bad)
        np.testing.assert_array_equal(got[0, :first], expected[0, :first])
        np.testing.assert_array_equal(got[0, last:], expected[0, last:])
        np.testing.assert_array_equal(got[1], expected[1])
        assert np.isnan(got[0, first:last]).any((1, 2)).all()


# --- dropout ---


@every_backend
def test_dropout_is_that_of_the_reference_or_an_error(name):
    q, k, v = arrays(T=S, V=H)
    mask, options = masks.causal(), {"dropout_rate": 0.4, "key": jax.random.key(3)}
    if "dropout" in str(ops.explain_attention(q, k, v, mask, **options).reasons[RUNNABLE[name].name]):
        with pytest.raises(ValueError, match="does not support dropout"):
            run(name, q, k, v, mask, **options)
        # Only a key, or only a rate, drops nothing.
        for options in ({"dropout_rate": 0.4}, {"key": jax.random.key(3)}):
            np.testing.assert_array_equal(run(name, q, k, v, mask, **options), run(name, q, k, v, mask))
        return
    out, slopes = in_float64(q, k, v, mask, **options)
    assert np.abs(out - in_float64(q, k, v, mask)[0]).max() > 0.1
    got, ours = output_and_gradients(name, q, k, v, mask, **options)
    np.testing.assert_allclose(got, out, atol=5e-6)
    for our, theirs in zip(ours, slopes, strict=True):
        np.testing.assert_allclose(our, theirs, atol=5e-5)


@pytest.mark.parametrize("name", ["cpu_decode", "reference", "chunked by 8"])
def test_a_bias_function_is_differentiable_in_the_arrays_it_closes_over(name):
    q, k, v = arrays()
    positions = jnp.asarray(np.random.default_rng(5).integers(0, 9, (B, T)))

    def loss(table, slope, as_array=False):
        def at(i, j):
            return table[:, jnp.abs(positions[:, i, None] - j[None, None]) % 5].swapaxes(0, 1) * slope

        bias = at(jnp.arange(T), jnp.arange(S)) if as_array else at
        which = "reference" if as_array else name
        return weigh(run(which, q, k, v, masks.causal(8), bias, scale=slope, soft_cap=slope + 1))

    inputs = jnp.asarray(np.random.default_rng(6).standard_normal((N, 5)), np.float32), jnp.float32(0.7)
    expected = jax.jit(jax.grad(functools.partial(loss, as_array=True), argnums=(0, 1)))(*inputs)
    got = jax.jit(jax.grad(loss, argnums=(0, 1)))(*inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), got, expected)
    # under vmap too, over the closed-over array
    rows = jnp.stack([inputs[0], 2 * inputs[0]])
    got = jax.jit(jax.vmap(jax.grad(loss), (0, None)))(rows, inputs[1])
    expected = jnp.stack([jax.jit(jax.grad(loss))(row, inputs[1]) for row in rows])
    np.testing.assert_allclose(got, expected, atol=5e-5)


@pytest.mark.parametrize("tile", [8, 10, 256])
def test_a_bias_function_gets_indices_within_the_sequence(tile):
    q, k, v = arrays()
    table = jnp.asarray(np.random.default_rng(4).standard_normal((N, T, S)), np.float32)

    def bias(i, j):
        # NaN beyond the end
        return jnp.take(jnp.take(table, i, axis=1), j, axis=2)

    def call(q, k, v, name):
        return weigh(ops.attention(q, k, v, masks.causal(8), bias, implementation=name))

    def slopes(name):
        return jax.jit(jax.grad(functools.partial(call, name=name), argnums=(0, 1, 2)))(q, k, v)

    for a, b in zip(slopes(variant("chunked", tile=tile)), slopes("reference"), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize("name", ["cpu_decode", *slow("reference"), "chunked by 8"])
@pytest.mark.parametrize("check_vma", [True, *slow(False)])
def test_a_bias_function_in_shard_map(name, check_vma):
    q, k, v = arrays((4,))
    positions = jnp.asarray(np.random.default_rng(5).integers(0, 9, (4, T)))
    slope = jnp.float32(-0.3)

    def by_rows(slope, positions, i, j):
        return slope * (positions[:, i, None] - j[None, None])[:, None].astype(np.float32)

    def plain(i, j):
        return ops.alibi(N, i, j)

    def named(slope, positions):
        return jax.tree_util.Partial(by_rows, slope, positions)

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows = P("data")

    def loss(slope, make, sharded):
        def call(q, k, v, slope, positions):
            return run(name, q, k, v, masks.causal(8), make(slope, positions))

        specs = (rows, rows, rows, P(), rows)
        if sharded:
            call = jax.shard_map(call, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=check_vma)
        return weigh(call(q, k, v, slope, positions))

    for make in (lambda slope, positions: plain, named):
        got, expected = (
            jax.jit(jax.value_and_grad(lambda s, m=make, x=x: loss(s, m, x)))(slope) for x in (True, False)
        )
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_bias_function_in_shard_map_must_be_a_partial_of_its_arrays():
    q, k, v = arrays((4,))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def call(q, k, v, slope):
        def bias(i, j):
            return slope * ops.alibi(N, i, j)

        return run("chunked by 8", q, k, v, masks.causal(8), bias)

    sharded = jax.shard_map(call, mesh=mesh, in_specs=(P("data"),) * 3 + (P(),), out_specs=P("data"))
    with pytest.raises(ValueError, match=r"wanted jax\.tree_util\.Partial\(function, \*arrays\)"):
        sharded(q, k, v, jnp.float32(1))


@pytest.mark.parametrize("name", ["cpu_decode", "reference", "chunked by 8"])
@pytest.mark.parametrize("shape", [(B, N, T, S), *slow((N, 1, S), (1, T, 1)), (B, 1, 1, 1)])
def test_the_gradient_of_a_bias_has_its_shape(name, shape):
    q, k, v = arrays()
    bias = jnp.asarray(np.random.default_rng(4).standard_normal(shape), np.float32)
    got = jax.jit(jax.grad(lambda bias: weigh(run(name, q, k, v, masks.causal(8), bias))))(bias)
    assert got.shape == shape
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in (q, k, v)]

        def loss(bias):
            return weigh(ops.attention(*wide, masks.causal(8), bias, implementation="reference"))

        expected = jax.jit(jax.grad(loss))(jnp.asarray(np.asarray(bias, np.float64)))
    np.testing.assert_allclose(got, expected, atol=5e-5)


@pytest.mark.parametrize("name", ["cpu_decode", "reference", *slow("chunked"), "chunked by 8"])
@pytest.mark.parametrize("bad", [NAN, *slow(INF)])
def test_nonfinite_masked_values_reach_no_gradient(name, bad):
    q, k, v = arrays()
    masked = np.arange(S) >= 14
    mask, bias = masks.prefix(14), jnp.zeros((N, T, S))
    k_bad, v_bad = (jnp.where(masked[None, :, None, None], bad, x) for x in (k, v))

    def loss(q, k, v, bias, scale, cap):
        return weigh(run(name, q, k, v, mask, bias, scale=scale, soft_cap=cap))

    slopes = jax.jit(jax.grad(loss, argnums=range(6)))
    rest = (bias, jnp.float32(0.4), jnp.float32(2))
    got, expected = slopes(q, k_bad, v_bad, *rest), slopes(q, k, v, *rest)
    for a, b in zip(got, expected, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["cpu_decode", "reference", *slow("chunked"), "chunked by 8", "xla", "splash"]
)
def test_a_query_with_nan_leaves_the_gradients_of_masked_keys_finite(name):
    q, k, v = arrays(T=S, V=H)
    q = q.at[0, 6, 1, 0].set(NAN)
    _, dk, dv = gradients(name, q, k, v, masks.causal())
    assert np.isfinite(dk[0, 7:]).all() and np.isfinite(dv[0, 7:]).all()
    assert np.isfinite(dk[1]).all() and np.isfinite(dv[1]).all()


@pytest.mark.parametrize("name", ["cpu_decode", "reference", "xla", "chunked by 8"])
def test_a_bias_does_not_unmask(name):
    q, k, v = arrays(V=H)
    bias = np.full((1, T, S), np.finfo(np.float32).min / 2, np.float32)
    bias[..., 0] = 0
    mask = masks.padding(np.arange(S) > 0)
    out = run(name, q, k, v, mask, bias)
    np.testing.assert_array_equal(out, run(name, q, k, v.at[:, 0].add(100), mask, bias))
    assert np.any(out != 0)


# --- dtypes ---


@every_backend
def test_bfloat16(name):
    q, k, v = arrays(T=S, V=H, dtype=jnp.bfloat16)
    mask = masks.causal()
    out, slopes = in_float64(q, k, v, mask)
    with promotion(name):
        got, ours = output_and_gradients(name, q, k, v, mask)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float64), out, atol=1e-2)
    for our, theirs in zip(ours, slopes, strict=True):
        assert our.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(our, np.float64), theirs, atol=1e-2)


@pytest.mark.parametrize("name", ["cpu_decode", "reference", "chunked by 8"])
def test_float64_stays_float64(name):
    with jax.enable_x64(True):
        q, k, v = (jnp.asarray(np.asarray(x, np.float64)) for x in arrays())
        got = run(name, q, k, v, masks.causal(8))
        assert got.dtype == np.float64
        out, _ = references.attention(q, k, v, np.asarray(masks.causal(8).to_dense(T, S)))
        np.testing.assert_allclose(got, out, atol=1e-14)


@pytest.mark.parametrize("name", ["xla", "splash", "cudnn"])
def test_float64_is_an_error(name):
    with jax.enable_x64(True):
        q, k, v = (jnp.asarray(np.asarray(x, np.float64)) for x in arrays(V=H))
        with pytest.raises(ValueError, match="not float64"):
            run(name, q, k, v)


# --- JAX transformations ---


@every_backend
def test_jit_vmap_and_scan_match_the_batch(name):
    q, k, v = arrays((3,), T=S, V=H)
    lengths = jnp.array([5, 0, S])

    def mask(lengths):
        return masks.causal() & masks.prefix(lengths)

    expected, slopes = output_and_gradients(name, q, k, v, mask(lengths))

    def row(q, k, v, n):
        return run(name, q, k, v, mask(n))

    np.testing.assert_allclose(jax.jit(jax.vmap(row))(q, k, v, lengths), expected, atol=1e-6)
    _, got = jax.jit(lambda *x: jax.lax.scan(lambda c, x: (c, row(*x)), None, x))(q, k, v, lengths)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    # gradients too, with checkpointing
    weight = jnp.cos(jnp.arange(expected.size, dtype=np.float32)).reshape(expected.shape)

    def one(q, k, v, n, w):
        return jnp.sum(jax.checkpoint(row)(q, k, v, n) * w)

    got = jax.jit(jax.vmap(jax.grad(one, argnums=(0, 1, 2))))(q, k, v, lengths, weight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, slopes)


# Only splash needs check_vma=False.
CHECKED = [(name, name != "splash") for name in RUNNABLE if name != "chunked"]


@pytest.mark.parametrize(
    "name, check_vma",
    [
        *CHECKED,
        ("splash", True),  # an error
        *slow_rows((name, False) for name in RUNNABLE if name != "splash"),
        *slow_rows([("chunked", True)]),
    ],
)
def test_shard_map_matches_the_batch(name, check_vma):
    q, k, v = arrays((4,), T=S, V=H)
    lengths = jnp.array([5, 0, S, 9])

    def call(q, k, v, n):
        return run(name, q, k, v, masks.causal() & masks.prefix(n))

    expected = jax.jit(call)(q, k, v, lengths)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows = P("data")
    sharded = jax.shard_map(call, mesh=mesh, in_specs=(rows,) * 4, out_specs=rows, check_vma=check_vma)
    if name == "splash" and check_vma:  # Pallas kernels do not declare varying axes
        with pytest.raises(ValueError, match=r"needs shard_map\(check_vma=False\)"):
            jax.jit(sharded)(q, k, v, lengths)
        return
    np.testing.assert_allclose(jax.jit(sharded)(q, k, v, lengths), expected, atol=1e-6)
    # Keys that are replicated: their gradient is the sum over devices.
    shared = jax.shard_map(
        call, mesh=mesh, in_specs=(rows, P(), P(), rows), out_specs=rows, check_vma=check_vma
    )

    def copies(x):
        return jnp.broadcast_to(x, (4, *x.shape[1:]))

    got = jax.jit(jax.grad(lambda k: weigh(shared(q, k, v[:1], lengths))))(k[:1])
    expected = jax.jit(jax.grad(lambda k: weigh(call(q, copies(k), copies(v[:1]), lengths))))(k[:1])
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", ["chunked by 8", *slow("chunked"), "reference"])
def test_batch_and_heads_on_a_mesh_need_no_collective(name, kind):
    q, k, v = arrays((4,), N=4, K=2)
    mask = masks.causal(8)
    expected = jax.jit(lambda q, k, v: run(name, q, k, v, mask))(q, k, v)
    mesh = jax.make_mesh((4, 2), ("data", "heads"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, NamedSharding(mesh, P("data", None, "heads"))) for x in (q, k, v)]
        compiled = jax.jit(lambda q, k, v: run(name, q, k, v, mask)).lower(*placed).compile()
        np.testing.assert_allclose(compiled(*placed), expected, atol=1e-6)
    assert not any(x in compiled.as_text() for x in ("all-gather(", "all-reduce(", "all-to-all("))


def test_xla_does_not_support_bfloat16_where_its_gradient_would_fail():
    q, k, v = arrays(V=H, dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match="strict forbids"):
        run("xla", q, k, v)
    with jax.numpy_dtype_promotion("standard"):
        assert run("xla", q, k, v).dtype == jnp.bfloat16
