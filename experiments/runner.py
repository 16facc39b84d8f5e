"""A training run of an experiment: its directory, its devices, resuming, and its result.

The ``run.py`` of an experiment has the data, the model, the loss, the call of ``train.fit``, and the test.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import optax

from experiments.config import RunConfig, TrainConfig
from experiments.inputs import RunInputs, is_permuted
from experiments.longer_runs import check_plan, continue_run, describe_schedule, lengthen, plan_of
from experiments.messages import exit_on_error
from tfm_jax import compilation_cache, data, nn, processes, runs, train, viz
from tfm_jax.pytrees import replace_leaves
from tfm_jax.sharding import NotDivisibleError
from tfm_jax.train.checkpoint_files import consecutive_steps
from tfm_jax.train.loop import FitResult
from tfm_jax.train.parallel import Parallel
from tfm_jax.train.profiling import read_steps
from tfm_jax.train.run_directory import BEST_METRIC, MODEL_FILE, RunDirectory, flatten
from tfm_jax.train.step import TrainStep
from tfm_jax.train.writers import read_json_lines
from tfm_jax.types import BatchT, Key, Params
from tfm_jax.values import to_dict

__all__ = [
    "Run",
    "Stopped",
    "check_inputs",
    "make_step",
    "make_tokenizer",
    "require_packages",
    "start_on_main",
]

C = TypeVar("C", bound=RunConfig)
R = TypeVar("R")
_PREPROCESSING_FILES = ("tokenizer.json", "special_tokens_map.json", runs.PROCESSOR_FILE)
"""The files of a run's directory that decide the input of the model."""


class Stopped(SystemExit):
    """A signal ended the training of a run, whose last step is saved; ends the process with a message."""


