"""What a compiled program does: its collectives, products, temporaries and kernels, with their lines.

Each reader takes ``compiled.as_text()``. A loop's instructions count as often as it runs them.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from tfm_jax.train.plan import hlo
from tfm_jax.train.plan.hlo import Instruction, Program, arrays, parse

__all__ = [
    "NOT_COMPUTED",
    "Collective",
    "CustomCall",
    "Dot",
    "Groups",
    "Temporary",
    "collective_bytes",
    "collectives",
    "custom_calls",
    "cycles",
    "dots",
    "product",
    "temporaries",
    "unknown_cycles",
    "unknown_loops",
]

Groups = tuple[tuple[int, ...], ...]
_KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_UNKNOWN_CYCLES = 2**60
NOT_COMPUTED = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "opt-barrier",
    "after-all",
    "copy-done",
    "iota",
}
"""Opcodes of no work: lists of temporaries and a roofline leave them out."""


@dataclasses.dataclass(frozen=True)
class Collective:
    """One array that devices exchange. A collective of several arrays is one of these for each.

    Args:
      kind: such as "all-gather".
      dtype: in HLO's letters, such as "bf16".
      shape: on a device: of the result; of the operand for a reduce-scatter.
      bytes: of that array.
      count: executions a step.
      groups: the devices that exchange, by their positions in the mesh; () is all in one group.
      source: the innermost line of source as "file:line"; "" where it is unknown.
      name: JAX's name of the operation, such as "jit(step)/while/body/dot_general".
      lines: all lines of source, the innermost first.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    count: int
    groups: Groups
    source: str
    name: str = ""
    lines: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    @property
    def total(self) -> int:
        """Bytes a step."""
        return self.bytes * self.count

    @property
    def group_size(self) -> int | None:
        """Devices of a group; None where it is all."""
        return len(self.groups[0]) if self.groups else None


