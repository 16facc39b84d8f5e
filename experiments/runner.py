"""A training run of an experiment: its directory, training with resume, and its result.

The ``run.py`` of an experiment adds the data, the loss and the test of the trained model.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console

from experiments.config import RunConfig
from tfm_jax import data, nn, train
from tfm_jax.console import exit_on_error
from tfm_jax.types import Batch, Key, Params
from tfm_jax.values import to_dict

__all__ = [
    "MODEL_FILE",
    "PREPROCESSING_FILES",
    "Run",
    "Trained",
    "check_classes",
    "load_or_make_tokenizer",
    "require_packages",
]

MODEL_FILE = "model.json"
"""The config of the model, in a run's directory, if ``config.json`` leaves a part of it to the data."""
PREPROCESSING_FILES = ("tokenizer.json", "special_tokens_map.json", "preprocessor_config.json")
"""The files of a run's directory that decide the input of the model."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of training.

    Args:
      params: the last weights, or their moving average if the run keeps one; on all devices.
      fit_result: of `train.fit`.
      best_step: the step of the best checkpoint, if any has the metric.
      checkpoints: their directory.
      checkpoint_every: steps between checkpoints; None if unknown.
    """

    params: Params
    fit_result: train.FitResult
    best_step: int | None
    checkpoints: Path
    checkpoint_every: int | None = None

    def best_params(self) -> Params:
        """The weights of the best checkpoint, on one device; the last ones if none has the metric."""
        item = "params" if self.fit_result.state.ema is None else "ema"
        return train.load_params(self.checkpoints, self.best_step, item=item)

    def average_params(self, last: int = 5) -> Params:
        """The mean of the weights of the last checkpoints, or of fewer if there are; prints their steps."""
        steps = train.consecutive_steps(self.checkpoints, self.checkpoint_every)[-last:]
        listed = ", ".join(map(str, steps))
        print(f"averages the weights of {len(steps)} checkpoints, of steps {listed}", flush=True)
        return train.average_params(self.checkpoints, last=len(steps), every=self.checkpoint_every)


