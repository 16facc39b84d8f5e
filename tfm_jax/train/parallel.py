"""Parallel training behind one interface: ``jit`` on one device or a mesh, or ``pmap``.

The state has the same shapes under each, so a checkpoint of one can be resumed under another.
"""

import abc
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tfm_jax.sharding import ShardingRules, check_axes, use_rules
from tfm_jax.train.meshes import make_mesh
from tfm_jax.train.placement import place
from tfm_jax.train.state import TrainState
from tfm_jax.train.state_shardings import parameter_shardings, state_shardings
from tfm_jax.train.step import EvalStep, TrainStep
from tfm_jax.types import BatchT, Params

__all__ = ["Compiled", "Jit", "Parallel", "Pmap"]

_AXIS = "data"
S = TypeVar("S")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, eq=False)
class Parallel(abc.ABC):
    """How steps run on the devices of a mesh.

    Args:
      mesh: from `make_mesh`.
    """

    mesh: Mesh = dataclasses.field(default_factory=make_mesh)

    axis_name = None
    """The argument of `make_train_step` and `make_eval_step`."""

    @property
    def batch_axes(self) -> tuple[str, ...]:
        """The mesh axes that shard the first axis of a batch."""
        return (_AXIS,)

    @property
    def batch_parts(self) -> int:
        """The number of parts of a batch: what its first axis must be a multiple of."""
        return math.prod(self.mesh.shape[name] for name in self.batch_axes)

    @functools.cached_property
    def batch_share(self) -> tuple[int, int]:
        """``(index, count)``: each batch is read in ``count`` equal shares, and this process reads one.

        Processes whose devices hold the same examples, as along a tensor axis, read the same share.

        Raises:
          ValueError: the processes hold unequal or overlapping parts of a batch.
        """
        parts = _parts_of_processes(self._batch_sharding, self.batch_parts)
        shares = sorted(set(parts.values()))
        if any(len(share) * len(shares) != self.batch_parts for share in shares):
            raise ValueError(
                f"{type(self).__name__}: got processes that hold the parts {', '.join(map(str, shares))} of "
                f"the {self.batch_parts} of a batch ({self._batch_sizes}); wanted equal shares, each whole "
                "in a process. Use all devices, or other sizes of these axes."
            )
        return shares.index(parts[jax.process_index()]), len(shares)

    def state_shardings(self, state: TrainState) -> TrainState:
        """The sharding of each array of a state: a tree like it of ``NamedSharding``.

        Args:
          state: of arrays, or of ``jax.ShapeDtypeStruct``.

        Returns:
          The optimizer's state and the moving average are sharded as the parameters that they belong to.

        Raises:
          ValueError: an axis of a parameter is not divisible by the mesh axes of its letter, or a parameter
            has no letters; the message names it.
        """
        return jax.tree.map(lambda _: self._replicated, state)

    def params_shardings(self, params: Params) -> Params:
        """The sharding of each of these parameters: all of the model, or some; as `state_shardings`."""
        return jax.tree.map(lambda _: self._replicated, params)

    def create(self, make_state: Callable[..., S], *arguments: object) -> S:
        """The state that a function makes, created under its shardings: never whole on one device.

        Equivalent to::

            parallel.place_state(make_state(*arguments))

        Args:
          make_state: a function that JAX can trace; it returns a `TrainState`.
          arguments: of the function, such as a key. Arrays on one device are copied to all: place large ones
            first, by `place_params`.

        Returns:
          The state, to give to a compiled step.
        """

        def on_mesh(x: object) -> object:
            if isinstance(x, jax.Array) and x.sharding.device_set == set(self.mesh.devices.flat):
                return x
            return place(x, self._replicated) if isinstance(x, jax.Array | np.ndarray) else x

        arguments = jax.tree.map(on_mesh, arguments)
        with self.context():
            shardings = self.state_shardings(jax.eval_shape(make_state, *arguments))
            return jax.jit(make_state, out_shardings=shardings)(*arguments)

    def place_state(self, state: TrainState) -> TrainState:
        """Copies a state to the devices, each its shard; a step may donate the copy, and the original stays.

        Args:
          state: of arrays on a device, on the host (numpy), or on another mesh.
        """
        return jax.tree.map(place, state, self.state_shardings(state))

    def place_params(self, params: Params) -> Params:
        """Copies parameters, or some of them, to the devices, as `place_state` does those of a state."""
        return jax.tree.map(place, params, self.params_shardings(params))

    def abstract(self, state: TrainState) -> TrainState:
        """Shapes, dtypes and shardings of a placed state, to restore a checkpoint into."""
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            state,
            self.state_shardings(state),
        )

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Inside it a jitted function is traced and run as a step is: on the mesh, by the rules."""
        yield

    @property
    def _replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    @property
    def _batch_sharding(self) -> NamedSharding:
        names = tuple(name for name in self.batch_axes if self.mesh.shape[name] > 1)
        return NamedSharding(self.mesh, P(names) if names else P())

    def _split(self, batch: BatchT) -> BatchT:
        """A whole batch with the axes that a compiled step takes: those it has, but under pmap."""
        return batch

    @property
    def _batch_sizes(self) -> str:
        """The mesh axes that share a batch, such as "data 2 x fsdp 4"."""
        return " x ".join(f"{name} {self.mesh.shape[name]}" for name in self.batch_axes)

    def _check(self, batch: object) -> None:
        index, count = self.batch_share
        parts = self.batch_parts // count
        for path, x in jax.tree_util.tree_leaves_with_path(batch):
            if not np.ndim(x) or x.shape[0] % parts:
                shared = f", {parts} of them in share {index} of {count}" if count > 1 else ""
                raise ValueError(
                    f"{type(self).__name__}: got batch{jax.tree_util.keystr(path)} of shape {np.shape(x)}; "
                    f"wanted a first axis that is a multiple of the {self.batch_parts} devices that share a "
                    f"batch ({self._batch_sizes}){shared}. Choose another batch size or mesh."
                )

    @abc.abstractmethod
    def place_batch(self, batch: BatchT) -> BatchT:
        """Shards a batch over the devices, on its first axis; the other axes are whole on each device.

        Args:
          batch: arrays on the host; of several processes, the share of this one (`batch_share`).

        Raises:
          ValueError: an array whose first axis is not a multiple of the devices that share a batch.
        """

    @abc.abstractmethod
    def compile(self, step: TrainStep[BatchT]) -> "Compiled[TrainState, tuple[TrainState, Any]]":
        """Compiles a training step: takes a placed state, which is donated, and a batch on the host."""

    @abc.abstractmethod
    def compile_eval(self, eval_step: EvalStep[BatchT]) -> "Compiled[Params, Any]":
        """Compiles an evaluation step: takes placed params and a batch on the host."""


class Compiled(Generic[S, R]):
    """A step, compiled at its first call; called as ``step(state, batch)`` with a batch on the host."""

    def __init__(self, parallel: Parallel, jitted: Callable[[S], Any]):
        self._parallel, self._jitted = parallel, jitted

    def __call__(self, state: S, batch: Mapping[str, object]) -> R:
        batch = self._parallel.place_batch(batch)
        with self._parallel.context():
            return self._jitted(state)(state, batch)

    def lower(self, state: S, batch: object) -> jax.stages.Lowered:
        """Lowers the step, for arrays or ``jax.ShapeDtypeStruct``, as ``jax.jit(step).lower`` does.

        Args:
          state: its shapes and dtypes.
          batch: those of a whole batch, of all devices.
        """
        batch = jax.eval_shape(self._parallel._split, batch)
        with self._parallel.context():
            return self._jitted(state).lower(state, batch)


@dataclasses.dataclass(frozen=True, eq=False)
class Jit(Parallel):
    """``jax.jit`` on a mesh. The compiler shards the computation and sums the gradients.

    Input and output shardings are pinned: otherwise they change after the first step, which compiles again.
    Steps are traced and run inside ``jax.set_mesh(mesh)`` and ``use_rules(rules)``.

    Args:
      mesh: from `make_mesh`.
      axes: the letters of each parameter, ``model.axes()``. None replicates the state on every device.
      rules: the mesh axes that shard each letter; that of activations for B shards the batch, which it must
        divide, with a ``?`` too.

    Raises:
      ValueError: a rule of activations names an axis that the mesh lacks.
    """

    axes: Params | None = None
    rules: ShardingRules = dataclasses.field(default_factory=ShardingRules)

    def __post_init__(self) -> None:
        check_axes(self.rules.activations, self.mesh)

    @property
    def batch_axes(self) -> tuple[str, ...]:
        rule = self.rules.activations.get("B") or ()
        names = (rule,) if isinstance(rule, str) else rule
        return tuple(name.rstrip("?") for name in names if name.rstrip("?") in self.mesh.shape)

    def state_shardings(self, state: TrainState) -> TrainState:
        return state_shardings(state, self.params_shardings(state.params), self._replicated)

    def params_shardings(self, params: Params) -> Params:
        if self.axes is None:
            return jax.tree.map(lambda _: self._replicated, params)
        return parameter_shardings(self.axes, params, self.mesh, self.rules)

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        with jax.set_mesh(self.mesh), use_rules(self.rules):
            yield

    def place_batch(self, batch: BatchT) -> BatchT:
        self._check(batch)
        sharding = self._batch_sharding
        if sharding.is_fully_addressable:
            return jax.device_put(batch, sharding)
        parts = _parts_of_processes(sharding, self.batch_parts)[jax.process_index()]
        return jax.tree.map(lambda x: _assemble(x, sharding, parts, self.batch_parts), batch)

    def compile(self, step: TrainStep[BatchT]) -> Compiled[TrainState, tuple[TrainState, Any]]:
        def jitted(state: TrainState) -> Any:
            shardings = self.state_shardings(state)
            return jax.jit(
                step,
                in_shardings=(shardings, self._batch_sharding),
                out_shardings=(shardings, self._replicated),
                donate_argnums=0,
            )

        return Compiled(self, _by_shapes(jitted))

    def compile_eval(self, eval_step: EvalStep[BatchT]) -> Compiled[Params, Any]:
        def jitted(params: Params) -> Any:
            shardings = (self.params_shardings(params), self._batch_sharding)
            return jax.jit(eval_step, in_shardings=shardings, out_shardings=self._replicated)

        return Compiled(self, _by_shapes(jitted))


@dataclasses.dataclass(frozen=True, eq=False)
class Pmap(Parallel):
    """``jax.pmap``: each device runs the step on its shard; the step sums the gradients over ``axis_name``.

    The state is replicated. The numbers equal those of `Jit` up to rounding, except for dropout: each of
    several devices has its own key, where `Jit` draws once for the whole batch.

    Args:
      mesh: from `make_mesh`, of data parallelism alone, in one process.

    Raises:
      ValueError: for another mesh.
    """

    axis_name = _AXIS

    def __post_init__(self) -> None:
        if others := [f"{name}={n}" for name, n in self.mesh.shape.items() if n > 1 and name != _AXIS]:
            raise ValueError(
                f"Pmap: got a mesh with {', '.join(others)}; wanted data alone. Use jit, which shards the "
                "state too."
            )
        if len({device.process_index for device in self.mesh.devices.flat}) > 1:
            raise ValueError(
                "Pmap: got the devices of several processes; wanted those of one. Use jit, which runs on all."
            )

    @property
    def _replicated(self) -> NamedSharding:
        return NamedSharding(self._flat_mesh, P())

    @functools.cached_property
    def _flat_mesh(self) -> Mesh:
        """The mesh of pmap's outputs: a state on another one would be compiled for again."""
        return Mesh(self.mesh.devices.reshape(-1), (_AXIS,), axis_types=(AxisType.Auto,))

    def place_batch(self, batch: BatchT) -> BatchT:
        self._check(batch)
        return jax.device_put(self._split(batch), NamedSharding(self._flat_mesh, P(_AXIS)))

    def _split(self, batch: BatchT) -> BatchT:
        """[B, ...] -> [devices, B / devices, ...]"""
        size = self.mesh.size
        return jax.tree.map(lambda x: x.reshape(size, x.shape[0] // size, *x.shape[1:]), batch)

    def compile(self, step: TrainStep[BatchT]) -> Compiled[TrainState, tuple[TrainState, Any]]:
        pmapped = self._pmap(step, donate_argnums=0)
        return Compiled(self, lambda state: pmapped)

    def compile_eval(self, eval_step: EvalStep[BatchT]) -> Compiled[Params, Any]:
        pmapped = self._pmap(eval_step)
        return Compiled(self, lambda params: pmapped)

    def _pmap(self, function: Callable[..., R], **options: Any) -> Any:
        # in_axes and out_axes of None: the state has no axis of replicas
        devices = list(self.mesh.devices.flat)
        return jax.pmap(function, _AXIS, in_axes=(None, 0), out_axes=None, devices=devices, **options)


def _by_shapes(make: Callable[[S], R]) -> Callable[[S], R]:
    """``make``, called once for all trees with the same structure and shapes."""
    made: dict[object, R] = {}

    def cached(tree: S) -> R:
        leaves, structure = jax.tree.flatten(tree)
        key = (structure, *(jnp.shape(x) for x in leaves))
        if key not in made:
            made[key] = make(tree)
        return made[key]

    return cached


@functools.lru_cache(maxsize=64)
def _parts_of_processes(sharding: NamedSharding, count: int) -> Mapping[int, tuple[int, ...]]:
    """Which of the ``count`` parts of a batch the devices of each process hold."""
    found: dict[int, set[int]] = {}
    for device, index in sharding.devices_indices_map((count,)).items():
        found.setdefault(device.process_index, set()).update(range(count)[index[0]])
    return {process: tuple(sorted(parts)) for process, parts in found.items()}


def _assemble(x: np.ndarray, sharding: NamedSharding, parts: tuple[int, ...], count: int) -> jax.Array:
    """The global array whose ``parts`` (of ``count`` along the first axis) are the rows of ``x``."""
    size = x.shape[0] // len(parts)

    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[0].indices(size * count)
        rows = [parts.index(part) * size for part in range(start // size, stop // size)]
        return np.concatenate([x[row : row + size] for row in rows])[(slice(None), *index[1:])]

    return jax.make_array_from_callback((size * count, *x.shape[1:]), sharding, shard)
