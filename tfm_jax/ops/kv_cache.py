"""What a decoder remembers of the tokens that it has read, so that each is read once.

A cache is buffers [..., K, S, H] of keys and values, a pair a layer, and one ``Slots`` that says which token
stands in which slot. All are plain values that go in and come out. The heads come first: so the products of
one query with keys and values need no copy of them. One attention layer that reads T tokens::

    positions = next_positions(slots, T)
    seen_positions, after = advance(slots, positions)
    heads_first = lambda x: jnp.swapaxes(x, -3, -2)                 # or back
    seen_keys, keys = append(keys, heads_first(k), slots)
    seen_values, values = append(values, heads_first(v), slots)
    mask = seen_mask(slots, seen_positions)
    out = attention(q, heads_first(seen_keys), heads_first(seen_values), mask)
    slots = after
"""

import dataclasses

import jax
import jax.numpy as jnp

from tfm_jax import pytrees
from tfm_jax.checks import as_array
from tfm_jax.ops import masks
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.tracing import definitely, is_concrete
from tfm_jax.ranges import SIZE, check_number
from tfm_jax.types import Array

__all__ = ["Slots", "advance", "append", "has_room", "init_slots", "next_positions", "seen_mask"]


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Slots:
    """Which token stands in which slot of a cache. A pytree.

    Args:
      positions: int32 [..., S], where each slot's token stands in its row, from 0; -1 where there is none.
      length: int32 scalar, how many slots were written so far, the same for all rows.
      rolling: whether only the last S tokens are kept (a sliding window); if not, S is all there is room for.
    """

    positions: Array
    length: Array
    rolling: bool = pytrees.static()


def init_slots(batch: tuple[int, ...], capacity: int, *, rolling: bool = False) -> Slots:
    """The slots of an empty cache.

    Equivalent to::

        Slots(positions=jnp.full((*batch, capacity), -1), length=0, rolling=rolling)

    Args:
      batch: the leading dims [...].
      capacity: S, at least 1.
      rolling: keep the last S tokens, instead of having room for S.

    Returns:
      The Slots.

    Raises:
      ValueError: for a capacity below 1.
    """
    check_number("init_slots", "capacity", capacity, SIZE)
    return Slots(jnp.full((*batch, capacity), -1, jnp.int32), jnp.int32(0), rolling)


def next_positions(slots: Slots, T: int) -> Array:
    """Where the next T tokens stand in their rows.

    Equivalent to::

        slots.positions.max(-1)[..., None] + 1 + jnp.arange(T)

    Args:
      slots: what was read so far.
      T: how many tokens come.

    Returns:
      int32 [..., T], from 0 in a row of which nothing was read.
    """
    first = slots.positions.max(-1, keepdims=True) + 1
    steps = jnp.arange(T, dtype=jnp.int32).reshape((1,) * (first.ndim - 1) + (T,))
    return first + steps


def append(buffer: Array, new: Array, slots: Slots, axis: int = -2) -> tuple[Array, Array]:
    """Puts the entries of T tokens behind those of the tokens before them.

    Equivalent to::

        seen = jnp.concatenate([buffer[: slots.length], new, buffer[slots.length + T :]])   # axis 0
        kept = seen
        seen = jnp.concatenate([buffer, new])                                               # where it rolls
        kept = seen[-S:]

    Args:
      buffer: [..., K, S, H], or another array with S along ``axis``.
      new: the same with T along ``axis``, of the same dtype.
      slots: before these tokens.
      axis: of S and T, from the right.

    Returns:
      ``(seen, kept)``: what the T tokens look at, S long, or S + T where it rolls; and the next buffer, S
      long. Where ``has_room`` is False neither is of any use.

    Raises:
      ValueError: the cache has no room for T more, as far as that is known before tracing.
    """
    buffer, new = as_array("cache.append", "buffer", buffer), as_array("cache.append", "new", new)
    S, T, axis = buffer.shape[axis], new.shape[axis], axis % buffer.ndim
    if slots.rolling:
        seen = jnp.concatenate([buffer, new], axis)
        return seen, jax.lax.slice_in_dim(seen, T, S + T, axis=axis)
    read = int(slots.length) if is_concrete(slots.length) else 0
    if definitely(lambda: read + T > S):
        raise ValueError(
            f"a cache with room for {S} tokens, {read} of them taken, was given {T} more: make it longer"
        )
    if not definitely(lambda: T <= S):
        raise ValueError(
            f"cache.append: got T = {T} tokens for a cache of S = {S}, and T may be larger; wanted T <= S. "
            "Declare it: jax.export.symbolic_shape(..., constraints=['T <= S']), in your own letters."
        )
    # A branch that is always taken: a plain update XLA repeats, on a CPU, inside of each of its uses, and
    # copies the whole buffer for every one of them.
    update = lambda buffer, new: jax.lax.dynamic_update_slice_in_dim(buffer, new, slots.length, axis)
    seen = jax.lax.cond(slots.length >= 0, update, lambda buffer, new: buffer, buffer, new)
    return seen, seen


def advance(slots: Slots, positions: Array) -> tuple[Array, Slots]:
    """The slots after T more tokens.

    Equivalent to::

        seen, kept = append(slots.positions, positions, slots, axis=-1)
        seen, Slots(kept, slots.length + T, slots.rolling)

    Args:
      slots: before these tokens.
      positions: int [..., T], where they stand in their rows; -1 for a token that nobody is to look at.

    Returns:
      ``(seen, slots)``: int32, the positions of the tokens that the T tokens look at, in the slots that
      ``append`` gives; and the slots for the next tokens.

    Raises:
      ValueError: as ``append``.
    """
    positions = as_array("cache.advance", "positions", positions)
    seen, kept = append(slots.positions, positions.astype(jnp.int32), slots, axis=-1)
    return seen, Slots(kept, slots.length + positions.shape[-1], slots.rolling)


def has_room(slots: Slots, T: int) -> Array:
    """Whether the cache has room for T more tokens.

    Equivalent to::

        slots.rolling or slots.length + T <= S

    Args:
      slots: before these tokens.
      T: how many come.

    Returns:
      bool scalar. Inside ``jit`` nothing can raise: there, this says whether what was computed may be used.
    """
    return jnp.bool_(True) if slots.rolling else slots.length + T <= slots.positions.shape[-1]


def seen_mask(slots: Slots, seen_positions: Array, *, window: int | None = None) -> Mask:
    """Which of the tokens that they see the next tokens may attend to: themselves and those before them.

    Equivalent to::

        offset = S if slots.rolling else slots.length
        masks.causal(offset) & masks.padding(seen_positions >= 0) & masks.window(window - 1, offset=offset)

    Args:
      slots: before these tokens.
      seen_positions: int [..., S | S + T], from ``advance``.
      window: how many tokens each one sees, itself counted, at least 1; None is no limit. It counts slots:
        those that hold no token must stand before all that do.

    Returns:
      A Mask of T queries and as many keys as there are seen positions.
    """
    offset = slots.positions.shape[-1] if slots.rolling else slots.length
    seen_positions = as_array("cache.seen_mask", "seen_positions", seen_positions)
    mask = masks.causal(offset) & masks.padding(seen_positions >= 0)
    return mask if window is None else mask & masks.window(window - 1, offset=offset)
