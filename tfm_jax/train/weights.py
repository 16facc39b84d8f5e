"""Reading the weights of checkpoints, without the optimizer and the code that made them."""

import contextlib
import itertools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from tfm_jax.types import Params

__all__ = ["average_params", "is_readable", "load_params", "missing", "saved_steps", "unbroken_steps"]


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
