"""Structured masks, from positions and ids: causal, window, prefix, padding, segments.

Backends read the structure: a kernel can skip the tiles that ``Causal`` masks. The functions of ``masks``
make these classes and check their arguments; the classes check shapes.
"""

import dataclasses
from typing import ClassVar, overload

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.checks import check_shapes
from tfm_jax.ops.masks.algebra import Leaf, Mask, Sizes, mask_type
from tfm_jax.ops.masks.tiles import AnyArray, Grid, Ints, Span, any_and_all
from tfm_jax.ops.tracing import definitely, is_concrete, is_symbolic
from tfm_jax.types import Array

__all__ = ["Causal", "Padding", "Prefix", "Segments", "Window", "check_int"]


class _Positional(Leaf):
    """Compares absolute positions: query i is at offset + i, key j at j."""

    axes: ClassVar = {"offset": ""}

    offset: Ints | None

    def with_offset(self, offset: Ints | None) -> Mask:
        return dataclasses.replace(self, offset=check_int("with_offset", "offset", offset))

    def check(self, sizes: Sizes, *, within: bool = False) -> None:
        super().check(sizes)
        if within:
            self._check_within(sizes)
        if self.offset is None and sizes.T != sizes.S and self._compares_positions():
            raise ValueError(
                f"{self.expression()}: got T = {sizes.T} queries, S = {sizes.S} keys and no offset; wanted "
                "the absolute position of query 0 (n, after n tokens in a cache). Pass it with "
                "mask.with_offset(offset), one int or one per sequence."
            )

    def block(self, queries: Span, keys: Span) -> Mask:
        return self._moved(queries.start - keys.start)

    def on_axis(self, axis: str | tuple[str, ...], T: int, S: int) -> Mask:
        if self.offset is None:
            self.check(Sizes((), 1, T, S))
        return self._moved(jax.lax.axis_index(axis) * T)

    def moved(self, start: Ints) -> Mask:
        return self._moved(start)

    def _check_within(self, sizes: Sizes) -> None:
        if not isinstance(self.offset, int | np.ndarray) or not np.size(self.offset):
            return
        largest = np.max(self.offset)
        if definitely(lambda: largest + sizes.T > sizes.S):
            raise ValueError(
                f"{self.expression()}: got an offset of {largest} for T = {sizes.T} queries, S = {sizes.S} "
                "keys; wanted offset + T <= S, a key at each query's position. Is the cache full? Make it "
                "longer."
            )

    def _compares_positions(self) -> bool:
        return True

    def _moved(self, by: Ints) -> Mask:
        return self.with_offset(_as_int32(0 if self.offset is None else self.offset) + by)

    def _distance(self, sizes: Sizes) -> Array:  # -> int32 [..., 1, T, S]
        """The position of each key minus that of each query."""
        queries = _arange(sizes.T, -2, sizes)
        if self.offset is not None:
            queries = queries + self.broadcastable("offset", "", sizes).astype(jnp.int32)
        return _arange(sizes.S, -1, sizes) - queries

    def _distance_bounds(self, grid: Grid) -> tuple[AnyArray, AnyArray]:
        """The least and the greatest distance in each tile."""
        (i, i_last), (j, j_last) = grid.ends(-2), grid.ends(-1)
        least, greatest = _min_max(0 if self.offset is None else self.offset)
        return j - i_last - greatest, j_last - i - least


@mask_type
class Causal(_Positional):
    """Allows key j <= offset + i, for query i. ``offset``: None, int or int [...]."""

    offset: Ints | None = None

    def evaluate(self, sizes: Sizes) -> Array:
        return self._distance(sizes) <= 0

    def tile_bounds(self, grid: Grid) -> tuple[AnyArray, AnyArray]:
        least, greatest = self._distance_bounds(grid)
        return least <= 0, greatest <= 0


