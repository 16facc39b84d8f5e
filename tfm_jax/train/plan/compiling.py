"""Compiles the training step of a task for a topology, and measures its memory."""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping

import jax
from jax.sharding import Mesh

from tfm_jax.train.meshes import MESH_AXES, make_mesh
from tfm_jax.train.parallel import Jit
from tfm_jax.train.plan import topologies
from tfm_jax.train.plan.formulas import tree_bytes
from tfm_jax.train.plan.task import Task

__all__ = ["CompiledStep", "Memory", "check_mesh", "compile_step", "mesh_of"]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes a device.

    Args:
      params: of the parameters.
      state: of the whole training state, with them.
      batch: of the device's share of a batch.
      temporary: beyond both, while the step runs: activations, gradients and gathered weights.
      exceeded: by how much the compiler found the step too large for the device; 0 if it compiled.
    """

    params: int
    state: int
    batch: int
    temporary: int
    exceeded: int = 0

    @property
    def total(self) -> int:
        """Of all of them."""
        return self.state + self.batch + self.temporary


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled step: its optimized program (None if it did not fit), memory, and seconds of compilation."""

    text: str | None
    memory: Memory
    mesh: Mapping[str, int]
    lower_seconds: float
    compile_seconds: float


def mesh_of(task: Task, topology: str) -> Mesh:
    """The mesh of a task over the devices of a topology.

    Raises:
      ValueError: the mesh does not fit the topology, the topology is unknown.
      ImportError: its compiler is not installed.
    """
    devices = topologies.topology(topology)
    try:
        mesh = make_mesh(**{axis: task.mesh.get(axis, 1) for axis in MESH_AXES}, devices=devices)
    except ValueError as error:
        raise ValueError(f"{topology}: {error}") from error
    if mesh.size not in (1, len(devices)):
        raise ValueError(
            f"{topology}: got a mesh of {mesh.size} devices; wanted all {len(devices)} of the topology. Set "
            'one of its sizes to "auto".'
        )
    return mesh


def check_mesh(task: Task, topology: str) -> Jit:
    """How a task runs on a topology.

    Raises:
      ValueError: the mesh does not fit the topology, or the batch or a parameter does not fit the mesh.
      ImportError: the compiler is not installed.
    """
    parallel = Jit(mesh_of(task, topology), task.model.axes(), task.rules)
    parts = parallel.batch_parts * task.accumulate
    for name, x in task.batch.items():
        if x.shape[0] % parts:
            raise ValueError(
                f"plan: got a batch of {x.shape[0]} examples ({name}); wanted a multiple of {parts}, the "
                f"{parallel.batch_parts} devices that share it times {task.accumulate} microbatches. Choose "
                "another batch size or mesh."
            )
    parallel.state_shardings(jax.eval_shape(task.make_state, jax.random.key(0)))
    return parallel


def compile_step(task: Task, topology: str) -> CompiledStep:
    """Lowers and compiles the step of a task for a topology, with the compiler of its platform.

    Args:
      task: of an experiment.
      topology: such as ``"v5e:16x16"``.

    Returns:
      The program and its memory. A step that is too large for the devices has no program where the compiler
      refuses it, as that of TPUs does.

    Raises:
      ValueError: before anything is compiled: the mesh does not fit the topology, the batch or a parameter
        does not fit the mesh.
      ImportError: the compiler, or cuDNN, is not installed.
      RuntimeError: the compiler fails for another reason than memory.
    """
    parallel = check_mesh(task, topology)
    state = jax.eval_shape(task.make_state, jax.random.key(0))
    shardings = parallel.state_shardings(state)
    sizes = tree_bytes(state, shardings)
    params = tree_bytes(state.params, shardings.params)
    batch = sum(math.prod(x.shape) * x.dtype.itemsize for x in task.batch.values()) // parallel.batch_parts
    started = time.monotonic()
    with _all_lines(), _cudnn_needed(topology):
        lowered = parallel.compile(task.step).lower(state, task.batch)
    middle = time.monotonic()
    shape = {name: size for name, size in parallel.mesh.shape.items() if size > 1}
    try:
        compiled = topologies.compile_for(topology, lowered)
    except jax.errors.JaxRuntimeError as error:
        used, exceeded = _too_large(str(error))
        memory = Memory(params, sizes, batch, max(0, used - sizes - batch), exceeded)
        return CompiledStep(None, memory, shape, middle - started, time.monotonic() - middle)
    analysis = compiled.memory_analysis()
    assert analysis is not None  # all of these compilers answer
    temporary = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
        - sizes
        - batch
    )
    memory = Memory(params, sizes, batch, max(0, temporary))
    return CompiledStep(compiled.as_text(), memory, shape, middle - started, time.monotonic() - middle)


@contextlib.contextmanager
def _all_lines() -> Iterator[None]:
    """Keeps all lines of source that lead to an operation."""
    before = getattr(jax.config, "jax_traceback_in_locations_limit", 10)
    jax.config.update("jax_traceback_in_locations_limit", 40)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


@contextlib.contextmanager
def _cudnn_needed(topology: str) -> Iterator[None]:
    """JAX reads the version of cuDNN when it lowers attention for a GPU: says what to install without it."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(("cuDNN not found", "cuDNN is not detected")):
            raise
        raise ImportError(
            f"plan: got {topology} without cuDNN, whose attention the step would run; wanted that of the "
            "extra cuda13. pip install 'tfm_jax[cuda13]', or choose --model.attention-implementation chunked."
        ) from error


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
_TOO_LARGE = (
    rf"Ran out of memory on HBM, .*\({_SIZE}\) exceeds available HBM \({_SIZE}\)",
    rf"Ran out of memory in memory space hbm\. Used {_SIZE} of {_SIZE} hbm",
)
"""What the TPU compiler says of a program that is too large: the bytes of its use, and those of a device."""


def _too_large(message: str) -> tuple[int, int]:
    """What a program uses and by how much that is too much, from the error of the TPU compiler.

    Raises:
      RuntimeError: the error is another one.
    """
    found = next((found for pattern in _TOO_LARGE if (found := re.search(pattern, message))), None)
    if found is None:
        raise RuntimeError(f"the compiler failed: {message}")
    used, available = (
        int(float(number) * _UNITS[unit]) for number, unit in (found.groups()[:2], found.groups()[2:])
    )
    return used, used - available
