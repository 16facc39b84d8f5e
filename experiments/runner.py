"""What every experiment does: a run's directory, training in it, and its result.

An experiment's ``run.py`` is then: a config, data, a loss, and what to do with the trained weights.
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

from experiments.config import (
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    defaults_of,
    from_dict,
    load_config,
    parse,
    to_dict,
)
from tfm_jax import data, nn, train
from tfm_jax.console import escape_unencodable, exit_on_error
from tfm_jax.types import Batch, Key, Params

__all__ = [
    "MODEL",
    "MeshConfig",
    "OptimizerConfig",
    "Run",
    "RunConfig",
    "TrainConfig",
    "Trained",
    "check_classes",
    "escape_unencodable",
    "exit_on_error",
    "from_dict",
    "load_config",
    "parse",
    "require",
    "saved_tokenizer",
    "to_dict",
]


MODEL = "model.json"
"""The file of a run's directory that says what the model is, where its ``config.json`` does not say all."""
INPUTS = ("tokenizer.json", "special_tokens_map.json", "preprocessor_config.json")
"""The files of a run's directory that decide what the model reads."""


def require(*packages: str) -> None:
    """Imports packages of the extra, before there is a second thread.

    One that imports scipy breaks over a torch that another thread has imported by halves.

    Args:
        packages: that the experiment will use.

    Raises:
        ImportError: one is not installed.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"this experiment needs {package}: pip install 'tfm_jax[experiments]'"
            ) from error


def saved_tokenizer(directory: Path, make: Callable[[], data.Tokenizer]) -> data.Tokenizer:
    """The tokenizer of a run: the saved one where there is one, as where a run goes on, or else a new one.

    Args:
        directory: of the run.
        make: makes a new one, which is saved.

    Returns:
        The tokenizer.

    Raises:
        ValueError: from ``make``, or for a saved one that cannot be read.
    """
    saved = directory / "tokenizer.json"
    if saved.exists():
        return data.load_tokenizer(saved)
    tokenizer = make()
    os.replace(tokenizer.save(directory / "tokenizer.new.json"), saved)  # whole, or not at all
    return tokenizer


def check_classes(name: str, class_names: Sequence[str], labels: np.ndarray) -> None:
    """Checks that there is something to tell apart; prints the classes without a training example.

    Held-out examples are chosen whatever their label is, so a rare class may have no other ones.

    Args:
        name: the experiment's.
        class_names: of all classes.
        labels: of the training examples, int [rows]

    Raises:
        ValueError: the training examples are of fewer than two classes.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if (counts > 0).sum() < 2:
        raise ValueError(
            f"the training examples are of one class, {class_names[int(np.argmax(counts))]!r}; wanted two or "
            "more, to be told apart. Choose another column of labels, or add examples of other classes"
        )
    if unseen := [class_names[i] for i in np.flatnonzero(counts == 0)]:
        more = ", ..." * (len(unseen) > 20)
        print(f"{name}: classes without a training example: {', '.join(unseen[:20])}{more}")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model's weights, and how training ended.

    Args:
        params: the last weights, or their average where the run keeps one; on all devices.
        fitted: what `train.fit` returned.
        best_step: the step whose checkpoint is best, if one has a figure.
        checkpoints: their directory.
        checkpoint_every: steps between two of them; None where it is not known.
    """

    params: Params
    fitted: train.Fitted
    best_step: int | None
    checkpoints: Path
    checkpoint_every: int | None = None

    def best_params(self) -> Params:
        """The weights of the best checkpoint, on one device; the last ones where none has a figure."""
        item = "params" if self.fitted.state.ema is None else "ema"
        return train.load_params(self.checkpoints, self.best_step, item=item)

    def average_params(self, last: int = 5) -> Params:
        """The mean of the last checkpoints' weights, or of as many as there are; says of which."""
        steps = train.unbroken_steps(self.checkpoints, self.checkpoint_every)[-last:]
        print(
            f"the mean of {len(steps)} checkpoints, those of steps {', '.join(map(str, steps))}", flush=True
        )
        return train.average_params(self.checkpoints, last=len(steps), every=self.checkpoint_every)


