"""The files of checkpoints: their steps, their metadata, and their weights without the optimizer."""

import contextlib
import functools
import itertools
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from tfm_jax.ranges import POSITIVE, check_number
from tfm_jax.train._formats import NewerFormatError, migrate_record, read_format
from tfm_jax.types import Params

__all__ = [
    "RESTORE_CONCURRENT_GB",
    "average_params",
    "best_step",
    "check_memory",
    "consecutive_steps",
    "is_readable",
    "load_params",
    "missing",
    "read_meta",
    "saved_steps",
    "tree_handler",
]

log = logging.getLogger(__name__)

RESTORE_CONCURRENT_GB = 96.0
"""Gigabytes of a checkpoint that are read at a time, unless configured."""
Shardings = jax.sharding.Sharding | Callable[[Params], Params]
"""One sharding for all arrays, or a function from a tree of shapes to one of shardings."""


def load_params(
    directory: str | Path,
    step: int | None = None,
    *,
    item: Literal["params", "ema"] | None = "params",
    shardings: Shardings | None = None,
    restore_concurrent_gb: float = RESTORE_CONCURRENT_GB,
) -> Params:
    """Loads the weights of a checkpoint, without the optimizer, onto one device or as they are sharded.

    Args:
      directory: of a run's checkpoints.
      step: of the checkpoint; None is the last.
      item: the weights; their moving average ("ema"); or None: the average if there is one, else the weights.
      shardings: None is one device. One sharding for all arrays, or a function from the tree of their shapes
        to one of shardings, such as ``train.Jit(mesh, model.axes()).params_shardings``: each device then
        reads its shard.
      restore_concurrent_gb: as for `Checkpoints`.

    Returns:
      Nested dict of arrays.

    Raises:
      FileNotFoundError: when there is no such checkpoint, or it has no ``ema``.
      ValueError: when it is damaged or of a newer format; the message names it. For a bound out of range.
    """
    check_number("load_params", "restore_concurrent_gb", restore_concurrent_gb, POSITIVE)
    directory = Path(directory).absolute()
    steps = saved_steps(directory)
    if not steps or (step is not None and step not in steps):
        raise missing("load_params", directory, "latest" if step is None else step)
    step = steps[-1] if step is None else step
    has_ema = (directory / str(step) / "ema").is_dir()
    item = item or ("ema" if has_ema else "params")
    return _load(directory, step, item, shardings, restore_concurrent_gb)


def average_params(
    directory: str | Path,
    last: int = 5,
    *,
    every: int | None = None,
    restore_concurrent_gb: float = RESTORE_CONCURRENT_GB,
) -> Params:
    """Checkpoint averaging: the mean of the last checkpoints' weights.

    Equivalent to::

        params = [load_params(directory, step) for step in steps[-last:]]
        jax.tree.map(lambda *leaves: sum(leaves) / last, *params)

    Args:
      directory: of a run's checkpoints.
      last: number of checkpoints; the paper averages 5 for its base model and 20 for the big one.
      every: the run's ``checkpoint_every``: averages over `consecutive_steps`. None averages the last
        ones of any step, an old best checkpoint included.
      restore_concurrent_gb: as for `Checkpoints`.

    Returns:
      Nested dict of arrays; summed in float32, returned in the saved dtypes.

    Raises:
      ValueError: when there are fewer checkpoints, or for a bound out of range.

    Vaswani et al. 2017, section 6.1.
    """
    check_number("average_params", "restore_concurrent_gb", restore_concurrent_gb, POSITIVE)
    directory = Path(directory).absolute()
    steps = consecutive_steps(directory, every)
    if not 1 <= last <= len(steps):
        interval = "" if every is None else f", {every} steps apart"
        raise ValueError(
            f"average_params: got last={last}; wanted 1 to {len(steps)}, the checkpoints in "
            f"{directory}{interval}: steps {steps}."
        )
    first, *others = steps[-last:]
    load = functools.partial(_load, directory, restore_concurrent_gb=restore_concurrent_gb)
    params = load(first)
    total = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    for step in others:  # one at a time: at most two sets of weights are in memory
        total = jax.tree.map(lambda t, x: t + x.astype(jnp.float32), total, load(step))
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


