"""The training step of a mixture of experts that the compilers of TPUs and GPUs make."""

import dataclasses
import math

import pytest

from tests.accelerators.steps import CONFIG, TOPOLOGIES, D, compile_step
from tfm_jax import nn

EXPERTS, HIDDEN, SHARE = 8, 320, 4
KERNEL = D * HIDDEN


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_device_gathers_the_parts_of_its_own_experts_alone(topology):
    """fsdp 2 x expert 4: the weights of two of eight experts move over fsdp, never those of the others."""
    experts = nn.MixtureOfExperts(EXPERTS, 2)
    sizes = {"n_layers": 1, "d_ff": HIDDEN, "feed_forward": experts, "attention_implementation": "xla"}
    program = compile_step(topology, dataclasses.replace(CONFIG, **sizes), batch=(4, 128), mesh=(1, 2, SHARE))
    mine = EXPERTS // SHARE * KERNEL
    weights = [
        x
        for kind in ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
        for x in program.collectives(kind)
        if HIDDEN in x.shape or HIDDEN // 2 in x.shape
    ]
    assert max(math.prod(x.shape) for x in weights) <= mine
    assert [x for x in program.collectives("all-gather") if math.prod(x.shape) == mine and x.group_size == 2]
