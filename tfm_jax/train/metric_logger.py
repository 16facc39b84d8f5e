"""Reading a run's metrics as it goes, and stopping at what is not finite."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tfm_jax.train.metrics import add, means, read
from tfm_jax.train.optimizers import Schedule
from tfm_jax.train.state import TrainState
from tfm_jax.train.step import Metrics
from tfm_jax.types import Array, SumWeight

__all__ = ["Meter", "NotFiniteError", "Writer", "require_finite"]

Writer = Callable[[int, Mapping[str, float], Mapping[str, float]], None]
"""``write(step, means, evaluation)``: a progress bar, a file. The means of the metrics since the last call,
and the figures of the evaluation after this step, ``{}`` where there was none."""


class NotFiniteError(FloatingPointError):
    """The loss, the gradient or a weight became nan or infinite; the message names the step."""


class Meter:
    """Reads metrics one step late, stops at what is not finite, and writes the means."""

    def __init__(self, learning_rate: Schedule | None, unit: str, log_every: int, writers: Sequence[Writer]):
        self._learning_rate, self._unit, self._log_every, self._writers = (
            learning_rate,
            unit,
            log_every,
            writers,
        )
        self._waiting: tuple[int, Metrics] | None = None
        self._sums: dict[str, SumWeight] = {}
        self._start = self._read_at = time.perf_counter()

    def push(self, number: int, metrics: Metrics) -> None:
        """Takes a step's metrics, reads those of the step before, and writes if it is time."""
        before, self._waiting = self._waiting, (number, metrics)
        if before is not None:
            self._read(*before)
            if before[0] % self._log_every == 0:
                self._write(before[0], {})

    def drain(self) -> None:
        """Reads what is left to read."""
        if self._waiting is not None:
            self._read(*self._waiting)
            self._waiting = None

    def report(self, number: int, figures: Mapping[str, float]) -> None:
        """Reads what is left, and writes it with the figures of an evaluation."""
        self.drain()
        self._write(number, figures)

    def _read(self, number: int, metrics: Metrics) -> None:
        pairs = read(metrics)
        self._read_at = time.perf_counter()
        for name in ("loss", "grad_norm"):
            if name in pairs and not math.isfinite(pairs[name][0]):
                what = {"loss": "loss", "grad_norm": "norm of the gradient"}[name]
                raise NotFiniteError(
                    f"the {what} of step {number} is {pairs[name][0]}; the run stops, and its checkpoints "
                    "are from before. A lower learning rate, a longer warm-up or clip_norm may help; "
                    "JAX_DEBUG_NANS=1 finds the place"
                )
        self._sums = add(self._sums, pairs)

    def _write(self, number: int, figures: Mapping[str, float]) -> None:
        weight = self._sums["loss"][1] if self._sums else 0.0
        seconds = max(self._read_at - self._start, 1e-9)
        line = {**means(self._sums), f"{self._unit}_per_second": weight / seconds}
        if self._learning_rate is not None:
            line["learning_rate"] = float(self._learning_rate(number - 1))
        for write in self._writers:
            write(number, line, figures)
        self._sums, self._start = {}, time.perf_counter()


@jax.jit
def _finite(tree: Any) -> Array:
    leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.bool_(True)


def require_finite(state: TrainState, number: int) -> None:
    """Raises `NotFiniteError` if a weight is not finite: metrics are of the weights before the step."""
    if not _finite((state.params, state.ema)):
        raise NotFiniteError(
            f"a weight is not finite after step {number}; the run stops, and its checkpoints are from before"
        )