class Run:
    """One run of an experiment: opens its directory first, so that what is wrong with it is said at once.

    Args:
        config: of the run.
        name: the experiment's; a run without ``--out`` goes to ``runs/<name>-<date>-<time>``.

    Attributes:
        path: the run's directory.
        parallel: where steps run.

    Raises:
        SystemExit: with one clear line, where the directory or the devices do not fit the config.
    """

    def __init__(self, config: RunConfig, name: str):
        self._begun = time.monotonic()
        self.config, self.name = config, name
        settings, parts = config.train, config.mesh.data * config.train.accumulate
        self.parallel = {"jit": train.Jit, "pmap": train.Pmap}[config.parallel](config.mesh.data)
        try:
            if config.resume and config.out is None:
                raise ValueError("--resume goes on with the run in --out: name that too")
            _ = self.parallel.mesh  # are there as many devices?
            settings.optimizer.build(d_model=1, steps=settings.steps)  # do the settings fit?
            if settings.batch_size % parts:
                raise ValueError(
                    f"a batch of {settings.batch_size} does not divide into {parts} equal parts "
                    "(mesh.data times train.accumulate): choose a train.batch-size that does"
                )
            out = config.out or Path("runs") / time.strftime(f"{name}-%Y%m%d-%H%M%S")
            self._directory = train.RunDirectory(
                out,
                to_dict(config),
                resume=config.resume,
                free=config.FREE,
                defaults=defaults_of(type(config)),
            )
            train.read_json_lines(self._directory.metrics)  # can a resume go on with it?
        except (ValueError, OSError) as error:
            sys.exit(f"{name}: {error}")
        self.path = self._directory.path

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        """Ends the process with one message where the data cannot be used, and leaves no empty run behind."""
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
        given: Params | None = None,
        digests: Mapping[str, str] | None = None,
        valid: Callable[[], Iterable[Batch]] | None = None,
        evaluate: Callable[[Params], Mapping[str, float]] | None = None,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        unit: str = "examples",
        curves: Callable[[list[dict[str, Any]], Path], Any] | None = None,
    ) -> Trained:
        """Trains as the config says; resumes, if it says so and there is a checkpoint.

        Args:
            init: makes the weights from a key.
            loss_fn: of a step; without a key, also of the validation.
            batches: an iterator over training batches; the loader's.
            d_model: the model's width, for the noam schedule.
            given: weights, by name, in place of those that ``init`` makes; they are used up.
            digests: of the examples of each split; a resume beside other ones is refused, as is one beside
                other files of `INPUTS` in the run's directory.
            valid: makes a fresh pass over the validation batches. The loss and each metric of ``loss_fn``
                over them are the figures ``validation/loss``, ``validation/<metric>``.
            evaluate: further figures, from the weights (on all devices).
            best: the figure by which the best checkpoint is kept and the patience counted; None is
                "validation/loss", where there is ``valid``.
            mode: whether its "min" or "max" is best.
            unit: what the loss's weight counts: "examples", "tokens".
            curves: draws the lines of metrics.jsonl into ``curves.png``.

        Returns:
            A `Trained`.

        Raises:
            SystemExit: with one clear line, when a signal ended the run, saved, or a loss was not finite.
        """
        settings = self.config.train
        with self.preparing():  # are there as many layers as are to be frozen?
            state, step, schedule = self._prepare(init, given or {}, loss_fn, d_model)
        best = best or ("validation/loss" if valid is not None else None)
        stop = (
            None
            if settings.patience is None
            else train.EarlyStop(best or "validation/loss", settings.patience, mode)
        )
        with contextlib.ExitStack() as stack:
            record = {"config": self._fixed(), "data": dict(digests or {}), "files": self._inputs()}
            with exit_on_error(self.name):
                checkpoints = stack.enter_context(self._checkpoints(best, mode))
                after, extra = self.config.resume_step or checkpoints.latest() or 0, None
                if after:
                    state, extra = train.resume(
                        checkpoints, self.parallel.abstract(state), batches, step=after, record=record
                    )
                    self._set_aside(checkpoints, after)
                if self.config.resume:
                    self._update_config()
                writers = [stack.enter_context(writer) for writer in self._writers(after)]
            self._say(state, after)
            try:
                fitted = train.fit(
                    step,
                    state,
                    batches,
                    steps=settings.steps,
                    evaluate=_evaluation(self.parallel, loss_fn, valid, evaluate),
                    evaluate_every=settings.evaluate_every,
                    checkpoints=checkpoints,
                    checkpoint_every=settings.checkpoint_every,
                    early_stop=stop,
                    extra=extra,
                    record=record,
                    learning_rate=schedule,
                    unit=unit,
                    log_every=settings.log_every,
                    writers=writers,
                )
            except train.NotFiniteError as error:
                good = checkpoints.latest()
                kept = "no checkpoint was saved" if good is None else f"the last good checkpoint: step {good}"
                sys.exit(f"{self.name}: {error}\n{kept}, {self.path}")
            best_step = checkpoints.best()
        if curves is not None:
            self._draw(curves)
        if fitted.reason == "signal":
            sys.exit(f"{self.name}: stopped at step {fitted.step}, saved; go on: --out {self.path} --resume")
        last = fitted.state.params if fitted.state.ema is None else fitted.state.ema
        return Trained(last, fitted, best_step, self._directory.checkpoints, settings.checkpoint_every)

    def write_model(self, model: nn.Config) -> None:
        """Writes ``model.json``: the model, where the config leaves to the data what it reads.

        Args:
            model: all of it.
        """
        self._directory.write(MODEL, to_dict(model))

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Writes ``result.json`` and prints it; adds the seconds since the run was opened, or resumed.

        Args:
            figures: the final ones, by name.
        """
        name = "seconds_since_resume" if self.config.resume else "seconds"
        result = {**figures, name: round(time.monotonic() - self._begun, 1)}
        self._directory.write("result.json", result)
        console = Console(highlight=False, soft_wrap=True)
        for name, value in result.items():
            text = f"{value:.6g}" if isinstance(value, float) else value
            console.print(f"{name}: {text}", markup=False)
        console.print(f"all of it: {self.path}", markup=False)

    def _prepare(
        self, init: Callable[[Key], Params], given: Params, loss_fn: train.LossFn, d_model: int
    ) -> tuple[train.TrainState, train.TrainStep, train.Schedule]:
        """The state before the first step, the compiled step, and the schedule in it."""
        settings = self.config.train
        optimizer, schedule = settings.optimizer.build(d_model, settings.steps)
        init_key, run_key = jax.random.split(jax.random.key(settings.seed))
        # What is given is never made: the compiler drops what nobody asks for.
        make = jax.jit(lambda key: {name: x for name, x in init(key).items() if name not in given})
        params = {**make(init_key), **given}
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

    def _checkpoints(self, best: str | None, mode: Literal["min", "max"]) -> train.Checkpoints:
        settings = self.config.train
        return train.Checkpoints(
            self._directory.checkpoints,
            keep=settings.keep,
            best=best,
            mode=mode,
            every=settings.checkpoint_every,
        )

    def _fixed(self) -> dict[str, Any]:
        """The settings that may not change while the run goes on, by path."""
        settings, free = train.flat(to_dict(self.config)), (*self.config.FREE, *self.config.PLACES)
        return {name: value for name, value in settings.items() if not train.is_free(name, free)}

    def _inputs(self) -> dict[str, str | None]:
        """Checksums of the files that decide what the model reads; None for one that is not there."""
        paths = {name: self.path / name for name in INPUTS}
        return {name: _checksum(path) if path.is_file() else None for name, path in paths.items()}

    def _set_aside(self, checkpoints: train.Checkpoints, after: int) -> None:
        """Moves later checkpoints out of the way, with the figures that are about to be taken out."""
        metrics = self._directory.metrics
        if (to := checkpoints.set_aside(after)) is not None:
            if metrics.exists():
                shutil.copy(metrics, to / metrics.name)
            print(f"{self.name}: the checkpoints after step {after} are now in {to}", flush=True)

    def _update_config(self) -> None:
        """Writes the settings that a resume has changed into ``config.json``: the next one has them too."""
        settings = {**to_dict(self.config), "resume": False, "resume_step": None}
        if load_config(type(self.config), self.path) != from_dict(type(self.config), settings):
            self._directory.write("config.json", settings)

    def _draw(self, curves: Callable[[list[dict[str, Any]], Path], Any]) -> None:
        try:
            lines = train.read_json_lines(self._directory.metrics)
        except ValueError as error:  # somebody wrote into it meanwhile: the run's result does not hang on it
            print(f"{self.name}: no curves.png: {error}", flush=True)
            return
        if lines:
            curves(lines, self.path / "curves.png")

    def _writers(self, after: int) -> list[Any]:
        return [
            train.JsonLines(self._directory.metrics, after=after),
            train.TensorBoard(self._directory.events, after=after),
            train.Progress(self.config.train.steps, after),
        ]

    def _say(self, state: train.TrainState, after: int) -> None:
        count = sum(x.size for x in jax.tree.leaves(state.params))
        devices, where = list(self.parallel.mesh.devices.flat), self.config.parallel
        kind = f"{len(devices)} {devices[0].platform} device{'s' * (len(devices) > 1)}"
        resumed = f", resumed after step {after}" if after else ""
        print(f"{self.name}: {count:,} parameters, {where} on {kind}, in {self.path}{resumed}", flush=True)


def _checksum(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def _evaluation(
    parallel: train.Parallel,
    loss_fn: train.LossFn,
    valid: Callable[[], Iterable[Batch]] | None,
    evaluate: Callable[[Params], Mapping[str, float]] | None,
) -> Callable[[train.TrainState], Mapping[str, float]] | None:
    if valid is None and evaluate is None:
        return None
    step = parallel.compile_eval(train.make_eval_step(loss_fn, axis_name=parallel.axis_name))

    def figures(state: train.TrainState) -> Mapping[str, float]:
        params = state.params if state.ema is None else state.ema
        found: dict[str, float] = {}
        if valid is not None:
            means = train.means(train.total(step(params, batch) for batch in valid()))
            if not means:
                raise ValueError(
                    "valid() gave no batches: it is to make a fresh pass every time it is called"
                )
            found = {f"validation/{name}": value for name, value in means.items()}
        return {**found, **(evaluate(params) if evaluate is not None else {})}

    return figures
