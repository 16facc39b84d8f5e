"""Masks as values: which query may attend to which key. True means *may attend*, everywhere.

``causal()``, ``window(left, right)``, ``prefix(n)``, ``padding(valid)``, ``segments(query_ids, key_ids)`` and
``dense(array)`` make masks; ``&``, ``|`` and ``~`` combine them, with plain boolean arrays too; the method
``to_dense(T, S)`` evaluates them. A mask is a pytree whose leaves are its arrays (``window``'s sides are
static), so it passes through jit, vmap, scan, shard_map and pmap with q, and through functions that
``jax.export`` serializes (deserialize them after importing ``tfm_jax.ops``).

Batches: every array of a mask has no leading dims and holds for the whole batch, or has exactly the leading
dims of q, each size equal or 1. Anything else is a ValueError; nothing broadcasts along another axis. Under
vmap, map the leaves as you map q; pass a mask with a single int or a shared array with ``in_axes=None``.
"""

import jax.numpy as jnp
import numpy as np

from tfm_jax.ops.masks.algebra import Dense, Mask, Sizes, check_bool
from tfm_jax.ops.masks.leaves import Causal, Padding, Prefix, Segments, Window, check_int
from tfm_jax.ops.masks.tiles import AnyArray, Ints
from tfm_jax.types import Array

__all__ = [
    "Mask",
    "as_mask",
    "causal",
    "check_fits",
    "dense",
    "padding",
    "prefix",
    "segments",
    "to_heads",
    "window",
]


def causal(offset: Ints | None = None) -> Mask:
    """Causal mask: each query may attend to keys at and before its own position.

    Equivalent to::

        jnp.arange(S)[None, :] <= offset + jnp.arange(T)[:, None]

    Args:
      offset: the position of query 0 among the keys, an int or int [...], one per sequence; None means 0 and
        requires T == S.

    Returns:
      A Mask. A query at a negative position is fully masked.

    Raises:
      ValueError: ``offset`` is not of integers within int32; when evaluated: no offset, and T != S.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.2.3 (the decoder's self-attention).
    """
    return Causal(check_int("masks.causal", "offset", offset))


def window(left: int | None = None, right: int | None = None, offset: Ints | None = None) -> Mask:
    """Sliding window: keys at most ``left`` before and ``right`` after the query's position, inclusive.

    Equivalent to::

        distance = jnp.arange(S)[None, :] - (offset + jnp.arange(T)[:, None])
        (-left <= distance) & (distance <= right)

    Args:
      left: how far back, a static int >= 0; None is no limit.
      right: how far ahead, a static int >= 0; None is no limit.
      offset: the position of query 0 among the keys, an int or int [...], one per sequence; None means 0 and
        requires T == S.

    Returns:
      A Mask. ``window()`` allows everything; ``window(right=0)`` is ``causal()``.

    Raises:
      ValueError: a side is not a static int in [0, 2**31), ``offset`` is not of integers within int32; when
        evaluated: a side but no offset, and T != S.

    Beltagy et al. 2020, "Longformer: The Long-Document Transformer", section 3.1.
    """
    for name, side in (("left", left), ("right", right)):
        static = isinstance(side, int | np.integer) and not isinstance(side, bool)
        if side is not None and (not static or not 0 <= side < 2**31):
            raise ValueError(
                f"masks.window: got {name} = {side!r}; wanted None (no limit) or an int in [0, 2**31), "
                "known before tracing (it is part of the compiled program). For a traced limit, use "
                "masks.dense."
            )
    sides = [side if side is None else int(side) for side in (left, right)]
    return Window(*sides, offset=check_int("masks.window", "offset", offset))


def prefix(n: Ints) -> Mask:
    """Prefix mask: every query may attend to the first ``n`` keys.

    Equivalent to::

        jnp.broadcast_to(jnp.arange(S) < n, (T, S))

    Args:
      n: the number of keys, an int or int [...], one per sequence.

    Returns:
      A Mask. ``causal() | prefix(n)`` is the mask of a prefix language model; n <= 0 allows nothing.

    Raises:
      ValueError: ``n`` is not of integers within int32 (traced values are not checked).

    Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
    section 3.2.1.
    """
    if n is None:
        raise ValueError("masks.prefix: got n = None; wanted an int or an array of ints.")
    return Prefix(check_int("masks.prefix", "n", n))


def padding(valid: AnyArray) -> Mask:
    """Padding mask: every query may attend to the valid keys.

    Equivalent to::

        jnp.broadcast_to(valid[..., None, :], (..., T, S))

    Args:
      valid: bool [..., S] or [S], True for a key that is not padding, such as ``tokens != pad_id``.

    Returns:
      A Mask. It does not mask padded queries: give them no weight in the loss.

    Raises:
      ValueError: ``valid`` is not boolean.
    """
    return Padding(check_bool("masks.padding", "valid", valid))


