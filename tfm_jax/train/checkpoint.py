"""Checkpoints: asynchronous, atomic, the last few and the best, restored onto any devices.

A thin door in front of orbax. A checkpoint is a directory ``<step>/`` with the items ``params``, ``ema`` (if
there is one), ``rest`` (step, optimizer state, key) and ``meta`` (JSON). Params stand apart so that they can
be read without the optimizer that made them.
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
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from tfm_jax.train.state import TrainState
from tfm_jax.types import Params

__all__ = [
    "Checkpoints",
    "average_params",
    "is_readable",
    "load_params",
    "missing",
    "saved_steps",
    "unbroken_steps",
]

log = logging.getLogger(__name__)

_TRASH = "deleted"

_SET_ASIDE = "set_aside"


class Checkpoints:
    """The checkpoints of one run, in one directory. A context manager: leaving it waits for the last save.

    Args:
        directory: where; made if it is not there.
        keep: how many of the last ones are kept.
        best: name of the metric by which one more is kept, the best; None keeps only the last ones.
        mode: whether the best is the "min" or the "max" of that metric.
        every: the run's ``checkpoint_every``. One saved in between, as a signal makes it, counts among
            neither and goes when a later one is saved, so that a run stopped and resumed is left with the
            checkpoints of one never stopped. One saved under another ``every`` goes by that. None: all count.

    Raises:
        ValueError: for an argument out of range, or a directory that is none or holds what is no checkpoint
            under the name of one; the message names it.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int = 5,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        every: int | None = None,
    ):
        if keep < 1:
            raise ValueError(f"keep is a number of checkpoints, at least 1; got {keep}")
        if mode not in ("min", "max"):
            raise ValueError(f'mode is "min" or "max"; got {mode!r}')
        self.directory = Path(directory).absolute()
        self.best_metric = best
        self._sign = 1.0 if mode == "max" else -1.0
        self._keep, self._every = keep, every
        _check_names(self.directory)
        # A directory that is to go is first moved aside: one with a step's name is always whole.
        self._trash = self.directory / _TRASH
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_LastAndBest(self), cleanup_tmp_directories=True, todelete_subdir=_TRASH
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._scores: dict[int, float | None] = {}
        self._due: dict[int, bool] = {}
        for step in self.steps():
            self._scores[step], self._due[step] = self._saved_figures(step)

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint on the disk, in order."""
        self.wait()
        return saved_steps(self.directory)

    def latest(self) -> int | None:
        """The last step of which there is a checkpoint."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step whose metric is best (the last of equals); None where no checkpoint has one."""
        return self._best_of(self.steps())

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Those of ``steps`` that are not thrown away: the last ``keep``, the best, and the very last."""
        regular = [s for s in sorted(steps) if self._due[s]]
        return {*regular[-self._keep :], self._best_of(regular), max(steps, default=None)}

    def save(
        self,
        step: int,
        state: TrainState,
        extra: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Begins to save, and returns. The state may be donated at once; a kill leaves the one before intact.

        Args:
            step: the step's number, above all that were saved.
            state: the state after that step.
            extra: what JSON can hold: the state of the data iterator and the like.
            metrics: the figures by which the best one is found. Those of an evaluation hold that figure;
                without any, this one cannot be the best.

        Raises:
            TypeError: when JSON cannot hold ``extra``.
            ValueError: when this step or a later one was saved, or the figure is missing. Nothing is changed.
        """
        metrics = {name: float(figure) for name, figure in (metrics or {}).items()}
        if metrics and self.best_metric is not None and self.best_metric not in metrics:
            raise ValueError(
                f"the best checkpoint is kept by {self.best_metric!r}; the figures are {sorted(metrics)}"
            )
        latest = self.latest()
        if latest is not None and step <= latest:
            raise ValueError(
                f"step {step} cannot be saved: {self.directory} has steps {self.steps()}; resume from its "
                "last, or save in a new directory"
            )
        meta = {"extra": extra or {}, "metrics": metrics, "leaves": _leaves(state), "every": self._every}
        json.dumps(meta)  # what cannot be written is said here, not by the thread that writes
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        self._empty_trash()
        self._scores[step], self._due[step] = self._score(metrics), _is_due(step, self._every)
        if not self._manager.save(step, args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta))):
            del self._scores[step], self._due[step]
            raise ValueError(f"orbax did not save step {step} in {self.directory}")

    def restore(
        self, abstract: TrainState, step: int | Literal["latest", "best"] = "latest"
    ) -> tuple[TrainState, dict[str, Any]]:
        """Reads a checkpoint onto the devices that ``abstract`` names, whichever it was saved from.

        Args:
            abstract: a state of ``jax.ShapeDtypeStruct`` with shardings, as by ``parallel.abstract(state)``.
            step: which one.

        Returns:
            The state, and the ``extra`` that was saved with it.

        Raises:
            FileNotFoundError: when there is no such checkpoint.
            ValueError: when it holds other leaves, shapes or dtypes; the message lists them. Or when it is
                damaged; the message names it and the last one that is not.
        """
        number = self._find(step)
        path = self.directory / str(number)
        with self._naming_damage(number):
            meta = _meta(path)
        _check_fits(path, meta["leaves"], _leaves(abstract))
        with self._naming_damage(number):
            return self._read(number, abstract), meta["extra"]

    def extra(self, step: int | Literal["latest", "best"] = "latest") -> dict[str, Any]:
        """The ``extra`` that was saved with a checkpoint; raises as `restore`."""
        number = self._find(step)
        with self._naming_damage(number):
            return _meta(self.directory / str(number))["extra"]

    def set_aside(self, after: int) -> Path | None:
        """Moves the checkpoints of later steps out of the way, so that the run goes on from an earlier one.

        Args:
            after: the last step that stays.

        Returns:
            Where they are: ``set_aside`` beside the directory, with a number where that is taken. None where
            there are none.
        """
        later = [step for step in self.steps() if step > after]
        if not later:
            return None
        names = (_SET_ASIDE + (f"-{i}" if i else "") for i in itertools.count())
        to = next(p for p in (self.directory.parent / name for name in names) if not p.exists())
        to.mkdir()
        for step in reversed(later):
            (self.directory / str(step)).rename(to / str(step))
            self._scores.pop(step, None)
            self._due.pop(step, None)
        self._manager.reload()
        return to

    def wait(self) -> None:
        """Returns when the last save is on the disk; raises if it failed."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the directory."""
        self._manager.close()
        shutil.rmtree(self._trash, ignore_errors=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, number: int, abstract: TrainState) -> TrainState:
        args = {name: ocp.args.StandardRestore(tree) for name, tree in _items(abstract).items()}
        read = self._manager.restore(number, args=ocp.args.Composite(**args))
        rest = read["rest"]
        ema = None if abstract.ema is None else read["ema"]
        return TrainState(rest["step"], read["params"], rest["opt_state"], ema, rest["key"])

    @contextlib.contextmanager
    def _naming_damage(self, number: int) -> Iterator[None]:
        """Orbax and its libraries say in many ways that a file is damaged: one ValueError for all."""
        try:
            yield
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            good = [s for s in self.steps() if s != number and self._is_good(s)]
            way = (
                f"The last good one is of step {good[-1]}: go on from it by --resume --resume-step {good[-1]}"
                if good
                else "No other one can be read: begin a new run in another --out"
            )
            what = " ".join(str(error).split())
            raise ValueError(
                f"the checkpoint {self.directory / str(number)} is damaged ({what:.150}). {way}"
            ) from error

    def _is_good(self, step: int) -> bool:
        try:
            _meta(self.directory / str(step))
        except Exception:
            return False
        return is_readable(self.directory / str(step))

    def _saved_figures(self, step: int) -> tuple[float | None, bool]:
        """The score of a checkpoint on the disk, and whether it was due at its step; a damaged one has no
        score, and only `restore` minds."""
        try:
            meta = _meta(self.directory / str(step))
            return self._score(meta["metrics"]), _is_due(step, meta.get("every", self._every))
        except Exception as error:
            log.warning("the checkpoint %s is damaged: %s", self.directory / str(step), str(error))
            return None, _is_due(step, self._every)

    def _find(self, step: int | str) -> int:
        found = {"latest": self.latest, "best": self.best}[step]() if isinstance(step, str) else step
        if found is None or found not in self.steps():
            raise missing(self.directory, step)
        return found

    def _score(self, metrics: Mapping[str, float]) -> float | None:
        value = metrics.get(self.best_metric) if self.best_metric is not None else None
        return None if value is None or math.isnan(value) else self._sign * value

    def _best_of(self, steps: Sequence[int]) -> int | None:
        scored = [s for s in steps if self._scores.get(s) is not None]
        return max(scored, key=lambda s: (self._scores[s], s), default=None)

    def _empty_trash(self) -> None:
        self.wait()
        shutil.rmtree(self._trash, ignore_errors=True)