@mask_type
class Window(_Positional):
    """Allows offset + i - left <= key j <= offset + i + right, for query i; a side of None has no limit."""

    left: int | None = pytrees.static(default=None)
    right: int | None = pytrees.static(default=None)
    offset: Ints | None = None

    def evaluate(self, sizes: Sizes) -> Array:
        allowed = jnp.ones((1,) * (len(sizes.batch) + 3), bool)
        if self.left is not None:
            allowed = allowed & (self._distance(sizes) >= -self.left)
        if self.right is not None:
            allowed = allowed & (self._distance(sizes) <= self.right)
        return allowed

    def tile_bounds(self, grid: Grid) -> tuple[AnyArray, AnyArray]:
        least, greatest = self._distance_bounds(grid)
        any_pair = all_pairs = np.ones((1, 1), bool)
        if self.left is not None:
            any_pair, all_pairs = any_pair & (greatest >= -self.left), all_pairs & (least >= -self.left)
        if self.right is not None:
            any_pair, all_pairs = any_pair & (least <= self.right), all_pairs & (greatest <= self.right)
        return any_pair, all_pairs

    def _compares_positions(self) -> bool:
        return self.left is not None or self.right is not None


@mask_type
class Prefix(Leaf):
    """Allows key j < n, for every query. ``n``: int or int [...]."""

    axes: ClassVar = {"n": ""}

    n: Ints

    def evaluate(self, sizes: Sizes) -> Array:
        return _arange(sizes.S, -1, sizes) < self.broadcastable("n", "", sizes).astype(jnp.int32)

    def block(self, queries: Span, keys: Span) -> Mask:
        return dataclasses.replace(self, n=_as_int32(self.n) - keys.start)

    def tile_bounds(self, grid: Grid) -> tuple[AnyArray, AnyArray]:
        (first, last), (least, greatest) = grid.ends(-1), _min_max(self.n)
        return (first < greatest)[None], (last < least)[None]


@mask_type
class Padding(Leaf):
    """Allows the valid keys, for every query. ``valid``: bool [..., S]."""

    axes: ClassVar = {"valid": "S"}

    valid: AnyArray

    def evaluate(self, sizes: Sizes) -> Array:
        return self.broadcastable("valid", "S", sizes)

    def block(self, queries: Span, keys: Span) -> Mask:
        return dataclasses.replace(self, valid=keys.take(self.valid, -1))

    def on_axis(self, axis: str | tuple[str, ...], T: int, S: int) -> Mask:
        return dataclasses.replace(self, valid=_all_gather(self.valid, axis))

    def tile_bounds(self, grid: Grid) -> tuple[AnyArray, AnyArray]:
        tiles = grid.split(self.valid, -1, -1)
        inside = (*range(tiles.ndim - 2), -1)
        any_pair, all_pairs = any_and_all(tiles, inside)
        return any_pair[None], all_pairs[None]


