"""Concrete values, symbolic sizes and varying mesh axes, while tracing."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tfm_jax.ops.tracing import definitely, is_concrete, vary_with


def test_is_concrete():
    assert all(map(is_concrete, (3, np.ones(2), np.int32(1), jnp.ones(2))))
    assert not any(map(is_concrete, (None, "x", jax.ShapeDtypeStruct((2,), np.int32))))
    seen = []
    jax.jit(lambda x: seen.append((is_concrete(x), is_concrete(np.ones(2)))))(1)
    assert seen == [(False, True)]


def test_definitely_holds_for_every_value_of_symbolic_sizes():
    (n,) = jax.export.symbolic_shape("n", constraints=["n <= 4"])
    assert definitely(lambda: n <= 4) and definitely(lambda: n >= 1)
    assert not definitely(lambda: n > 4) and not definitely(lambda: n > 2)
    with pytest.raises(ZeroDivisionError):
        definitely(lambda: 1 // 0 > 0)


def test_vary_with_outside_of_shard_map_returns_x():
    x = jnp.ones(3)
    assert vary_with(x, (jnp.ones(2), {"a": 1, "b": None})) is x


def test_vary_with_in_a_scan_carry_sums_its_gradient():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])

    def total(shared, rows):
        start = vary_with(shared, rows)
        return jax.lax.scan(lambda carry, row: (carry * row, None), start, rows)[0][None]

    run = jax.shard_map(total, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    rows = jnp.arange(1.0, 9.0)
    np.testing.assert_array_equal(jax.jit(run)(jnp.float32(2), rows), [4, 24, 60, 112])
    slope = jax.jit(jax.grad(lambda shared: run(shared, rows).sum()))(jnp.float32(2))
    assert slope == 2 + 12 + 30 + 56
