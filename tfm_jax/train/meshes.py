"""Device meshes with the axes that the sharding rules name."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from tfm_jax.ranges import SIZE, check_number

__all__ = ["MESH_AXES", "MeshSize", "make_mesh"]

MESH_AXES = ("data", "fsdp", "tensor", "sequence", "expert")
"""The axes of every mesh, from the outermost: the last have the fastest links."""
MeshSize: TypeAlias = int | Literal["auto"]
"""The size of a mesh axis; "auto": as many devices as the other axes leave."""


def make_mesh(
    *,
    data: MeshSize = 1,
    fsdp: MeshSize = 1,
    tensor: MeshSize = 1,
    sequence: MeshSize = 1,
    expert: MeshSize = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Device mesh for parallel training: five axes, those that are not used of size 1.

    Equivalent to (one slice of accelerators, or CPUs)::

        shape = (data, fsdp, tensor, sequence, expert)
        jax.make_mesh(shape, MESH_AXES, (AxisType.Auto,) * 5, devices=devices[:math.prod(shape)])

    Args:
      data: devices for data parallelism; each holds all parameters, or its share along the other axes.
      fsdp: devices for fully sharded data parallelism: they share the batch and the parameters.
      tensor: devices for tensor parallelism: they share heads, the feed-forward dimension and the vocabulary.
      sequence: devices for sequence parallelism: they share the positions of a sequence.
      expert: devices for expert parallelism.
      devices: to take them from; None is all devices of all processes, ``jax.devices()``.

    One size may be "auto": the devices that the other axes leave.

    Returns:
      A mesh of the first ``data * fsdp * tensor * sequence * expert`` devices in the order that suits their
      links, with axes of type Auto: the compiler shards what is inside a jitted function. Several slices (TPU
      pods, or GPU nodes, that a slower network joins) lie along the outer axes.

    Raises:
      ValueError: a size is not a positive integer, two are "auto", there are fewer devices, the slices do not
        divide the axes, or a process would have no device.
    """
    sizes: dict[str, MeshSize] = {
        "data": data,
        "fsdp": fsdp,
        "tensor": tensor,
        "sequence": sequence,
        "expert": expert,
    }
    found = jax.devices() if devices is None else list(devices)
    shape = _shape(sizes, found)
    size = math.prod(shape)
    if size > len(found):
        simulated = (
            f" Or simulate more on the CPU: JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={size} python ..."
            if devices is None and jax.process_count() == 1
            else ""
        )
        raise ValueError(
            f"make_mesh: got {_listed(sizes)}: {size} devices; wanted 1 to {len(found)}, the "
            f"{found[0].platform} devices at hand. Choose smaller sizes.{simulated}"
        )
    used = found[:size]
    if missing := {d.process_index for d in found} - {d.process_index for d in used}:
        raise ValueError(
            f"make_mesh: got {_listed(sizes)}: {size} of {len(found)} devices, none of process "
            f"{', '.join(map(str, sorted(missing)))}; wanted devices of every process. Set a size to 'auto', "
            "or start fewer processes."
        )
    return Mesh(_arranged(shape, used, sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _shape(sizes: Mapping[str, MeshSize], devices: Sequence[Any]) -> tuple[int, ...]:
    """The sizes in numbers."""
    automatic = [name for name, size in sizes.items() if size == "auto"]
    if len(automatic) > 1:
        raise ValueError(f"make_mesh: got 'auto' for {' and '.join(automatic)}; wanted it once.")
    for name, size in sizes.items():
        if size != "auto":
            check_number("make_mesh", name, size, SIZE)
    others = math.prod(size for size in sizes.values() if size != "auto")
    if automatic and len(devices) % others:
        raise ValueError(
            f"make_mesh: got {_listed(sizes)}, whose other axes have {others} devices; wanted a divisor of "
            f"{len(devices)}, the {devices[0].platform} devices at hand. Choose other sizes."
        )
    return tuple(len(devices) // others if size == "auto" else size for size in sizes.values())


def _arranged(shape: tuple[int, ...], devices: Sequence[Any], sizes: Mapping[str, MeshSize]) -> np.ndarray:
    """The devices as an array of this shape: neighbours along the inner axes have the fastest links."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    outer, left = [], slices
    for size in shape:
        outer.append(math.gcd(size, left))
        left //= outer[-1]
    if left > 1:
        raise ValueError(
            f"make_mesh: got {_listed(sizes)} over {slices} slices; wanted sizes that they divide. Make data "
            f"a multiple of {slices}."
        )
    inner = tuple(size // parts for size, parts in zip(shape, outer, strict=True))
    try:
        if slices > 1:
            return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except (AssertionError, IndexError, NotImplementedError):
        # Some of a TPU slice's devices, which do not form a box: there is no best order.
        if slices > 1:
            raise
        return np.asarray(devices).reshape(shape)


def _listed(sizes: Mapping[str, MeshSize]) -> str:
    """The sizes other than 1, such as "data=4, tensor=2"."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items() if size != 1) or "data=1"
