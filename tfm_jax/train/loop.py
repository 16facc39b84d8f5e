"""The loop: steps, evaluations, checkpoints, early stop, and what may go wrong in between."""

import contextlib
import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal, Protocol

from tfm_jax.train.checkpoint import Checkpoints
from tfm_jax.train.metric_logger import Meter, Writer, require_finite
from tfm_jax.train.optimizers import Schedule
from tfm_jax.train.run_directory import flat
from tfm_jax.train.state import TrainState
from tfm_jax.train.step import TrainStep
from tfm_jax.types import Batch
from tfm_jax.values import plain

__all__ = ["Batches", "EarlyStop", "Fitted", "fit", "resume"]


class Batches(Protocol):
    """An iterator over batches that can be stopped and continued."""

    def __next__(self) -> Batch: ...

    def get_state(self) -> dict[str, Any]:
        """Where it stands, as a small dict that JSON can hold."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes back to where it stood."""
        ...


@dataclasses.dataclass(frozen=True)
class EarlyStop:
    """Stops a run when a figure of the evaluation has not improved for ``patience`` evaluations.

    Args:
        metric: name of the figure.
        patience: evaluations without a new best after which to stop, at least 1.
        mode: whether "min" or "max" is better.
    """

    metric: str
    patience: int
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        if self.patience < 1 or self.mode not in ("min", "max"):
            raise ValueError(f'patience is at least 1 and mode is "min" or "max"; got {self}')

    def update(self, memory: dict[str, Any], figures: Mapping[str, float]) -> dict[str, Any]:
        """The memory ``{"best", "bad"}`` after one more evaluation; ``{}`` before the first."""
        if self.metric not in figures:
            raise ValueError(f"early stop is on {self.metric!r}; the evaluation has {sorted(figures)}")
        value, best = figures[self.metric], memory.get("best")
        # written so that a nan never counts as better
        better = not math.isnan(value) and (
            best is None or (value < best if self.mode == "min" else value > best)
        )
        return {"best": value, "bad": 0} if better else {"best": best, "bad": memory.get("bad", 0) + 1}

    def stops(self, memory: Mapping[str, Any]) -> bool:
        """Whether the patience is at its end."""
        return memory.get("bad", 0) >= self.patience


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What `fit` returns: the last state, its step's number, and why the run ended there."""

    state: TrainState
    step: int
    reason: Literal["steps", "early stop", "signal"]