class Run:
    """One run of an experiment. Checks its settings and opens its directory first, before data are loaded.

    Args:
      config: of the run.
      name: of the experiment; a run without ``--out`` goes to ``runs/<name>-<date>-<time>``.

    Attributes:
      path: the run's directory.
      parallel: how steps run on the devices.

    Raises:
      SystemExit: with one message, when the directory or the devices do not fit the config.
    """

    def __init__(self, config: RunConfig, name: str):
        self._started_at = time.monotonic()
        self.config, self.name = config, name
        self.parallel = {"jit": train.Jit, "pmap": train.Pmap}[config.parallel](config.mesh.data)
        try:
            self._check()
            out = config.out or Path("runs") / time.strftime(f"{name}-%Y%m%d-%H%M%S")
            self._directory = train.RunDirectory(
                out,
                to_dict(config),
                resume=config.resume,
                free=config.MAY_CHANGE,
                defaults=to_dict(type(config)()),
            )
            train.read_json_lines(self._directory.metrics)  # raises for lines that a resume cannot keep
        except (ValueError, OSError) as error:
            sys.exit(f"{name}: {error}")
        self.path = self._directory.path

    def _check(self) -> None:
        """Raises a ValueError for settings that do not fit together or this machine."""
        config, settings = self.config, self.config.train
        if config.resume and config.out is None:
            raise ValueError("got --resume without --out; wanted the directory of the run. Add --out")
        _ = self.parallel.mesh  # raises if there are fewer devices
        settings.optimizer.build(d_model=1, steps=settings.steps)  # raises for settings that do not fit
        parts = config.mesh.data * settings.accumulate
        if settings.batch_size % parts:
            raise ValueError(
                f"got train.batch_size={settings.batch_size}; wanted a multiple of mesh.data times "
                f"train.accumulate, {parts}."
            )

    @contextlib.contextmanager
    def setup(self) -> Iterator[None]:
        """Ends the process with one message on an error, and removes the directory of a new run."""
        with exit_on_error(self.name):
            try:
                yield
            except Exception:
                if not self.config.resume:
                    shutil.rmtree(self.path)
                raise

    def fit(
        self,
        *,
        init: Callable[[Key], Params],
        loss_fn: train.LossFn,
        batches: train.Batches,
        d_model: int,
        initial_params: Params | None = None,
        digests: Mapping[str, str] | None = None,
        validation: Callable[[], Iterable[Batch]] | None = None,
        evaluate: Callable[[Params], Mapping[str, float]] | None = None,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        unit: str = "examples",
        curves: Callable[[list[dict[str, Any]], Path], Any] | None = None,
    ) -> Trained:
        """Trains as configured; with ``--resume``, from a checkpoint if there is one.

        Args:
          init: ``key -> params``.
          loss_fn: of training; with the key None, of validation.
          batches: a resumable iterator over training batches, such as the loader's.
          d_model: the model's width, for the noam schedule.
          initial_params: weights, by name, in place of those of ``init``; they are donated.
          digests: of the examples of each split. A resume with other ones is an error, as is one with other
            `PREPROCESSING_FILES` in the run's directory.
          validation: makes a new pass over the validation batches. The means of the loss and of each metric
            of ``loss_fn`` are ``validation/loss``, ``validation/<metric>``.
          evaluate: further metrics, from the weights (on all devices).
          best: the metric of the best checkpoint and of early stopping; None is "validation/loss", if there
            is ``validation``.
          mode: whether "min" or "max" of it is best.
          unit: what the loss's weight counts: "examples", "tokens".
          curves: draws the lines of metrics.jsonl into ``curves.png``.

        Returns:
          A `Trained`.

        Raises:
          SystemExit: with one message, when a signal ended the run, saved, or a loss was not finite.
        """
        settings = self.config.train
        with self.setup():  # raises if more layers are frozen than there are
            state, step, schedule = self._prepare(init, initial_params or {}, loss_fn, d_model)
        best = best or ("validation/loss" if validation is not None else None)
        early_stopping = None
        if settings.patience is not None:
            early_stopping = train.EarlyStopping(best or "validation/loss", settings.patience, mode)
        record = {"config": self._fixed_fields(), "data": dict(digests or {}), "files": self._file_digests()}
        with contextlib.ExitStack() as stack:
            with exit_on_error(self.name):
                checkpoints = stack.enter_context(self._checkpoints(best, mode))
                state, start, extra = self._resume(checkpoints, state, batches, record)
                writers = [stack.enter_context(writer) for writer in self._writers(start)]
            self._print_summary(state, start)
            try:
                result = train.fit(
                    step,
                    state,
                    batches,
                    steps=settings.steps,
                    evaluate=_evaluation(self.parallel, loss_fn, validation, evaluate),
                    evaluate_every=settings.evaluate_every,
                    checkpoints=checkpoints,
                    checkpoint_every=settings.checkpoint_every,
                    early_stopping=early_stopping,
                    extra=extra,
                    record=record,
                    learning_rate=schedule,
                    unit=unit,
                    log_every=settings.log_every,
                    writers=writers,
                )
            except train.NotFiniteError as error:
                latest = checkpoints.latest()
                saved = (
                    "no checkpoint was saved"
                    if latest is None
                    else f"the last checkpoint is of step {latest}"
                )
                sys.exit(f"{self.name}: {error}\n{saved}, {self.path}")
            best_step = checkpoints.best()
        if curves is not None:
            self._draw(curves)
        if result.reason == "signal":
            sys.exit(
                f"{self.name}: stopped at step {result.step}, saved; resume by --out {self.path} --resume"
            )
        last = result.state.params if result.state.ema is None else result.state.ema
        return Trained(last, result, best_step, self._directory.checkpoints, settings.checkpoint_every)

    def write_model(self, model: nn.Config) -> None:
        """Writes ``model.json``, for a model of which ``config.json`` leaves a part to the data."""
        self._directory.write_config(MODEL_FILE, to_dict(model))

    def finish(self, results: Mapping[str, Any]) -> None:
        """Writes ``result.json`` and prints it, with the seconds since the start or the resume.

        Args:
          results: the final metrics, by name.
        """
        name = "seconds_since_resume" if self.config.resume else "seconds"
        results = {**results, name: round(time.monotonic() - self._started_at, 1)}
        self._directory.write("result.json", results)
        console = Console(highlight=False, soft_wrap=True)
        for name, value in results.items():
            text = f"{value:.6g}" if isinstance(value, float) else value
            console.print(f"{name}: {text}", markup=False)
        console.print(f"the run's directory: {self.path}", markup=False)

    def _prepare(
        self, init: Callable[[Key], Params], initial_params: Params, loss_fn: train.LossFn, d_model: int
    ) -> tuple[train.TrainState, train.TrainStep, train.Schedule]:
        """The initial state, the compiled step, and its schedule."""
        settings = self.config.train
        optimizer, schedule = settings.optimizer.build(d_model, settings.steps)
        init_key, run_key = jax.random.split(jax.random.key(settings.seed))

        @jax.jit
        def make_others(key: Key) -> Params:  # XLA drops the computation of unused weights
            return {name: x for name, x in init(key).items() if name not in initial_params}

        params = {**make_others(init_key), **initial_params}
        state = train.init_state(params, optimizer, run_key, ema=settings.ema_decay is not None)
        step = train.make_train_step(
            train.freeze_layers(loss_fn, settings.optimizer.frozen_layers),
            optimizer,
            accumulate=settings.accumulate,
            clip_norm=settings.optimizer.clip_norm,
            ema_decay=settings.ema_decay,
            axis_name=self.parallel.axis_name,
        )
        return self.parallel.place_state(state), self.parallel.compile(step), schedule

    def _resume(
        self,
        checkpoints: train.Checkpoints,
        state: train.TrainState,
        batches: train.Batches,
        record: Mapping[str, Any],
    ) -> tuple[train.TrainState, int, dict[str, Any] | None]:
        """The state to start from, its step, and the ``extra`` of its checkpoint; as given without one."""
        step, extra = self.config.resume_step or checkpoints.latest() or 0, None
        if step:
            abstract = self.parallel.abstract(state)
            state, extra = train.resume(checkpoints, abstract, batches, step=step, record=record)
            self._set_aside(checkpoints, step)
        if self.config.resume:
            self._update_config()
        return state, step, extra

    def _checkpoints(self, best: str | None, mode: Literal["min", "max"]) -> train.Checkpoints:
        settings = self.config.train
        return train.Checkpoints(
            self._directory.checkpoints,
            keep=settings.keep,
            best=best,
            mode=mode,
            every=settings.checkpoint_every,
        )

    def _fixed_fields(self) -> dict[str, Any]:
        """The fields of the config that may not change on a resume, by path."""
        fields = train.flatten(to_dict(self.config))
        excluded = (*self.config.MAY_CHANGE, *self.config.LOCATIONS)
        return {name: value for name, value in fields.items() if not train.is_under(name, excluded)}

    def _file_digests(self) -> dict[str, str | None]:
        """Digests of the `PREPROCESSING_FILES`; None for a missing one."""
        paths = {name: self.path / name for name in PREPROCESSING_FILES}
        return {name: _digest(path) if path.is_file() else None for name, path in paths.items()}

    def _set_aside(self, checkpoints: train.Checkpoints, after: int) -> None:
        """Moves later checkpoints elsewhere, with a copy of the metrics that a resume removes."""
        metrics = self._directory.metrics
        if (to := checkpoints.set_aside(after)) is not None:
            if metrics.exists():
                shutil.copy(metrics, to / metrics.name)
            print(f"{self.name}: moved the checkpoints after step {after} to {to}", flush=True)

    def _update_config(self) -> None:
        """Writes ``config.json`` with the settings of a resume, for the next one, in the current format."""
        settings = {**to_dict(self.config), "resume": False, "resume_step": None}
        self._directory.write_config("config.json", settings)

    def _draw(self, curves: Callable[[list[dict[str, Any]], Path], Any]) -> None:
        try:
            lines = train.read_json_lines(self._directory.metrics)
        except ValueError as error:  # another program wrote into the file; the run's result does not need it
            print(f"{self.name}: no curves.png: {error}", flush=True)
            return
        if lines:
            curves(lines, self.path / "curves.png")

    def _writers(self, start: int) -> list[Any]:
        return [
            train.JsonLines(self._directory.metrics, after=start),
            train.TensorBoard(self._directory.events, after=start),
            train.Progress(self.config.train.steps, start),
        ]

    def _print_summary(self, state: train.TrainState, start: int) -> None:
        count = sum(x.size for x in jax.tree.leaves(state.params))
        devices = list(self.parallel.mesh.devices.flat)
        kind = f"{len(devices)} {devices[0].platform} device{'s' * (len(devices) > 1)}"
        resumed = f", resumed after step {start}" if start else ""
        print(
            f"{self.name}: {count:,} parameters, {self.config.parallel} on {kind}, in {self.path}{resumed}",
            flush=True,
        )