def segments(query_ids: AnyArray, key_ids: AnyArray | None = None) -> Mask:
    """Segment mask: a query may attend to keys with its id, so packed documents stay apart.

    Equivalent to::

        query_ids[..., :, None] == key_ids[..., None, :]

    Args:
      query_ids: int [..., T] or [T], compared as int32.
      key_ids: int [..., S] or [S]; None is ``query_ids``, and requires T == S.

    Returns:
      A Mask. No id is special: padding with id 0 attends to padding with id 0.

    Raises:
      ValueError: ids are not integers within int32; when evaluated: no ``key_ids``, and T != S.

    Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination: Accelerating Large Language
    Models without Impacting Performance".
    """
    if query_ids is None:
        raise ValueError("masks.segments: got query_ids = None; wanted int [..., T].")
    queries = check_int("masks.segments", "query_ids", query_ids)
    return Segments(queries, check_int("masks.segments", "key_ids", key_ids))


def dense(array: AnyArray, per_head: bool = False) -> Mask:
    """A boolean array as a mask.

    Equivalent to::

        array

    Args:
      array: bool [..., T, S] or [T, S]; with ``per_head``, [..., N, T, S] or [N, T, S].
      per_head: whether the third axis from the right is the query heads (N, or 1 for all of them).

    Returns:
      A Mask. Its T and S never broadcast: they must equal those of q and k.

    Raises:
      ValueError: ``array`` is not boolean.
    """
    return Dense(check_bool("masks.dense", "array", array), bool(per_head))


def as_mask(x: Mask | AnyArray | None, batch_rank: int) -> Mask | None:
    """Converts a boolean array to a mask, by its rank and the number of leading dims of q.

    Equivalent to::

        x if x is None or isinstance(x, Mask) else dense(x, per_head=x.ndim == batch_rank + 3)

    Args:
      x: a Mask, None, or a bool array [T, S], [..., T, S] or [..., N, T, S].
      batch_rank: the number of leading dims of q, 0 for a single example.

    Returns:
      A Mask; None for None, which allows everything.

    Raises:
      ValueError: ``x`` has another dtype or rank, or is not an array.
    """
    if x is None or isinstance(x, Mask):
        return x
    if not hasattr(x, "dtype"):
        raise ValueError(f"mask: got {x!r}; wanted a mask such as masks.causal(), a bool array, or None.")
    rank = len(check_bool("mask", "mask", x).shape)
    if rank not in (2, batch_rank + 2, batch_rank + 3):
        raise ValueError(
            f"mask: got a bool array of shape {list(x.shape)} with {batch_rank} batch dims [...]; wanted "
            "[T, S], [..., T, S] or [..., N, T, S]. For valid keys [..., S], use masks.padding(valid); for "
            "[N, T, S] without the batch, masks.dense(array, per_head=True)."
        )
    return Dense(x, per_head=rank == batch_rank + 3)


def check_fits(mask: Mask, batch_shape: tuple[int, ...], N: int, T: int, S: int) -> None:
    """Raises where a mask does not fit the sizes of an attention. Evaluates nothing.

    Equivalent to::

        to_heads(mask, batch_shape, N, T, S)  # for its errors

    Args:
      mask: a Mask.
      batch_shape: the leading dims [...] of q.
      N: the number of query heads.
      T: the number of queries.
      S: the number of keys.

    Returns:
      None.

    Raises:
      ValueError: an array of the mask does not fit (leading dims other than none or [...], each equal or 1;
        N, T or S), a positional leaf has no offset and T != S, or its offset, where it is known before
        tracing, puts the last query beyond the last key.
    """
    mask.check(Sizes(tuple(batch_shape), N, T, S), within=True)


def to_heads(mask: Mask, batch_shape: tuple[int, ...], N: int, T: int, S: int) -> Array:
    """Evaluates a mask as booleans for every head.

    Equivalent to::

        jnp.expand_dims(mask.to_dense(T, S), -3)  # where no leaf is per head

    Args:
      mask: a Mask.
      batch_shape: the leading dims [...] of q.
      N: the number of query heads.
      T: the number of queries.
      S: the number of keys.

    Returns:
      bool [..., 1|N, T, S]; a dim of [...] that the mask does not depend on is 1.

    Raises:
      ValueError: as ``check_fits``.
    """
    check_fits(mask, batch_shape, N, T, S)
    allowed = mask.evaluate(Sizes(tuple(batch_shape), N, T, S))
    return jnp.broadcast_to(allowed, (*allowed.shape[:-2], T, S))
