"""Ring attention over a sharded sequence equals attention over the full sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.marks import slow_but
from tests.ops.backends.test_contract import arrays, weigh
from tfm_jax import ops
from tfm_jax.ops import masks
from tfm_jax.ops.backends import ring_over

DEVICES, B, T, N, K, H, V = 4, 2, 12, 4, 2, 8, 6
LENGTH = DEVICES * T  # of the full sequence
SEQUENCE = P(None, "sequence")

rng = np.random.default_rng(0)
IDS = jnp.asarray(np.sort(rng.integers(0, 5, (B, LENGTH))))
VALID = jnp.asarray(rng.random((B, LENGTH)) < 0.7)
TABLE = jnp.asarray(rng.random((B, LENGTH, LENGTH)) < 0.5)


def ALIBI(i, j):
    return ops.alibi(N, i, j)


# (function of its arrays that makes a device's mask, the arrays, their PartitionSpecs, options)
CASES = {
    "none": (lambda: None, (), (), {}),
    "causal": (masks.causal, (), (), {}),
    "window": (lambda: masks.causal() & masks.window(15), (), (), {}),
    "offsets": (lambda o: masks.causal(o), (jnp.array([-2, 3]),), (P(),), {}),
    "prefix": (lambda n: masks.causal() | masks.prefix(n), (jnp.array([5, 30]),), (P(),), {}),
    "padding": (lambda valid: masks.padding(valid) & masks.causal(), (VALID,), (SEQUENCE,), {}),
    "packed": (lambda ids: masks.segments(ids) & masks.causal(), (IDS,), (SEQUENCE,), {}),
    "dense": (masks.dense, (TABLE,), (SEQUENCE,), {}),
    "not": (lambda ids: ~masks.segments(ids, ids), (IDS,), (SEQUENCE,), {}),
    "alibi": (masks.causal, (), (), {"bias": ALIBI, "soft_cap": 3.0}),
    "dropout": (masks.causal, (), (), {"dropout_rate": 0.4, "key": jax.random.key(2)}),
}


def mesh(name="sequence"):
    devices = jax.devices()[:DEVICES]
    return jax.make_mesh((DEVICES,), (name,), axis_types=(AxisType.Auto,), devices=devices)


def sharded_ring(make_mask, specs, options, *, check_vma=True, implementation="ring"):
    def call(q, k, v, *arrays_of_mask):
        return ops.attention(q, k, v, make_mask(*arrays_of_mask), **options, implementation=implementation)

    return jax.shard_map(
        call, mesh=mesh(), in_specs=(SEQUENCE,) * 3 + specs, out_specs=SEQUENCE, check_vma=check_vma
    )


@pytest.mark.parametrize("case", slow_but(["window", "offsets", "packed", "not", "alibi", "dropout"], CASES))
def test_output_and_gradients_equal_those_of_the_full_sequence(case):
    make_mask, arrays_of_mask, specs, options = CASES[case]
    q, k, v = arrays(T=LENGTH, S=LENGTH)

    def full(q, k, v):
        return ops.attention(q, k, v, make_mask(*arrays_of_mask), **options, implementation="reference")

    ring = sharded_ring(make_mask, specs, options)
    np.testing.assert_allclose(jax.jit(ring)(q, k, v, *arrays_of_mask), jax.jit(full)(q, k, v), atol=5e-6)

    def slopes(f):
        return jax.jit(jax.grad(lambda q, k, v: weigh(f(q, k, v)), argnums=(0, 1, 2)))(q, k, v)

    for got, expected in zip(slopes(lambda *x: ring(*x, *arrays_of_mask)), slopes(full), strict=True):
        np.testing.assert_allclose(got, expected, atol=5e-5)


def test_the_bias_is_differentiable_in_its_arrays():
    q, k, v = arrays(T=LENGTH, S=LENGTH)

    def table(slope, i, j):
        return slope * jnp.abs(i[:, None] - j[None])[None].astype(np.float32)

    def bias(slope):
        return jax.tree_util.Partial(table, slope)

    def loss(slope, implementation):
        if implementation == "reference":
            return weigh(ops.attention(q, k, v, masks.causal(), bias(slope), implementation="reference"))

        def call(q, k, v, slope):
            return ops.attention(q, k, v, masks.causal(), bias(slope), implementation="ring")

        ring = jax.shard_map(call, mesh=mesh(), in_specs=(SEQUENCE,) * 3 + (P(),), out_specs=SEQUENCE)
        return weigh(ring(q, k, v, slope))

    got, expected = (jax.jit(jax.grad(lambda s, n=n: loss(s, n)))(-0.3) for n in ("ring", "reference"))
    np.testing.assert_allclose(got, expected, rtol=2e-4)


def test_without_check_vma_and_under_pmap():
    q, k, v = arrays(T=LENGTH, S=LENGTH)
    expected = ops.attention(q, k, v, masks.causal(), implementation="reference")
    got = jax.jit(sharded_ring(masks.causal, (), {}, check_vma=False))(q, k, v)
    np.testing.assert_allclose(got, expected, atol=5e-6)
    parts = [jnp.stack(jnp.split(x, DEVICES, axis=1)) for x in (q, k, v)]

    def call(q, k, v):
        return ops.attention(q, k, v, masks.causal(), implementation="ring")

    got = jax.pmap(call, axis_name="sequence", devices=jax.devices()[:DEVICES])(*parts)
    np.testing.assert_allclose(jnp.concatenate(list(got), axis=1), expected, atol=5e-6)


def test_another_axis_name():
    q, k, v = arrays(T=LENGTH, S=LENGTH)

    def call(q, k, v):
        return ops.attention(q, k, v, masks.causal(), implementation=ring_over("t"))

    got = jax.jit(jax.shard_map(call, mesh=mesh("t"), in_specs=P(None, "t"), out_specs=P(None, "t")))(q, k, v)
    np.testing.assert_allclose(got, ops.attention(q, k, v, masks.causal()), atol=5e-6)


def test_on_one_device_it_is_attention_over_the_sequence():
    q, k, v = arrays(T=LENGTH, S=LENGTH)
    bias = np.random.default_rng(1).standard_normal((N, LENGTH, LENGTH)).astype(np.float32)
    for implementation in ("ring", ring_over("t")):
        got = ops.attention(q, k, v, masks.causal(), bias, implementation=implementation)
        expected = ops.attention(q, k, v, masks.causal(), bias, implementation="chunked")
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="S = 7, not 48"):
        ops.attention(q, k, v, masks.padding(np.ones(7, bool)), implementation="ring")


def test_keys_are_permuted_and_never_gathered():
    q, k, v = arrays(T=LENGTH, S=LENGTH)
    ring = sharded_ring(masks.causal, (), {})
    text = jax.jit(jax.grad(lambda *x: weigh(ring(*x)))).lower(q, k, v).compile().as_text()
    assert "collective-permute(" in text or "collective-permute-start(" in text
    assert not any(x in text for x in ("all-gather(", "all-reduce(", "all-to-all("))


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda q: sharded_ring(lambda: None, (), {"bias": np.zeros((1, 1, 1), np.float32)})(q, q, q),
            "does not support a bias as array, only as function",
        ),
        (
            lambda q: sharded_ring(masks.causal, (), {})(q, q[:, : LENGTH // 2], q[:, : LENGTH // 2]),
            "no offset",
        ),
        (
            lambda q: sharded_ring(masks.padding, (P(),), {})(q, q, q, jnp.ones((B, LENGTH), bool)),
            r"got valid bool\[2, 192\]",
        ),
    ],
    ids=["array bias", "lengths differ", "padding of the full sequence"],
)
def test_wrong_arguments(call, message):
    q = arrays(T=LENGTH)[0]
    with pytest.raises(ValueError, match=message):
        call(q)
