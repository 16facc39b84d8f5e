"""Metric logging one step behind the device, and the check that metrics and weights are finite."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from tfm_jax import processes
from tfm_jax.train.metrics import add, means, read
from tfm_jax.train.optimizers import Schedule
from tfm_jax.train.state import TrainState
from tfm_jax.train.step import Metrics
from tfm_jax.train.throughput import Throughput
from tfm_jax.types import Array, SumWeight

__all__ = ["MetricLogger", "NotFiniteError", "Writer", "require_finite"]

Writer = Callable[[int, Mapping[str, float], Mapping[str, float]], None]
"""``write(step, means, evaluation)``: a progress bar, a file. ``means`` are those of the metrics since the
last call; ``evaluation`` has the results of an evaluation after this step, ``{}`` without one. Of several
processes, process 0 alone calls it."""


class NotFiniteError(FloatingPointError):
    """The loss, the gradient or a weight is nan or infinite; the message names the step."""


class MetricLogger:
    """Reads metrics one step late, raises where they are not finite, and writes their means."""

    def __init__(
        self,
        learning_rate: Schedule | None,
        throughput: Throughput,
        log_every: int,
        writers: Sequence[Writer],
    ):
        self._learning_rate, self._throughput = learning_rate, throughput
        self._log_every, self._writers = log_every, writers
        self._pending: tuple[int, Metrics, float | None] | None = None
        self._sums: dict[str, SumWeight] = {}

    def start(self) -> None:
        """Starts the clock, before the data of a step are read. It runs until `flush`."""
        self._throughput.start()

    def push(self, step: int, metrics: Metrics, flops: float | None = None) -> None:
        """Takes a step's metrics, reads those of the step before, and writes when they are due."""
        previous, self._pending = self._pending, (step, metrics, flops)
        if previous is not None:
            self._read(*previous)
            if previous[0] % self._log_every == 0:
                self._write(previous[0], {})

    def flush(self) -> None:
        """Reads the metrics of the last step, and stops the clock."""
        if self._pending is not None:
            self._read(*self._pending)
            self._pending = None
        self._throughput.stop()

    def write(self, step: int, evaluation: Mapping[str, float]) -> None:
        """Flushes, then writes the means and the results of an evaluation."""
        self.flush()
        self._write(step, evaluation)

    def _read(self, step: int, metrics: Metrics, flops: float | None) -> None:
        pairs = read(metrics)
        self._throughput.add(pairs["loss"][1], flops)
        for name, words in (("loss", "loss"), ("grad_norm", "gradient norm")):
            if name in pairs and not math.isfinite(pairs[name][0]):
                raise NotFiniteError(
                    f"fit: got a {words} of {pairs[name][0]} at step {step}; wanted a finite one. The run "
                    "stops, and its checkpoints are from before. Try a lower learning rate, a longer warm-up "
                    "or clip_norm; JAX_DEBUG_NANS=1 finds the operation"
                )
        self._sums = add(self._sums, pairs)

    def _write(self, step: int, evaluation: Mapping[str, float]) -> None:
        line = {**means(self._sums), **self._throughput.take()}
        if self._learning_rate is not None:
            line["learning_rate"] = float(self._learning_rate(step - 1))
        for write in self._writers if processes.is_main() else ():
            write(step, line, evaluation)
        self._sums = {}


def require_finite(state: TrainState, step: int) -> None:
    """Raises `NotFiniteError` if a weight is not finite: a step's metrics are of the weights before it."""
    if not _all_finite((state.params, state.ema)):
        raise NotFiniteError(
            f"fit: got a weight that is not finite after step {step}; wanted finite ones. The run stops, and "
            "its checkpoints are from before"
        )


@jax.jit
def _all_finite(tree: object) -> Array:
    leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.bool_(True)
