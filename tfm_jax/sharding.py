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

from tfm_jax.types import LETTERS, Array

__all__ = [
    "Axes",
    "NotDivisibleError",
    "ShardingRules",
    "activation_spec",
    "as_names",
    "check_axes",
    "constrain",
    "current_rules",
    "free_axes",
    "parameter_spec",
    "parameter_specs",
    "reshard",
    "ruled_axes",
    "use_rules",
]

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
_MESH_AXES = frozenset({"data", "fsdp", "tensor", "sequence", "expert"})
"""Names that a rule may use for any mesh; of any other name, the mesh must have the axis."""
# A square kernel cannot be sharded over "fsdp" on both axes: those of poolers and of nn.MaskedLanguageModel.
_EXCEPTIONS: Mapping[str, Mapping[str, Axes]] = {"*pooler/*": {"D": None}, "dense/*": {"D": None}}


class NotDivisibleError(ValueError):
    """The mesh does not divide an axis of an array.

    Args:
      message: the error.
      letter: of the axis.
      size: of the axis.
      parts: number of devices, which do not divide the size.
    """

    def __init__(self, message: str, *, letter: str, size: int, parts: int):
        super().__init__(message)
        self.letter, self.size, self.parts = letter, size, parts


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Which mesh axes shard each axis letter. A letter without a rule is replicated.

    Equivalent to::

        PartitionSpec(*(rules.parameters.get(letter) for letter in "V D".split()))

    Args:
      parameters: of the axes of parameters.
      activations: of the axes of activations.
      exceptions: by a pattern of the parameter's path (``fnmatch``), such as ``"*/position_embedding/*"``:
        rules that replace those of ``parameters`` for the letters that they name. A later pattern wins.
      letters: further letters, which your own modules declare in ``axes()``, such as ``("W",)``; rules may
        name them besides those of ``tfm_jax.types``.

    One of the axes "data", "fsdp", "tensor", "sequence" and "expert" that a mesh lacks has size 1. An axis of
    size 1 is replicated.

    Raises:
      ValueError: a rule for an unknown letter, or a rule that is not None, a name or a tuple of names.
    """

    parameters: Mapping[str, Axes] = dataclasses.field(default_factory=lambda: dict(_PARAMETERS))
    activations: Mapping[str, Axes] = dataclasses.field(default_factory=lambda: dict(_ACTIVATIONS))
    exceptions: Mapping[str, Mapping[str, Axes]] = dataclasses.field(
        default_factory=lambda: dict(_EXCEPTIONS)
    )

    letters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for table in (self.parameters, self.activations, *self.exceptions.values()):
            for letter, rule in table.items():
                if letter not in self.letters and letter[:1] not in LETTERS:
                    known = ", ".join(sorted({*LETTERS, *self.letters}))
                    raise ValueError(
                        f"ShardingRules: got a rule for {letter!r}; wanted one of {known}, with or without a "
                        f"suffix. Declare letters of your own modules: letters=({letter!r},)."
                    )
                axes = rule if isinstance(rule, tuple) else () if rule is None else (rule,)
                if not all(isinstance(axis, str) and axis for axis in axes):
                    raise ValueError(
                        f"ShardingRules: got {letter!r}: {rule!r}; wanted None, a mesh axis such as "
                        "'tensor', or a tuple of them."
                    )

    def __hash__(self) -> int:
        # Mappings have no hash; ``jit`` looks its programs up by the rules.
        tables = *_pairs(self.parameters), *_pairs(self.activations)
        return hash((tables, tuple(self.exceptions), self.letters))

    def for_parameter(self, path: str) -> Mapping[str, Axes]:
        """The rules of a parameter at a path such as ``"stack/layers/attention/query/kernel"``."""
        rules = dict(self.parameters)
        for pattern, exception in self.exceptions.items():
            if fnmatch.fnmatchcase(path, pattern):
                rules |= exception
        return rules


def as_names(axes: Axes) -> tuple[str, ...]:
    """The mesh axes of a rule, or of one entry of a ``PartitionSpec``, outermost first."""
    return (axes,) if isinstance(axes, str) else axes or ()


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
      x: unchanged without a mesh, on one whose axes no rule names, inside ``shard_map`` (its axes are one
      device's) and under ``pmap``; also where the letters have both T and S: tables of attention are left to
      the compiler.

    Raises:
      ValueError: an axis of x is not divisible by the mesh axes of its letter, a mesh axis would shard two
        axes of x, or a rule names an axis that the mesh lacks.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or {"T", "S"} <= set(letters.split()):
        return x
    if not ruled_axes() & free_axes().keys():
        return x
    spec = activation_spec(f"constrain(x, {letters!r})", letters, x.shape)
    lead = max(0, x.ndim - len(letters.split()))
    if AxisType.Explicit in mesh.axis_types:
        before = jax.typeof(x).sharding.spec[:lead]
        return jax.sharding.reshard(x, P(*before, *spec[lead:]))
    return jax.lax.with_sharding_constraint(x, P(*[P.UNCONSTRAINED] * lead, *spec[lead:]))


def ruled_axes() -> set[str]:
    """The mesh axes that the current rules of activations name.

    Raises:
      ValueError: a rule names an axis that the current mesh lacks.
    """
    rules = current_rules().activations
    check_axes(rules, jax.sharding.get_abstract_mesh())
    return {axis.rstrip("?") for rule in rules.values() for axis in as_names(rule)}


def free_axes() -> dict[str, int]:
    """The axes of the current mesh that are not manual, with their sizes, without those of size 1."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {
        name: mesh.shape[name] for name, kind in kinds if kind != AxisType.Manual and mesh.shape[name] > 1
    }


