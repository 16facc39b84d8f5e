"""Arrays on devices: copies under a sharding, sizes, and the way back to one device."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tfm_jax.types import Array

__all__ = ["bytes_per_device", "place", "to_one_device"]

T = TypeVar("T")


def place(x: Any, sharding: NamedSharding) -> Array:
    """A copy of an array under a sharding. No device holds more than its shard, beside what it held before.

    Args:
      x: an array on the host (numpy), on devices, or of all processes. Each process has the same values.
      sharding: of the copy.

    Returns:
      The copy. It shares no memory with ``x``, so a donation of it does not destroy ``x``.
    """
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(place(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.jit(jnp.copy, out_shardings=sharding)(x)
    if not sharding.is_fully_addressable:
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
    if sharding.is_fully_replicated and isinstance(x, jax.Array):
        # From one device to several, device_put uses that one's buffer, also with may_alias=False.
        x = jnp.copy(x)
    return jax.device_put(x, sharding, may_alias=None if sharding.is_fully_replicated else False)


def to_one_device(tree: T) -> T:
    """A tree of arrays, whole on the first device of this process; none is copied that already is there.

    Equivalent to::

        jax.device_put(tree, jax.local_devices()[0])

    Args:
      tree: of arrays, sharded in any way, also over several processes, which then all have to call this.

    Returns:
      The same tree on one device: to generate, to export, to plot.
    """
    return jax.tree.map(_to_one_device, tree)


def _to_one_device(x: Any) -> Any:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        sharding = x.sharding
        assert isinstance(sharding, NamedSharding)
        # Array by array: all devices get a copy, which the others drop before the next one.
        x = (x if x.is_fully_replicated else _gather(sharding.mesh)(x)).addressable_data(0)
    return jax.device_put(x, jax.local_devices()[0])


@functools.cache
def _gather(mesh: Mesh) -> Callable[[Array], Array]:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))


def bytes_per_device(tree: object) -> int:
    """The bytes of a tree of arrays on the device that has the most.

    Args:
      tree: of arrays, or of ``jax.ShapeDtypeStruct`` with a sharding.

    Returns:
      Bytes. Each array counts with the shape of its shard.
    """
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * _itemsize(x)
        for x in jax.tree.leaves(tree)
    )


def _itemsize(x: Any) -> int:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, x.dtype))
        return data.size * data.dtype.itemsize // max(1, x.size)
    return x.dtype.itemsize