def best_step(directory: str | Path, metric: str) -> int | None:
    """The step of a run's checkpoint with the smallest value of a metric, the last of equals.

    Equivalent to::

        Checkpoints(directory, best=metric).best()        # of a run that no process trains

    Args:
      directory: of the run's checkpoints; only read.
      metric: such as "validation/loss".

    Returns:
      The step; None if no checkpoint has the metric. A damaged one is not the best.

    Raises:
      NewerFormatError: a checkpoint has a newer format.
    """
    path = Path(directory).absolute()
    values: dict[int, float] = {}
    for step in saved_steps(path):
        try:
            value = read_meta(path / str(step))["metrics"].get(metric)
        except NewerFormatError:
            raise
        except Exception as error:
            log.warning("%s: got a damaged checkpoint: %s", path / str(step), str(error))
            continue
        if value is not None and not math.isnan(value):
            values[step] = value
    return min(values, key=lambda step: (values[step], -step), default=None)


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


def _load(
    directory: Path,
    step: int,
    item: str = "params",
    shardings: Shardings | None = None,
    restore_concurrent_gb: float = RESTORE_CONCURRENT_GB,
) -> Params:
    path = directory / str(step)
    if not (path / item).is_dir():
        raise FileNotFoundError(f"load_params: got no {item} in the checkpoint {path}; wanted it.")
    _refuse_newer_format(path)
    try:
        abstract = _saved_shapes(path / item)
    except Exception as error:
        raise _damaged(path, error) from error
    if callable(shardings):
        abstract = jax.tree.map(_with_sharding, abstract, shardings(abstract))
    elif shardings is not None:
        abstract = jax.tree.map(lambda x: _with_sharding(x, shardings), abstract)
    try:
        return _read_tree(path / item, abstract, restore_concurrent_gb)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        check_memory("load_params", restore_concurrent_gb, error)
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    cause = " ".join(str(error).split())
    return ValueError(
        f"{path}: got a damaged checkpoint ({cause:.150}); wanted it intact. To read the one before, move it "
        f"out of {path.parent}"
    )


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
            _read_tree(path / name, _saved_shapes(path / name))
    except Exception:
        return False
    return items >= {"params", "rest"}


def tree_handler(restore_concurrent_gb: float) -> ocp.StandardCheckpointHandler:
    """Reads and writes the arrays of an item; so many gigabytes are read at a time."""
    return ocp.StandardCheckpointHandler(
        restore_concurrent_gb=restore_concurrent_gb  # pyright: ignore[reportArgumentType]  - it takes parts
    )


def check_memory(where: str, restore_concurrent_gb: float, error: Exception) -> None:
    """Raises a ValueError if orbax failed because a part to read is larger than the bound.

    Args:
      where: the public function, for the message.
      restore_concurrent_gb: the bound.
      error: of orbax.
    """
    if found := re.search(r"Requested more bytes than we reserved space for: (\d+)", str(error)):
        raise ValueError(
            f"{where}: got restore_concurrent_gb={restore_concurrent_gb:g}; wanted more than "
            f"{int(found[1]) / 1e9:.3g}, the largest part of an array that a device reads. Choose more."
        ) from error


def _saved_shapes(path: Path) -> Any:
    """The shapes and dtypes of one item of a checkpoint, on one device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        saved = handler.metadata(path).tree  # pyright: ignore[reportArgumentType]  - it takes any path
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), saved)


def _with_sharding(x: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _read_tree(path: Path, abstract: Any, restore_concurrent_gb: float = RESTORE_CONCURRENT_GB) -> Any:
    """The arrays of one item of a checkpoint."""
    restore = ocp.args.StandardRestore(abstract)
    with contextlib.closing(tree_handler(restore_concurrent_gb)) as handler:
        return handler.restore(path, args=restore)  # pyright: ignore[reportArgumentType]  - it takes any path
