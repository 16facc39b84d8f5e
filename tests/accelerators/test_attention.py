"""The kernels of attention in programs for TPUs and GPUs, and what is in their place."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.accelerators.steps import CONFIG, TOPOLOGIES, compile_step
from tests.train.plan.accelerators import devices_or_skip, optimized_programs
from tfm_jax import ops, train
from tfm_jax.ops import masks
from tfm_jax.train.plan import programs
from tfm_jax.train.plan.topologies import compile_for

B, T, N = 8, 512, 4


def compile_attention(topology, size, packed):
    """Forward and backward pass of causal attention in bfloat16, its batch on 8 devices; the explanation."""
    mesh = train.make_mesh(data=2, fsdp=4, devices=devices_or_skip(topology)[:8])
    sharding = NamedSharding(mesh, P(("data", "fsdp")))
    q = jax.ShapeDtypeStruct((B, T, N, size), jnp.bfloat16, sharding=sharding)
    ids = jax.ShapeDtypeStruct((B, T), jnp.int32, sharding=sharding)
    explanations = []

    def loss(q, k, v, ids):
        mask = masks.causal() & masks.segments(ids) if packed else masks.causal()
        explanations.append(ops.explain_attention(q, k, v, mask))
        return jnp.sum(ops.attention(q, k, v, mask).astype(jnp.float32))

    with optimized_programs(), jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, q, q, ids)
        return compile_for(topology, lowered).as_text(), explanations[0]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [64, 128])
def test_a_tpu_runs_splash(size, packed):
    text, explanation = compile_attention("v5e:2x4", size, packed)
    names = [x.name for x in programs.custom_calls(text) if x.target == "tpu_custom_call"]
    assert explanation.implementation == "splash"
    assert [sum(kernel in name for name in names) for kernel in ("mha_fwd", "mha_dq", "mha_dkv")] == [1, 1, 1]
    assert not programs.collectives(text)


@pytest.mark.parametrize("size", [64, 128])
def test_a_gpu_runs_cudnn(size):
    text, explanation = compile_attention("h200:8", size, packed=False)
    assert explanation.implementation == "cudnn"
    targets = [x.target for x in programs.custom_calls(text) if "fmha" in x.target]
    assert targets == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    assert not programs.collectives(text)


def test_packed_sequences_on_a_gpu_are_chunked_and_the_reason_is_given():
    text, explanation = compile_attention("h200:8", 64, packed=True)
    assert explanation.implementation == "chunked"
    assert "does not support segments in a mask" in explanation.reasons["cudnn"][0]
    assert max(math.prod(x.shape) for x in programs.temporaries(text)) < B // 8 * N * T * T
    assert not programs.collectives(text)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_chunked_attention_of_a_decoder_has_no_table_of_t_x_s(topology):
    """Of one sequence on one device: nothing that the program writes has T x S / 2 elements."""
    sizes = {"vocab_size": 128, "d_model": 64, "n_heads": 2, "d_ff": 128}
    config = dataclasses.replace(CONFIG, attention_implementation="chunked", **sizes)
    memory, largest = {}, {}
    for length in (1024, 2048):
        program = compile_step(topology, config, batch=(1, length), mesh=(1, 1, 1))
        assert programs.dots(program.text)
        largest[length] = max(math.prod(x.shape) for x in programs.temporaries(program.text))
        memory[length] = program.temporary
    assert largest[2048] < 2048 * 2048 // 2
    assert largest[2048] <= 2 * largest[1024]
    # A TPU does not count what fits into its VMEM: 0, where all of it does.
    assert memory[2048] <= 2.6 * memory[1024]
