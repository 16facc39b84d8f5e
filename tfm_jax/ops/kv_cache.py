"""KV-cache bookkeeping for incremental decoding.

A cache is one pair of buffers [..., K, S, H] per layer, of keys and values, and one ``Slots`` with the
position of the token in each slot. All are plain values that go in and come out. The heads come first, so
that the products of one query with keys and values need no copy. One attention layer that reads T tokens::

    positions = next_positions(slots, T)
    seen_positions, next_slots = advance(slots, positions)
    seen_keys, keys = append(keys, jnp.swapaxes(k, -3, -2), slots)
    seen_values, values = append(values, jnp.swapaxes(v, -3, -2), slots)
    mask = seen_mask(slots, seen_positions)
    out = attention(q, jnp.swapaxes(seen_keys, -3, -2), jnp.swapaxes(seen_values, -3, -2), mask)
    slots = next_slots
"""

import dataclasses

import jax
import jax.numpy as jnp

from tfm_jax import pytrees
from tfm_jax.checks import as_array, check_shapes
from tfm_jax.ops import masks
from tfm_jax.ops.masks import Mask
from tfm_jax.ops.tracing import definitely, is_concrete
from tfm_jax.ranges import SIZE, check_number
from tfm_jax.types import Array

__all__ = ["Slots", "advance", "append", "has_room", "init_slots", "next_positions", "seen_mask"]


@pytrees.register
@dataclasses.dataclass(frozen=True)
class Slots:
    """The positions of the tokens in the slots of a KV cache. A pytree.

    Args:
      positions: int32 [..., S], the position of each slot's token in its sequence, from 0; -1 in an empty
        slot.
      length: int32 scalar, the number of slots written so far, the same for all sequences.
      rolling: whether the cache keeps the last S tokens (a sliding window); otherwise S is its capacity.
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
      rolling: keep the last S tokens, instead of at most S tokens.

    Returns:
      The Slots.

    Raises:
      ValueError: ``capacity`` is below 1.
    """
    check_number("init_slots", "capacity", capacity, SIZE)
    return Slots(jnp.full((*batch, capacity), -1, jnp.int32), jnp.int32(0), rolling)


def next_positions(slots: Slots, T: int) -> Array:
    """The positions of the next T tokens.

    Equivalent to::

        slots.positions.max(-1)[..., None] + 1 + jnp.arange(T)

    Args:
      slots: the slots before these tokens.
      T: the number of tokens.

    Returns:
      int32 [..., T], from 0 in an empty sequence.
    """
    first = slots.positions.max(-1, keepdims=True) + 1
    steps = jnp.arange(T, dtype=jnp.int32).reshape((1,) * (first.ndim - 1) + (T,))
    return first + steps


