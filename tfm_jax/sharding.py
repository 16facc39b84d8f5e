"""Shardings in axis letters: rules that map letters to mesh axes, for parameters and for activations.

A parameter declares its letters, such as ``"D N H"`` (``model.axes()``); an activation states them where it
is constrained, ``constrain(x, "B T D")``. The rules say which mesh axes shard each letter.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh
from jax.sharding import PartitionSpec as P

from tfm_jax.types import Array

__all__ = ["Axes", "ShardingRules", "constrain", "current_rules", "parameter_specs", "use_rules"]

Axes: TypeAlias = str | tuple[str, ...] | None
"""The mesh axes that shard a letter: None for none, a name, or several names, outermost first. A name that
ends in ``?`` shards where the size is divisible, and replicates where it is not."""

_PARAMETERS: Mapping[str, Axes] = {
    "V": "tensor",
    "N": "tensor",
    "K": "tensor",
    "F": "tensor",
    "D": "fsdp",
    "E": "expert",
}
_ACTIVATIONS: Mapping[str, Axes] = {
    "B": ("data", "fsdp"),
    "T": "sequence",
    "S": "sequence",
    "N": "tensor",
    "K": "tensor",
    "F": "tensor",
    "V": "tensor",
    "E": "expert",
    "D": None,
}
# A square kernel can be sharded over "fsdp" on one axis only.
_EXCEPTIONS: Mapping[str, Mapping[str, Axes]] = {"*pooler/*": {"D": None}}


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Which mesh axes shard each axis letter. A letter without a rule is replicated.

    Args:
      parameters: of the axes of parameters.
      activations: of the axes of activations.
      exceptions: by a pattern of the parameter's path (``fnmatch``), such as ``"*/position_embedding/*"``:
        rules that replace those of ``parameters`` for the letters that they name. A later pattern wins.

    A mesh axis that a mesh lacks has size 1. An axis of size 1 is replicated.
    """

    parameters: Mapping[str, Axes] = dataclasses.field(default_factory=lambda: dict(_PARAMETERS))
    activations: Mapping[str, Axes] = dataclasses.field(default_factory=lambda: dict(_ACTIVATIONS))
    exceptions: Mapping[str, Mapping[str, Axes]] = dataclasses.field(
        default_factory=lambda: dict(_EXCEPTIONS)
    )

    def __post_init__(self) -> None:
        for table in (self.parameters, self.activations, *self.exceptions.values()):
            for letter in table:
                if not (letter.isalpha() and letter[0].isupper()):
                    raise ValueError(
                        f"ShardingRules: got a rule for {letter!r}; wanted an axis letter, such as 'D'."
                    )

    def __hash__(self) -> int:
        # Mappings have no hash; ``jit`` looks its programs up by the rules.
        return hash((*_pairs(self.parameters), *_pairs(self.activations), *self.exceptions))

    def for_parameter(self, path: str) -> Mapping[str, Axes]:
        """The rules of a parameter at a path such as ``"stack/layers/attention/query/kernel"``."""
        rules = dict(self.parameters)
        for pattern, exception in self.exceptions.items():
            if fnmatch.fnmatchcase(path, pattern):
                rules |= exception
        return rules


def _pairs(table: Mapping[str, Axes]) -> tuple[tuple[str, Axes], ...]:
    return tuple(sorted(table.items(), key=lambda pair: pair[0]))


# A part of the key of jit's caches: a program is never reused under other rules.
_RULES = jax.make_user_context(default_value=ShardingRules())


def use_rules(rules: ShardingRules) -> Any:
    """A context manager: ``constrain`` follows these rules in what is traced inside it.

    Equivalent to::

        with use_rules(rules):
            step(state, batch)                     # a jitted function is traced again under other rules

    Args:
      rules: the rules.
    """
    return _RULES(rules)


def current_rules() -> ShardingRules:
    """The rules of the innermost ``use_rules``; the default ones outside."""
    return _RULES.value


def constrain(x: Array, letters: str) -> Array:
    """``x`` with the sharding that the rules give its letters, on the current mesh (``jax.set_mesh``).

    Equivalent to::

        x                                                                           # its values
        jax.lax.with_sharding_constraint(x, P(*(rules.activations.get(c) for c in letters)))

    Args:
      x: an array.
      letters: its axes, such as ``"B T D"``. They align from the right: further leading axes of x are left to
        the compiler, and the first letters have no axis where x has fewer.

    Returns:
      x: unchanged without a mesh, inside ``shard_map`` (its axes are one device's) and under ``pmap``; also
      where the letters have both T and S: tables of attention are left to the compiler.

    Raises:
      ValueError: an axis of x is not divisible by the mesh axes of its letter, or a mesh axis would shard two
        axes of x.
    """
    mesh = jax.sharding.get_abstract_mesh()
    names = letters.split()
    free = {
        name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual
    }
    if mesh.empty or not free or {"T", "S"} <= set(names):
        return x
    names = names[-x.ndim :] if x.ndim else []
    sizes = {name: size for name, size in mesh.shape.items() if name in free}
    spec = _spec(
        f"constrain(x, {letters!r})",
        names,
        x.shape[x.ndim - len(names) :],
        current_rules().activations,
        sizes,
    )
    if all(mesh.axis_types[mesh.axis_names.index(name)] == AxisType.Explicit for name in free):
        return jax.sharding.reshard(x, P(*[None] * (x.ndim - len(names)), *spec))
    return jax.lax.with_sharding_constraint(x, P(*[P.UNCONSTRAINED] * (x.ndim - len(names)), *spec))


