"""Meshes and recomputation of a step: ranked by formula, and the cheapest change that makes one fit."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tfm_jax.train.meshes import MESH_AXES
from tfm_jax.train.plan import topologies
from tfm_jax.train.plan.chips import Chip
from tfm_jax.train.plan.compiling import CompiledStep
from tfm_jax.train.plan.formulas import (
    Estimate,
    Remat,
    Setting,
    activation_bytes,
    estimate,
    state_bytes_of,
)
from tfm_jax.train.plan.task import Task

__all__ = ["cheapest_fix", "rank", "settings"]

_REMATS: tuple[Remat, ...] = (None, "dots", "full")
_MOST_ACCUMULATE = 64


def settings(task: Task, devices: int) -> Iterator[Setting]:
    """The settings of a search: all factors of the devices over data, fsdp and tensor; each remat.

    Those that the batch or a parameter does not fit are left out.

    Args:
      task: the step; its microbatches stay.
      devices: of the topology.
    """
    [examples] = {x.shape[0] for x in task.batch.values()}
    for tensor, fsdp in itertools.product(_divisors(devices), repeat=2):
        if devices % (tensor * fsdp) or tensor > 8:  # wider than the links of a host or a torus axis are fast
            continue
        mesh = {"data": devices // (tensor * fsdp), "fsdp": fsdp, "tensor": tensor}
        first = Setting(mesh, None, task.accumulate)
        if examples % (first.size("data", "fsdp") * task.accumulate):
            continue
        try:
            state_bytes_of(task, first)
        except ValueError:
            continue
        if _heads_do_not_divide(task, tensor):
            continue
        for remat in _REMATS:
            yield dataclasses.replace(first, remat=remat)


def _heads_do_not_divide(task: Task, tensor: int) -> bool:
    return any(n % tensor for n in (task.model.config.n_heads, task.model.config.K))


def _divisors(n: int) -> list[int]:
    return [i for i in range(1, n + 1) if n % i == 0]


def rank(task: Task, topology: str) -> list[Estimate]:
    """The settings of a search by formula: those that fit, the fastest first; then the others, by memory.

    Args:
      task: the step.
      topology: its devices.

    Raises:
      ValueError: no mesh of the topology fits the batch and the parameters.
    """
    chip, devices = topologies.chip_of(topology), len(topologies.topology(topology))
    found = [estimate(task, setting, chip) for setting in settings(task, devices)]
    if not found:
        [examples] = {x.shape[0] for x in task.batch.values()}
        raise ValueError(
            f"plan: got a batch of {examples} examples in {task.accumulate} microbatches for {topology}; "
            f"wanted one that some mesh of {devices} devices can share. Choose another batch size."
        )

    def order(x: Estimate) -> tuple[bool, float]:
        fits = chip.memory is None or x.memory <= 0.9 * chip.memory  # a formula may be too low
        return not fits, (x.seconds or x.traffic.total) if fits else x.memory

    return sorted(found, key=order)


def cheapest_fix(task: Task, topology: str, step: CompiledStep) -> str | None:
    """The cheapest change with which a step would fit, scaled from what the compiler found; None if it fits.

    Recomputation costs least, then microbatches, then a larger share of FSDP, then moments in bfloat16, then
    several of them.

    Args:
      task: the step.
      topology: its devices.
      step: that was compiled.
    """
    chip, memory = topologies.chip_of(topology), step.memory
    if chip.memory is None or (not memory.exceeded and memory.total <= chip.memory):
        return None
    now = Setting(dict(step.mesh), task.model.config.remat, task.accumulate)
    for options, setting, saved in _changes(task, now):
        if _would_fit(task, chip, step, now, setting, saved):
            return f"It would with {options}, by a formula scaled to this program."
    return None


def _changes(task: Task, now: Setting) -> Iterator[tuple[str, Setting, float]]:
    """Options, the setting that they make, and the share of the parameters' bytes that they save besides."""
    [examples] = {x.shape[0] for x in task.batch.values()}
    remats = _REMATS[_REMATS.index(now.remat) + 1 :]
    single: list[tuple[str, Setting, float]] = []
    for remat in remats:
        single.append((f"--model.remat {remat}", dataclasses.replace(now, remat=remat), 0.0))
    for n in (2**i for i in range(1, 7)):
        microbatches = now.accumulate * n
        if microbatches <= _MOST_ACCUMULATE and examples % (now.size("data", "fsdp") * microbatches) == 0:
            options = f"--train.accumulate {microbatches}"
            single.append((options, dataclasses.replace(now, accumulate=microbatches), 0.0))
    for factor in _divisors(now.size("data"))[1:]:
        mesh = {**now.mesh, "data": now.size("data") // factor, "fsdp": now.size("fsdp") * factor}
        setting = dataclasses.replace(now, mesh=mesh)
        try:
            state_bytes_of(task, setting)
        except ValueError:
            continue
        single.append((f"--mesh.data {mesh['data']} --mesh.fsdp {mesh['fsdp']}", setting, 0.0))
    if _has_two_wide_moments(task):
        single.append(("--train.optimizer.mu-dtype bfloat16", now, 0.5))
    yield from single
    for (a, one, x), (b, other, y) in itertools.combinations(single, 2):
        merged = _merge(now, one, other)
        if merged is not None:
            yield f"{a} {b}", merged, x + y


def _has_two_wide_moments(task: Task) -> bool:
    """Whether the optimizer's state has two float32 moments of each parameter, as Adam's has."""
    state = jax.eval_shape(task.make_state, jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(state.params))
    return sum(x.size for x in jax.tree.leaves(state.opt_state) if x.dtype == jnp.float32) >= 2 * size


def _merge(now: Setting, one: Setting, other: Setting) -> Setting | None:
    """Both changes of a setting; None where they change the same."""
    changed: dict[str, Any] = {}
    for setting in (one, other):
        for name in ("mesh", "remat", "accumulate"):
            if getattr(setting, name) != getattr(now, name):
                if name in changed:
                    return None
                changed[name] = getattr(setting, name)
    return dataclasses.replace(now, **changed)


def _would_fit(
    task: Task, chip: Chip, step: CompiledStep, now: Setting, setting: Setting, saved: float
) -> bool:
    assert chip.memory is not None
    params_now, _ = state_bytes_of(task, now)
    params, state = state_bytes_of(task, setting)
    formula_now = activation_bytes(task, now) + params_now
    formula = activation_bytes(task, setting) + params
    temporary = step.memory.temporary * min(1.0, formula / formula_now)
    total = state - saved * params + step.memory.batch + temporary
    return total <= 0.97 * chip.memory


def mesh_options(mesh: Mapping[str, int]) -> str:
    """``--mesh.fsdp 8``: the options of a mesh."""
    return " ".join(f"--mesh.{axis} {mesh[axis]}" for axis in MESH_AXES if mesh.get(axis, 1) > 1)
