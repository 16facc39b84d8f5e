"""Attention on a mesh equals attention on one device, for every mask, bias and dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from tests.marks import slow, slow_rows
from tests.ops.backends.test_contract import RUNNABLE, arrays, weigh
from tfm_jax import ops
from tfm_jax.ops import masks
from tfm_jax.sharding import ShardingRules, use_rules

B, T, N, K, H = 8, 16, 8, 2, 8
NAMES = ("data", "fsdp", "tensor", "sequence", "expert")
MESHES = {
    "data 8": {"data": 8},
    "tensor 8": {"tensor": 8},  # K = 2 keys are repeated
    "2 x 2 x 2": {"data": 2, "fsdp": 2, "tensor": 2},
    "ring 4 x 2": {"data": 2, "sequence": 4},
    "2 replicas": {"tensor": 2, "sequence": 2, "expert": 2},
}
rng = np.random.default_rng(0)
IDS = jnp.asarray(np.sort(rng.integers(0, 3, (B, T))))
VALID = jnp.asarray(rng.random((B, T)) < 0.7)
TABLE = rng.random((B, N, T, T)) < 0.5
POSITIONS = jnp.asarray(rng.integers(0, 9, (B, T)))
SLOPES = jnp.asarray(rng.standard_normal((N, T, T)), jnp.float32)


def closure(slopes):
    return lambda i, j: ops.alibi(N, i, j) * slopes[:, 0, 0][:, None, None]


def partial(slopes):
    def by_example(slopes, positions, i, j):
        distance = positions[:, i][:, None, :, None] - j[None, None, None]
        return slopes[None, :, :1, :1] * distance.astype(np.float32)

    return jax.tree_util.Partial(by_example, slopes, POSITIONS)


# (mask, bias of the slopes, options)
CASES = {
    "no mask": (None, None, {}),
    "causal": (masks.causal(), None, {}),
    "packed": (masks.causal() & masks.segments(IDS), None, {}),
    "padding": (masks.padding(VALID) & masks.window(9, 3), None, {}),
    "tables of heads": (masks.dense(TABLE, per_head=True), None, {}),
    "one table": (masks.dense(TABLE[0, 0]), None, {}),
    "offsets": (masks.causal(jnp.arange(B) - 4), None, {}),
    "prefix": (masks.causal() | masks.prefix(jnp.arange(B)), None, {}),
    "not": (~masks.segments(IDS, IDS[:, ::-1]), None, {}),
    "closure": (masks.causal(), closure, {}),
    "partial": (masks.causal() & masks.window(5), partial, {"soft_cap": 3.0}),
    "array": (masks.causal(), lambda slopes: slopes, {"scale": 0.3}),
    "bias of keys": (None, lambda slopes: jnp.broadcast_to(slopes[None, :1, :1], (B, 1, 1, T)), {}),
    "dropout": (masks.causal(), None, {"dropout_rate": 0.4, "key": jax.random.key(2)}),
}


def mesh(name, kind=AxisType.Auto):
    sizes = [MESHES[name].get(axis, 1) for axis in NAMES]
    return jax.make_mesh(sizes, NAMES, axis_types=(kind,) * 5, devices=jax.devices()[: np.prod(sizes)])


def inputs(**sizes):
    return arrays(**{"batch": (B,), "T": T, "S": T, "N": N, "K": K, "H": H, "V": 6} | sizes)


def call(case, implementation, q, k, v, slopes):
    mask, bias, options = CASES[case]
    bias = None if bias is None else bias(slopes)
    return ops.attention(q, k, v, mask, bias, implementation=implementation, **options)


def output_and_gradients(case, implementation):
    def both(*x):
        out, pullback = jax.vjp(functools.partial(call, case, implementation), *x)
        return out, pullback(jax.grad(weigh)(out))

    return jax.jit(both)(*inputs(), SLOPES)


@functools.cache
def expected(case):
    return output_and_gradients(case, "reference")


QUICK = [
    *(("2 x 2 x 2", case, "reference") for case in CASES),
    *(("ring 4 x 2", case, "ring") for case in CASES),
    ("data 8", "packed", "chunked"),
    ("tensor 8", "partial", "chunked"),
    ("tensor 8", "dropout", "chunked"),
    ("2 replicas", "dropout", "auto"),
    ("2 replicas", "closure", "chunked"),
    ("ring 4 x 2", "dropout", "reference"),  # keys are gathered
]
ALL = [(name, case, x) for name in MESHES for case in CASES for x in ("reference", "chunked", "ring")]


@pytest.mark.parametrize("name, case, implementation", [*QUICK, *slow_rows(x for x in ALL if x not in QUICK)])
def test_a_mesh_gives_what_one_device_gives(name, case, implementation):
    with jax.set_mesh(mesh(name)):
        got = output_and_gradients(case, implementation)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected(case)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("case", ["packed", "partial", "closure", "dropout"])
@pytest.mark.parametrize("name", ["2 x 2 x 2", *slow("ring 4 x 2")])
def test_explicit_axis_types(name, case):
    with jax.set_mesh(mesh(name, AxisType.Explicit)):
        got = output_and_gradients(case, "auto")
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected(case)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_dropout_drops_the_same_weights_on_every_mesh(implementation):
    """Values that are one-hot show which weights are kept."""
    q = jnp.zeros((B, T, N, H))
    v = jnp.broadcast_to(jnp.eye(T)[None, :, None], (B, T, N, T))

    def kept(implementation):
        options = {"dropout_rate": 0.4, "key": jax.random.key(7)}
        return jax.jit(lambda: ops.attention(q, q, v, implementation=implementation, **options))() != 0

    one = kept(implementation)
    assert 0.5 < one.mean() < 0.7
    for name in MESHES:
        with jax.set_mesh(mesh(name)):
            np.testing.assert_array_equal(kept(implementation), one)
            np.testing.assert_array_equal(kept("auto"), one)


def collectives(text):
    kinds = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
    return {kind for kind in kinds if f" {kind}(" in text or f" {kind}-start(" in text}


def program(name, implementation="auto", **sizes):
    def loss(q, k, v):
        return weigh(ops.attention(q, k, v, masks.causal(), implementation=implementation))

    m = mesh(name)
    spec = jax.sharding.PartitionSpec(("data", "fsdp"), "sequence", "tensor")
    q, k, v = (jax.device_put(x, jax.sharding.NamedSharding(m, spec)) for x in inputs(K=N, **sizes))
    with jax.set_mesh(m):
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, v).compile().as_text()


def test_only_the_ring_needs_collectives_and_it_permutes():
    assert collectives(program("2 x 2 x 2")) == set()
    assert collectives(program("ring 4 x 2")) == {"collective-permute"}


def test_a_decode_step_keeps_the_cache_whole_along_the_sequence():
    q, k, v = inputs(T=1, S=13)
    lengths = jnp.arange(B) + 3
    wanted = ops.attention(q, k, v, masks.prefix(lengths))
    for name in ("2 x 2 x 2", "ring 4 x 2"):
        for implementation in ("auto", "ring"):
            with jax.set_mesh(mesh(name)):
                mask = masks.prefix(lengths)
                got = jax.jit(lambda *x, m=mask, i=implementation: ops.attention(*x, m, implementation=i))(
                    q, k, v
                )
            np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("S", [12, 13])
def test_cross_attention_over_a_sharded_sequence(S):
    """The keys travel around the ring where S is divisible, and are whole on each device where it is not."""
    q, k, v = inputs(T=8, S=S)
    mask = masks.prefix(jnp.arange(B) + 2) & masks.window(7, 7, offset=-3)
    wanted = ops.attention(q, k, v, mask)
    with jax.set_mesh(mesh("ring 4 x 2")):
        got = jax.jit(lambda *x: ops.attention(*x, mask))(q, k, v)
        explained = ops.explain_attention(q, k, v, mask)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert explained.implementation == ("ring" if S == 12 else "cpu_decode")
    assert f"attention on cpu, 8 devices: {explained.implementation}" in str(explained)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_weights(kind):
    q, k, _ = inputs()
    mask = masks.causal() & masks.segments(IDS)
    wanted = ops.attention_weights(q, k, mask, partial(SLOPES))
    for name in ("2 x 2 x 2", "ring 4 x 2"):
        with jax.set_mesh(mesh(name, kind)):
            got = jax.jit(lambda q, k: ops.attention_weights(q, k, mask, partial(SLOPES)))(q, k)
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_vmap_and_scan_around_it():
    q, k, v = (jnp.stack([x, 2 * x]) for x in inputs())

    def attend(*x):
        return ops.attention(*x, masks.causal(), implementation="chunked")

    wanted = jax.vmap(attend)(q, k, v)
    with jax.set_mesh(mesh("2 x 2 x 2")):
        np.testing.assert_allclose(jax.jit(jax.vmap(attend))(q, k, v), wanted, atol=1e-5)
        got = jax.jit(lambda *x: jax.lax.scan(lambda c, x: (c, attend(*x)), None, x)[1])(q, k, v)
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_it_is_left_alone_inside_shard_map_on_one_device_and_on_a_mesh_of_another_name():
    q, k, v = inputs()

    def text(m):
        with jax.set_mesh(m):
            return str(jax.make_jaxpr(lambda *x: ops.attention(*x, masks.causal()))(q, k, v))

    assert "shard_map" in text(mesh("data 8"))
    one = jax.make_mesh((1,) * 5, NAMES, axis_types=(AxisType.Auto,) * 5, devices=jax.devices()[:1])
    assert "shard_map" not in text(one)
    assert "shard_map" not in text(jax.make_mesh((8,), ("mine",), axis_types=(AxisType.Auto,)))
    with use_rules(ShardingRules(activations={"B": "mine"})):
        assert "shard_map" in text(jax.make_mesh((8,), ("mine",), axis_types=(AxisType.Auto,)))
    spec = jax.sharding.PartitionSpec("data")
    with jax.set_mesh(mesh("data 8")):
        outer = jax.shard_map(lambda *x: ops.attention(*x, masks.causal()), in_specs=spec, out_specs=spec)
        assert str(jax.make_jaxpr(outer)(q, k, v)).count("shard_map") == 1
        np.testing.assert_allclose(jax.jit(outer)(q, k, v), ops.attention(q, k, v, masks.causal()), atol=1e-5)


def test_a_kernel_runs_per_device():
    """splash, which the compiler cannot partition, in interpret mode."""
    q, k, v = inputs(T=19, S=19)
    mask = masks.causal() & masks.segments(jnp.sort(jnp.arange(19) % 3))
    wanted = ops.attention(q, k, v, mask, implementation="reference")
    with jax.set_mesh(mesh("2 x 2 x 2")):
        got = jax.jit(lambda *x: ops.attention(*x, mask, implementation=RUNNABLE["splash"]))(q, k, v)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "name, sizes, message",
    [
        (
            "data 8",
            {"batch": (6,)},
            r"attention: got B = 6 in B T N of .*; wanted a multiple of 8",
        ),
        (
            "tensor 8",
            {"N": 4},
            r"attention: got N = 4 in B T N of .*; wanted a multiple of 8",
        ),
        ("ring 4 x 2", {"T": 18, "S": 18}, r"attention: got T = 18 in .*; wanted a multiple of 4"),
    ],
)
def test_what_does_not_divide(name, sizes, message):
    with jax.set_mesh(mesh(name)), pytest.raises(ValueError, match=message):
        ops.attention(*inputs(**sizes))
