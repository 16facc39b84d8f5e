"""Estimates of a step's time from its compiled program and the published facts of a chip."""

import math
from collections.abc import Mapping

from tfm_jax.train.plan import hlo, programs
from tfm_jax.train.plan.chips import Chip
from tfm_jax.train.plan.hlo import Instruction, Program

__all__ = ["exchange_seconds", "kernel_flops", "roofline_seconds", "seconds_of"]

_KERNELS = {"tpu_custom_call": 2, "__cudnn$fmha": 1}
"""Attention kernels by the start of their name, with the axis of positions in their queries and keys."""
_BACKWARD = {"mha_dkv": 4, "mha_dq": 3, "Backward": 5}
"""Products of the kernels of a backward pass; two kernels both compute the logits again."""


def seconds_of(text: str, chip: Chip, mesh: Mapping[str, int]) -> tuple[float | None, float | None]:
    """Estimates of the seconds of a step on one device: of its computation, and of its exchanges.

    Args:
      text: of the optimized program.
      chip: the device. For a TPU the computation is the compiler's ``estimated_cycles`` over the clock, and
        for a GPU a roofline: each operation takes its FLOPs over the peak or its bytes over the bandwidth,
        the larger of both. Attention kernels, which neither counts, take their FLOPs over the peak.
      mesh: the sizes of the axes.

    Returns:
      The two; None for a chip without published peaks.
    """
    if chip.flops is None:
        return None, None
    devices = max(1, math.prod(mesh.values()))
    kernels = kernel_flops(text) / chip.flops
    if chip.clock is not None:
        computation = programs.cycles(text) / chip.clock
    else:
        computation = roofline_seconds(text, chip)
    return computation + kernels, exchange_seconds(text, chip, devices)


def exchange_seconds(text: str, chip: Chip, devices: int) -> float | None:
    """The seconds of all collectives on rings: of n devices, each receives (n - 1) / n of the bytes."""
    if chip.interconnect is None:
        return None
    total = 0.0
    for x in programs.collectives(text):
        n = x.group_size or devices
        if x.kind == "collective-permute":
            total += x.total
        else:
            total += x.total * (n - 1) / n * (2 if x.kind == "all-reduce" else 1)
    return total / chip.interconnect


def kernel_flops(text: str) -> float:
    """FLOPs of the attention kernels of a program, of all T x S pairs: two products in the forward pass.

    Their first operands of four axes are the queries and the keys.
    """
    program = programs.parse(text)
    total = 0.0
    for visit in program.visits():
        x = visit.instruction
        target = x.attribute("custom_call_target") or ""
        axis = next((axis for name, axis in _KERNELS.items() if target.startswith(name)), None)
        if axis is None or x.opcode != "custom-call":
            continue
        operands = [found for name in x.operands if (found := program.find(x, name)) is not None]
        shapes = [shape for y in operands for _, shape, _ in hlo.arrays(y.type)[:1] if len(shape) == 4]
        if len(shapes) < 2:
            continue
        named = (n for word, n in _BACKWARD.items() if word in x.name or word in target)
        products = next(named, 2)
        total += visit.count * 2.0 * products * math.prod(shapes[0]) * shapes[1][axis]
    return total


def roofline_seconds(text: str, chip: Chip) -> float:
    """The seconds of a program's operations, one after another, by published peaks."""
    assert chip.flops is not None and chip.bandwidth is not None
    program = programs.parse(text)
    flops = _flops_by_operation(text, program)
    total = 0.0
    for visit in program.visits():
        x = visit.instruction
        is_asynchronous = x.opcode.endswith(("-start", "-done"))
        if visit.fusion is not None or x.opcode in programs.NOT_COMPUTED or is_asynchronous:
            continue
        size = _bytes(program, x)
        work = flops.get(x.name, 0.0)
        total += visit.count * max(work / chip.flops, size / chip.bandwidth)
    return total


def _flops_by_operation(text: str, program: Program) -> dict[str, float]:
    """FLOPs of one execution of each operation, bfloat16 ones; float32 products count twice."""
    found: dict[str, dict[str, float]] = {}
    for visit in program.visits():
        product = programs.product(program, visit.instruction)
        if product is None:
            continue
        dtypes, _, flops = product
        # By the product too: a computation that is called twice is visited twice.
        products = found.setdefault((visit.fusion or visit.instruction).name, {})
        products[visit.instruction.name] = flops * (2.0 if dtypes[0] == "f32" else 1.0)
    return {name: sum(products.values()) for name, products in found.items()}


def _bytes(program: Program, x: Instruction) -> int:
    """What an operation reads and writes; a slice or an update touches its own part of an array alone."""
    result = sum(size for _, _, size in hlo.arrays(x.type))
    operands = [found for name in x.operands if (found := program.find(x, name)) is not None]
    read = [sum(size for _, _, size in hlo.arrays(found.type)) for found in operands]
    if "dynamic-update-slice" in x.name or "dynamic_update_slice" in x.name:
        return sum(size for size in read if size < result) * 2
    if "dynamic-slice" in x.name or "dynamic_slice" in x.name:
        return result * 2
    return result + sum(read)