class Run(Generic[C]):
    """One run of an experiment. Checks its settings and opens its directory first, before data are loaded.

    Args:
      config: of the run.
      name: of the experiment; a run without ``--out`` goes to ``runs/<name>-<date>-<time>``.

    Attributes:
      config: of the run; a resume with more steps has added to ``train.optimizer.extended``.
      path: the run's directory.
      inputs: what the run is trained on and holds out.
      parallel: how steps run on the devices; the state is replicated until `shard`.

    Raises:
      SystemExit: with one message, when the directory or the devices do not fit the config.
    """

    def __init__(self, config: C, name: str):
        self._started_at = time.monotonic()
        self.name = name
        self.best_step: int | None = None
        with exit_on_error(name, config):
            compilation_cache.enable(config.compilation_cache)
            if config.resume and config.out is None:
                raise ValueError("got --resume without --out; wanted the directory of the run. Add --out")
            parsed, config = config, lengthen(config)
            self.config, self._is_lengthened = config, config is not parsed
            mesh = config.mesh.build()  # raises if it does not fit the devices
            self.parallel: Parallel = train.Jit(mesh) if config.parallel == "jit" else train.Pmap(mesh)
            config.train.optimizer.build(d_model=1, steps=config.train.steps)  # raises if they do not fit
            parts = self.parallel.batch_parts * config.train.accumulate
            if config.train.batch_size % parts:
                names = " x ".join(f"--mesh.{name}" for name in self.parallel.batch_axes)
                raise ValueError(
                    f"got train.batch_size={config.train.batch_size}; wanted a multiple of {names} times "
                    f"--train.accumulate, {parts}."
                )
            new = f"runs/{time.strftime(f'{name}-%Y%m%d-%H%M%S')}"
            out = config.out or Path(processes.from_main("name of the run", lambda: new))
            settings, defaults = to_dict(config), to_dict(type(config)())
            options = {"resume": config.resume, "free": config.MAY_CHANGE, "defaults": defaults}
            self._directory = RunDirectory(out, settings, **options)
            read_json_lines(self._directory.metrics)  # raises for lines that a resume cannot keep
            self.path = self._directory.path
            self.inputs = RunInputs(name, self.path, is_permuted(config))

    @contextlib.contextmanager
    def setup(self) -> Iterator[None]:
        """Ends the process with one message on an error, and removes the directory of a new run."""

        def remove() -> None:
            if not self.config.resume and processes.is_main():
                shutil.rmtree(self.path)

        with exit_on_error(self.name, self.config), processes.on_failure(remove):
            yield

    def shard(self, axes: Params) -> None:
        """Shards the state over the mesh from here on, by the letters of each parameter: ``model.axes()``.

        Call it before the other methods; under pmap the state stays replicated.

        Raises:
          ValueError: the mesh has an expert axis, and the model no experts.
        """
        experts = self.parallel.mesh.shape["expert"]
        if experts > 1 and not any("E" in letters.split() for letters in jax.tree.leaves(axes)):
            raise ValueError(
                f"got mesh.expert={experts}, and a model without experts; wanted mesh.expert=1. Or give "
                "--model.feed-forward 'MixtureOfExperts(n_experts=8, top_k=2)'"
            )
        if isinstance(self.parallel, train.Jit):
            self.parallel = dataclasses.replace(self.parallel, axes=axes)

    def check_inputs(self, model: nn.Pure, *shapes: tuple[int, ...], dtype: str = "int32") -> None:
        """Raises a ValueError, without computing, for parameters or examples that do not fit model and mesh.

        Args:
          model: the model.
          shapes: of an example of each input, without the batch.
          dtype: of the inputs.
        """
        try:
            self.parallel.params_shardings(jax.eval_shape(model.init, jax.random.key(0)))
        except NotDivisibleError as error:
            if error.letter != "V":
                raise
            size = -(-error.size // error.parts) * error.parts
            raise ValueError(
                f"{error} Or --model.vocab-size {size}: the vocabulary, and entries that no token has."
            ) from error
        with self.parallel.context():
            check_inputs(model, *((self.parallel.batch_parts, *shape) for shape in shapes), dtype=dtype)

    @property
    def share(self) -> dict[str, int]:
        """What this process reads of each batch: the arguments ``rank`` and ``world`` of a `data.Loader`."""
        rank, world = self.parallel.batch_share
        return {"rank": rank, "world": world}

    def on_main(self, function: Callable[[Params], R], params: Params) -> R:
        """``function(params)`` on one device, by process 0 of several, which alone writes files; others wait.

        Args:
          function: returns what JSON can hold.
          params: the weights, as `end_training` or `best_params` returns them.
        """
        params = train.to_one_device(params)  # by all
        return processes.from_main("result", lambda: function(params))

    def init_state(
        self,
        init: Callable[[Key], Params],
        optimizer: optax.GradientTransformation,
        initial_params: Params | None = None,
    ) -> train.TrainState:
        """The initial state on the devices: ``init(key)``, with ``initial_params`` in place of its own.

        Each device makes or gets its shard; none has the whole state.
        """
        settings = self.config.train
        ema = settings.ema_decay is not None

        def make_state(key: Key, given: Params) -> train.TrainState:
            init_key, run_key = jax.random.split(key)
            params = replace_leaves(init(init_key), given)  # XLA drops the computation of unused weights
            return train.init_state(params, optimizer, run_key, ema=ema)

        given = self.parallel.place_params(initial_params or {})
        return self.parallel.create(make_state, jax.random.key(settings.seed), given)

    def compile_step(
        self, loss_fn: train.LossFn[BatchT], optimizer: optax.GradientTransformation
    ) -> TrainStep[BatchT]:
        """``train.make_train_step`` with the settings of the run, compiled for its devices."""
        step = make_step(self.config.train, loss_fn, optimizer, axis_name=self.parallel.axis_name)
        return self.parallel.compile(step)

    def compile_evaluation(
        self,
        loss_fn: train.LossFn[BatchT],
        batches: Iterable[Mapping[str, object]],
        metrics: Callable[[Params], Mapping[str, float]] | None = None,
    ) -> Callable[[train.TrainState], Mapping[str, float]]:
        """The evaluation of a state, of its moving average if it has one.

        Args:
          loss_fn: ``(params, batch, None) -> ((sum, weight), metrics)``.
          batches: of validation; each iteration is a new pass. The means of the loss and of each metric are
            ``validation/loss``, ``validation/<metric>``.
          metrics: further ones, from the weights; computed by process 0 of several.
        """
        step = self.parallel.compile_eval(train.make_eval_step(loss_fn, axis_name=self.parallel.axis_name))

        def evaluate(state: train.TrainState) -> Mapping[str, float]:
            params = state.params if state.ema is None else state.ema
            means = train.means(train.evaluate(step, params, batches))
            further = {} if metrics is None else self.on_main(metrics, params)
            return {**{f"validation/{name}": value for name, value in means.items()}, **further}

        return evaluate

    @contextlib.contextmanager
    def session(
        self,
        state: train.TrainState,
        batches: train.Batches[BatchT],
        digests: Mapping[str, str],
        *,
        task: runs.Task,
        model: nn.Config,
    ) -> Iterator[tuple[train.TrainState, dict[str, Any]]]:
        """Opens checkpoints and logs, and resumes: the state to start from, and what ``train.fit`` needs.

        Args:
          state: the initial state; a resume deletes its arrays before it reads a checkpoint.
          batches: of training; with ``--resume`` moved to where the run stopped.
          digests: of the examples of each split. A resume with other ones is an error, as is one with other
            files of preprocessing in the run's directory.
          task: what the model is for, for ``task.json``: with ``model.json`` and the tokenizer, all that its
            use needs.
          model: its whole config, of which ``config.json`` leaves a part to the data.

        Raises:
          SystemExit: with one message, when the run cannot be resumed or a loss was not finite.
        """
        settings, directory = self.config.train, self._directory
        record = {
            "config": directory.fixed_fields(self.config.LOCATIONS),
            "data": dict(digests),
            "files": {name: _digest(self.path / name) for name in _PREPROCESSING_FILES},
        }
        with contextlib.ExitStack() as stack:
            with exit_on_error(self.name, self.config):
                processes.agree("the data", flatten({"data": record["data"], "files": record["files"]}))
                keep, every = settings.keep, settings.checkpoint_every
                checkpoints = train.Checkpoints(
                    directory.checkpoints, keep=keep, best=BEST_METRIC, every=every,
                    restore_concurrent_gb=self.config.restore_concurrent_gb,
                )  # fmt: skip
                stack.enter_context(checkpoints)
                state, extra = self._resume(checkpoints, state, batches, record)
                directory.write_config(MODEL_FILE, to_dict(model))
                runs.write_task(self.path, task, runs.Origin.now(digests, settings.seed))
                self.inputs.write()
                start = int(state.step)
                writers = [
                    stack.enter_context(train.JsonLines(directory.metrics, after=start)),
                    stack.enter_context(train.TensorBoard(directory.events, after=start)),
                    stack.enter_context(train.Progress(settings.steps, start)),
                    _CacheHits(self.name),
                ]
            self._print_summary(state, start)
            if self._is_lengthened:
                schedule = settings.optimizer.build(model.d_model, settings.steps)[1]
                print(f"{self.name}: {describe_schedule(settings, schedule)}", flush=True)
            options = {
                "steps": settings.steps,
                "evaluate_every": settings.evaluate_every,
                "checkpoints": checkpoints,
                "checkpoint_every": every,
                "early_stopping": self._early_stopping(),
                "extra": extra,
                "record": {**record, "config": {**record["config"], **plan_of(settings)}},
                "profile": self._profile(),
                "log_every": settings.log_every,
                "writers": writers,
            }
            try:
                yield state, options
            except train.NotFiniteError as error:
                last = checkpoints.latest()
                saved = f"the last checkpoint is of step {last}" if last else "no checkpoint was saved"
                sys.exit(f"{self.name}: {error}\n{saved}, {self.path}")
            self.best_step = checkpoints.best()

    def end_training(self, result: FitResult) -> Params:
        """Draws ``curves.png``; returns the last weights, or their moving average if the run keeps one.

        Raises:
          Stopped: with one message, when a signal ended the run, saved.
        """
        try:
            if processes.is_main() and (lines := read_json_lines(self._directory.metrics)):
                viz.curves(lines, self.path / "curves.png", title=self.name)
        except ValueError as error:  # another program wrote into the file; the run's result does not need it
            print(f"{self.name}: no curves.png: {error}", flush=True)
        processes.sync("end of training")
        if result.reason == "signal":
            fix = f"resume by --out {self.path} --resume"
            raise Stopped(f"{self.name}: stopped at step {result.step}, saved; {fix}")
        return result.state.params if result.state.ema is None else result.state.ema

    def best_params(self) -> Params:
        """The weights of the best checkpoint, on one device; the last ones if none has the metric."""
        gigabytes = self.config.restore_concurrent_gb
        return train.load_params(
            self._directory.checkpoints, self.best_step, item=None, restore_concurrent_gb=gigabytes
        )

    def average_params(self, last: int = 5) -> Params:
        """The mean of the weights of the last checkpoints, or of fewer if there are; prints their steps."""
        directory, every = self._directory.checkpoints, self.config.train.checkpoint_every
        steps = consecutive_steps(directory, every)[-last:]
        listed = ", ".join(map(str, steps))
        print(f"averages the weights of {len(steps)} checkpoints, of steps {listed}", flush=True)
        gigabytes = self.config.restore_concurrent_gb
        return train.average_params(directory, last=len(steps), every=every, restore_concurrent_gb=gigabytes)

    def finish(self, results: Mapping[str, object]) -> None:
        """Writes ``result.json`` and prints it, with the seconds since the start or the resume."""
        name = "seconds_since_resume" if self.config.resume else "seconds"
        results = {**results, name: round(time.monotonic() - self._started_at, 1)}
        self._directory.write("result.json", results)
        for name, value in results.items():
            print(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")
        print(f"the run's directory: {self.path}", flush=True)

    def _resume(
        self,
        checkpoints: train.Checkpoints,
        state: train.TrainState,
        batches: train.Batches[BatchT],
        record: Mapping[str, object],
    ) -> tuple[train.TrainState, Mapping[str, object] | None]:
        """The state to start from, and the ``extra`` of its checkpoint; as given and None without one."""
        extra = None
        if step := self.config.resume_step or checkpoints.latest():
            abstract = self.parallel.abstract(state)
            for x in jax.tree.leaves(state):  # the initial state and the restored one need not fit together
                x.delete()
            is_longer = check_plan(self.config.train, checkpoints.extra(step).get("record", {}), step)
            is_longer |= self._is_lengthened  # also from an old checkpoint, which has no plan
            state, extra = train.resume(checkpoints, abstract, batches, step=step, record=record)
            last = checkpoints.latest() or step
            if (to := checkpoints.set_aside(step)) is not None:
                for path in (
                    self._directory.metrics,
                    self.path / "result.json",
                ):  # which will be written anew
                    if processes.is_main() and path.exists():
                        shutil.copy(path, to / path.name)
                print(f"{self.name}: moved the checkpoints after step {step} to {to}", flush=True)
            if is_longer:
                extra = continue_run(self.path, last, self._early_stopping(), extra)
        if self.config.resume:  # for the next one, in the current format
            settings = {**to_dict(self.config), "resume": False, "resume_step": None}
            self._directory.write_config("config.json", settings)
        return state, extra

    def _early_stopping(self) -> train.EarlyStopping | None:
        patience = self.config.train.patience
        return None if patience is None else train.EarlyStopping(BEST_METRIC, patience)

    def _profile(self) -> train.Profile | None:
        steps = self.config.profile
        return None if steps is None else train.Profile(*read_steps(steps), self.path / "profile")

    def _print_summary(self, state: train.TrainState, start: int) -> None:
        count, mesh = sum(x.size for x in jax.tree.leaves(state.params)), self.parallel.mesh
        kind = f"{mesh.size} {mesh.devices.flat[0].platform} device{'s' * (mesh.size > 1)}"
        if mesh.size > 1:
            sizes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
            kind += f" ({sizes}; state {train.bytes_per_device(state) / 2**20:,.1f} MiB each)"
        resumed = f", resumed after step {start}" if start else ""
        text = f"{count:,} parameters, {self.config.parallel} on {kind}, in {self.path}{resumed}"
        print(f"{self.name}: {text}", flush=True)


def make_step(
    settings: TrainConfig,
    loss_fn: train.LossFn[BatchT],
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
) -> TrainStep[BatchT]:
    """``train.make_train_step`` with the settings of a run."""
    return train.make_train_step(
        train.freeze_layers(loss_fn, settings.optimizer.frozen_layers),
        optimizer,
        accumulate=settings.accumulate,
        clip_norm=settings.optimizer.clip_norm,
        ema_decay=settings.ema_decay,
        axis_name=axis_name,
        gradient_dtype=settings.gradient_dtype,
    )


class _CacheHits:
    """A writer that says once, with the first metrics, what came from the compilation cache."""

    def __init__(self, name: str):
        self._name, self._reported = name, False

    def __call__(self, step: int, means: Mapping[str, float], evaluation: Mapping[str, float]) -> None:
        if not self._reported:
            compilation_cache.report_hits(lambda line: print(f"{self._name}: {line}", flush=True))
            self._reported = True


def start_on_main(function: Callable[..., R], *args: object) -> Callable[[], R]:
    """Starts a function in a thread of process 0 of several; returns what waits for its result.

    Another process, which need not call it, would compute the result by that call.
    """
    if not processes.is_main():
        return functools.partial(function, *args)
    executor = ThreadPoolExecutor(1)  # no context, which would wait for it after an error
    return executor.submit(function, *args).result


def _digest(path: Path) -> str | None:
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest() if path.is_file() else None


def require_packages(*names: str) -> None:
    """Imports packages of the extra ``experiments``, before a second thread starts.

    One that imports scipy fails if another thread has imported a part of torch.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"got no {name}; wanted it for this experiment. pip install 'tfm_jax[experiments]'"
            ) from error


def make_tokenizer(
    directory: Path, kind: str, texts: Callable[[], Sequence[str]], vocab_size: int
) -> data.Tokenizer:
    """Loads the tokenizer of a run, as on a resume; process 0 learns and saves one if there is none.

    Args:
      directory: of the run.
      kind: "bpe" or "characters", learned from the texts, or "bytes".
      texts: returns the training texts.
      vocab_size: of a bpe.

    Raises:
      ValueError: from `data.train_bpe`, or for a saved one that cannot be read.
    """
    path, made = directory / "tokenizer.json", []

    def make() -> None:
        if path.exists():
            return
        tokenizer = {
            "bpe": lambda: data.train_bpe(texts(), vocab_size),
            "bytes": data.ByteTokenizer,
            "characters": lambda: data.char_tokenizer(texts()),
        }[kind]()
        os.replace(tokenizer.save(directory / "tokenizer.new.json"), path)  # atomic
        made.append(tokenizer)

    processes.from_main("tokenizer", make)
    return made[0] if made else data.load_tokenizer(path)


def check_inputs(model: nn.Pure, *shapes: tuple[int, ...], dtype: str = "int32") -> None:
    """Raises a ValueError, without computing, for inputs of shapes that the model does not take."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    jax.eval_shape(model.apply, params, *(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))
