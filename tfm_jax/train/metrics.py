"""Metrics as ``(sum, weight)`` pairs: sums, means, and reads that do not stall the device."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tfm_jax.train.step import EvalStep
from tfm_jax.types import Metric, Params, SumWeight

__all__ = ["add", "add_auxiliary", "evaluate", "means", "read", "read_late", "total"]


def evaluate(
    step: EvalStep[Any], params: Params, batches: Iterable[Mapping[str, object]]
) -> dict[str, SumWeight]:
    """The metrics of a pass over batches, summed in float64 on the host.

    Equivalent to::

        metrics = [step(params, batch) for batch in batches]
        {name: (sum(m[name][0] for m in metrics), sum(m[name][1] for m in metrics)) for name in metrics[0]}

    Args:
      step: of `make_eval_step`, compiled.
      params: the weights, where the step wants them.
      batches: one pass, such as a ``data.Loader`` without a seed.

    Returns:
      ``{name: (sum, weight)}`` of floats; `means` divides them.

    Raises:
      ValueError: there are no batches.
    """
    if result := total(step(params, batch) for batch in batches):
        return result
    raise ValueError("evaluate: got no batches; wanted at least one. Make a new pass for every call.")


def add_auxiliary(loss: SumWeight, auxiliary: Mapping[str, SumWeight]) -> SumWeight:
    """A loss with auxiliary losses, such as the balancing loss of a mixture of experts.

    Equivalent to::

        total, weight = loss
        losses = [pair for pair in auxiliary.values() if not isinstance(pair, nn.Metric)]
        total + weight * sum(s / w for s, w in losses), weight

    so that the mean of each auxiliary loss is added to the mean of the loss.

    Args:
      loss: ``(sum, weight)``, float32 scalars.
      auxiliary: ``{name: (sum, weight)}``; one of weight 0 adds nothing, and neither does an ``nn.Metric``.

    Returns:
      ``(sum, weight)``; the loss itself without auxiliary losses.
    """
    total, weight = loss
    for pair in auxiliary.values():
        if isinstance(pair, Metric):
            continue
        part, n = pair
        total = total + weight * part / jnp.where(n == 0, 1.0, n)
    return total, weight


def add(first: Mapping[str, SumWeight], second: Mapping[str, SumWeight]) -> dict[str, SumWeight]:
    """The sum of two sets of pairs, by name.

    Equivalent to::

        {name: (s + first[name][0], w + first[name][1]) for name, (s, w) in second.items()}

    Args:
      first: ``{name: (sum, weight)}``.
      second: the same names. Either may be empty.

    Returns:
      ``{name: (sum, weight)}``.

    Raises:
      ValueError: when the names differ.
    """
    if not first or not second:
        return dict(first or second)
    if first.keys() != second.keys():
        raise ValueError(
            f"add: got metrics named {sorted(first)} and {sorted(second)}; wanted the same names."
        )
    return {name: (s + first[name][0], w + first[name][1]) for name, (s, w) in second.items()}


def means(metrics: Mapping[str, SumWeight]) -> dict[str, float]:
    """Each pair's mean, as a Python float.

    Equivalent to::

        {name: sum / weight for name, (sum, weight) in metrics.items()}

    Args:
      metrics: ``{name: (sum, weight)}``, on the device or the host.

    Returns:
      ``{name: float}``; nan where the weight is 0.
    """
    host = jax.device_get(dict(metrics))
    return {name: float(s) / float(w) if float(w) else math.nan for name, (s, w) in host.items()}


def read(tree: Any) -> Any:
    """Reads a tree of scalars as Python floats; waits for the device.

    Equivalent to::

        jax.tree.map(float, tree)

    Args:
      tree: pytree of scalars.

    Returns:
      The same tree, of floats.
    """
    return jax.tree.map(float, jax.device_get(tree))


def read_late(metrics: Iterable[Any]) -> Iterator[Any]:
    """Reads trees of scalars one step late: each one after the next was dispatched.

    The device computes the next one while the host reads, and at most two are in flight. (On a CPU with
    several simulated devices more than 32 would deadlock.)

    Equivalent to::

        (jax.tree.map(float, tree) for tree in metrics)

    Args:
      metrics: trees of scalars, made lazily, such as ``(step(params, batch) for batch in batches)``.

    Returns:
      An iterator over trees of floats, in order.
    """
    pending: list[Any] = []
    for tree in metrics:
        pending.append(tree)
        if len(pending) > 1:
            yield read(pending.pop(0))
    yield from map(read, pending)


def total(metrics: Iterable[Mapping[str, SumWeight]]) -> dict[str, SumWeight]:
    """The sum of many sets of pairs, in float64 on the host. Reads them as `read_late` does.

    Equivalent to::

        functools.reduce(add, metrics, {})

    Args:
      metrics: sets of pairs of the same names.

    Returns:
      ``{name: (sum, weight)}`` of floats, as float32 counts to 2**24 only. Empty if there are none.

    Raises:
      ValueError: when the names of two sets differ.
    """
    result: dict[str, SumWeight] = {}
    for pairs in read_late(metrics):
        result = add(result, pairs)
    return result
