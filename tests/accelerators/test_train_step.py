"""The training step that the compilers of TPUs and GPUs make: what it moves, keeps and multiplies."""

import dataclasses
import math

import pytest

from tests.accelerators.steps import CONFIG, TOKENS, TOPOLOGIES, D, F, H, L, N, V, compile_step
from tfm_jax.train.plan import programs

KERNELS = {D * N * H, D * F}
"""The sizes of the kernels of a layer."""


@pytest.fixture(params=TOPOLOGIES)
def program(request):
    return compile_step(request.param, CONFIG)


def test_no_collective_is_larger_than_a_weight(program):
    """On data x fsdp only weights and their gradients move; a device's activations are larger."""
    largest = max(
        math.prod(shape[1:] if "layers" in path else shape) for path, shape in program.params.items()
    )
    assert largest == V * D < TOKENS * D
    for x in programs.collectives(program.text):
        assert math.prod(x.shape) <= largest and x.bytes <= 4 * largest, x
    assert not program.collectives("all-to-all")


def test_weights_are_gathered_in_the_compute_dtype(program):
    gathered = [x for x in program.collectives("all-gather") if math.prod(x.shape) > D]
    assert {x.dtype for x in gathered} == {"bf16"}
    assert {math.prod(x.shape) for x in gathered} >= KERNELS
    assert {x.group_size for x in gathered} == {4}


def test_a_gathered_weight_has_the_line_of_its_product(program):
    kernels = [x for x in program.collectives("all-gather") if math.prod(x.shape) in KERNELS]
    assert {x.source.rpartition("/ops/")[2].partition(":")[0] for x in kernels} == {"projection.py"}


def test_gradients_of_layers_are_reduce_scattered_in_float32(program):
    scattered = [x for x in program.collectives("reduce-scatter") if math.prod(x.shape) > D]
    assert {x.dtype for x in scattered} == {"f32"}
    assert {math.prod(x.shape) for x in scattered} >= KERNELS
    shards = {size // 4 for size in KERNELS}
    for x in program.collectives("all-reduce"):  # over data: of the shard that fsdp leaves
        if "/while/body/" in x.name and "transpose" in x.name and x.group_size == 2 and "f32" in x.dtype:
            assert math.prod(x.shape) <= sum(shards) * 4


def test_logits_of_all_tokens_never_exist(program):
    largest = max(math.prod(x.shape) for x in programs.temporaries(program.text) if V in x.shape)
    assert 1024 * V <= largest < TOKENS * V  # those of a chunk do


def test_no_product_of_the_size_of_a_projection_has_float32_operands(program):
    flops = 2 * TOKENS * D * N * H
    found = [x for x in programs.dots(program.text) if x.flops >= flops]
    assert len(found) >= 12  # of 21, some of which a compiler joins
    assert not [x for x in found if "f32" in x.dtypes[:2]]


def residuals(program, tokens):
    """Bytes of what the forward pass keeps for the backward pass: stacks over the layers, allocated once."""
    found = programs.temporaries(program.text)
    return sum(
        x.bytes for x in found if x.count == 1 and x.shape[0] == L and math.prod(x.shape) >= L * tokens
    )


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_recomputation_keeps_less_for_the_backward_pass(topology):
    """The layers' residuals: memory_analysis() of a TPU leaves out what fits into its VMEM."""
    # Small: without remat, one of the size of the others takes libtpu minutes.
    sizes = {"vocab_size": 128, "d_model": 128, "n_heads": 2, "d_ff": 256}
    config = dataclasses.replace(CONFIG, attention_implementation="xla", **sizes)
    batch = (32, 128)
    none, dots = (
        residuals(compile_step(topology, dataclasses.replace(config, remat=remat), batch), 32 * 128 // 8)
        for remat in (None, "dots")
    )
    assert 0 < dots < 0.7 * none
