"""The files of checkpoints: their steps, their metadata, and their weights without the optimizer."""

import contextlib
import itertools
import logging
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from tfm_jax.train._formats import NewerFormatError, migrate_record, read_format
from tfm_jax.types import Params

__all__ = [
    "average_params",
    "consecutive_steps",
    "is_readable",
    "load_params",
    "missing",
    "read_meta",
    "saved_steps",
]

log = logging.getLogger(__name__)


def load_params(
    directory: str | Path, step: int | None = None, *, item: Literal["params", "ema"] | None = "params"
) -> Params:
    """Loads the weights of a checkpoint onto one device, without the optimizer.

    Args:
      directory: of a run's checkpoints.
      step: of the checkpoint; None is the last.
      item: the weights; their moving average ("ema"); or None: the average if there is one, else the weights.

    Returns:
      Nested dict of arrays.

    Raises:
      FileNotFoundError: when there is no such checkpoint, or it has no ``ema``.
      ValueError: when it is damaged or of a newer format; the message names it.
    """
    directory = Path(directory).absolute()
    steps = saved_steps(directory)
    if not steps or (step is not None and step not in steps):
        raise missing("load_params", directory, "latest" if step is None else step)
    step = steps[-1] if step is None else step
    has_ema = (directory / str(step) / "ema").is_dir()
    return _load(directory, step, item or ("ema" if has_ema else "params"))


def average_params(directory: str | Path, last: int = 5, *, every: int | None = None) -> Params:
    """Checkpoint averaging: the mean of the last checkpoints' weights.

    Equivalent to::

        params = [load_params(directory, step) for step in steps[-last:]]
        jax.tree.map(lambda *leaves: sum(leaves) / last, *params)

    Args:
      directory: of a run's checkpoints.
      last: number of checkpoints; the paper averages 5 for its base model and 20 for the big one.
      every: the run's ``checkpoint_every``: averages over `consecutive_steps`. None averages the last
        ones of any step, an old best checkpoint included.

    Returns:
      Nested dict of arrays; summed in float32, returned in the saved dtypes.

    Raises:
      ValueError: when there are fewer checkpoints.

    Vaswani et al. 2017, section 6.1.
    """
    directory = Path(directory).absolute()
    steps = consecutive_steps(directory, every)
    if not 1 <= last <= len(steps):
        interval = "" if every is None else f", {every} steps apart"
        raise ValueError(
            f"average_params: got last={last}; wanted 1 to {len(steps)}, the checkpoints in "
            f"{directory}{interval}: steps {steps}."
        )
    first, *others = steps[-last:]
    params = _load(directory, first)
    total = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    for step in others:  # one at a time: at most two sets of weights are in memory
        total = jax.tree.map(lambda t, x: t + x.astype(jnp.float32), total, _load(directory, step))
    return jax.tree.map(lambda t, x: (t / last).astype(x.dtype), total, params)


def consecutive_steps(directory: str | Path, every: int | None = None) -> list[int]:
    """The steps of a run's last checkpoints, back to the first gap.

    Leaves out an old best checkpoint, and one that a signal caused between two regular ones.

    Args:
      directory: of a run's checkpoints.
      every: the run's ``checkpoint_every``; None returns all steps.

    Returns:
      Steps in order. The last checkpoint's is always among them, whether a multiple of ``every`` or not.
    """
    steps = saved_steps(Path(directory))
    if every is None or not steps:
        return steps
    wanted = [steps[-1], *range((steps[-1] - 1) // every * every, -1, -every)]
    return sorted(itertools.takewhile(set(steps).__contains__, wanted))


def saved_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a directory, in order."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal() and p.is_dir())


def missing(where: str, directory: Path, step: int | str) -> FileNotFoundError:
    which = f"the {step} checkpoint" if isinstance(step, str) else f"the checkpoint of step {step}"
    steps = saved_steps(directory)
    return FileNotFoundError(f"{where}: got {directory} with steps {steps}; wanted {which}.")


def read_meta(path: Path) -> dict[str, Any]:
    """A checkpoint's metadata in the current format; raises if a part of it is missing."""
    with contextlib.closing(ocp.JsonCheckpointHandler()) as handler:
        meta = handler.restore(path / "meta")  # pyright: ignore[reportArgumentType]  - it takes any path
    if not isinstance(meta, dict) or not {"extra", "metrics", "leaves"} <= meta.keys():
        raise ValueError(f"its meta is {meta!r:.60}")
    number = read_format(path, meta)
    extra = meta["extra"]
    if isinstance(extra.get("record"), dict):
        extra = {**extra, "record": migrate_record(extra["record"], number)}
    return {**meta, "extra": extra}


def _load(directory: Path, step: int, item: str = "params") -> Params:
    path = directory / str(step)
    if not (path / item).is_dir():
        raise FileNotFoundError(f"load_params: got no {item} in the checkpoint {path}; wanted it.")
    _refuse_newer_format(path)
    try:
        return _read_tree(path / item)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        cause = " ".join(str(error).split())
        raise ValueError(
            f"{path}: got a damaged checkpoint ({cause:.150}); wanted it intact. To read the one before, "
            f"move it out of {directory}"
        ) from error


def _refuse_newer_format(path: Path) -> None:
    """Raises for a checkpoint of a newer format; weights beside damaged metadata are still read."""
    try:
        read_meta(path)
    except NewerFormatError:
        raise
    except Exception as error:
        log.warning("%s: got damaged metadata: %s", path, str(error))


def is_readable(path: Path) -> bool:
    """Whether all arrays of a checkpoint can be read. Wrong but readable values are not detected."""
    items = {item.name for item in path.iterdir() if item.is_dir()} - {"meta"}
    try:
        for name in items:
            _read_tree(path / name)
    except Exception:
        return False
    return items >= {"params", "rest"}


def _read_tree(path: Path) -> Any:
    """The arrays of one item of a checkpoint, on one device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        saved = handler.metadata(path).tree  # pyright: ignore[reportArgumentType]  - it takes any path
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), saved)
        restore = ocp.args.StandardRestore(abstract)
        return handler.restore(path, args=restore)  # pyright: ignore[reportArgumentType]  - it takes any path
