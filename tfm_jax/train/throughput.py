"""Throughput of training: units per second, MFU (model FLOPs utilization) and peak memory."""

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

import jax

from tfm_jax.train.plan.chips import find_chip

__all__ = ["FlopsPerStep", "Throughput", "devices_of", "peak_flops", "peak_memory"]

FlopsPerStep: TypeAlias = float | Callable[[Mapping[str, Any]], float]
"""The model FLOPs of a step, over all devices: a number, or a function of the batch where shapes differ."""

_BACKEND_COMPILE = "/jax/core/compile/backend_compile_duration"


class Device(Protocol):
    """What is read of a ``jax.Device``."""

    id: int
    process_index: int
    device_kind: str

    def memory_stats(self) -> Mapping[str, int] | None: ...


class Throughput:
    """A clock of training steps. What runs between `stop` and `start`, and intervals with a compilation,
    do not count.

    Args:
      unit: what a step's weight counts.
      devices: those that run the step.
      flops_per_step: the model FLOPs of a step; None for no ``mfu``.
    """

    def __init__(self, unit: str, devices: Iterable[Device] = (), flops_per_step: FlopsPerStep | None = None):
        self._unit, self._devices, self._flops_per_step = unit, tuple(devices), flops_per_step
        peaks = [peak_flops(device.device_kind) for device in self._devices]
        self._peak_flops = sum(peak or math.nan for peak in peaks)  # nan: one is unknown
        self._compilations = _compilations()
        self._started_at: float | None = None
        self._compiled_before = 0
        self._reset()

    def _reset(self) -> None:
        self._seconds = self._weight = 0.0
        self._flops: float | None = 0.0

    def flops_of(self, batch: Mapping[str, Any]) -> float | None:
        """The model FLOPs of a step on a batch; None where they are not needed or unknown."""
        if self._flops_per_step is None or math.isnan(self._peak_flops):
            return None
        return self._flops_per_step(batch) if callable(self._flops_per_step) else self._flops_per_step

    def start(self) -> None:
        """Begins an interval, unless one has begun."""
        if self._started_at is None:
            self._begin(time.perf_counter())

    def stop(self) -> None:
        """Drops the current interval: the next one begins at `start`."""
        self._started_at = None

    def add(self, weight: float, flops: float | None = None) -> None:
        """Ends the interval of a step, whose weight and model FLOPs these are, and begins the next.

        An interval in which a program was compiled does not count, nor does its step.
        """
        now = time.perf_counter()
        if self._started_at is not None and len(self._compilations) == self._compiled_before:
            self._seconds += now - self._started_at
            self._weight += weight
            self._flops = None if flops is None or self._flops is None else self._flops + flops
        self._begin(now)

    def take(self) -> dict[str, float]:
        """The metrics since the last call: ``<unit>_per_second``, ``mfu`` in [0, 1], ``peak_memory_gib``.

        A metric that is unknown is absent: all times without a step that counts, ``mfu`` without FLOPs or a
        known device, the memory where the platform does not report it, as CPUs do.
        """
        metrics = {}
        if self._seconds > 0:
            metrics[f"{self._unit}_per_second"] = self._weight / self._seconds
            if self._flops and self._peak_flops > 0:
                metrics["mfu"] = self._flops / self._seconds / self._peak_flops
        if (memory := peak_memory(self._devices)) is not None:
            metrics["peak_memory_gib"] = memory / 2**30
        self._reset()
        return metrics

    def _begin(self, now: float) -> None:
        self._started_at, self._compiled_before = now, len(self._compilations)


def devices_of(tree: object) -> list[Device]:
    """The devices that hold the arrays of a tree, those of other processes included."""
    arrays = (x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array))
    found = {device for x in arrays for device in x.sharding.device_set}
    return sorted(found, key=lambda device: device.id)


def peak_flops(device_kind: str) -> float | None:
    """The published peak of a device in FLOP/s, bfloat16 and dense; None where it is unknown.

    Args:
      device_kind: as ``device.device_kind`` has it, such as "NVIDIA H200" or "TPU v5 lite".
    """
    chip = find_chip(device_kind)
    return None if chip is None else chip.flops


def peak_memory(devices: Iterable[Device]) -> int | None:
    """The most bytes that a device of this process has had in use; None where no device reports it."""
    here = (device for device in devices if device.process_index == jax.process_index())
    stats = [device.memory_stats() or {} for device in here]
    return max((s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s), default=None)


@functools.cache
def _compilations() -> list[float]:
    """The seconds of each compilation of this process since the first call; JAX appends to it."""
    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **kwargs: object) -> None:
        if event == _BACKEND_COMPILE:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seconds
