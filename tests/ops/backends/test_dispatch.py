"""The platform of the program, not of the host, decides the backend."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.ops.backends.test_contract import arrays, weigh
from tfm_jax import ops
from tfm_jax.ops import masks
from tfm_jax.ops.backends import BACKENDS, Backend, dispatch, splash
from tfm_jax.ops.backends.capabilities import Capabilities

SHAPES = [jax.ShapeDtypeStruct((2, 320, n, 64), jnp.bfloat16) for n in (4, 2, 2)]
KERNEL = "tpu_custom_call"


def attend(q, k, v, implementation="auto"):
    return ops.attention(q, k, v, masks.causal(), implementation=implementation)


def lowered(platform, function=attend, shapes=SHAPES):
    return jax.jit(function).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()


def gradient(q, k, v, implementation="auto"):
    return jax.grad(lambda *x: weigh(attend(*x, implementation)), argnums=(0, 1, 2))(q, k, v)


def test_lowering_for_a_platform_that_the_host_lacks_takes_its_kernel():
    assert lowered("tpu").count(KERNEL) == 1
    assert lowered("tpu", gradient).count(KERNEL) == 3  # the forward pass, and two of the backward pass
    assert KERNEL not in lowered("cpu", gradient) and KERNEL not in lowered("cuda", gradient)


def test_an_export_for_another_platform_has_its_choice():
    assert KERNEL in jax.export.export(jax.jit(attend), platforms=("tpu",))(*SHAPES).mlir_module()
    assert KERNEL not in jax.export.export(jax.jit(attend), platforms=("cpu",))(*SHAPES).mlir_module()


def test_an_export_for_several_platforms_has_the_choice_of_each():
    values = [jax.random.normal(jax.random.key(i), x.shape, x.dtype) for i, x in enumerate(SHAPES)]
    for function in (attend, gradient):
        exported = jax.export.export(jax.jit(function), platforms=("cpu", "tpu"))(*SHAPES)
        assert KERNEL in exported.mlir_module()
        for found, wanted in zip(
            jax.tree.leaves(exported.call(*values)), jax.tree.leaves(jax.jit(function)(*values)), strict=True
        ):
            np.testing.assert_array_equal(found, wanted)


def test_other_hosts_trace_the_kernel_only_to_lower_it(monkeypatch):
    """There the backward pass runs the forward kernel again; on a mesh of TPUs it does not."""
    calls, kernel = [], splash._kernel
    monkeypatch.setattr(splash, "_kernel", lambda *options: calls.append(options) or kernel(*options))

    def both(q, k, v):
        out, pullback = jax.vjp(attend, q, k, v)
        return out, pullback(out)

    traced = jax.jit(both).trace(*SHAPES)
    traced.lower(lowering_platforms=("cpu",))
    assert not calls
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count(KERNEL) == 4
    mesh = jax.sharding.AbstractMesh(
        (1,), ("data",), abstract_device=jax.sharding.AbstractDevice("TPU v5e", 1, "tpu")
    )
    with jax.sharding.use_abstract_mesh(mesh):
        assert lowered("tpu", both).count(KERNEL) == 3


def test_the_kernel_under_vmap_and_outside_of_its_platform():
    many = [jax.ShapeDtypeStruct((3, *x.shape), x.dtype) for x in SHAPES]
    assert KERNEL in lowered("tpu", jax.vmap(attend), many)
    assert KERNEL in lowered("tpu", jax.vmap(gradient), many)
    options = {"scale": 1.0, "soft_cap": None, "dropout_rate": 0.0, "key": None}
    with pytest.raises(ValueError, match="got 'splash' in a program for cpu; wanted tpu"):
        lowered("cpu", lambda *x: splash.attention(*x, masks.causal(), None, **options))


def test_a_program_that_jit_partitions_says_what_to_do():
    devices = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(devices, P("data"))
    shapes = [jax.ShapeDtypeStruct((8, *x.shape[1:]), x.dtype) for x in SHAPES]
    traced = jax.jit(attend, in_shardings=sharding).trace(*shapes)
    with pytest.raises(ValueError, match=r"partitions over 8 devices; wanted a call that is traced inside"):
        traced.lower(lowering_platforms=("tpu",))
    assert traced.lower(lowering_platforms=("cpu",))


def test_a_name_is_refused_by_the_platform_of_the_program():
    assert KERNEL in lowered("tpu", functools.partial(attend, implementation="splash"))
    for function in (attend, gradient):
        call = functools.partial(function, implementation="splash")
        with pytest.raises(
            ValueError, match=r"'splash', which does not support this call: it runs on tpu, not"
        ):
            lowered("cpu", call)
    q, k, v = arrays(T=320, S=320, H=64, V=64, dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match="it runs on tpu, not on cpu; wanted one of 'auto', 'cpu_decode'"):
        attend(q, k, v, "splash")  # outside of jit, at once
    # What no platform supports is an error while tracing.
    with pytest.raises(ValueError, match=r"does not support \| in a mask"):
        jax.eval_shape(
            lambda q: ops.attention(q, q, q, masks.causal() | masks.prefix(3), implementation="splash"),
            SHAPES[0],
        )


def test_a_refusal_is_not_lost_where_only_gradients_are_used():
    def linear(q, k, v):
        return jax.grad(lambda q: jnp.sum(attend(q, k, v, "splash").astype(np.float32)))(q)

    with pytest.raises(ValueError, match="runs on tpu, not on cpu"):
        lowered("cpu", linear)
    with pytest.raises(ValueError, match="runs on tpu, not on cpu"):
        lowered("cpu", jax.vmap(linear), [jax.ShapeDtypeStruct((3, *x.shape), x.dtype) for x in SHAPES])


def test_one_choice_for_every_platform_puts_no_choice_into_the_program():
    shapes = [jax.ShapeDtypeStruct((2, 96, n, 64), jnp.float32) for n in (4, 2, 2)]
    assert "platform_index" not in str(jax.make_jaxpr(attend)(*shapes))
    assert "platform_index" in str(jax.make_jaxpr(attend)(*SHAPES))


def test_a_mesh_and_a_default_device_settle_the_platform_while_tracing():
    for context in (
        jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))),
        jax.default_device(jax.devices("cpu")[0]),
    ):
        with context:
            assert "platform_index" not in str(jax.make_jaxpr(attend)(*SHAPES))


def test_an_argument_that_is_sharded_over_a_mesh_settles_the_platform():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    seen = []

    def call(q):
        seen.append("platform_index" in str(jax.make_jaxpr(lambda q: attend(q, q, q))(q)))
        return attend(q, q, q)

    x = arrays(T=320, H=64, dtype=jnp.bfloat16)[0]
    jax.jit(call)(jax.device_put(x, NamedSharding(mesh, P())))
    jax.jit(lambda q: call(q))(x)
    assert seen == [False, True]


def test_forward_mode_needs_only_the_backend_of_the_platform():
    """splash, which supports reverse mode only, is in the program for TPUs alone."""
    q, k, v = arrays(T=130, S=140, V=8)

    def call(q):
        return ops.attention(q, k, v, masks.causal(9))

    assert "platform_index" in str(jax.make_jaxpr(call)(q))
    _, slope = jax.jit(lambda q: jax.jvp(call, (q,), (q,)))(q)
    expected = jax.jvp(call, (q,), (q,))[1]
    np.testing.assert_allclose(slope, expected, atol=1e-5)


def test_the_backend_is_named_in_the_program():
    q, k, v = arrays()
    for name in ("reference", "chunked"):
        text = (
            jax.jit(functools.partial(ops.attention, implementation=name))
            .lower(q, k, v)
            .as_text(debug_info=True)
        )
        assert f"attention_{name}" in text


def test_cudnn_is_in_the_program_for_gpus_where_the_host_can_trace_it(monkeypatch):
    assert "cudnn" not in lowered("cuda")
    with pytest.raises(ValueError, match="runs on gpu, not on cpu"):
        lowered("cuda", functools.partial(attend, implementation="cudnn"))
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(fused, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda capability: False)
    with jax.numpy_dtype_promotion("standard"):
        assert "__cudnn$fmhaSoftmax" in lowered("cuda")
        assert "cudnn" not in lowered("cpu")


def test_a_user_backend_without_shard_refuses_dropout_on_a_mesh():
    mine = Backend("mine", lambda q, *_, **__: q, Capabilities())
    q = arrays((8,))[0]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="does not support dropout on a mesh"):
        ops.attention(q, q, q, dropout_rate=0.5, key=jax.random.key(0), implementation=mine)


def test_every_platform_has_a_backend_that_supports_everything():
    assert BACKENDS["reference"].capabilities.platforms is None
    assert set(dispatch._PLATFORMS.values()) == {"cpu", "gpu", "tpu"}
