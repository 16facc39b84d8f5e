"""Where a step runs, behind one interface: under ``jit`` on one device or on a mesh, or under ``pmap``.

The loop does not care which. The state has the same shapes under all of them, so a checkpoint of one is
resumed under another.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tfm_jax.train.state import TrainState
from tfm_jax.train.step import EvalStep, TrainStep

__all__ = ["Jit", "Parallel", "Pmap", "data_mesh"]

_AXIS = "data"


def data_mesh(data: int) -> Mesh:
    """A mesh of the first ``data`` devices, over which a batch is split.

    Equivalent to::

        jax.make_mesh((data,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:data])

    Args:
        data: number of devices, from 1 to those there are.

    Returns:
        A one-axis mesh, "data", that leaves the sharding inside a jitted function to the compiler.

    Raises:
        ValueError: when there are not as many devices.
    """
    devices = jax.devices()
    if not 1 <= data <= len(devices):
        raise ValueError(
            f"a mesh of data={data} devices was asked for, and this machine has {len(devices)} "
            f"({devices[0].platform}). Ask for 1 to {len(devices)}, or simulate them on the CPU: "
            f"JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={data} python ..."
        )
    return jax.make_mesh((data,), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices[:data])


@dataclasses.dataclass(frozen=True)
class Parallel(abc.ABC):
    """Data parallelism over ``data`` devices: the state is on each of them, the batch is split among them.

    Args:
        data: number of devices.
    """

    data: int = 1

    axis_name = None
    """What to pass to `make_train_step` and `make_eval_step`."""

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices."""
        return data_mesh(self.data)

    @property
    def _everywhere(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    @property
    def _split(self) -> NamedSharding:
        return NamedSharding(self.mesh, P(_AXIS))

    def place_state(self, state: TrainState) -> TrainState:
        """Copies a state to the devices; the copy may be donated and the original stays."""
        # device_put alone can hand out the very same buffer
        return jax.device_put(jax.tree.map(jnp.copy, state), self._everywhere)

    def abstract(self, state: TrainState) -> TrainState:
        """Shapes, dtypes and shardings of a placed state: what a checkpoint is restored into."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._everywhere), state
        )

    def _check(self, batch: Any) -> None:
        for path, x in jax.tree_util.tree_leaves_with_path(batch):
            if not np.ndim(x) or x.shape[0] % self.data:
                raise ValueError(
                    f"batch{jax.tree_util.keystr(path)} has shape {np.shape(x)}; its first axis is to be "
                    f"split among {self.data} devices: make the batch a multiple of {self.data}"
                )

    @abc.abstractmethod
    def place_batch(self, batch: Any) -> Any:
        """Splits a batch on its first axis and sends each device its rows."""

    @abc.abstractmethod
    def compile(self, step: TrainStep) -> TrainStep:
        """The step, compiled: takes a placed state, which is donated, and a batch from the host."""

    @abc.abstractmethod
    def compile_eval(self, eval_step: EvalStep) -> EvalStep:
        """The evaluation step, compiled: takes placed params and a batch from the host."""

    def _placing(self, compiled: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        return lambda state, batch: compiled(state, self.place_batch(batch))


class Jit(Parallel):
    """``jax.jit``; on a mesh, if there are several devices. The compiler adds the gradients.

    Shardings are pinned on both sides, or they would drift after the first step and compile it anew.
    """

    def place_batch(self, batch: Any) -> Any:
        self._check(batch)
        return jax.device_put(batch, self._split)

    def compile(self, step: TrainStep) -> TrainStep:
        return self._placing(
            jax.jit(
                step,
                in_shardings=(self._everywhere, self._split),
                out_shardings=self._everywhere,
                donate_argnums=0,
            )
        )

    def compile_eval(self, eval_step: EvalStep) -> EvalStep:
        return self._placing(
            jax.jit(eval_step, in_shardings=(self._everywhere, self._split), out_shardings=self._everywhere)
        )


class Pmap(Parallel):
    """``jax.pmap``: each device runs the step on its rows; the step adds the gradients over ``axis_name``.

    The same numbers as `Jit`, up to rounding, but for dropout: each of several devices draws from a key of
    its own, and `Jit` draws once for the whole batch.
    """

    axis_name = _AXIS

    def place_batch(self, batch: Any) -> Any:
        self._check(batch)
        rows = lambda x: np.reshape(x, (self.data, x.shape[0] // self.data, *x.shape[1:]))
        return jax.device_put(jax.tree.map(rows, batch), self._split)

    def compile(self, step: TrainStep) -> TrainStep:
        return self._placing(self._pmap(step, donate_argnums=0))

    def compile_eval(self, eval_step: EvalStep) -> EvalStep:
        return self._placing(self._pmap(eval_step))

    def _pmap(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        # in_axes and out_axes of None: the state keeps its shapes, without an axis of copies
        devices = list(self.mesh.devices.flat)
        return jax.pmap(function, _AXIS, in_axes=(None, 0), out_axes=None, devices=devices, **options)
