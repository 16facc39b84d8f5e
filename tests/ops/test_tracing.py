"""Concrete values, symbolic sizes and varying mesh axes, while tracing."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tfm_jax import ops
from tfm_jax.ops import masks
from tfm_jax.ops.projection import project
from tfm_jax.ops.tracing import definitely, is_concrete, platform_of, vary_with


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


def test_the_platform_is_unknown_inside_jit_alone():
    seen = []

    def call(x):
        seen.append(platform_of(x))
        return x

    for function in (call, jax.grad(call), jax.vmap(call, axis_size=2, in_axes=None), jax.jit(call)):
        function(1.0)
    jax.jit(jax.grad(call))(1.0)
    assert seen == ["cpu", "cpu", "cpu", None, None]


def attend(implementation):
    return lambda x: ops.attention(x, x, x, masks.causal(), implementation=implementation)


PRODUCTS = {
    "reference": (attend("reference"), (2, 9, 2, 16), "float32"),
    "chunked": (attend("chunked"), (2, 9, 2, 16), "float32"),
    "xla": (attend("xla"), (2, 9, 2, 16), "float32"),
    "loss": (
        lambda x: ops.linear_cross_entropy(x, jnp.ones((8, 5)), jnp.zeros(6, int), chunk_size=3)[0],
        (6, 8),
        "float32",
    ),
    "projection": (lambda x: project(x, jnp.ones((8, 5))), (6, 8), "bfloat16"),
}


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
@pytest.mark.parametrize("name", PRODUCTS)
def test_gradients_have_the_precision_of_the_call(name, wrap):
    """The rules of derivatives may be traced after the context of the call has ended."""
    function, shape, dtype = PRODUCTS[name]

    def call(x):
        with jax.default_matmul_precision("highest"):
            return function(x)

    gradient = jax.grad(lambda x: wrap(call)(x).sum().astype(np.float32))
    text = jax.jit(gradient).lower(jax.ShapeDtypeStruct(shape, dtype)).as_text()
    assert text.count("dot_general ") and "DEFAULT" not in text
    assert text.count("dot_general ") == text.count("precision = [HIGHEST, HIGHEST]")


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