@dataclasses.dataclass(frozen=True)
class Dot:
    """A matrix product.

    Args:
      dtypes: of the two operands and the result.
      shapes: of the two operands and the result, on a device.
      flops: of one execution.
      count: executions a step.
      precision: of the operands: "default", "high" or "highest".
      source: the innermost line of source; "" where it is unknown.
      name: JAX's name of the operation.
    """

    dtypes: tuple[str, str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    flops: int
    count: int
    precision: str
    source: str
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Temporary:
    """An array that a program writes to memory."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    count: int
    opcode: str
    source: str
    name: str = ""


@dataclasses.dataclass(frozen=True)
class CustomCall:
    """A kernel or library function, such as ``__cudnn$fmhaSoftmax``; ``lines``: the innermost first."""

    target: str
    count: int
    source: str
    name: str = ""
    lines: tuple[str, ...] = dataclasses.field(default=(), repr=False)


def collectives(text: str) -> list[Collective]:
    """The collectives of a program, the most bytes first; an asynchronous pair is one.

    Args:
      text: of the optimized program.

    Returns:
      One entry per kind, dtype, shape, groups and line.
    """
    program = parse(text)
    found: dict[tuple[object, ...], Collective] = {}
    scattered, chains = _scattering_fusions(program), set()
    for visit in program.visits():
        instruction = visit.instruction
        kind = instruction.opcode.removesuffix("-start")
        if kind not in _KINDS:
            continue
        # A TPU writes one collective into each fusion that runs beside it, as links of a chain.
        if (chain := re.search(r'chain_id="(\d+)"', instruction.attributes)) is not None:
            if (link := (chain[1], instruction.attribute("channel_id"))) in chains:
                continue
            chains.add(link)
        place = instruction
        if kind == "all-reduce" and visit.fusion is not None and _is_scattered(visit.fusion, scattered):
            kind, place = "reduce-scatter", visit.fusion
        exchanged, groups = list(_exchanged(program, instruction, kind)), _groups(instruction)
        for index, (dtype, shape, size) in enumerate(exchanged):
            if len(exchanged) > 1 and place is instruction:
                origin = _element_origin(program, instruction, index)
            else:
                origin = _origin(program, place)
            key = kind, dtype, shape, groups, origin
            before = found.get(key)
            count = visit.count + (before.count if before else 0)
            found[key] = Collective(
                kind, dtype, shape, size, count, groups, origin.source, origin.name, origin.lines
            )
    return sorted(found.values(), key=lambda x: -x.total)


def collective_bytes(found: Iterable[Collective]) -> dict[str, int]:
    """Bytes a device and step by kind: results, or operands of reduce-scatters, times the trips of loops."""
    total: dict[str, int] = {}
    for x in found:
        total[x.kind] = total.get(x.kind, 0) + x.total
    return total


def dots(text: str) -> list[Dot]:
    """The matrix products of a program, the most FLOPs first.

    Args:
      text: of the optimized program. A TPU's products are convolutions; a kernel's own are not seen.
    """
    program = parse(text)
    found = []
    for visit in program.visits():
        if (read := product(program, visit.instruction)) is None:
            continue
        dtypes, shapes, flops = read
        origin, precision = _origin(program, visit.instruction), _precision(visit.instruction)
        found.append(Dot(dtypes, shapes, flops, visit.count, precision, origin.source, origin.name))
    return sorted(found, key=lambda x: -x.flops * x.count)


def product(
    program: Program, instruction: Instruction
) -> tuple[tuple[str, str, str], tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], int] | None:
    """Dtypes, shapes and FLOPs of an instruction that is a matrix product; None for another one."""
    is_library = re.search(r'custom_call_target="__(cublas|onednn)\$', instruction.attributes) is not None
    if instruction.opcode not in ("dot", "convolution") and not is_library:
        return None
    operands = [_operand(program, instruction, name) for name in instruction.operands[:2]]
    if len(operands) < 2 or operands[0] is None or operands[1] is None:
        return None
    (left, left_shape, _), (right, right_shape, _) = operands[0], operands[1]
    dtype, shape, _ = arrays(instruction.type)[0]
    if instruction.opcode == "convolution":
        flops = _convolution_flops(instruction, left_shape, right_shape, shape)
    else:
        flops = 2 * math.prod(shape) * _terms(instruction, left_shape)
    return (left, right, dtype), (left_shape, right_shape, shape), flops


def temporaries(text: str) -> list[Temporary]:
    """The arrays that a program writes, the largest first: not those inside of fusions, nor its arguments.

    Args:
      text: of the optimized program.
    """
    program = parse(text)
    found = []
    for visit in program.visits():
        x = visit.instruction
        if visit.fusion is not None or x.opcode in NOT_COMPUTED or x.opcode.endswith("-done"):
            continue
        origin, written = _origin(program, x), arrays(x.type)
        # With its operands, of the same sizes or smaller.
        if x.opcode.endswith("-start") and len(written) > 1:
            written = [max(written, key=lambda array: array[2])]
        for dtype, shape, size in written:
            if shape:
                found.append(Temporary(dtype, shape, size, visit.count, x.opcode, origin.source, origin.name))
    return sorted(found, key=lambda x: -x.bytes)


def custom_calls(text: str) -> list[CustomCall]:
    """The kernels and library functions of a program, in its order.

    Args:
      text: of the optimized program.
    """
    program = parse(text)
    found = []
    for visit in program.visits():
        target = visit.instruction.attribute("custom_call_target")
        if visit.instruction.opcode == "custom-call" and target is not None:
            origin = _origin(program, visit.instruction)
            found.append(CustomCall(target, visit.count, origin.source, origin.name, origin.lines))
    return found


def cycles(text: str) -> int:
    """The cycles that the TPU compiler estimates for fusions, times their trips; 0 of other compilers.

    Fusions of `unknown_cycles` do not count.
    """
    return sum(n * count for n, count in _cycles(text) if n < _UNKNOWN_CYCLES)


def unknown_cycles(text: str) -> int:
    """The number of fusions for which the TPU compiler has no estimate, and writes the largest number."""
    return sum(n >= _UNKNOWN_CYCLES for n, _ in _cycles(text))


def _cycles(text: str) -> Iterator[tuple[int, int]]:
    """The estimate of each fusion, and how often it runs."""
    for visit in parse(text).visits():
        if visit.fusion is None and (
            found := re.search(r'"estimated_cycles":"(\d+)"', visit.instruction.attributes)
        ):
            yield int(found[1]), visit.count


def unknown_loops(text: str) -> int:
    """The number of loops whose trips the program does not say; each counts once."""
    return parse(text).unknown_loops()


def _scattering_fusions(program: Program) -> set[str]:
    """The computations in which a TPU writes a reduce-scatter as an all-reduce and a slice of it."""
    found = set()
    for name, instructions in program.computations.items():
        opcodes = [x.opcode for x in instructions.values()]
        if name.startswith("all-reduce-scatter") and "all-reduce" in opcodes:
            found.add(name)
    return found


def _is_scattered(fusion: Instruction, scattered: set[str]) -> bool:
    return any(name in scattered for name in hlo.called(fusion))


def _exchanged(
    program: Program, instruction: Instruction, kind: str
) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """The arrays that count: results, and operands of a reduce-scatter."""
    if kind == "reduce-scatter":
        for name in instruction.operands:
            if (found := _operand(program, instruction, name)) is not None:
                yield found
        return
    results = arrays(instruction.type)
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        # (operands, results, and for a permutation two counters)
        results = results[len(instruction.operands) : 2 * len(instruction.operands)]
    yield from results


def _operand(
    program: Program, instruction: Instruction, name: str
) -> tuple[str, tuple[int, ...], int] | None:
    found = program.find(instruction, name)
    return None if found is None else arrays(found.type)[0]


class _Origin(NamedTuple):
    """Where an operation comes from: its lines of source, the innermost first, and JAX's name of it."""

    lines: tuple[str, ...] = ()
    name: str = ""

    @property
    def source(self) -> str:
        """The innermost line; "" where it is unknown."""
        return self.lines[0] if self.lines else ""


def _origin(program: Program, instruction: Instruction) -> _Origin:
    """The origin of an instruction, else of its nearest operand, user or call."""
    for follow in (program.first_operand, program.first_user):
        if (found := _nearest(program, instruction, follow)) is not None:
            return found
    caller = program.callers.get(program.home.get(instruction.name, ""))
    return _Origin() if caller is None else _origin(program, caller)


def _nearest(
    program: Program, instruction: Instruction | None, follow: Callable[[Instruction], Instruction | None]
) -> _Origin | None:
    """The origin of the first of a chain of instructions that has one."""
    for _ in range(8):
        if instruction is None:
            break
        origin = _Origin(program.lines(instruction), instruction.attribute("op_name") or "")
        if origin != _Origin():
            return origin
        instruction = follow(instruction)
    return None


def _element_origin(program: Program, collective: Instruction, index: int) -> _Origin:
    """The origin of one array of a collective that a compiler made of several, whose metadata are of one.

    That of the operation that reads a gathered array, or that makes one to be reduced.
    """
    is_reduction = "reduce" in collective.opcode
    operand = program.find(collective, collective.operands[index]) if is_reduction else None
    found = _nearest(program, operand, program.first_operand)
    found = found or _nearest(program, program.element(collective, index), program.first_user)
    return found or _origin(program, collective)


def _terms(instruction: Instruction, left: Sequence[int]) -> int:
    """The number of terms in each sum of a ``dot``, or of a library's product."""
    dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes) or re.search(
        r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes
    )
    return math.prod(left[int(dim)] for dim in re.findall(r"\d+", dims[1] if dims else ""))