def append(buffer: Array, new: Array, slots: Slots, axis: int = -2) -> tuple[Array, Array]:
    """KV-cache update: writes the keys or the values of T tokens behind those of earlier tokens.

    Equivalent to::

        seen = jnp.concatenate([buffer[: slots.length], new, buffer[slots.length + T :]])   # axis 0
        kept = seen
        seen = jnp.concatenate([buffer, new])                                               # rolling
        kept = seen[-S:]

    Args:
      buffer: [..., K, S, H], or another array with S along ``axis``.
      new: the same with T along ``axis``, of the same dtype.
      slots: the slots before these tokens.
      axis: the axis of S and T, negative.

    Returns:
      ``(seen, kept)``: what the T tokens attend to, of length S, or S + T in a rolling cache; and the next
      buffer, of length S. Both are undefined where ``has_room`` is False.

    Raises:
      ValueError: the cache has no room for T more tokens, if that is known before tracing; or ``new`` has
        another dtype than ``buffer``, or another size of any other axis.
    """
    buffer, new = as_array("kv_cache.append", "buffer", buffer), as_array("kv_cache.append", "new", new)
    after = " ".join("HNKD"[: buffer.ndim - 1 - axis % max(1, buffer.ndim)])  # the axes behind S and T
    check_shapes(
        "kv_cache.append", buffer=(buffer, f"... S {after}"), new=(new, f"... T {after}", buffer.dtype)
    )
    S, T, axis = buffer.shape[axis], new.shape[axis], axis % buffer.ndim
    if slots.rolling:
        seen = jnp.concatenate([buffer, new], axis)
        return seen, jax.lax.slice_in_dim(seen, T, S + T, axis=axis)
    used = int(slots.length) if is_concrete(slots.length) else 0
    if definitely(lambda: used + T > S):
        raise ValueError(
            f"kv_cache.append: got T = {T} tokens for a cache of S = {S} slots, {used} of them in use; "
            f"wanted T <= {S - used}. Make the cache longer."
        )
    if not definitely(lambda: T <= S):
        raise ValueError(
            f"kv_cache.append: got T = {T} tokens for a cache of S = {S} slots; wanted T <= S. Declare it: "
            "jax.export.symbolic_shape(..., constraints=['T <= S']), with your names of the sizes."
        )

    def update(buffer: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(buffer, new, slots.length, axis)

    # The condition is always true. Without it, XLA's CPU compiler repeats the update inside each of its uses,
    # and copies the whole buffer each time.
    seen = jax.lax.cond(slots.length >= 0, update, lambda buffer, new: buffer, buffer, new)
    return seen, seen


def advance(slots: Slots, positions: Array) -> tuple[Array, Slots]:
    """The slots after T more tokens.

    Equivalent to::

        seen, kept = append(slots.positions, positions, slots, axis=-1)
        seen, Slots(kept, slots.length + T, slots.rolling)

    Args:
      slots: the slots before these tokens.
      positions: int [..., T], their positions; -1 for a token that no token may attend to (padding).

    Returns:
      ``(seen, slots)``: int32 [..., S | S + T], the positions of what the T tokens see, in the order of
      ``append``'s ``seen``; and the slots for the next tokens.

    Raises:
      ValueError: as ``append``, or ``positions`` are not integers.
    """
    positions = as_array("kv_cache.advance", "positions", positions)
    check_shapes("kv_cache.advance", slots=(slots.positions, "... S"), positions=(positions, "... T", "int"))
    seen, kept = append(slots.positions, positions.astype(jnp.int32), slots, axis=-1)
    return seen, Slots(kept, slots.length + positions.shape[-1], slots.rolling)


def has_room(slots: Slots, T: int) -> Array:
    """Whether the cache has room for T more tokens.

    Equivalent to::

        slots.rolling or slots.length + T <= S

    Args:
      slots: the slots before these tokens.
      T: the number of tokens.

    Returns:
      bool scalar. Inside ``jit``, where ``append`` cannot raise, it tells whether the results are valid.
    """
    return jnp.bool_(True) if slots.rolling else slots.length + T <= slots.positions.shape[-1]


def seen_mask(slots: Slots, seen_positions: Array, *, window: int | None = None) -> Mask:
    """The causal mask of T new tokens over the cache: each may attend to itself and to earlier tokens.

    Equivalent to::

        offset = S if slots.rolling else slots.length
        masks.causal(offset) & masks.padding(seen_positions >= 0) & masks.window(window - 1, offset=offset)

    Args:
      slots: the slots before these tokens.
      seen_positions: int [..., S | S + T], from ``advance``.
      window: the number of tokens that each one may attend to, itself included, at least 1; None is no limit.
        It counts slots, so empty slots must come before all others.

    Returns:
      A Mask of T queries and one key per seen position.
    """
    offset = slots.positions.shape[-1] if slots.rolling else slots.length
    seen_positions = as_array("kv_cache.seen_mask", "seen_positions", seen_positions)
    check_shapes("kv_cache.seen_mask", seen_positions=(seen_positions, "... S", "int"))
    mask = masks.causal(offset) & masks.padding(seen_positions >= 0)
    return mask if window is None else mask & masks.window(window - 1, offset=offset)
