"""What a plan found: numbers that can be saved as JSON, and their text."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from tfm_jax.ops.backends import BACKENDS
from tfm_jax.train.plan import programs, topologies
from tfm_jax.train.plan.chips import Chip
from tfm_jax.train.plan.compiling import CompiledStep
from tfm_jax.train.plan.estimates import seconds_of
from tfm_jax.train.plan.programs import Collective, Dot, Groups
from tfm_jax.train.plan.task import Task

__all__ = ["Report", "Row", "axes_of", "make_report", "milliseconds", "render", "short"]

_GIB = 2**30
_BETWEEN = ("/ops/", "/nn/precision.py")
"""Files between a backend and the layer that calls it."""
_PRECISIONS = {
    ("tpu", "high"): "three bfloat16 products",
    ("tpu", "highest"): "six bfloat16 products, about float32",
    ("gpu", "high"): "TensorFloat-32",
    ("gpu", "highest"): "float32",
}
"""What a float32 product is by platform and ``Config.matmul_precision``, as ``jax.lax.Precision`` has it."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table of collectives: over which mesh axes, of what size, how often, from which line."""

    kind: str
    axes: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    count: int
    source: str

    @property
    def total(self) -> int:
        """Bytes a step."""
        return self.bytes * self.count


@dataclasses.dataclass(frozen=True)
class Report:
    """A planned step.

    Args:
      topology, devices, mesh: where it runs.
      parameters: their number.
      params, state, batch, temporary, exceeded: bytes a device, as `Memory` has them.
      capacity: bytes of memory of a device; None where it is unknown.
      fix: the cheapest change that would make it fit, where it does not; None where it fits.
      tokens: positions of a batch.
      flops: model FLOPs of a step by formula, of all devices.
      program_flops: of the matrix products of the program, of one device, recomputation included.
      collectives: the most bytes first.
      attention: the backend of each call, as text.
      float32: lines with float32 products in a low-precision step, with their share of the FLOPs.
      float32_is: what a float32 product of the model is on the platform.
      unknown_loops: loops whose trips cannot be read, counted once.
      unknown_cycles: operations without the TPU compiler's estimate, which the time leaves out.
      compute_seconds, exchange_seconds: estimates for the products and for the collectives of a step; None
        without published peaks.
      compile_seconds: of lowering and compilation.
    """

    topology: str
    devices: int
    mesh: Mapping[str, int]
    parameters: int
    params: int
    state: int
    batch: int
    temporary: int
    exceeded: int
    capacity: int | None
    fix: str | None
    tokens: int
    flops: float
    program_flops: float
    collectives: tuple[Row, ...]
    attention: tuple[str, ...]
    float32: tuple[tuple[str, float], ...]
    float32_is: str
    unknown_loops: int
    unknown_cycles: int
    compute_seconds: float | None
    exchange_seconds: float | None
    compile_seconds: float

    @property
    def memory(self) -> int:
        """Bytes a device in all."""
        return self.state + self.batch + self.temporary

    @property
    def fits(self) -> bool | None:
        """Whether a device has enough memory; None where its size is unknown."""
        if self.exceeded:
            return False
        return None if self.capacity is None else self.memory <= self.capacity

    @property
    def exchanged(self) -> int:
        """Bytes a device and step: results of collectives, and operands of reduce-scatters."""
        return sum(row.total for row in self.collectives)

    def seconds(self) -> tuple[float, float] | None:
        """An estimate of the time of a step: with all exchanges hidden behind products, and with none."""
        if self.compute_seconds is None or self.exchange_seconds is None:
            return None
        return max(self.compute_seconds, self.exchange_seconds), self.compute_seconds + self.exchange_seconds

    def mfu(self, chip: Chip) -> tuple[float, float] | None:
        """An estimate of the model FLOPs utilization, lowest first."""
        seconds = self.seconds()
        if seconds is None or chip.flops is None or not seconds[0]:
            return None
        fast, slow = (self.flops / self.devices / chip.flops / s for s in seconds)
        return slow, fast

    def to_json(self) -> dict[str, Any]:
        """Numbers, texts and lists."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Report":
        """The report of `to_json`."""
        rows = tuple(Row(**{**row, "shape": tuple(row["shape"])}) for row in fields["collectives"])
        float32 = tuple((line, share) for line, share in fields["float32"])
        attention = tuple(fields["attention"])
        return cls(**{**fields, "collectives": rows, "float32": float32, "attention": attention})


def make_report(task: Task, topology: str, step: CompiledStep, fix: str | None = None) -> Report:
    """Reads a compiled step.

    Args:
      task: the step.
      topology: that it was compiled for.
      step: from `compile_step`.
      fix: the cheapest change that would make it fit.
    """
    chip, memory = topologies.chip_of(topology), step.memory
    shapes = jax.eval_shape(task.make_state, jax.random.key(0)).params
    text, devices = step.text, max(1, math.prod(step.mesh.values()))
    found = [] if text is None else programs.collectives(text)
    dots = [] if text is None else programs.dots(text)
    compute, exchange = (None, None) if text is None else seconds_of(text, chip, step.mesh)
    is_low = task.model.config.dtype != "float32" and chip.platform != "cpu"
    return Report(
        topology=topology,
        devices=devices,
        mesh=dict(step.mesh),
        parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)),
        params=memory.params,
        state=memory.state,
        batch=memory.batch,
        temporary=memory.temporary,
        exceeded=memory.exceeded,
        capacity=chip.memory,
        fix=fix,
        tokens=task.tokens,
        flops=task.flops,
        program_flops=float(sum(x.flops * x.count for x in dots)),
        collectives=_rows(found, step.mesh),
        attention=() if text is None else _attention(text),
        float32=_float32_lines(dots) if is_low else (),
        float32_is=_float32(task, chip),
        unknown_loops=0 if text is None else programs.unknown_loops(text),
        unknown_cycles=0 if text is None else programs.unknown_cycles(text),
        compute_seconds=compute,
        exchange_seconds=exchange,
        compile_seconds=step.lower_seconds + step.compile_seconds,
    )


def _float32(task: Task, chip: Chip) -> str:
    """What a float32 product of a model is on a chip."""
    precision = task.model.config.matmul_precision
    if precision is None:
        precision = getattr(jax.config, "jax_default_matmul_precision", None)
    if precision in (None, "default") or chip.platform == "cpu":
        return chip.float32
    name = _PRECISIONS.get((chip.platform, precision), "")
    return f"{name or 'not the default'} (a matmul precision of {precision})"


def _rows(found: Sequence[Collective], mesh: Mapping[str, int]) -> tuple[Row, ...]:
    """The collectives, those of the same kind, size and line added."""
    rows: dict[tuple[object, ...], Row] = {}
    for x in found:
        axes = axes_of(x.groups, mesh)
        key = x.kind, axes, x.dtype, x.shape, x.source
        count = x.count + (rows[key].count if key in rows else 0)
        rows[key] = Row(x.kind, axes, x.dtype, x.shape, x.bytes, count, short(x.source))
    return tuple(sorted(rows.values(), key=lambda row: -row.total))


def short(line: str) -> str:
    """A line of source from the package on: ``nn/layers.py:70``."""
    for root in ("/tfm_jax/", "/experiments/"):
        if root in line:
            inside = line.rpartition(root)[2]
            return inside if root == "/tfm_jax/" else f"experiments/{inside}"
    return line.rpartition("/")[2]


def axes_of(groups: Groups, mesh: Mapping[str, int]) -> str:
    """The mesh axes along which groups of devices differ, such as "data, fsdp"; "all" for all devices.

    Args:
      groups: positions of devices in the mesh, in its order.
      mesh: the sizes of its axes, outermost first.
    """
    names = [name for name, size in mesh.items() if size > 1]
    sizes = [mesh[name] for name in names]
    if not groups or not names:
        return "all"
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    moving = set()
    for group in groups:
        for device in group[1:]:
            for name, size, stride in zip(names, sizes, strides, strict=True):
                if device // stride % size != group[0] // stride % size:
                    moving.add(name)
    return ", ".join(name for name in names if name in moving)


def _attention(text: str) -> tuple[str, ...]:
    """The attention backends of a program, by the lines that call them."""
    program = programs.parse(text)
    found: dict[tuple[str, str], set[str]] = {}
    for visit in program.visits():
        lines = program.lines(visit.instruction)
        inside = [i for i, line in enumerate(lines) if "/ops/backends/" in line]
        names = [lines[i].rpartition("/")[2].partition(".")[0] for i in inside]
        backends = [name for name in names if name in BACKENDS]
        if not backends:
            continue
        callers = [
            short(line) for line in lines[inside[-1] + 1 :] if not any(name in line for name in _BETWEEN)
        ]
        files = {line.partition(":")[0]: line for line in reversed(callers)}  # the innermost line of each
        call = " < ".join(list(dict.fromkeys(files[line.partition(":")[0]] for line in callers))[:2]) or "?"
        kernels = found.setdefault((backends[-1], call), set())
        if visit.instruction.opcode == "custom-call" and visit.fusion is None:
            target = visit.instruction.attribute("custom_call_target") or ""
            if "custom_call" in target or target.startswith("__"):  # not an allocation
                kernels.add(target)
    merged = []
    for (backend, call), kernels in sorted(found.items()):
        listed = f" ({', '.join(sorted(kernels))})" if kernels else ""
        merged.append(f"{backend}{listed}, called from {call}")
    return tuple(merged)


def _float32_lines(dots: Sequence[Dot]) -> tuple[tuple[str, float], ...]:
    """The lines with float32 products, and their shares of all FLOPs."""
    total = sum(x.flops * x.count for x in dots) or 1
    shares: dict[str, float] = {}
    for x in dots:
        if x.dtypes[:2] == ("f32", "f32"):
            line = short(x.source) or x.name
            shares[line] = shares.get(line, 0.0) + x.flops * x.count / total
    return tuple(sorted(shares.items(), key=lambda pair: -pair[1]))


def render(report: Report, rows: int = 12) -> str:
    """The text of a report.

    Args:
      report: of a planned step.
      rows: the most lines of the table of collectives; the rest are added up.
    """
    chip = topologies.chip_of(report.topology)
    sizes = " x ".join(f"{name} {size}" for name, size in report.mesh.items()) or "1 device"
    lines = [
        f"{report.topology}: {sizes}; {report.parameters:,} parameters, {report.tokens:,} tokens a step; "
        f"compiled in {report.compile_seconds:.0f} s",
        "",
        f"memory a device   {_size(report.memory)}{_verdict(report)}",
        f"  parameters      {_size(report.params)}",
        f"  state           {_size(report.state)}, parameters included",
        f"  batch           {_size(report.batch)}",
        f"  temporary       {_size(report.temporary)}: activations, gradients, gathered weights",
        "",
        f"FLOPs a step      {report.flops:.4g} of the model, by formula",
    ]
    if report.program_flops:
        ratio = report.program_flops * report.devices / report.flops
        lines.append(f"  in products     {ratio:.2f} times that in the program, outside of kernels")
    lines += ["", *_collective_lines(report, rows), ""]
    lines += [f"attention         {call}" for call in report.attention]
    lines.append(f"float32 products  {report.float32_is}")
    lines += [f"  {share:6.1%} of the FLOPs at {line}" for line, share in report.float32[:6]]
    lines += ["", *_time_lines(report, chip)]
    if report.unknown_loops:
        lines.append(f"loops with unknown trips, counted once above: {report.unknown_loops}")
    if report.unknown_cycles:
        lines.append(f"operations without the compiler's cycles, left out above: {report.unknown_cycles}")
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    if report.capacity is None:
        return ""
    if report.fits:
        return f" of {_size(report.capacity)}: fits"
    over = max(report.exceeded, report.memory - report.capacity)
    fix = report.fix or "No change that is known here would make it fit."
    return f" of {_size(report.capacity)}: does not fit, by {_size(over)}. {fix}"


def _collective_lines(report: Report, rows: int) -> list[str]:
    lines = [f"collectives       {_size(report.exchanged)} a device and step"]
    for row in report.collectives[:rows]:
        array = f"{row.dtype}[{','.join(map(str, row.shape))}]"
        kind = f"{row.kind} over {row.axes}"
        lines.append(f"  {_size(row.total):>10}  {row.count:6,} x {array:24} {kind:32} {row.source}")
    rest = report.collectives[rows:]
    if rest:
        lines.append(f"  {_size(sum(row.total for row in rest)):>10}  {len(rest)} more")
    return lines


def _time_lines(report: Report, chip: Chip) -> list[str]:
    seconds, mfu = report.seconds(), report.mfu(chip)
    if seconds is None or mfu is None:
        reason = "was not compiled" if chip.flops else f"runs on {chip.name}, whose peaks are unknown"
        return [f"step time         no estimate: the step {reason}"]
    source = "the compiler's cycles" if chip.clock else "a roofline of published peaks"
    # The network between the hosts of GPUs is not a fact of the chip.
    hosts = ", between hosts too" if chip.gpu and "x" in report.topology.partition(":")[2] else ""
    assert report.compute_seconds is not None and report.exchange_seconds is not None
    return [
        f"step time         estimate: {milliseconds(seconds[0])} to {milliseconds(seconds[1])}, "
        f"MFU {mfu[0]:.0%} to {mfu[1]:.0%} (exchanges not hidden, or hidden)",
        f"  computation     {milliseconds(report.compute_seconds)} by {source}",
        f"  exchanges       {milliseconds(report.exchange_seconds)} by the published bandwidth of the links"
        f"{hosts}",
    ]


def milliseconds(seconds: float) -> str:
    """``0.123 ms``, ``1,234 ms``"""
    return f"{1e3 * seconds:,.3g} ms" if seconds < 0.1 else f"{1e3 * seconds:,.0f} ms"


def _size(size: float | None) -> str:
    if size is None:
        return "?"
    return f"{size / _GIB:,.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:,.2f} MiB"
