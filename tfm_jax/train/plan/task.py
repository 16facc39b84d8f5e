"""What a plan compiles: the training step of an experiment, its state and its batch, as shapes."""

import dataclasses
import importlib.metadata
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import jax
from flax import nnx

from tfm_jax import nn
from tfm_jax.sharding import ShardingRules
from tfm_jax.train.state import TrainState
from tfm_jax.train.step import TrainStep
from tfm_jax.types import Key

__all__ = ["GROUP", "Experiment", "Task", "find_experiment", "with_changes"]

GROUP = "tfm_jax.experiments"
"""The entry-point group of experiments that ``tfm plan`` finds by name."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A training step to plan.

    Args:
      model: its ``axes`` shard the state.
      step: from ``train.make_train_step``.
      make_state: a function of a key that makes the initial state; it is only traced.
      batch: shapes and dtypes of a whole batch, of all devices.
      flops: model FLOPs of a step, from `step_flops`.
      tokens: positions of a batch, as a decoder or an encoder has them.
      accumulate: microbatches of a step.
      gradient_dtype: in which the step adds gradients over devices, as ``make_train_step`` has it.
      mesh: the sizes of the mesh axes, for ``train.make_mesh``.
      rules: the mesh axes that shard each letter.
    """

    model: nn.Pure[nnx.Module]
    step: TrainStep[Any]
    make_state: Callable[[Key], TrainState]
    batch: Mapping[str, jax.ShapeDtypeStruct]
    flops: float
    tokens: int
    accumulate: int = 1
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    mesh: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rules: ShardingRules = dataclasses.field(default_factory=ShardingRules)


class Experiment(Protocol):
    """A module or an object that ``tfm plan`` can plan, under an entry point of the group `GROUP`.

    Its config is a dataclass with ``model``, an ``nn.Config``, and ``mesh``, a dataclass of the sizes of the
    mesh axes; ``--search`` replaces both.
    """

    def parse(self, argv: Sequence[str]) -> Any:
        """The config, from the options of a command line."""
        ...

    def plan(self, config: Any) -> Task:
        """The training step of a config; it loads no data."""
        ...


def find_experiment(name: str) -> Experiment:
    """The experiment of an entry point.

    Args:
      name: of an entry point of the group ``tfm_jax.experiments``.

    Raises:
      ValueError: there is none of this name; the message lists those known.
      ImportError: from the experiment.
    """
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in points:
        known = ", ".join(sorted(points)) or f"none: no package has entry points of the group {GROUP}"
        raise ValueError(f"plan: got the experiment {name!r}; wanted one of these: {known}.")
    found = points[name].load()
    if missing := [method for method in ("parse", "plan") if not callable(getattr(found, method, None))]:
        kind = "module" if isinstance(found, types.ModuleType) else "object"
        raise ValueError(
            f"plan: got the experiment {name!r}, a {kind} without {' and '.join(missing)}; wanted "
            "parse(argv) -> config and plan(config) -> Task. Correct its entry point."
        )
    return cast(Experiment, found)


def with_changes(config: Any, mesh: Mapping[str, Any] | None = None, **model: Any) -> Any:
    """A config with other mesh sizes, those not named being 1, and other fields of its model."""
    if mesh is not None:
        sizes = {field.name: mesh.get(field.name, 1) for field in dataclasses.fields(config.mesh)}
        config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **sizes))
    if model:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **model))
    return config