def require_packages(*names: str) -> None:
    """Imports packages of the extra ``experiments``, before a second thread starts.

    One that imports scipy fails if another thread has imported a part of torch.

    Args:
      names: of the packages.

    Raises:
      ImportError: one is not installed.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"got no {name}; wanted it for this experiment. pip install 'tfm_jax[experiments]'"
            ) from error


def load_or_make_tokenizer(directory: Path, make: Callable[[], data.Tokenizer]) -> data.Tokenizer:
    """Loads the tokenizer of a run, as on a resume; makes and saves one if there is none.

    Args:
      directory: of the run.
      make: makes a new tokenizer.

    Returns:
      The tokenizer.

    Raises:
      ValueError: from ``make``, or for a file that cannot be read.
    """
    path = directory / "tokenizer.json"
    if path.exists():
        return data.load_tokenizer(path)
    tokenizer = make()
    os.replace(tokenizer.save(directory / "tokenizer.new.json"), path)  # atomic
    return tokenizer


def check_classes(name: str, class_names: Sequence[str], labels: np.ndarray) -> None:
    """Checks that there are two classes to learn; prints those without a training example.

    The choice of held-out examples ignores labels, so all examples of a rare class may be held out.

    Args:
      name: of the experiment.
      class_names: of all classes.
      labels: of the training examples, int [examples]

    Raises:
      ValueError: the training examples have fewer than two classes.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if (counts > 0).sum() < 2:
        raise ValueError(
            f"got training examples of one class, {class_names[int(np.argmax(counts))]!r}; wanted two or "
            "more classes. Choose another column of labels, or add examples of other classes"
        )
    if missing := [class_names[i] for i in np.flatnonzero(counts == 0)]:
        more = ", ..." * (len(missing) > 20)
        print(f"{name}: classes without a training example: {', '.join(missing[:20])}{more}")


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def _evaluation(
    parallel: train.Parallel,
    loss_fn: train.LossFn,
    validation: Callable[[], Iterable[Batch]] | None,
    evaluate: Callable[[Params], Mapping[str, float]] | None,
) -> Callable[[train.TrainState], Mapping[str, float]] | None:
    """The evaluation of a state, of its moving average if it has one; None without anything to evaluate."""
    if validation is None and evaluate is None:
        return None
    step = parallel.compile_eval(train.make_eval_step(loss_fn, axis_name=parallel.axis_name))

    def evaluate_state(state: train.TrainState) -> Mapping[str, float]:
        params = state.params if state.ema is None else state.ema
        results: dict[str, float] = {}
        if validation is not None:
            means = train.means(train.total(step(params, batch) for batch in validation()))
            if not means:
                raise ValueError(
                    "Run.fit: got no batches from validation(); wanted a new pass at every call."
                )
            results = {f"validation/{name}": value for name, value in means.items()}
        return {**results, **(evaluate(params) if evaluate is not None else {})}

    return evaluate_state
