"""Checkpoints: asynchronous, atomic saves of the training state; the last few and the best are kept.

Wraps orbax. A checkpoint is a directory ``<step>/`` with the items ``params``, ``ema`` (if there is one),
``rest`` (step, optimizer state, key) and ``meta`` (JSON). Params are a separate item, so that they can be
read without the optimizer.
"""

import contextlib
import itertools
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from tfm_jax import processes
from tfm_jax.ranges import POSITIVE, check_number
from tfm_jax.train._formats import FORMAT, NewerFormatError
from tfm_jax.train.checkpoint_files import (
    RESTORE_CONCURRENT_GB,
    check_memory,
    is_readable,
    missing,
    read_meta,
    saved_steps,
    tree_handler,
)
from tfm_jax.train.state import TrainState

__all__ = ["Checkpoints"]

log = logging.getLogger(__name__)

_ITEMS = ("params", "ema", "rest")
_TRASH = "deleted"
_SET_ASIDE = "set_aside"


class Checkpoints:
    """The checkpoints of one run. A context manager: leaving it waits for the last save.

    With several processes all call each method: they write and read their shards in one directory.

    Args:
      directory: of the checkpoints; it is created.
      keep: number of last checkpoints to keep.
      best: name of a metric; the best checkpoint by it is kept too. None keeps the last ones only.
      mode: whether the best is the "min" or the "max" of that metric.
      every: the run's ``checkpoint_every``. A checkpoint at another step, as a signal causes, counts
        neither as one of the last nor as the best and is deleted after the next save: a run that is
        stopped and resumed keeps the same checkpoints as one that is not. One saved under another
        ``every`` is judged by that. None: all count.
      restore_concurrent_gb: bounds the memory of the host that a restore takes beside the state: so many
        gigabytes (1e9 bytes) are read at a time. It must exceed the largest part that is read: a device's
        shard of an array, in whole shards of those that were saved.

    Raises:
      ValueError: for an argument out of range, a path that is no directory, an entry with the name of a
        checkpoint that is none, or a checkpoint of a newer format; the message names it.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int = 5,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        every: int | None = None,
        restore_concurrent_gb: float = RESTORE_CONCURRENT_GB,
    ):
        check_number("Checkpoints", "restore_concurrent_gb", restore_concurrent_gb, POSITIVE)
        if keep < 1:
            raise ValueError(f"Checkpoints: got keep={keep}; wanted a number of checkpoints, at least 1.")
        if mode not in ("min", "max"):
            raise ValueError(f'Checkpoints: got mode={mode!r}; wanted "min" or "max".')
        self.directory = Path(directory).absolute()
        self.best_metric = best
        self._sign = 1.0 if mode == "max" else -1.0
        self._keep, self._every = keep, every
        self._restore_concurrent_gb = restore_concurrent_gb
        self._scores: dict[int, float | None] = {}
        self._due: dict[int, bool] = {}
        for step, score, due in processes.from_main("checkpoints", self._saved_scores):
            self._scores[step], self._due[step] = score, due
        # A deleted checkpoint is moved into the trash first: a directory named by a step is always complete.
        self._trash = self.directory / _TRASH
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_LastAndBest(self), cleanup_tmp_directories=True, todelete_subdir=_TRASH
        )
        handlers: dict[str, Any] = {name: tree_handler(restore_concurrent_gb) for name in _ITEMS}
        handlers["meta"] = ocp.JsonCheckpointHandler()
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """The steps of the checkpoints on the disk, in order."""
        self.wait()
        return processes.from_main("steps of checkpoints", lambda: saved_steps(self.directory))

    def latest(self) -> int | None:
        """The step of the last checkpoint; None without one."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step of the best checkpoint, the last of equals; None if no checkpoint has the metric."""
        return self._best_of(self.steps())

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Those of ``steps`` that are kept: the last ``keep`` regular ones, the best, and the last of all."""
        regular = [s for s in sorted(steps) if self._due[s]]
        kept = {*regular[-self._keep :], self._best_of(regular), max(steps, default=None)}
        return {step for step in kept if step is not None}

    def save(
        self,
        step: int,
        state: TrainState,
        extra: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts an asynchronous save. The state may be donated at once; a kill leaves older ones intact.

        Args:
          step: the step, above all saved ones.
          state: the state after that step.
          extra: what JSON can hold, such as the state of the data iterator.
          metrics: of an evaluation, the metric ``best`` among them; without any, this checkpoint cannot be
            the best.

        Raises:
          TypeError: when JSON cannot hold ``extra``.
          ValueError: when this step or a later one was saved, or the metric is missing. Nothing is changed.
        """
        metrics = {name: float(value) for name, value in (metrics or {}).items()}
        if metrics and self.best_metric is not None and self.best_metric not in metrics:
            raise ValueError(
                f"Checkpoints.save: got metrics {sorted(metrics)}; wanted {self.best_metric!r} among them, "
                "by which the best checkpoint is kept."
            )
        latest = self.latest()
        if latest is not None and step <= latest:
            raise ValueError(
                f"Checkpoints.save: got step {step}; wanted one above {latest}, the last in "
                f"{self.directory}. Resume from that, or save in a new directory"
            )
        meta = {
            "format": FORMAT,
            "extra": extra or {},
            "metrics": metrics,
            "leaves": _leaves(state),
            "every": self._every,
        }
        json.dumps(meta)  # raises here, and not in the thread that writes
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        self._empty_trash()
        self._scores[step], self._due[step] = self._score(metrics), _is_due(step, self._every)
        if not self._manager.save(step, args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta))):
            del self._scores[step], self._due[step]
            raise ValueError(f"Checkpoints.save: got no checkpoint of step {step} from orbax; wanted one.")

    def restore(
        self, abstract: TrainState, step: int | Literal["latest", "best"] = "latest"
    ) -> tuple[TrainState, dict[str, Any]]:
        """Restores a checkpoint onto the devices of ``abstract``, whichever ones it was saved from.

        Args:
          abstract: a state of ``jax.ShapeDtypeStruct`` with shardings: ``parallel.abstract(state)``.
          step: of the checkpoint.

        Returns:
          The state, and the ``extra`` that was saved with it.

        Raises:
          FileNotFoundError: when there is no such checkpoint.
          ValueError: when its leaves, shapes or dtypes differ; the message lists them. Or when it is
            damaged; the message names it and the last intact one.
        """
        number = self._find(step)
        path = self.directory / str(number)
        with self._naming_damage(number):
            meta = read_meta(path)
        _check_fits(path, meta["leaves"], _leaves(abstract))
        with self._naming_damage(number):
            return self._read(number, abstract), meta["extra"]

    def extra(self, step: int | Literal["latest", "best"] = "latest") -> dict[str, Any]:
        """The ``extra`` that was saved with a checkpoint; raises as `restore`."""
        number = self._find(step)
        with self._naming_damage(number):
            return read_meta(self.directory / str(number))["extra"]

    def set_aside(self, after: int) -> Path | None:
        """Moves the checkpoints of later steps elsewhere, so that the run can resume from an earlier one.

        Args:
          after: the last step that stays.

        Returns:
          Their new directory: ``set_aside`` beside this one, with a number if that exists. None without
          later checkpoints.
        """
        later = [step for step in self.steps() if step > after]
        if not later:
            return None
        names = (_SET_ASIDE + (f"-{i}" if i else "") for i in itertools.count())

        def move() -> str:
            to = next(p for p in (self.directory.parent / name for name in names) if not p.exists())
            to.mkdir()
            for step in reversed(later):
                (self.directory / str(step)).rename(to / str(step))
            return str(to)

        to = processes.from_main("checkpoints set aside", move)
        for step in later:
            self._scores.pop(step, None)
            self._due.pop(step, None)
        self._manager.reload()
        return Path(to)

    def wait(self) -> None:
        """Waits until the last save is on the disk; raises if it failed."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and releases orbax's resources."""
        self._manager.close()
        self._remove_trash()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error of one process the others may be elsewhere: closing would wait for them.
        if error is None or processes.count() == 1:
            self.close()

    def _read(self, number: int, abstract: TrainState) -> TrainState:
        args = {name: ocp.args.StandardRestore(tree) for name, tree in _items(abstract).items()}
        read = self._manager.restore(number, args=ocp.args.Composite(**args))
        rest = read["rest"]
        ema = None if abstract.ema is None else read["ema"]
        return TrainState(rest["step"], read["params"], rest["opt_state"], ema, rest["key"])

    @contextlib.contextmanager
    def _naming_damage(self, number: int) -> Iterator[None]:
        """Turns the many errors of orbax and its libraries about damaged files into one ValueError."""
        try:
            yield
        except (MemoryError, jax.errors.JaxRuntimeError, NewerFormatError):
            raise
        except Exception as error:
            check_memory("Checkpoints", self._restore_concurrent_gb, error)
            intact = [s for s in saved_steps(self.directory) if s != number and self._is_intact(s)]
            fix = (
                f"The last intact one is of step {intact[-1]}: resume by --resume --resume-step {intact[-1]}"
                if intact
                else "No other one can be read: start a new run in another --out"
            )
            path, cause = self.directory / str(number), " ".join(str(error).split())
            raise ValueError(
                f"{path}: got a damaged checkpoint ({cause:.150}); wanted it intact. {fix}"
            ) from error

    def _is_intact(self, step: int) -> bool:
        try:
            read_meta(self.directory / str(step))
        except Exception:
            return False
        return is_readable(self.directory / str(step))

    def _saved_scores(self) -> list[tuple[int, float | None, bool]]:
        _check_names(self.directory)
        return [(step, *self._saved_score(step)) for step in saved_steps(self.directory)]

    def _saved_score(self, step: int) -> tuple[float | None, bool]:
        """The score of a saved checkpoint, and whether it was due at its step.

        A damaged one has no score; only `restore` raises.
        """
        path = self.directory / str(step)
        try:
            meta = read_meta(path)
            return self._score(meta["metrics"]), _is_due(step, meta.get("every", self._every))
        except NewerFormatError:
            raise
        except Exception as error:
            log.warning("%s: got a damaged checkpoint: %s", path, str(error))
            return None, _is_due(step, self._every)

    def _find(self, step: int | str) -> int:
        found = {"latest": self.latest, "best": self.best}[step]() if isinstance(step, str) else step
        if found is None or found not in self.steps():
            raise missing("Checkpoints", self.directory, step)
        return found

    def _score(self, metrics: Mapping[str, float]) -> float | None:
        value = metrics.get(self.best_metric) if self.best_metric is not None else None
        return None if value is None or math.isnan(value) else self._sign * value

    def _best_of(self, steps: Sequence[int]) -> int | None:
        scored = [s for s in steps if self._scores.get(s) is not None]
        return max(scored, key=lambda s: (self._scores[s], s), default=None)

    def _empty_trash(self) -> None:
        self.wait()
        self._remove_trash()

    def _remove_trash(self) -> None:
        if processes.is_main():
            shutil.rmtree(self._trash, ignore_errors=True)