@mask_type
class Segments(Leaf):
    """Allows keys with the query's id. ``query_ids``: int [..., T]; ``key_ids``: int [..., S], or None."""

    axes: ClassVar = {"query_ids": "T", "key_ids": "S"}

    query_ids: AnyArray
    key_ids: AnyArray | None = None

    def check(self, sizes: Sizes, *, within: bool = False) -> None:
        super().check(sizes)
        if self.key_ids is None and sizes.T != sizes.S:
            raise ValueError(
                f"{self.expression()}: got T = {sizes.T} queries, S = {sizes.S} keys and no key_ids; wanted "
                "masks.segments(query_ids, key_ids)."
            )

    def evaluate(self, sizes: Sizes) -> Array:
        queries = self.broadcastable("query_ids", "T", sizes).astype(jnp.int32)
        if self.key_ids is None:
            return queries == jnp.swapaxes(queries, -1, -2)
        return queries == self.broadcastable("key_ids", "S", sizes).astype(jnp.int32)

    def block(self, queries: Span, keys: Span) -> Mask:
        query_ids, key_ids = queries.take(self.query_ids, -1), keys.take(self._key_ids(), -1)
        return dataclasses.replace(self, query_ids=query_ids, key_ids=key_ids)

    def on_axis(self, axis: str | tuple[str, ...], T: int, S: int) -> Mask:
        return dataclasses.replace(self, key_ids=_all_gather(self._key_ids(), axis))

    def separate(self) -> Mask:
        return dataclasses.replace(self, key_ids=self._key_ids())

    def tile_bounds(self, grid: Grid) -> tuple[AnyArray, AnyArray]:
        queries = grid.split(_as_int32(self.query_ids), -1, -2)[..., None, :]  # [..., down, 1, rows]
        keys = grid.split(_as_int32(self._key_ids()), -1, -1)[..., None, :, :]  # [..., 1, across, cols]
        # Ids without leading dims hold for the whole batch.
        rank = max(queries.ndim, keys.ndim)
        queries, keys = (x.reshape(*(1,) * (rank - x.ndim), *x.shape) for x in (queries, keys))
        least, greatest = queries.min(-1), queries.max(-1)
        least_key, greatest_key = keys.min(-1), keys.max(-1)
        # Ranges of ids that overlap may share no id; with packed documents, whose ids ascend, they share one.
        any_pair = (least <= greatest_key) & (least_key <= greatest)
        all_pairs = (least == greatest_key) & (least_key == greatest)
        leading = tuple(range(any_pair.ndim - 2))
        return any_pair.any(leading), all_pairs.all(leading)

    def _key_ids(self) -> AnyArray:
        return self.query_ids if self.key_ids is None else self.key_ids


def _all_gather(keys: AnyArray, axis: str | tuple[str, ...]) -> Array:
    """The last axis of all devices, concatenated in their order."""
    return jax.lax.all_gather(jnp.asarray(keys), axis, axis=jnp.ndim(keys) - 1, tiled=True)


@overload
def _as_int32(x: AnyArray) -> AnyArray: ...


@overload
def _as_int32(x: Ints) -> Ints: ...


def _as_int32(x: Ints) -> Ints:
    """An array as int32, so that differences of small integers do not wrap; an int as it is."""
    return x if isinstance(x, int) else x.astype(np.int32)


def _min_max(x: Ints) -> tuple[Ints, Ints]:
    """The minimum and the maximum over the batch; NumPy numbers if they are known without tracing."""
    x = _as_int32(x)
    return (x, x) if isinstance(x, int) else (x.min(), x.max())


def _arange(n: int, axis: int, sizes: Sizes) -> Array:  # -> int32 [1, ..., 1], n long on `axis`
    shape = [1] * (len(sizes.batch) + 3)
    shape[axis] = n
    return jnp.arange(n, dtype=jnp.int32).reshape(shape)


@overload
def check_int(function: str, name: str, x: None) -> None: ...


@overload
def check_int(function: str, name: str, x: AnyArray) -> AnyArray: ...


@overload
def check_int(function: str, name: str, x: Ints) -> Ints: ...


def check_int(function: str, name: str, x: Ints | None) -> Ints | None:
    """``x``: None, an int, or an array of ints; a ValueError for other dtypes and for values beyond int32.

    Values that are traced are not checked.
    """
    if x is None:
        return x
    if is_symbolic(x):
        return jnp.asarray(x, jnp.int32)
    if isinstance(x, int) and not isinstance(x, bool):
        low = high = x
    else:
        x = np.asarray(x) if isinstance(x, int) or not hasattr(x, "dtype") else x
        check_shapes(function, {name: (x, "...", "int")}, fix="Pass an int or an array of ints.")
        if jnp.can_cast(x.dtype, jnp.int32) or not is_concrete(x) or x.size == 0:
            return x
        low, high = int(np.min(np.asarray(x))), int(np.max(np.asarray(x)))
    if low < -(2**31) or high >= 2**31:
        raise ValueError(
            f"{function}: got {name} = {low if low < -(2**31) else high}; wanted ints within int32, in which "
            "positions and ids are compared."
        )
    return x
