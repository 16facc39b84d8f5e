"""The choice of a backend, its explanation, and errors for what a backend does not declare."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.ops.backends.test_contract import arrays, variant
from tests.programs import equations
from tfm_jax import ops
from tfm_jax.ops import masks
from tfm_jax.ops.backends import BACKENDS, Backend, Capabilities, ring_over
from tfm_jax.ops.backends.capabilities import Request


def shapes(T, S, *, N=8, K=8, H=128, V=128, dtype=jnp.bfloat16):
    return tuple(jax.ShapeDtypeStruct((2, *x), dtype) for x in [(T, N, H), (S, K, H), (S, K, V)])


def on(platform, *arguments, monkeypatch, **options):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    return ops.explain_attention(*arguments, **options)


def test_large_tables_use_tiles_and_small_ones_the_reference():
    assert ops.explain_attention(*shapes(4096, 4096), masks.causal()).implementation == "chunked"
    assert ops.explain_attention(*shapes(256, 256), masks.causal()).implementation == "reference"
    assert ops.explain_attention(*shapes(9, 99)).implementation == "reference"
    assert ops.explain_attention(*shapes(16, 4096), masks.causal(9)).implementation == "reference"
    assert ops.explain_attention(*shapes(16, 4097), masks.causal(9)).implementation == "chunked"


@pytest.mark.parametrize("platform, name", [("cpu", "cpu_decode"), ("gpu", "chunked"), ("tpu", "chunked")])
@pytest.mark.parametrize("T", [1, 8])
def test_a_few_queries_on_a_cpu_use_cpu_decode(platform, name, T, monkeypatch):
    call = functools.partial(on, platform, *shapes(T, 65537, H=96), masks.causal(jnp.array([9, 8])))
    assert call(monkeypatch=monkeypatch).implementation == name
    dropped = call(monkeypatch=monkeypatch, dropout_rate=0.1, key=jax.random.key(0))
    assert dropped.implementation == "chunked"
    if platform == "cpu":
        with jax.set_mesh(jax.make_mesh((1,), ("mine",))):
            assert ops.explain_attention(*shapes(1, 65536)).implementation == "cpu_decode"
        # There its check for finite results would need a collective.
        with jax.set_mesh(jax.make_mesh((2,), ("mine",))):
            assert ops.explain_attention(*shapes(1, 65536)).implementation == "reference"


@pytest.mark.parametrize(
    "platform, mask, options, name",
    [
        ("gpu", masks.causal(), {}, "cudnn"),
        ("gpu", masks.causal() & masks.window(256), {}, "cudnn"),
        ("gpu", masks.causal() & masks.segments(np.zeros(512, int)), {}, "chunked"),
        ("gpu", masks.causal(), {"soft_cap": 30.0}, "chunked"),
        ("gpu", masks.causal(), {"dropout_rate": 0.1, "key": jax.random.key(0)}, "chunked"),
        ("gpu", masks.causal(), {"dropout_rate": 0.1}, "cudnn"),
        ("gpu", masks.causal(), {"bias": lambda i, j: ops.alibi(8, i, j)}, "chunked"),
        ("tpu", masks.causal(), {}, "splash"),
        ("tpu", masks.causal() & masks.segments(np.zeros(512, int)), {"soft_cap": 30.0}, "splash"),
        ("tpu", masks.causal() | masks.prefix(7), {}, "chunked"),
        ("cpu", masks.causal(), {}, "chunked"),
    ],
)
def test_auto_takes_the_fastest_that_supports_everything(platform, mask, options, name, monkeypatch):
    got = on(platform, *shapes(512, 512), mask, **options, monkeypatch=monkeypatch)
    assert (got.implementation, got.platform) == (name, platform)


def test_the_current_mesh_decides_the_platform(monkeypatch):
    mesh = jax.make_mesh((1,), ("data",))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with jax.set_mesh(mesh):
        assert ops.explain_attention(*shapes(512, 512)).platform == "cpu"
    assert ops.explain_attention(*shapes(512, 512)).platform == "tpu"


def test_an_explanation_gives_every_backend_a_reason():
    got = ops.explain_attention(*shapes(512, 512), masks.causal() & masks.padding(np.ones(512, bool)))
    assert set(got.reasons) == set(BACKENDS)
    text = str(got)
    assert text.splitlines()[0] == "attention on cpu: chunked"
    assert "  cudnn: runs on gpu, not on cpu" in text and "  reference: supported, but slower" in text
    assert "  ring: supported, for a sequence that is sharded over devices" in text
    assert "chunked:" not in text


def test_an_unsupported_name_is_explained_and_is_an_error():
    got = ops.explain_attention(*arrays(), implementation="splash")
    assert got.implementation is None and "attention on cpu: unsupported" in str(got)
    assert "  reference: supported\n" in str(got)
    with pytest.raises(
        ValueError,
        match=r"'splash', which does not .*: it runs on tpu.*'auto', 'cpu_decode', 'chunked'",
    ):
        ops.attention(*arrays(), implementation="splash")
    with pytest.raises(ValueError, match="implementation='flash'; wanted one of"):
        ops.explain_attention(*arrays(), implementation="flash")


def test_a_users_backend_is_limited_to_its_capabilities():
    mine = Backend(
        "mine", lambda q, k, v, *_, **__: q, Capabilities(masks=frozenset({"causal"}), bias=frozenset())
    )
    q, k, v = arrays()
    assert ops.attention(q, k, v, masks.causal(8), implementation=mine) is q
    for mask in (masks.causal(8) & masks.prefix(3), ~masks.causal(8), np.ones((11, 19), bool)):
        with pytest.raises(
            ValueError, match=r"'mine', which .*: it does not support .* in a mask, only causal"
        ):
            ops.attention(q, k, v, mask, implementation=mine)
    with pytest.raises(ValueError, match="does not support a bias as array"):
        ops.attention(q, k, v, bias=np.zeros((1, 1, 1), np.float32), implementation=mine)


REQUEST = Request(
    *(jax.ShapeDtypeStruct((2, *x), np.float32) for x in [(11, 4, 8), (19, 2, 8), (19, 2, 6)]),
    mask=masks.causal(8) & ~masks.prefix(2),
    bias=lambda i, j: ops.alibi(4, i, j),
    scale=1.0,
    soft_cap=2.0,
    dropout_rate=0.5,
    key=jax.random.key(0),
    platform="cpu",
)
LIMITED = {
    "masks": (frozenset({"causal"}), r"does not support prefix, ~ in a mask, only causal"),
    "offsets": ("none", r"does not support the offset of causal\(offset=8\): query 0 is at key 0"),
    "bias": (frozenset({"array"}), "does not support a bias as function, only as array"),
    "soft_cap": (False, "does not support soft_cap"),
    "dropout": (False, "does not support dropout"),
    "grouped_heads": (False, "as many key/value heads as query heads, not K = 2 with N = 4"),
    "value_size": (False, "Hv = 6 with H = 8"),
    "dtypes": (frozenset({"bfloat16"}), "supports bfloat16, not float32"),
    "platforms": (frozenset({"gpu", "tpu"}), "runs on gpu, tpu, not on cpu"),
}


@pytest.mark.parametrize("field", list(LIMITED))
def test_each_capability_limits_by_itself(field):
    value, message = LIMITED[field]
    full = Backend("x", lambda: None, Capabilities())
    limited = dataclasses.replace(full, capabilities=Capabilities(**{field: value}))
    assert full.unsupported(REQUEST) == ()
    (reason,) = limited.unsupported(REQUEST)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(reason)


def test_every_capability_is_tested():
    fields = {field.name for field in dataclasses.fields(Capabilities)}
    assert fields == set(LIMITED) | {
        "limits",
        "forward_mode",
        "is_installed",
        "sharded",
        "sharded_dropout",
        "symbolic_lengths",
        "traced_numbers",
    }


def test_traced_numbers_are_an_error_where_they_must_be_static():
    limited = Backend("x", lambda q, *_, **__: q, Capabilities(traced_numbers=False))

    def call(scale):
        return ops.attention(*arrays(), scale=scale, implementation=limited)

    assert call(2.0).shape == (2, 11, 4, 8)
    with pytest.raises(ValueError, match="needs scale and soft_cap that are known before tracing"):
        jax.jit(call)(2.0)


def test_a_traced_offset_is_an_error_where_it_must_be_static():
    limited = Backend("x", lambda q, *_, **__: q, Capabilities(offsets="static"))

    def call(offset):
        return ops.attention(*arrays(), masks.causal(offset), implementation=limited)

    assert call(3).shape == (2, 11, 4, 8)
    for offset in (np.array([1, 2]), jnp.int32(3)):
        with pytest.raises(ValueError, match=r"needs the offset of causal\(.*\) as one Python int"):
            call(offset)


@pytest.mark.parametrize("name", [name for name, x in BACKENDS.items() if x.capabilities.forward_mode])
def test_forward_mode_works_where_it_is_declared(name):
    q, k, v = arrays(V=8)

    def call(q):
        return ops.attention(q, k, v, implementation=name)

    with jax.enable_x64(False):
        _, slope = jax.jvp(call, (q,), (jnp.ones_like(q),))
    step = 1e-2
    expected = (call(q + step) - call(q - step)) / (2 * step)
    np.testing.assert_allclose(slope, expected, atol=1e-3)


def test_forward_mode_is_an_error_with_a_fix_where_it_is_not_declared():
    q, k, v = arrays()

    def call(q):
        return ops.attention(q, k, v, implementation="chunked")

    with pytest.raises(TypeError, match=r"'chunked' under jax.jvp.*reverse mode only.*pass 'reference'"):
        jax.jvp(call, (q,), (q,))
    with pytest.raises(TypeError, match=r"forward-mode"):  # JAX raises when it lowers
        jax.jit(lambda q: jax.jvp(call, (q,), (q,)))(q)


def test_second_order_gradients_of_chunked():
    q, k, v = arrays()

    def curvature(name):
        def loss(q):
            return jnp.sum(ops.attention(q, k, v, masks.causal(8), implementation=name) ** 2)

        return jax.jit(jax.grad(lambda q: jnp.sum(jax.grad(loss)(q) ** 2)))(q)

    np.testing.assert_allclose(curvature("chunked"), curvature("reference"), atol=1e-5)


def test_a_ring_over_another_axis_is_a_backend():
    assert ring_over("rows").capabilities.sharded == "rows"
    assert ring_over("rows").unsupported(REQUEST) == ()


def temporary_bytes(call, *arrays):
    return jax.jit(call).lower(*arrays).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("backward", [False, True])
def test_chunked_allocates_no_table(backward):
    S, N, H = 2048, 4, 16
    q = jax.ShapeDtypeStruct((S, N, H), np.float32)
    ids = jax.ShapeDtypeStruct((S,), np.int32)
    table = 4 * N * S * S

    def used(name):
        def call(q, ids):
            return ops.attention(
                q,
                q,
                q,
                masks.causal() & masks.segments(ids),
                lambda i, j: ops.alibi(N, i, j),
                implementation=name,
            )

        run = jax.grad(lambda q, ids: jnp.sum(call(q, ids) ** 2)) if backward else call
        return temporary_bytes(run, q, ids)

    assert used("reference") > table  # what chunked saves
    assert used("chunked") < 0.2 * table


def test_work_grows_with_the_length_under_a_window():
    """Counts the visited tiles in the jaxpr."""

    def visited(S):
        q = jax.ShapeDtypeStruct((S, 2, 8), np.float32)
        mask = masks.causal() & masks.window(255)
        jaxpr = jax.make_jaxpr(lambda q: ops.attention(q, q, q, mask, implementation="chunked"))(q)
        return max(e.params["length"] for e in equations(jaxpr.jaxpr) if e.primitive.name == "scan")

    assert [visited(S) for S in (1024, 2048, 4096)] == [7, 15, 31]  # two per row of tiles; all: 16, 64, 256


def test_capabilities_apply_inside_every_combination():
    mine = Backend(
        "mine", lambda q, *_, **__: q, Capabilities(masks=frozenset({"causal", "|"}), offsets="none")
    )
    for mask, message in [
        (masks.causal(8) | masks.prefix(3), r"does not support prefix in a mask"),
        (masks.causal(8) | masks.causal(0), r"offset of causal\(offset=8\)"),
        (~masks.causal(0), "does not support ~"),
    ]:
        with pytest.raises(ValueError, match=message):
            ops.attention(*arrays(), mask, implementation=mine)


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize(
    "mask, message",
    [
        (masks.padding(np.ones(7, bool)), "S = 7, not 19"),
        (masks.segments(np.zeros(7, int), np.zeros(19, int)), "T = 7, not 11"),
        (masks.causal(9), "offset of 9 for T = 11 queries, S = 19 keys; wanted offset .* Make it longer"),
        (masks.causal(np.array([2, 10_000])), "offset of 10000"),
    ],
)
def test_a_mask_that_does_not_fit_is_an_error_with_every_backend(mask, message, explain):
    mine = Backend("mine", lambda q, *_, **__: q, Capabilities())
    call = ops.explain_attention if explain else ops.attention
    for implementation in ("auto", mine, "chunked"):
        with pytest.raises(ValueError, match=message):
            call(*arrays(), mask, implementation=implementation)


def test_explain_attention_accepts_shapes_for_every_array():
    bias = jax.ShapeDtypeStruct((8, 1, 512), np.float32)
    assert ops.explain_attention(*shapes(512, 512), masks.causal(), bias).implementation == "chunked"
    mask = jax.eval_shape(lambda valid: masks.padding(valid), jax.ShapeDtypeStruct((2, 512), bool))
    assert ops.explain_attention(*shapes(512, 512), mask).implementation == "chunked"


def test_concrete_scalar_arrays_are_numbers():
    q, k, v = arrays()
    scale, cap = jnp.float32(0.3), jnp.float32(2)
    expected = ops.attention(q, k, v, scale=0.3, soft_cap=2.0)
    got = jax.jit(lambda q: ops.attention(q, k, v, scale=scale, soft_cap=cap))(q)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    slope = jax.jit(jax.grad(lambda q, n: jnp.sum(ops.attention(q, k, v, scale=n, implementation="chunked"))))
    assert np.isfinite(slope(q, 2)).all()  # an int that is traced


@pytest.mark.parametrize(
    "arguments, message",
    [
        (lambda q, k, v: (q, k, v, None, masks.causal(8)), "got a mask as bias"),
        (
            lambda q, k, v: [x.astype(jnp.float8_e4m3fn) for x in (q, k, v)],
            "dtype float8_e4m3fn; wanted one of",
        ),
        (
            lambda q, k, v: (q, k, v, None, lambda i, j: (i, j)),
            "function that returns .*; wanted one array",
        ),
        (lambda q, k, v: (q, k, v, None, lambda i, j: jnp.zeros((4, 3, 5))), "bias has T = 3, not 11"),
    ],
)
def test_wrong_arguments(arguments, message):
    for call in (ops.attention, ops.explain_attention):
        with pytest.raises(ValueError, match=message):
            call(*arguments(*arrays()))


def test_a_bias_function_must_follow_its_indices():
    q, k, v = arrays(T=19)
    small = variant("chunked", tile=8)
    with pytest.raises(
        ValueError, match=r"bias float32\[1, 19, 19\].*T = 19, not 8. Compute the bias from the indices"
    ):
        ops.attention(q, k, v, None, lambda i, j: jnp.zeros((1, 19, 19)), implementation=small)


def test_the_default_device_decides_the_platform(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with jax.default_device(jax.devices("cpu")[0]):
        assert ops.explain_attention(*arrays()).platform == "cpu"
    assert ops.explain_attention(*arrays()).platform == "gpu"


def test_empty_inputs():
    for sizes in ({"batch": (0,)}, {"T": 0}, {"S": 0}):
        q, k, v = arrays(**sizes)
        for name in ("auto", "chunked", "reference"):
            mask = None if sizes.get("S") == 0 else masks.padding(jnp.ones((*q.shape[:-3], 19), bool))
            out = ops.attention(q, k, v, mask, implementation=name)
            assert out.shape == (*q.shape[:-1], 6) and not np.any(out)