class _LastAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the last checkpoints and the best. Orbax's own policies forget the best one on a resume."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> list[bool]:
        steps = [info.step for info in checkpoints]
        kept = self._checkpoints.kept(steps)
        return [step in kept for step in steps]


def _is_due(step: int, every: int | None) -> bool:
    return every is None or step % every == 0


def _items(state: TrainState) -> dict[str, object]:
    items = {
        "params": state.params,
        "rest": {"step": state.step, "opt_state": state.opt_state, "key": state.key},
    }
    return items if state.ema is None else {**items, "ema": state.ema}


def _leaves(state: TrainState) -> dict[str, str]:
    """``{path: "float32[3, 5]"}``"""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}"
        for path, x in jax.tree_util.tree_leaves_with_path(state)
    }


def _check_fits(path: Path, saved: Mapping[str, str], wanted: Mapping[str, str], shown: int = 10) -> None:
    names = sorted(saved.keys() | wanted.keys())
    lines = [
        f"  {name}: saved {saved.get(name, 'nothing')}, wanted {wanted.get(name, 'nothing')}"
        for name in names
        if saved.get(name) != wanted.get(name)
    ]
    if lines:
        more = f"\n  and {len(lines) - shown} more" if len(lines) > shown else ""
        raise ValueError(
            f"{path}: got a checkpoint of another model or optimizer; "
            f"{len(lines)} of {len(names)} arrays differ:\n" + "\n".join(lines[:shown]) + more
        )


def _check_names(directory: Path) -> None:
    """Raises for an entry with the name of a checkpoint that is none."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory}: got a file; wanted the directory of the checkpoints. Move it away")
    for path in directory.iterdir() if directory.is_dir() else ():
        stray = path.name.isdecimal() and (not path.is_dir() or path.name != str(int(path.name)))
        if stray or (path.name == _TRASH and not path.is_dir()):
            raise ValueError(
                f"{path}: got no checkpoint, under the name of one; wanted a directory. Move it away"
            )
