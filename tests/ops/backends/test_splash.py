"""The kernel compiled by the TPU compiler, without a TPU; test_contract.py tests the values."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.ops.backends.test_contract import arrays, run
from tfm_jax import ops
from tfm_jax.ops import masks


@pytest.fixture
def mesh(monkeypatch):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs the TPU compiler: pip install 'tfm_jax[tpu]'")
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several test processes
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    return Mesh(np.array(topology.devices).reshape(4), ("data",))


@pytest.mark.slow
def test_auto_takes_the_kernel_and_it_compiles_forward_and_backward(mesh):
    sharding = NamedSharding(mesh, P("data"))
    q, k, v = (jax.ShapeDtypeStruct((4, 1000, n, 128), jnp.bfloat16, sharding=sharding) for n in (8, 2, 2))
    ids = jax.ShapeDtypeStruct((4, 1000), jnp.int32, sharding=sharding)

    def attend(q, k, v, ids):
        mask = masks.causal() & masks.window(300) & masks.segments(ids)
        assert ops.explain_attention(q, k, v, mask, soft_cap=30.0).implementation == "splash"
        return ops.attention(q, k, v, mask, soft_cap=30.0)

    with jax.set_mesh(mesh):
        rows = P("data")
        shard = jax.shard_map(attend, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)

        def loss(*x):
            return jnp.sum(shard(*x).astype(jnp.float32) ** 2)

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, v, ids).compile()
    kernels = compiled.as_text().count('custom_call_target="tpu_custom_call"')
    assert kernels == 3  # the forward pass, the gradient of the queries, that of keys and values
    table = 4 // 4 * 8 * 1000 * 1000 * 2
    assert compiled.memory_analysis().temp_size_in_bytes < table


@pytest.mark.slow
@pytest.mark.parametrize("H", [64, 128])
def test_jit_on_a_mesh_runs_the_kernel_per_device(mesh, H):
    sharding = NamedSharding(mesh, P("data"))
    q, k, v = (jax.ShapeDtypeStruct((4, 512, n, H), jnp.bfloat16, sharding=sharding) for n in (8, 2, 2))
    ids = jax.ShapeDtypeStruct((4, 512), jnp.int32, sharding=sharding)

    def loss(q, k, v, ids):
        out = ops.attention(q, k, v, masks.causal() & masks.segments(ids))
        return jnp.sum(out.astype(jnp.float32) ** 2)

    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, v, ids).compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 3
    assert not any(x in text for x in ("all-gather(", "all-reduce(", "all-to-all("))


@pytest.mark.parametrize("H", [64, 96, 128])
def test_auto_takes_the_kernel_for_every_head_size(H, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    q = jax.ShapeDtypeStruct((2, 512, 8, H), jnp.bfloat16)
    assert ops.explain_attention(q, q, q, masks.causal()).implementation == "splash"


def test_a_table_below_one_block_uses_the_reference(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    q = jax.ShapeDtypeStruct((2, 127, 8, 64), jnp.bfloat16)
    assert ops.explain_attention(q, q, q, masks.causal()).implementation == "reference"
    assert ops.explain_attention(q, q, q, masks.causal(), implementation="splash").implementation == "splash"


@pytest.mark.parametrize(
    "mask, reason",
    [
        (masks.causal(-3), "a query whose position masks every key"),
        (masks.window(2, 0, offset=-3), "a query whose position masks every key"),
        (masks.segments(np.zeros(512, int)) & masks.segments(np.ones(512, int)), "one segments"),
        (masks.causal() | masks.prefix(3), r"does not support \| in a mask"),
    ],
)
def test_unsupported_masks(mask, reason, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    q = jax.ShapeDtypeStruct((2, 512, 8, 128), jnp.bfloat16)
    with pytest.raises(ValueError, match=reason):
        jax.eval_shape(lambda q: ops.attention(q, q, q, mask, implementation="splash"), q)


def test_jit_cannot_partition_it_over_devices(monkeypatch):
    """On a mesh that no rule names, attention is left to the compiler; the host may have many devices."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    q = jax.ShapeDtypeStruct((2, 512, 8, 128), jnp.bfloat16)
    assert jax.device_count() == 8
    assert ops.explain_attention(q, q, q, masks.causal()).implementation == "splash"
    with jax.set_mesh(jax.make_mesh((4,), ("mine",), axis_types=(AxisType.Auto,))):
        got = ops.explain_attention(q, q, q, masks.causal())
    assert got.implementation == "chunked"
    assert "cannot be partitioned over 4 devices by jit" in got.reasons["splash"][1]


def test_no_segment_id_unmasks_padding():
    low, high = -(2**31), 2**31 - 1
    for ids in (np.full(19, low), np.full(19, high), np.where(np.arange(19) < 9, low, 5)):
        q, k, v = arrays(T=19, V=8)
        mask = masks.segments(ids) & masks.padding(np.arange(19) % 3 > 0)
        expected = ops.attention(q, k, v, mask, implementation="reference")
        np.testing.assert_allclose(run("splash", q, k, v, mask), expected, atol=5e-6)
