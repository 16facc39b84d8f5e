"""Extras of a model: what it returns besides its output when a ``return_*`` flag is set."""

from collections.abc import Iterable, Mapping
from typing import TypedDict, TypeVar

from tfm_jax.types import Array, Metric, SumWeight

__all__ = ["Auxiliary", "Extras", "Metric", "add_auxiliary", "model_extras", "with_extras"]

Auxiliary = dict[str, SumWeight]
"""Sums of feed-forward layers, by name: ``(sum, weight)`` is added to the loss, such as a balancing loss; a
``Metric(sum, weight)`` is only reported."""
T = TypeVar("T")


class Extras(TypedDict, total=False):
    """A key for each ``return_*`` flag that is set."""

    weights: dict[str, Array]
    """Attention weights: "self" and "cross" of a stack; "encoder", "decoder" and "cross" of a model."""
    auxiliary: Auxiliary
    """Added over layers, and in an encoder-decoder over both stacks."""


def add_auxiliary(terms: Iterable[Mapping[str, SumWeight]]) -> Auxiliary:
    """Adds sums and weights by name."""
    total: Auxiliary = {}
    for term in terms:
        for name, (x, weight) in term.items():
            old = total.get(name)
            added = (x, weight) if old is None else (old[0] + x, old[1] + weight)
            total[name] = Metric(*added) if isinstance(term[name], Metric) else added
    return total


def model_extras(**stacks: Extras) -> Extras:
    """The extras of a model from those of its stacks, ``encoder`` and ``decoder``."""
    extras: Extras = {}
    weights = {name: stack["weights"] for name, stack in stacks.items() if "weights" in stack}
    if weights:
        extras["weights"] = {name: found["self"] for name, found in weights.items()}
        if "cross" in weights.get("decoder", {}):
            extras["weights"]["cross"] = weights["decoder"]["cross"]
    auxiliary = [stack["auxiliary"] for stack in stacks.values() if "auxiliary" in stack]
    if auxiliary:
        extras["auxiliary"] = add_auxiliary(auxiliary)
    return extras


def with_extras(output: T, extras: Extras) -> T | tuple[T, Extras]:
    """The output alone, or ``(output, extras)`` where a flag is set."""
    return (output, extras) if extras else output