class _LastAndBest(checkpoint_managers.PreservationPolicy):
    """Orbax's own policies forget, when a run is resumed, which checkpoint was best."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [info.step for info in checkpoints]
        kept = self._checkpoints.kept(steps)
        return [step in kept for step in steps]


def _is_due(step: int, every: int | None) -> bool:
    return every is None or step % every == 0


def _items(state: TrainState) -> dict[str, Any]:
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
            f"the checkpoint {path} is of another model or optimizer; "
            f"{len(lines)} of {len(names)} arrays differ:\n" + "\n".join(lines[:shown]) + more
        )


def _check_names(directory: Path) -> None:
    """Raises where something under the name of a checkpoint is none."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory}: got a file; wanted the directory of the checkpoints. Move it away")
    for path in directory.iterdir() if directory.is_dir() else ():
        stray = path.name.isdecimal() and (not path.is_dir() or path.name != str(int(path.name)))
        if stray or (path.name == _TRASH and not path.is_dir()):
            raise ValueError(
                f"{path}: got what no run writes, under the name of a checkpoint's directory. Move it away"
            )


def _meta(path: Path) -> dict[str, Any]:
    """What is written beside the arrays; raises where a part of it is missing."""
    with contextlib.closing(ocp.JsonCheckpointHandler()) as handler:
        meta = handler.restore(path / "meta")
    if not isinstance(meta, dict) or not {"extra", "metrics", "leaves"} <= meta.keys():
        raise ValueError(f"its meta is {meta!r:.60}")
    return meta