def _convolution_flops(
    instruction: Instruction, left: Sequence[int], right: Sequence[int], result: Sequence[int]
) -> int:
    """FLOPs of a convolution, as which a TPU writes products: windows in the padding are not counted."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        return 0
    flops = 2 * right[labels[2].index("i")]
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)

    def numbers(name: str, default: str) -> list[list[int]]:
        found = re.search(rf"\b{name}=([\d_x-]+)", window[1] if window else "")
        texts = found[1].split("x") if found else [default] * 8
        return [[int(n) for n in text.split("_")] for text in texts]

    strides, pads = numbers("stride", "1"), numbers("pad", "0_0")
    spaced, dilations = numbers("lhs_dilate", "1"), numbers("rhs_dilate", "1")
    for label, size in zip(labels[3], result, strict=True):
        if not label.isdigit():
            flops *= size
            continue
        i = int(label)
        inputs, kernel = left[labels[1].index(label)], right[labels[2].index(label)]
        flops *= _meetings(size, inputs, kernel, strides[i][0], pads[i][0], spaced[i][0], dilations[i][0])
    return flops


def _meetings(outputs: int, inputs: int, kernel: int, *steps: int) -> int:
    """How many (output, kernel) positions of one axis meet an element of the input.

    ``steps``: the stride, the padding before it, and the dilations of the input and the kernel.
    """
    stride, pad, spaced, dilation = steps
    return sum(
        0 <= place <= (inputs - 1) * spaced and place % spaced == 0
        for output in range(outputs)
        for place in range(output * stride - pad, output * stride - pad + kernel * dilation, dilation)
    )


def _precision(instruction: Instruction) -> str:
    found = re.search(r"operand_precision=\{(\w+)", instruction.attributes) or re.search(
        r'"operand_precision":\["(\w+)"', instruction.attributes
    )
    return found[1].lower() if found else "default"


def _groups(instruction: Instruction) -> Groups:
    """The replica groups, or the pairs of a permutation."""
    text = instruction.attributes
    if (pairs := re.search(r"source_target_pairs=\{((?:\{[\d,]*\},?)*)\}", text)) is not None:
        return _lists(pairs[1])
    if (found := re.search(r"replica_groups=(\{(?:\{[\d,]*\},?)*\}|\[[^ ]*)", text)) is not None:
        if found[1].startswith("{"):
            return _lists(found[1][1:-1])
        return _iota(found[1].rstrip(","))
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^ ]*)\))? \{([^}]*)\}", text)
    return () if mesh is None else _mesh_groups(mesh[1], mesh[2], mesh[3])


def _lists(text: str) -> Groups:
    return tuple(tuple(map(int, inner.split(","))) for inner in re.findall(r"\{([\d,]+)\}", text))


def _iota(text: str) -> Groups:
    """``[4,2]<=[2,4]T(1,0)`` -> four groups of two."""
    shape, _, source = text.partition("<=")
    rows = [int(n) for n in re.findall(r"\d+", shape)]
    values = _numbers(source)
    return tuple(tuple(values[i : i + rows[-1]]) for i in range(0, len(values), rows[-1]))


def _numbers(text: str) -> list[int]:
    """``[2,4]T(1,0)``: the numbers 0 .. 7 as an array of 2 x 4, transposed, as a list."""
    sizes, _, order = text.partition("T")
    shape = [int(n) for n in re.findall(r"\d+", sizes)]
    axes = [int(n) for n in re.findall(r"\d+", order)] or list(range(len(shape)))
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    values = [0]
    for axis in axes:
        values = [value + i * strides[axis] for value in values for i in range(shape[axis])]
    return values


def _mesh_groups(axes: str, device_ids: str | None, chosen: str) -> Groups:
    """``mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}``: the devices that differ in a alone."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    names, moving = list(sizes), re.findall(r"'([^']+)'", chosen)
    devices = _numbers(device_ids) if device_ids else list(range(math.prod(sizes.values())))
    strides = {name: math.prod(list(sizes.values())[i + 1 :]) for i, name in enumerate(names)}

    def offsets(chosen_names: Sequence[str]) -> list[int]:
        values = [0]
        for name in chosen_names:
            values = [value + i * strides[name] for value in values for i in range(sizes[name])]
        return values

    fixed = offsets([name for name in names if name not in moving])
    return tuple(tuple(devices[start + offset] for offset in offsets(moving)) for start in fixed)
