"""The training loop: steps, evaluation, checkpoints, early stopping, signals."""

import contextlib
import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal, Protocol, TypeVar

from tfm_jax import processes
from tfm_jax.train.checkpoint import Checkpoints
from tfm_jax.train.metric_logger import MetricLogger, Writer, require_finite
from tfm_jax.train.optimizers import Schedule
from tfm_jax.train.profiling import Profile, Tracer
from tfm_jax.train.run_directory import flatten
from tfm_jax.train.state import TrainState
from tfm_jax.train.step import TrainStep
from tfm_jax.train.throughput import FlopsPerStep, Throughput, devices_of
from tfm_jax.types import Array, BatchT, Json
from tfm_jax.values import plain

__all__ = ["Batches", "EarlyStopping", "FitResult", "fit", "resume"]


_BatchT_co = TypeVar("_BatchT_co", bound=Mapping[str, object], covariant=True)


class Batches(Protocol[_BatchT_co]):
    """A resumable iterator over batches, such as that of a ``data.Loader``."""

    def __next__(self) -> _BatchT_co: ...

    def get_state(self) -> dict[str, Json]:
        """The position, as a small dict that JSON can hold."""
        ...

    def set_state(self, state: dict[str, Json]) -> None:
        """Moves to a position that `get_state` returned."""
        ...


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """Early stopping: ends a run when a metric has not improved for ``patience`` evaluations.

    Args:
      metric: name of the metric in the evaluation's results.
      patience: evaluations without a new best before the run stops, at least 1.
      mode: whether "min" or "max" is better.

    Raises:
      ValueError: for a patience below 1 or another mode.
    """

    metric: str
    patience: int
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        if self.patience < 1 or self.mode not in ("min", "max"):
            raise ValueError(
                f"EarlyStopping: got patience={self.patience}, mode={self.mode!r}; wanted a patience of at "
                'least 1 and "min" or "max".'
            )

    def update(self, state: Mapping[str, Any], evaluation: Mapping[str, float]) -> dict[str, object]:
        """The state ``{"best", "bad"}`` after one more evaluation; ``{}`` before the first."""
        if self.metric not in evaluation:
            raise ValueError(
                f"EarlyStopping: got metric={self.metric!r}; wanted one of the evaluation's results, "
                f"{sorted(evaluation)}."
            )
        value, best = evaluation[self.metric], state.get("best")
        # nan never counts as better
        better = not math.isnan(value) and (
            best is None or (value < best if self.mode == "min" else value > best)
        )
        return {"best": value, "bad": 0} if better else {"best": best, "bad": state.get("bad", 0) + 1}

    def should_stop(self, state: Mapping[str, Any]) -> bool:
        """Whether the patience is used up."""
        return state.get("bad", 0) >= self.patience


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` returns: the last state, its step, and why the run ended there."""

    state: TrainState
    step: int
    reason: Literal["steps", "early stop", "signal"]


def fit(
    step: TrainStep[Any],
    state: TrainState,
    batches: Batches[Mapping[str, object]],
    *,
    steps: int,
    evaluate: Callable[[TrainState], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int | None = None,
    early_stopping: EarlyStopping | None = None,
    extra: Mapping[str, Any] | None = None,
    record: Mapping[str, object] | None = None,
    learning_rate: Schedule | None = None,
    unit: str = "examples",
    flops_per_step: FlopsPerStep | None = None,
    profile: Profile | None = None,
    log_every: int = 10,
    writers: Sequence[Writer] = (),
) -> FitResult:
    """Trains from ``state.step`` until step ``steps``.

    Equivalent to (without evaluation, checkpoints and logging)::

        for batch in batches:
            state, metrics = step(state, batch)

    The metrics of a step are read while the device computes the next one, so at most two steps are in flight.
    A checkpoint holds the state, the position of the batches and the state of early stopping; `resume`
    restores them. The last step is always evaluated and saved. SIGTERM and the first Ctrl-C end the run after
    the current step or the next one, and save it.

    With several processes all call it, each with its share of the batches. They evaluate and save together,
    process 0 alone calls the writers, and a signal to one of them ends the run of all after the same step.

    Args:
      step: the compiled step, such as ``parallel.compile(make_train_step(...))``; it may donate its state.
      state: a placed `TrainState`.
      batches: a resumable iterator over batches.
      steps: total number of updates, those before ``state.step`` included.
      evaluate: ``state -> {name: value}``.
      evaluate_every: steps between evaluations; None evaluates after the last step only.
      checkpoints: where to save; None saves nothing.
      checkpoint_every: steps between checkpoints; None saves after the last step only. If ``checkpoints``
        keeps the best one too, a multiple of ``evaluate_every``, so that each has its metric.
      early_stopping: when to stop before ``steps``.
      extra: what `resume` returned; None for a new run.
      record: what identifies the run (data, config), as JSON can hold it. Each checkpoint holds it, and
        `resume` compares it.
      learning_rate: the schedule, to be logged with the metrics.
      unit: what the loss's weight counts; logged as ``<unit>_per_second``, without the time of evaluations,
        checkpoints and compilations. Beside it ``peak_memory_gib``, where the devices report it.
      flops_per_step: the model's FLOPs in a step over all devices, a number or a function of the batch;
        logged as ``mfu``, a fraction of the devices' peak, where that is known.
      profile: steps to trace with ``jax.profiler``, and where to.
      log_every: steps between two writes of the metrics' means.
      writers: called with the metrics, at most once a step.

    Returns:
      A `FitResult`. If ``state.step`` is ``steps`` already, nothing runs.

    Raises:
      NotFiniteError: for a loss, gradient or weight that is not finite; the last checkpoint is from before.
      ValueError: when the batches end too soon, or the arguments do not fit together.
    """
    _check_intervals(evaluate, evaluate_every, checkpoints, checkpoint_every, early_stopping, log_every)
    throughput = Throughput(unit, devices_of(state.params), flops_per_step)
    logger = MetricLogger(learning_rate, throughput, log_every, writers)
    stopping_state = dict((extra or {}).get("early_stop", {}))

    def should_stop() -> bool:
        return early_stopping is not None and early_stopping.should_stop(stopping_state)

    number = int(state.step)
    tracer = Tracer(profile)
    with contextlib.ExitStack() as stack:
        stop = _Stop(stack.enter_context(_stop_signals()))
        stack.callback(lambda: tracer.close(number))
        # Read once a step, before saving: a run that ends has saved its last step.
        ending = number >= steps or should_stop()
        while not ending:
            with tracer.step(number + 1, logger.flush):
                logger.start()
                batch = _next(batches, number, steps)
                state, metrics = step(state, batch)
                number += 1
                logger.push(number, metrics, throughput.flops_of(batch))
            evaluation: Mapping[str, float] = {}
            if evaluate is not None and (number == steps or _is_due(number, evaluate_every)):
                logger.flush()
                evaluation = {name: float(value) for name, value in evaluate(state).items()}
                if early_stopping is not None:
                    stopping_state = early_stopping.update(stopping_state, evaluation)
            ending = number == steps or should_stop() or stop.is_agreed()
            saving = checkpoints if ending or _is_due(number, checkpoint_every) else None
            if evaluation or saving is not None or ending:
                logger.write(number, evaluation)
            if saving is not None or ending:
                require_finite(state, number)
            if saving is not None:
                position = {
                    "data": batches.get_state(),
                    "early_stop": stopping_state,
                    "record": dict(record or {}),
                }
                saving.save(number, state, position, evaluation)
    reason = "steps" if number >= steps else "early stop" if should_stop() else "signal"
    return FitResult(state, number, reason)


def resume(
    checkpoints: Checkpoints,
    abstract: TrainState,
    batches: Batches[Mapping[str, object]],
    *,
    step: int | Literal["latest"] = "latest",
    record: Mapping[str, object] | None = None,
) -> tuple[TrainState, dict[str, Any]]:
    """Restores a checkpoint and moves the batches to their position in it.

    Equivalent to::

        state, extra = checkpoints.restore(abstract, step)
        batches.set_state(extra["data"])

    Args:
      checkpoints: of the run.
      abstract: what to restore into, such as ``parallel.abstract(state)``.
      batches: the iterator, made as for the new run; it is moved.
      step: of the checkpoint. To resume from an earlier one, `Checkpoints.set_aside` the later ones first.
      record: as for `fit`. Entries that both records have must be equal; an old checkpoint has none.

    Returns:
      The state and the ``extra``, both for `fit`.

    Raises:
      FileNotFoundError: when there is no such checkpoint.
      ValueError: when it does not fit, is damaged, or its record differs.
    """
    _check_record(checkpoints.extra(step).get("record", {}), plain(record or {}))
    state, extra = checkpoints.restore(abstract, step)
    batches.set_state(extra["data"])
    return state, extra


def _check_record(saved: Mapping[str, object], current: Mapping[str, object]) -> None:
    old, new = flatten(saved), flatten(current)
    lines = [
        f"  {name}: the checkpoint has {old[name]!r}, the run now {new[name]!r}"
        for name in old
        if name in new and old[name] != new[name]
    ]
    if lines:
        raise ValueError(
            "resume: got other data, files or settings; wanted those of the checkpoint:\n"
            + "\n".join(lines)
            + "\nPut back what was changed, or start a new run with the weights of this one: --init-from"
        )


def _is_due(number: int, every: int | None) -> bool:
    return every is not None and number % every == 0


def _next(batches: Batches[BatchT], number: int, steps: int) -> BatchT:
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(
            f"fit: got {number} batches; wanted {steps}. Pass an iterator that repeats, or steps={number}"
        ) from None


def _check_intervals(
    evaluate: object,
    evaluate_every: int | None,
    checkpoints: Checkpoints | None,
    checkpoint_every: int | None,
    early_stopping: EarlyStopping | None,
    log_every: int,
) -> None:
    if log_every < 1:
        raise ValueError(f"fit: got log_every={log_every}; wanted a number of steps, at least 1.")
    for name, every in (("evaluate_every", evaluate_every), ("checkpoint_every", checkpoint_every)):
        if every is not None and every < 1:
            raise ValueError(f"fit: got {name}={every}; wanted a number of steps, at least 1, or None.")
    if early_stopping is not None and (evaluate is None or evaluate_every is None):
        raise ValueError("fit: got early_stopping alone; wanted evaluate and evaluate_every with it.")
    if checkpoints is None or checkpoints.best_metric is None:
        return
    if evaluate is None:
        raise ValueError(
            f"fit: got checkpoints that keep the best {checkpoints.best_metric!r}, without evaluate; wanted "
            "both. Pass evaluate, or Checkpoints(best=None)"
        )
    if checkpoint_every is not None and (evaluate_every is None or checkpoint_every % evaluate_every):
        raise ValueError(
            f"fit: got checkpoint_every={checkpoint_every}; wanted a multiple of "
            f"evaluate_every={evaluate_every}, so that each checkpoint has its {checkpoints.best_metric!r}."
        )


class _Stop:
    """Whether a signal has ended the run: of one process, or of any, so that all end after the same step."""

    def __init__(self, signals: SimpleNamespace):
        self._signals = signals
        self._pending: Array | None = None

    def is_agreed(self) -> bool:
        """To be read once a step. With several processes it is what they had received a step before."""
        if processes.count() == 1:
            return self._signals.received
        previous, self._pending = self._pending, processes.any_process(self._signals.received)
        return previous is not None and bool(previous)


@contextlib.contextmanager
def _stop_signals() -> Iterator[SimpleNamespace]:
    """SIGTERM and Ctrl-C set ``received``; a second Ctrl-C interrupts as usual."""
    signals = SimpleNamespace(received=False)
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield signals
        return

    def receive(*_: object) -> None:
        signals.received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    handlers = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
