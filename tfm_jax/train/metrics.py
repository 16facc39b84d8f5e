"""Adding ``(sum, weight)`` pairs, and reading them without making the device wait."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax

from tfm_jax.types import SumWeight

__all__ = ["add", "means", "read", "read_late", "total"]


def add(first: Mapping[str, SumWeight], second: Mapping[str, SumWeight]) -> dict[str, SumWeight]:
    """The sum of two sets of pairs, by name.

    Equivalent to::

        {name: (s + first[name][0], w + first[name][1]) for name, (s, w) in second.items()}

    Args:
        first: ``{name: (sum, weight)}``.
        second: the same names; or either may be empty.

    Returns:
        ``{name: (sum, weight)}``.

    Raises:
        ValueError: when the names differ.
    """
    if not first or not second:
        return dict(first or second)
    if first.keys() != second.keys():
        raise ValueError(f"metrics named {sorted(first)} and {sorted(second)} do not add: the names differ")
    return {name: (s + first[name][0], w + first[name][1]) for name, (s, w) in second.items()}


def means(metrics: Mapping[str, SumWeight]) -> dict[str, float]:
    """Each pair's mean, as a Python float.

    Equivalent to::

        {name: sum / weight for name, (sum, weight) in metrics.items()}

    Args:
        metrics: ``{name: (sum, weight)}``, on the device or read.

    Returns:
        ``{name: float}``; nan where the weight is 0, for nothing has no mean.
    """
    host = jax.device_get(dict(metrics))
    return {name: float(s) / float(w) if float(w) else math.nan for name, (s, w) in host.items()}


def read(tree: Any) -> Any:
    """A tree of scalars as Python floats; waits for the device.

    Equivalent to::

        jax.tree.map(float, tree)

    Args:
        tree: pytree of scalars.

    Returns:
        The same tree, of floats.
    """
    return jax.tree.map(float, jax.device_get(tree))


def read_late(metrics: Iterable[Any]) -> Iterator[Any]:
    """The same trees of arrays, as Python floats, each read only after the next one was asked for.

    So while the host reads the one, the device computes the next, and never more than two are in flight.
    (On a CPU of several simulated devices more than 32 would deadlock.)

    Equivalent to::

        (jax.tree.map(float, tree) for tree in metrics)

    Args:
        metrics: trees of scalars, made as they are asked for, as by ``(step(p, b) for b in batches)``.

    Returns:
        An iterator over trees of floats, in order.
    """
    waiting: list[Any] = []
    for tree in metrics:
        waiting.append(tree)
        if len(waiting) > 1:
            yield read(waiting.pop(0))
    yield from map(read, waiting)


def total(metrics: Iterable[Mapping[str, SumWeight]]) -> dict[str, SumWeight]:
    """The sum of many sets of pairs, added on the host in float64, read as `read_late` does.

    Equivalent to::

        functools.reduce(add, metrics, {})

    Args:
        metrics: sets of pairs of the same names.

    Returns:
        ``{name: (sum, weight)}`` of floats: float32 would stop counting at 2**24. Empty if there were none.

    Raises:
        ValueError: when the names differ from set to set.
    """
    result: dict[str, SumWeight] = {}
    for pairs in read_late(metrics):
        result = add(result, pairs)
    return result