def load_params(
    directory: str | Path, step: int | None = None, *, item: Literal["params", "ema"] = "params"
) -> Params:
    """Reads a checkpoint's weights alone, onto one device, without the code that trained them.

    Args:
        directory: of the checkpoints of a run.
        step: which one; None is the last.
        item: the weights, or their average (``ema``).

    Returns:
        Nested dict of arrays.

    Raises:
        FileNotFoundError: when there is no such checkpoint, or it holds no ``ema``.
        ValueError: when it is damaged; the message names it.
    """
    directory = Path(directory).absolute()
    steps = saved_steps(directory)
    if not steps or (step is not None and step not in steps):
        raise missing(directory, "latest" if step is None else step)
    return _load(directory, steps[-1] if step is None else step, item)


def average_params(directory: str | Path, last: int = 5, *, every: int | None = None) -> Params:
    """The mean of the last checkpoints' weights, which is often better than any of them.

    Equivalent to::

        params = [load_params(directory, step) for step in steps[-last:]]
        jax.tree.map(lambda *leaves: sum(leaves) / last, *params)

    Args:
        directory: of the checkpoints of a run.
        last: how many; the paper averages 5 for its base model and 20 for the big one.
        every: the run's ``checkpoint_every``: the last step's and, before it, one in every so many steps, as
            `unbroken_steps` finds them. None takes what is there, also a best one kept from long before.

    Returns:
        Nested dict of arrays; added in float32, in the dtypes that were saved.

    Raises:
        ValueError: when there are fewer checkpoints.

    Vaswani et al. 2017, section 6.1.
    """
    directory = Path(directory).absolute()
    steps = unbroken_steps(directory, every)
    if not 1 <= last <= len(steps):
        unbroken = "" if every is None else f", one in every {every} steps,"
        raise ValueError(
            f"the last {last} checkpoints{unbroken} were asked for; "
            f"{directory} has {len(steps)}: steps {steps}"
        )
    first, *others = steps[-last:]
    params = _load(directory, first)
    total = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    for step in others:  # one at a time: two sets of weights in memory, however many are averaged
        total = jax.tree.map(lambda t, x: t + x.astype(jnp.float32), total, _load(directory, step))
    return jax.tree.map(lambda t, x: (t / last).astype(x.dtype), total, params)


def saved_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a directory, in order."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal() and p.is_dir())


def is_readable(path: Path) -> bool:
    """Whether all arrays of a checkpoint can be read.

    Args:
        path: its directory.

    Returns:
        False where a file is missing or cannot be read. What was changed and can be read is not found.
    """
    items = {item.name for item in path.iterdir() if item.is_dir()} - {"meta"}
    try:
        for name in items:
            _read_tree(path / name)
    except Exception:
        return False
    return items >= {"params", "rest"}


def unbroken_steps(directory: str | Path, every: int | None = None) -> list[int]:
    """The steps of a run's last checkpoints, back to the first gap.

    Left out are so a best one kept from long before, and one that a signal made in between.

    Args:
        directory: of the checkpoints of a run.
        every: the run's ``checkpoint_every``; None gives all that are there.

    Returns:
        In order; the last step's is the last, whether it is a multiple of ``every`` or not.
    """
    steps = saved_steps(Path(directory))
    if every is None or not steps:
        return steps
    wanted = [steps[-1], *range((steps[-1] - 1) // every * every, -1, -every)]
    return sorted(itertools.takewhile(set(steps).__contains__, wanted))


def missing(directory: Path, step: int | str) -> FileNotFoundError:
    """The error to raise when a checkpoint is not there."""
    which = f"the {step} checkpoint" if isinstance(step, str) else f"a checkpoint of step {step}"
    return FileNotFoundError(f"{which} was asked for; {directory} has steps {saved_steps(directory)}")


def _load(directory: Path, step: int, item: str = "params") -> Params:
    path = directory / str(step) / item
    if not path.is_dir():
        raise FileNotFoundError(f"the checkpoint of step {step} in {directory} has no {item}")
    try:
        return _read_tree(path)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        what = " ".join(str(error).split())
        raise ValueError(
            f"the checkpoint {path.parent} is damaged ({what:.150}). To read the one before, move it out of "
            f"{directory}"
        ) from error


def _read_tree(path: Path) -> Any:
    """The arrays of one item of a checkpoint, on one device."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        saved = handler.metadata(path).tree
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), saved)
        return handler.restore(path, args=ocp.args.StandardRestore(abstract))
