"""Data parallelism behind one interface: ``jit`` on one device or a mesh, or ``pmap``.

The state has the same shapes under each, so a checkpoint of one can be resumed under another.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tfm_jax.train.state import TrainState
from tfm_jax.train.step import EvalStep, TrainStep
from tfm_jax.types import BatchT

__all__ = ["Jit", "Parallel", "Pmap", "data_mesh"]

_AXIS = "data"
S = TypeVar("S")
R = TypeVar("R")


def data_mesh(data: int) -> Mesh:
    """A one-axis mesh of the first ``data`` devices.

    Equivalent to::

        jax.make_mesh((data,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:data])

    Args:
      data: number of devices, at least 1 and at most those of the machine.

    Returns:
      A mesh with the axis "data", of type Auto: the compiler shards what is inside a jitted function.

    Raises:
      ValueError: when there are fewer devices.
    """
    devices = jax.devices()
    if not 1 <= data <= len(devices):
        raise ValueError(
            f"data_mesh: got data={data}; wanted 1 to {len(devices)}, the {devices[0].platform} devices of "
            "this machine. Or simulate more on the CPU: "
            f"JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={data} python ..."
        )
    return jax.make_mesh((data,), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices[:data])


@dataclasses.dataclass(frozen=True)
class Parallel(abc.ABC):
    """Data parallelism over ``data`` devices: the state is replicated, the batch is sharded.

    Args:
      data: number of devices.
    """

    data: int = 1

    axis_name = None
    """The argument of `make_train_step` and `make_eval_step`."""

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The mesh of the devices."""
        return data_mesh(self.data)

    @property
    def _replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    @property
    def _sharded(self) -> NamedSharding:
        return NamedSharding(self.mesh, P(_AXIS))

    def place_state(self, state: TrainState) -> TrainState:
        """Replicates a state; a step may donate the copy, and the original stays."""
        # without jnp.copy device_put can return the same buffer
        return jax.device_put(jax.tree.map(jnp.copy, state), self._replicated)

    def abstract(self, state: TrainState) -> TrainState:
        """Shapes, dtypes and shardings of a placed state, to restore a checkpoint into."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._replicated), state
        )

    def _check(self, batch: object) -> None:
        for path, x in jax.tree_util.tree_leaves_with_path(batch):
            if not np.ndim(x) or x.shape[0] % self.data:
                raise ValueError(
                    f"{type(self).__name__}: got batch{jax.tree_util.keystr(path)} of shape {np.shape(x)}; "
                    f"wanted a first axis that is a multiple of the {self.data} devices."
                )

    @abc.abstractmethod
    def place_batch(self, batch: BatchT) -> BatchT:
        """Shards a batch over the devices, on its first axis."""

    @abc.abstractmethod
    def compile(self, step: TrainStep[BatchT]) -> TrainStep[Mapping[str, object]]:
        """Compiles a training step: takes a placed state, which is donated, and a batch on the host."""

    @abc.abstractmethod
    def compile_eval(self, eval_step: EvalStep[BatchT]) -> EvalStep[Mapping[str, object]]:
        """Compiles an evaluation step: takes placed params and a batch on the host."""

    def _placing(
        self, compiled: Callable[[S, Mapping[str, object]], R]
    ) -> Callable[[S, Mapping[str, object]], R]:
        return lambda state, batch: compiled(state, self.place_batch(batch))


class Jit(Parallel):
    """``jax.jit`` on a mesh of the devices. The compiler sums the gradients.

    Input and output shardings are pinned: otherwise they change after the first step, which compiles again.
    """

    def place_batch(self, batch: BatchT) -> BatchT:
        self._check(batch)
        return jax.device_put(batch, self._sharded)

    def compile(self, step: TrainStep[BatchT]) -> TrainStep[Mapping[str, object]]:
        return self._placing(
            jax.jit(
                step,
                in_shardings=(self._replicated, self._sharded),
                out_shardings=self._replicated,
                donate_argnums=0,
            )
        )

    def compile_eval(self, eval_step: EvalStep[BatchT]) -> EvalStep[Mapping[str, object]]:
        return self._placing(
            jax.jit(eval_step, in_shardings=(self._replicated, self._sharded), out_shardings=self._replicated)
        )


class Pmap(Parallel):
    """``jax.pmap``: each device runs the step on its shard; the step sums the gradients over ``axis_name``.

    The numbers equal those of `Jit` up to rounding, except for dropout: each of several devices has its own
    key, where `Jit` draws once for the whole batch.
    """

    axis_name = _AXIS

    def place_batch(self, batch: BatchT) -> BatchT:
        self._check(batch)

        def shard(x: np.ndarray) -> np.ndarray:
            return np.reshape(x, (self.data, x.shape[0] // self.data, *x.shape[1:]))

        return jax.device_put(jax.tree.map(shard, batch), self._sharded)

    def compile(self, step: TrainStep[BatchT]) -> TrainStep[Mapping[str, object]]:
        return self._placing(self._pmap(step, donate_argnums=0))

    def compile_eval(self, eval_step: EvalStep[BatchT]) -> EvalStep[Mapping[str, object]]:
        return self._placing(self._pmap(eval_step))

    def _pmap(self, function: Callable[..., R], **options: Any) -> Callable[..., R]:
        # in_axes and out_axes of None: the state has no axis of replicas
        devices = list(self.mesh.devices.flat)
        return jax.pmap(function, _AXIS, in_axes=(None, 0), out_axes=None, devices=devices, **options)