def fit(
    step: TrainStep,
    state: TrainState,
    batches: Batches,
    *,
    steps: int,
    evaluate: Callable[[TrainState], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int | None = None,
    early_stop: EarlyStop | None = None,
    extra: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    learning_rate: Schedule | None = None,
    unit: str = "examples",
    log_every: int = 10,
    writers: Sequence[Writer] = (),
) -> Fitted:
    """Trains, from the state's own step on, until ``steps`` updates have been made in all.

    Equivalent to (with the rest left out)::

        for batch in batches:
            state, metrics = step(state, batch)

    Each step's metrics are read while the device computes the next, so never more than two steps are in
    flight. A checkpoint holds the state, where the batches stand and what early stop remembers; `resume` puts
    them back. The last step is always evaluated and saved. SIGTERM and the first ctrl-C end the run, saved,
    after the step they come in or the one after it.

    Args:
        step: the compiled step, as by ``parallel.compile(make_train_step(...))``; it may donate its state.
        state: a placed `TrainState`.
        batches: an iterator over batches that can tell where it stands.
        steps: updates in all, those of ``state.step`` included.
        evaluate: ``state -> {name: figure}``.
        evaluate_every: evaluate after every so many steps; None at the end alone.
        checkpoints: where to save; None saves nothing.
        checkpoint_every: save after every so many steps; None at the end alone. When the best one is kept
            too, a multiple of ``evaluate_every``, so that each has its figure.
        early_stop: when to stop before ``steps``.
        extra: what `resume` returned; None at the beginning.
        record: saved with each checkpoint and compared by `resume`: what the run is of, as JSON can hold it.
        learning_rate: the schedule, to be written with the metrics.
        unit: what the loss's weight counts; written as ``<unit>_per_second``.
        log_every: write the means of the metrics after every so many steps.
        writers: called with each step's figures, at most once a step.

    Returns:
        A `Fitted`. Where the state had made ``steps`` already, nothing is run.

    Raises:
        NotFiniteError: naming the step. The last checkpoint is from before, and finite.
        ValueError: when the batches end too soon, or the settings do not fit one another.
    """
    _check_cadence(evaluate, evaluate_every, checkpoints, checkpoint_every, early_stop, log_every)
    meter = Meter(learning_rate, unit, log_every, writers)
    memory = dict((extra or {}).get("early_stop", {}))
    ended = lambda: early_stop is not None and early_stop.stops(memory)
    number = int(state.step)
    with _stop_signals() as signals:
        # Asked once a step, before it is saved: a run that ends has saved the step it ends at.
        ending = number >= steps or ended()
        while not ending:
            state, metrics = step(state, _next(batches, number, steps))
            number += 1
            meter.push(number, metrics)
            figures: Mapping[str, float] = {}
            if evaluate is not None and (number == steps or _due(number, evaluate_every)):
                meter.drain()
                figures = {name: float(figure) for name, figure in evaluate(state).items()}
                memory = memory if early_stop is None else early_stop.update(memory, figures)
            ending = number == steps or ended() or signals.came
            saving = checkpoints is not None and (ending or _due(number, checkpoint_every))
            if figures or saving or ending:
                meter.report(number, figures)
            if saving or ending:
                require_finite(state, number)
            if saving:
                position = {"data": batches.get_state(), "early_stop": memory, "record": dict(record or {})}
                checkpoints.save(number, state, position, figures)
    reason = "steps" if number >= steps else "early stop" if ended() else "signal"
    return Fitted(state, number, reason)


def resume(
    checkpoints: Checkpoints,
    abstract: TrainState,
    batches: Batches,
    *,
    step: int | Literal["latest"] = "latest",
    record: Mapping[str, Any] | None = None,
) -> tuple[TrainState, dict[str, Any]]:
    """Reads a checkpoint and takes the batches back to where they were at it.

    Equivalent to::

        state, extra = checkpoints.restore(abstract, step)
        batches.set_state(extra["data"])

    Args:
        checkpoints: of the run.
        abstract: what to restore into, as by ``parallel.abstract(state)``.
        batches: the iterator, made as it was at the beginning; it is moved.
        step: which one. From an earlier one a run goes on once the later ones are `Checkpoints.set_aside`.
        record: as for `fit`. What is in both records must be the same; an older checkpoint has none.

    Returns:
        The state and the ``extra``, both to be handed to `fit`.

    Raises:
        FileNotFoundError: when there is no checkpoint.
        ValueError: when it does not fit, is damaged, or is of other data or another config than the record.
    """
    _check_record(checkpoints.extra(step).get("record", {}), plain(record or {}))
    state, extra = checkpoints.restore(abstract, step)
    batches.set_state(extra["data"])
    return state, extra


def _check_record(saved: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    old, new = flat(saved), flat(found)
    lines = [
        f"  {name}: the checkpoint has {old[name]!r}, the run now {new[name]!r}"
        for name in old
        if name in new and old[name] != new[name]
    ]
    if lines:
        raise ValueError(
            "the run was begun with other data, files or settings than it has now:\n"
            + "\n".join(lines)
            + "\nPut back what was changed, or begin a new run with the weights of this one: --init-from"
        )


def _due(number: int, every: int | None) -> bool:
    return every is not None and number % every == 0


def _next(batches: Batches, number: int, steps: int) -> Batch:
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(
            f"the batches ended after step {number} of {steps}: give an iterator that repeats, "
            f"or steps={number}"
        ) from None


def _check_cadence(
    evaluate: Callable | None,
    evaluate_every: int | None,
    checkpoints: Checkpoints | None,
    checkpoint_every: int | None,
    early_stop: EarlyStop | None,
    log_every: int,
) -> None:
    if log_every < 1:
        raise ValueError(f"log_every is a number of steps, at least 1; got {log_every}")
    for name, every in (("evaluate_every", evaluate_every), ("checkpoint_every", checkpoint_every)):
        if every is not None and every < 1:
            raise ValueError(f"{name} is a number of steps, at least 1, or None; got {every}")
    if early_stop is not None and (evaluate is None or evaluate_every is None):
        raise ValueError("early_stop needs evaluate and evaluate_every")
    if checkpoints is None or checkpoints.best_metric is None:
        return
    if evaluate is None:
        raise ValueError(
            f"the best checkpoint by {checkpoints.best_metric!r} is to be kept, without evaluate"
        )
    if checkpoint_every is not None and (evaluate_every is None or checkpoint_every % evaluate_every):
        raise ValueError(
            f"checkpoint_every={checkpoint_every} is not a multiple of evaluate_every={evaluate_every}, so "
            f"checkpoints would lack the figure {checkpoints.best_metric!r} by which the best one is kept"
        )


@contextlib.contextmanager
def _stop_signals() -> Iterator[SimpleNamespace]:
    """SIGTERM and ctrl-C set ``came``; a second ctrl-C interrupts as usual."""
    signals = SimpleNamespace(came=False)
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield signals
        return

    def take(*_: Any) -> None:
        signals.came = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