def activation_spec(source: str, letters: str, shape: tuple[int, ...]) -> P:
    """The ``PartitionSpec`` of an activation, on the axes of the current mesh that are not mapped yet.

    Equivalent to::

        P(*(rules.activations.get(letter) for letter in letters.split()))   # without mesh axes of size 1

    Args:
      source: what the array is, for the errors.
      letters: its axes, such as ``"B T D"``. They align from the right; further leading axes are not sharded.
      shape: its sizes.

    Raises:
      ValueError: as in ``constrain``.
    """
    names = letters.split()[-len(shape) :] if shape else []
    lead, rules = len(shape) - len(names), current_rules().activations
    check_axes(rules, jax.sharding.get_abstract_mesh())
    return P(*[None] * lead, *_spec(source, names, shape[lead:], rules, free_axes()))


def parameter_spec(source: str, letters: str, shape: tuple[int, ...]) -> P:
    """The ``PartitionSpec`` of a parameter on the current mesh, by the rules without exceptions."""
    rules = current_rules().parameters
    check_axes(rules, jax.sharding.get_abstract_mesh())
    return P(*_spec(source, letters.split(), shape, rules, free_axes()))


def reshard(x: Array, spec: P) -> Array:
    """``x`` with a sharding on the current mesh, where its axes are explicit; else ``x``."""
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
      ValueError: a size is not divisible by the mesh axes of its letter, a mesh axis would shard two axes of
        one parameter, or a rule names an axis that the mesh lacks. The message names the parameter.
    """
    rules, sizes = rules or ShardingRules(), dict(mesh.shape)
    for table in (rules.parameters, *rules.exceptions.values()):
        check_axes(table, mesh)

    def spec(path: tuple[Any, ...], letters: str, x: Any) -> P:
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        return P(
            *_spec(f"parameter_specs: {name}", letters.split(), x.shape, rules.for_parameter(name), sizes)
        )

    return jax.tree_util.tree_map_with_path(spec, axes, shapes)


def check_axes(rules: Mapping[str, Axes], mesh: Mesh | AbstractMesh) -> None:
    """Checks that the mesh axes of some rules exist.

    Args:
      rules: one of the tables of `ShardingRules`.
      mesh: the mesh.

    Raises:
      ValueError: for an axis that is neither in the mesh nor a usual one.
    """
    for letter, rule in rules.items():
        for axis in as_names(rule):
            if axis.rstrip("?") not in _MESH_AXES.union(mesh.axis_names):
                raise ValueError(
                    f"ShardingRules: got {letter!r}: {axis!r}; wanted one of the mesh axes "
                    f"{', '.join(map(str, mesh.axis_names))}. Correct the rule, or name the axis in the mesh."
                )


def _spec(
    source: str, names: list[str], shape: tuple[int, ...], rules: Mapping[str, Axes], mesh: Mapping[str, int]
) -> list[Axes]:
    """The mesh axes of each axis of an array, without those of size 1."""
    found: list[Axes] = []
    used: dict[str, str] = {}
    for letter, size in zip(names, shape, strict=True):
        present = [axis for axis in as_names(rules.get(letter)) if mesh.get(axis.rstrip("?"), 1) > 1]
        axes = tuple(axis.rstrip("?") for axis in present)
        parts = math.prod(mesh[axis] for axis in axes)
        if size == 1 or parts == 1:
            found.append(None)
            continue
        if size % parts:
            if any(axis.endswith("?") for axis in present):
                found.append(None)
                continue
            raise NotDivisibleError(
                f"{source}: got {letter} = {size} in {' '.join(names)} of shape {list(shape)}; wanted a "
                f"multiple of {parts}, the devices of the mesh axis {', '.join(axes)}. Choose another mesh, "
                f"or the rule {letter!r}: {axes[0] + '?'!r}, which replicates what is not divisible.",
                letter=letter,
                size=size,
                parts=parts,
            )
        if taken := next((axis for axis in axes if axis in used), None):
            raise ValueError(
                f"{source}: got the mesh axis {taken!r} for {used[taken]} and {letter} of {' '.join(names)}; "
                "wanted it once in an array. Add an exception to the ShardingRules for this parameter."
            )
        used |= dict.fromkeys(axes, letter)
        found.append(axes[0] if len(axes) == 1 else axes)
    return found
