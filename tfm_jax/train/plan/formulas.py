"""Formulas of a step's memory, exchanged bytes and time, which rank meshes before any is compiled."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding

from tfm_jax.sharding import parameter_specs
from tfm_jax.train.meshes import MESH_AXES
from tfm_jax.train.plan.chips import Chip
from tfm_jax.train.plan.task import Task
from tfm_jax.train.state_shardings import state_shardings

__all__ = [
    "Remat",
    "Setting",
    "Traffic",
    "activation_bytes",
    "estimate",
    "state_bytes_of",
    "traffic",
    "tree_bytes",
]

Remat = Literal["full", "dots"] | None
_WORDS = {None: "none", "dots": "dots", "full": "full"}
_RECOMPUTED = {None: 0.0, "dots": 0.1, "full": 1.0}
"""The share of the forward pass that the backward pass computes again."""
_EFFICIENCY = 0.6
"""The share of its peak that a device reaches in products, for the ranking."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a search varies: the mesh, the recomputation, and the microbatches."""

    mesh: Mapping[str, int]
    remat: Remat
    accumulate: int = 1

    def size(self, *axes: str) -> int:
        """The devices along some axes."""
        return math.prod(self.mesh.get(axis, 1) for axis in axes)

    def __str__(self) -> str:
        sizes = " x ".join(f"{axis} {n}" for axis, n in self.mesh.items() if n > 1) or "1 device"
        microbatches = f", accumulate {self.accumulate}" if self.accumulate > 1 else ""
        return f"{sizes}, remat {_WORDS[self.remat]}{microbatches}"


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes that a device exchanges in a step, by formula.

    Args:
      gathered: results of all-gathers: each weight over "fsdp", for the forward pass and for the backward
        pass with its recomputation, in the compute dtype.
      scattered: operands of reduce-scatters: each weight's gradient over "fsdp".
      reduced: arrays of all-reduces: each shard of a gradient over "data"; activations over "tensor".
    """

    gathered: float
    scattered: float
    reduced: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.gathered + self.scattered + self.reduced


def abstract_mesh(setting: Setting) -> AbstractMesh:
    """The mesh of a setting without devices."""
    sizes = tuple(setting.mesh.get(axis, 1) for axis in MESH_AXES)
    return AbstractMesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def traffic(task: Task, setting: Setting) -> Traffic:
    """The bytes that a device exchanges in a step by formula, for ``data``, ``fsdp`` and ``tensor``.

    Equivalent to (weights of W numbers, sharded over "fsdp" alone)::

        gathered = 2 * W * itemsize * accumulate
        scattered = W * gradient_itemsize * accumulate
        reduced = W / fsdp * gradient_itemsize * accumulate              # with data > 1

    Args:
      task: its parameters, by their letters, and the dtype of its gradients.
      setting: the mesh and the microbatches.
    """
    shapes = jax.eval_shape(task.make_state, jax.random.key(0)).params
    mesh = abstract_mesh(setting)
    specs = parameter_specs(task.model.axes(), shapes, mesh, task.rules)
    config = task.model.config
    item = 2 if config.dtype == "bfloat16" else 4
    grad = 4 if task.gradient_dtype == "float32" else 2
    times = setting.accumulate
    gathered = scattered = reduced = 0.0
    for x, spec in zip(jax.tree.leaves(shapes), jax.tree.leaves(specs, is_leaf=_is_spec), strict=True):
        names = {name for axes in spec for name in ((axes,) if isinstance(axes, str) else axes or ())}
        shard = math.prod(NamedSharding(mesh, spec).shard_shape(x.shape))
        over_fsdp = shard * (setting.size("fsdp") if "fsdp" in names else 1)
        if "fsdp" in names:
            gathered += 2 * over_fsdp * item * times
            scattered += over_fsdp * grad * times
            reduced += shard * grad * times * (setting.size("data") > 1)
        elif setting.size("data", "fsdp") > 1:
            reduced += shard * grad * times
    if setting.size("tensor") > 1:
        tokens = task.tokens / setting.size("data", "fsdp", "sequence")
        products = 4 if setting.remat is None else 6  # two a layer in each pass
        reduced += products * tokens * config.d_model * item * _layers(task)
    return Traffic(gathered, scattered, reduced)


def _is_spec(x: object) -> bool:
    return isinstance(x, jax.sharding.PartitionSpec)


def _layers(task: Task) -> int:
    config = task.model.config
    has_decoder = {"encoder", "decoder"} <= set(task.model.axes())
    return config.n_layers + ((config.n_decoder_layers or config.n_layers) if has_decoder else 0)


def activation_bytes(task: Task, setting: Setting) -> float:
    """The bytes a device of what the backward pass saves, and of a layer's computation, by formula.

    Per layer and token: the layer's input, D; with ``remat="dots"`` the results of its products, and without
    ``remat`` the inputs of norms, activations and attention too. Heads and hidden units are shared along
    "tensor", positions along "sequence".
    """
    config, tensor = task.model.config, setting.size("tensor")
    tokens = task.tokens / setting.size("data", "fsdp", "sequence") / setting.accumulate
    heads, hidden = config.n_heads * config.H / tensor, config.d_ff / tensor
    keys = 2 * config.K * config.H / min(tensor, config.K)
    gates = 2 if "Glu" in type(config.feed_forward).__name__ else 1
    saved = {
        "full": config.d_model,
        "dots": 3 * config.d_model + heads + keys + gates * hidden,
        None: 5 * config.d_model + 2 * heads + keys + (gates + 1) * hidden,
    }
    item = 2 if config.dtype == "bfloat16" else 4
    logits = 4 * min(tokens, 1024) * config.vocab_size / tensor * 2
    return tokens * item * (saved[setting.remat] * _layers(task) + 2 * saved[None]) + logits


def state_bytes_of(task: Task, setting: Setting) -> tuple[int, int]:
    """The bytes of the parameters and of the whole state on each device.

    Raises:
      ValueError: a parameter does not fit the mesh; the message names it.
    """
    state = jax.eval_shape(task.make_state, jax.random.key(0))
    mesh = abstract_mesh(setting)
    specs = parameter_specs(task.model.axes(), state.params, mesh, task.rules)
    params = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)
    shardings = state_shardings(state, params, NamedSharding(mesh, jax.sharding.PartitionSpec()))
    return tree_bytes(state.params, params), tree_bytes(state, shardings)


def tree_bytes(tree: Any, shardings: Any) -> int:
    """The bytes of a tree on each device.

    Args:
      tree: of arrays or ``jax.ShapeDtypeStruct``.
      shardings: of each.
    """

    def size(x: Any, sharding: NamedSharding) -> int:
        # threefry, the default kind of key, is two numbers of 32 bits
        item = 8 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
        return math.prod(sharding.shard_shape(x.shape)) * item

    return sum(jax.tree.leaves(jax.tree.map(size, tree, shardings)))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A setting by formula: bytes a device, bytes exchanged, and seconds of a step (None without peaks)."""

    setting: Setting
    memory: float
    traffic: Traffic
    seconds: float | None


def estimate(task: Task, setting: Setting, chip: Chip) -> Estimate:
    """Memory, traffic and time of a setting by formula.

    Raises:
      ValueError: a parameter does not fit the mesh.
    """
    params, state = state_bytes_of(task, setting)
    batch = sum(math.prod(x.shape) * x.dtype.itemsize for x in task.batch.values())
    # Gradients in float32 like the parameters, and two layers' gathered weights.
    gathered = traffic(task, setting)
    layer = gathered.gathered / setting.accumulate / max(1, _layers(task))
    memory = state + batch / setting.size("data", "fsdp") + activation_bytes(task, setting) + params + layer
    seconds = None
    if chip.flops is not None and chip.interconnect is not None:
        devices = math.prod(setting.mesh.values())
        computed = task.flops * (1 + _RECOMPUTED[setting.remat] / 3)
        exchanged = gathered.gathered + gathered.scattered + 2 * gathered.reduced
        compute, exchange = computed / devices / chip.flops / _EFFICIENCY, exchanged / chip.interconnect
        seconds = max(compute, exchange) + 0.2 * min(compute, exchange)
    return Estimate(setting, memory, gathered, seconds)