def free_axes() -> dict[str, int]:
    """The axes of the current mesh that are not manual, with their sizes, without those of size 1."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {
        name: mesh.shape[name] for name, kind in kinds if kind != AxisType.Manual and mesh.shape[name] > 1
    }


def activation_spec(source: str, letters: str, shape: tuple[int, ...]) -> P:
    """The ``PartitionSpec`` of an activation on the current mesh: that of ``constrain``, for ``shard_map``.

    Args:
      source: names the array in errors.
      letters: its axes, which align from the right; further leading axes are not sharded.
      shape: its shape.
    """
    names = letters.split()[-len(shape) :] if shape else []
    lead = len(shape) - len(names)
    return P(*[None] * lead, *_spec(source, names, shape[lead:], current_rules().activations, free_axes()))


def parameter_spec(source: str, letters: str, shape: tuple[int, ...]) -> P:
    """The ``PartitionSpec`` of a parameter on the current mesh, by the rules without exceptions."""
    return P(*_spec(source, letters.split(), shape, current_rules().parameters, free_axes()))


def reshard(x: Array, spec: P) -> Array:
    """``x`` with a sharding on the current mesh, where its axes are explicit; else x: the compiler shards it."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.sharding.reshard(x, spec) if AxisType.Explicit in mesh.axis_types else x


def parameter_specs(
    axes: Any, shapes: Any, mesh: Mesh | AbstractMesh, rules: ShardingRules | None = None
) -> Any:
    """The ``PartitionSpec`` of each parameter.

    Equivalent to::

        jax.tree.map(lambda letters: P(*map(rules.parameters.get, letters.split())), axes)

    Args:
      axes: a tree of letters, such as ``model.axes()``.
      shapes: the same tree of arrays or ``jax.ShapeDtypeStruct``.
      mesh: the mesh.
      rules: the rules; None is ``ShardingRules()``.

    Returns:
      The same tree of ``PartitionSpec``.

    Raises:
      ValueError: a size is not divisible by the mesh axes of its letter, or a mesh axis would shard two axes
        of one parameter. The message names the parameter.
    """
    rules, sizes = rules or ShardingRules(), dict(mesh.shape)

    def spec(path: tuple[Any, ...], letters: str, x: Any) -> P:
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        return P(
            *_spec(f"parameter_specs: {name}", letters.split(), x.shape, rules.for_parameter(name), sizes)
        )

    return jax.tree_util.tree_map_with_path(spec, axes, shapes)


def _spec(
    source: str, names: list[str], shape: tuple[int, ...], rules: Mapping[str, Axes], mesh: Mapping[str, int]
) -> list[Axes]:
    """The mesh axes of each axis of an array, without those of size 1."""
    found: list[Axes] = []
    used: dict[str, str] = {}
    for letter, size in zip(names, shape, strict=True):
        rule = rules.get(letter)
        wanted = (rule,) if isinstance(rule, str) else rule or ()
        present = [axis for axis in wanted if mesh.get(axis.rstrip("?"), 1) > 1]
        axes = tuple(axis.rstrip("?") for axis in present)
        parts = math.prod(mesh[axis] for axis in axes)
        if size == 1 or parts == 1:
            found.append(None)
            continue
        if size % parts:
            if any(axis.endswith("?") for axis in present):
                found.append(None)
                continue
            raise ValueError(
                f"{source}: got {letter} = {size} in {' '.join(names)} of shape {list(shape)}; wanted a "
                f"multiple of {parts}, the devices of the mesh axis {', '.join(axes)}. Choose another mesh, "
                f"or the rule {letter!r}: {axes[0] + '?'!r}, which replicates what is not divisible."
            )
        if taken := next((axis for axis in axes if axis in used), None):
            raise ValueError(
                f"{source}: got the mesh axis {taken!r} for {used[taken]} and {letter} of {' '.join(names)}; "
                "wanted it once in an array. Add an exception to the ShardingRules for this parameter."
            )
        used |= dict.fromkeys(axes, letter)
        found.append(axes[0] if len(axes) == 1 else axes)
    return found
