"""Lookup in a table that is sharded over a mesh: values, gradients, and what moves between devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tfm_jax.nn._lookup import lookup
from tfm_jax.sharding import ShardingRules, use_rules

D, B, T = 16, 8, 12
# For 12 to 96 tokens a device: the table is gathered, or the vectors are exchanged.
SMALL, LARGE = 8, 400
MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]


def mesh_of(sizes, kind=AxisType.Auto):
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, ("data", "fsdp", "tensor"), axis_types=(kind,) * 3, devices=devices)


def arguments(V):
    table = jax.random.normal(jax.random.key(0), (V, D))
    indices = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)), jnp.int32)
    return table, indices.at[0, 0].set(-1).at[1, 1].set(V)


def loss(scale, dtype, table, indices):
    """A loss, with the rows."""
    rows = lookup(table, indices, scale=scale, dtype=dtype)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=rows.shape), jnp.float32)
    return jnp.sum(jnp.where(jnp.isnan(rows), 0, rows).astype(jnp.float32) * weights), rows


@pytest.mark.parametrize("V", [SMALL, LARGE])
@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_rows_and_gradients_are_those_of_one_device(V, sizes, kind, dtype):
    step = jax.jit(jax.grad(functools.partial(loss, 3.0, dtype), has_aux=True))
    table, indices = arguments(V)
    gradient, rows = step(table, indices)
    assert rows.dtype == (dtype or "float32") and np.isnan(np.asarray(rows, np.float32)).sum() == 2 * D
    known = (indices >= 0) & (indices < V)
    wanted = jnp.where(known[..., None], table[jnp.clip(indices, 0, V - 1)] * 3.0, jnp.nan)
    rows, wanted = rows.astype(jnp.float32), wanted.astype(rows.dtype).astype(jnp.float32)
    np.testing.assert_array_equal(rows, wanted)
    with jax.set_mesh(mesh_of(sizes, kind)):
        gradient_on_mesh, rows_on_mesh = step(table, indices)
    np.testing.assert_array_equal(rows_on_mesh.astype(jnp.float32), rows)
    np.testing.assert_allclose(gradient_on_mesh, gradient, atol=1e-5)


@pytest.mark.parametrize("V", [SMALL, LARGE])
def test_a_sharded_table_moves_in_the_computation_dtype_and_its_gradient_is_never_whole(V):
    mesh = mesh_of((2, 4, 1))
    table, indices = arguments(V)
    shardings = NamedSharding(mesh, P(None, "fsdp")), NamedSharding(mesh, P(("data", "fsdp")))
    step = jax.jit(
        jax.grad(functools.partial(loss, 3.0, "bfloat16"), has_aux=True),
        in_shardings=shardings,
        out_shardings=(shardings[0], None),
    )
    with jax.set_mesh(mesh):
        text = step.lower(table, indices).as_text(dialect="hlo")
    lines = [line for line in text.splitlines() if re.search(r" (all|reduce)-[a-z-]+\(", line)]
    found = [re.search(r"= (\w+\[[\d,]*\])\S* ([a-z-]+)\(", line).groups() for line in lines]
    shard = f"f32[{V},{D // 4}]"
    if V == SMALL:
        wanted = {(f"bf16[{V},{D}]", "all-gather"), (shard, "reduce-scatter"), (shard, "all-reduce")}
    else:
        n = B * T // 8  # tokens of a device
        wanted = {("s32[48]", "all-gather"), (shard, "all-reduce")}
        exchanged = [shape for shape, kind in found if kind == "all-to-all"]
        assert exchanged and all(shape.startswith("bf16") for shape in exchanged)
        assert {np.prod(eval(shape[4:])) for shape in exchanged} == {n * D}
        found = [pair for pair in found if pair[1] != "all-to-all"]
    assert set(found) == wanted


def test_small_integers_and_no_batch():
    table = jax.random.normal(jax.random.key(0), (LARGE, D))
    indices = jnp.arange(200, 200 + T, dtype=jnp.uint8)
    with jax.set_mesh(mesh_of((2, 2, 2))):
        rows = jax.jit(lookup)(table, indices)
    np.testing.assert_array_equal(rows, table[200 : 200 + T])


def test_rules_that_shard_the_table_as_the_batch():
    table, indices = arguments(LARGE)
    rules = ShardingRules({"V": "data", "D": "tensor"}, {"B": "data", "T": None})
    with jax.set_mesh(mesh_of((2, 2, 2))), use_rules(rules):
        rows = jax.jit(lookup)(table, indices)
    np.testing.assert_array_equal(rows, lookup(table, indices))
