"""The parts of a mask that know what they mean: positions and ids, instead of a table of booleans.

They are values for backends to read (a kernel can skip the blocks that ``Causal`` forbids) and are made by
the functions of ``masks``.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.ops.masks.algebra import Mask, Part, Sizes, node, place
from tfm_jax.ops.masks.tiles import Grid, Span
from tfm_jax.ops.tracing import is_concrete
from tfm_jax.types import Array

__all__ = ["Causal", "Padding", "Prefix", "Segments", "Window"]


class _Positional(Part):
    """Compares absolute positions: query i stands at offset + i, key j at j."""

    def with_offset(self, offset: int | Array | None) -> Mask:
        return dataclasses.replace(self, offset=integers("with_offset", "offset", offset))

    def arrays(self, batch_rank: int | None) -> Iterator[tuple[Mask, str, str]]:
        if self.offset is not None:
            yield self, "offset", ""

    def block(self, queries: Span, keys: Span) -> Mask:
        return self._moved(queries.start - keys.start)

    def on_axis(self, axis: str, T: int, S: int) -> Mask:
        if self.offset is None and T != S:
            self.evaluate(Sizes((), 1, T, S))  # says what is missing, if positions matter
        return self._moved(jax.lax.axis_index(axis) * T)

    def _moved(self, by: int | Array) -> Mask:
        return self.with_offset(_int32(0 if self.offset is None else self.offset) + by)

    def _ahead_bounds(self, grid: Grid) -> tuple[Any, Any]:
        """How far keys stand after queries in each tile: at least, and at most."""
        (i, i_last), (j, j_last) = grid.ends(-2), grid.ends(-1)
        first, last = _least_and_most(0 if self.offset is None else self.offset)
        return j - i_last - last, j_last - i - first

    def _ahead(self, sizes: Sizes) -> Array:  # -> int32 [..., 1, T, S]
        """How far each key stands after each query."""
        queries = _arange(sizes.T, -2, sizes)
        if self.offset is not None:
            queries = queries + place(self, "offset", "", sizes).astype(jnp.int32)
        elif sizes.T != sizes.S:
            raise ValueError(
                f"{self.expression()}: got T = {sizes.T} queries, S = {sizes.S} keys and no offset; wanted "
                "the absolute position of query 0 (n, after n tokens in a cache). Give it by "
                "mask.with_offset(offset), one int or one a row."
            )
        return _arange(sizes.S, -1, sizes) - queries


@node
class Causal(_Positional):
    """Key j <= offset + i, for query i. ``offset``: None, int or int [...]."""

    offset: Any = None

    def evaluate(self, sizes: Sizes) -> Array:
        return self._ahead(sizes) <= 0

    def tile_bounds(self, grid: Grid) -> tuple[Any, Any]:
        least, most = self._ahead_bounds(grid)
        return least <= 0, most <= 0


@node
class Window(_Positional):
    """offset + i - left <= key j <= offset + i + right, for query i; a side that is None has no limit."""

    left: int | None = pytrees.static(default=None)
    right: int | None = pytrees.static(default=None)
    offset: Any = None

    def evaluate(self, sizes: Sizes) -> Array:
        allowed = jnp.ones((1,) * (len(sizes.batch) + 3), bool)
        if self.left is not None:
            allowed = allowed & (self._ahead(sizes) >= -self.left)
        if self.right is not None:
            allowed = allowed & (self._ahead(sizes) <= self.right)
        return allowed

    def tile_bounds(self, grid: Grid) -> tuple[Any, Any]:
        least, most = self._ahead_bounds(grid)
        some = every = np.ones((1, 1), bool)
        if self.left is not None:
            some, every = some & (most >= -self.left), every & (least >= -self.left)
        if self.right is not None:
            some, every = some & (least <= self.right), every & (most <= self.right)
        return some, every


@node
class Prefix(Part):
    """Key j < n, for every query. ``n``: int or int [...]."""

    n: Any

    def arrays(self, batch_rank: int | None) -> Iterator[tuple[Mask, str, str]]:
        yield self, "n", ""

    def evaluate(self, sizes: Sizes) -> Array:
        return _arange(sizes.S, -1, sizes) < place(self, "n", "", sizes).astype(jnp.int32)

    def block(self, queries: Span, keys: Span) -> Mask:
        return dataclasses.replace(self, n=_int32(self.n) - keys.start)

    def tile_bounds(self, grid: Grid) -> tuple[Any, Any]:
        (first, last), (least, most) = grid.ends(-1), _least_and_most(self.n)
        return (first < most)[None], (last < least)[None]


@node
class Padding(Part):
    """Keys that are valid, for every query. ``valid``: bool [..., S]."""

    valid: Any

    def arrays(self, batch_rank: int | None) -> Iterator[tuple[Mask, str, str]]:
        yield self, "valid", "S"

    def evaluate(self, sizes: Sizes) -> Array:
        return place(self, "valid", "S", sizes)

    def block(self, queries: Span, keys: Span) -> Mask:
        return dataclasses.replace(self, valid=keys.of(self.valid, -1))

    def on_axis(self, axis: str, T: int, S: int) -> Mask:
        return dataclasses.replace(self, valid=_whole_axis(self.valid, axis))

    def tile_bounds(self, grid: Grid) -> tuple[Any, Any]:
        tiles = grid.split(self.valid, -1, -1)
        others = (*range(tiles.ndim - 2), -1)
        return tiles.any(others)[None], tiles.all(others)[None]


@node
class Segments(Part):
    """Both have equal ids. ``query_ids``: int [..., T]; ``key_ids``: int [..., S]; None: the same."""

    query_ids: Any
    key_ids: Any = None

    def arrays(self, batch_rank: int | None) -> Iterator[tuple[Mask, str, str]]:
        yield self, "query_ids", "T"
        if self.key_ids is not None:
            yield self, "key_ids", "S"

    def evaluate(self, sizes: Sizes) -> Array:
        queries = place(self, "query_ids", "T", sizes).astype(jnp.int32)
        if self.key_ids is not None:
            return queries == place(self, "key_ids", "S", sizes).astype(jnp.int32)
        if sizes.T != sizes.S:
            raise ValueError(
                f"{self.expression()}: got T = {sizes.T} queries, S = {sizes.S} keys and no key_ids; wanted "
                "masks.segments(query_ids, key_ids)."
            )
        return queries == jnp.swapaxes(queries, -1, -2)

    def block(self, queries: Span, keys: Span) -> Mask:
        key_ids = self.query_ids if self.key_ids is None else self.key_ids
        return dataclasses.replace(
            self, query_ids=queries.of(self.query_ids, -1), key_ids=keys.of(key_ids, -1)
        )

    def on_axis(self, axis: str, T: int, S: int) -> Mask:
        key_ids = self.query_ids if self.key_ids is None else self.key_ids
        return dataclasses.replace(self, key_ids=_whole_axis(key_ids, axis))

    def tile_bounds(self, grid: Grid) -> tuple[Any, Any]:
        queries = grid.split(_int32(self.query_ids), -1, -2)[..., None, :]  # [..., down, 1, rows]
        key_ids = self.query_ids if self.key_ids is None else self.key_ids
        keys = grid.split(_int32(key_ids), -1, -1)[..., None, :, :]  # [..., 1, across, cols]
        # Ids without leading dims stand for the whole batch.
        rank = max(queries.ndim, keys.ndim)
        queries, keys = (x.reshape(*(1,) * (rank - x.ndim), *x.shape) for x in (queries, keys))
        first, last, first_key, last_key = queries.min(-1), queries.max(-1), keys.min(-1), keys.max(-1)
        # Ranges of ids that meet may still share no id: packed documents are in order, and there they do.
        some = (first <= last_key) & (first_key <= last)
        every = (first == last_key) & (first_key == last)
        others = tuple(range(some.ndim - 2))
        return some.any(others), every.all(others)


def _whole_axis(keys: Array, axis: str) -> Array:
    """The last axis of all devices, one after the other."""
    return jax.lax.all_gather(jnp.asarray(keys), axis, axis=jnp.ndim(keys) - 1, tiled=True)


def _int32(x: Any) -> Any:
    """Ints in which a difference does not wrap."""
    return x.astype(np.int32) if hasattr(x, "astype") else x


def _least_and_most(x: Any) -> tuple[Any, Any]:
    """Over the rows of the batch; NumPy's where they are known without tracing."""
    x = _int32(x)
    return (x.min(), x.max()) if hasattr(x, "min") else (x, x)


def _arange(n: int, axis: int, sizes: Sizes) -> Array:  # -> int32 [1, ..., 1], n long on `axis`
    shape = [1] * (len(sizes.batch) + 3)
    shape[axis] = n
    return jnp.arange(n, dtype=jnp.int32).reshape(shape)


def integers(where: str, name: str, x: Any) -> Any:
    """``x``, which must be None, an int or an array of ints, where known within int32; else a ValueError."""
    if x is None:
        return x
    if jax.export.is_symbolic_dim(x):
        return jnp.asarray(x, jnp.int32)
    if isinstance(x, int) and not isinstance(x, bool):
        low = high = x
    else:
        x = x if hasattr(x, "dtype") else np.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"{where}: got {name} of dtype {x.dtype}; wanted an int or an array of ints.")
        if jnp.can_cast(x.dtype, jnp.int32) or not is_concrete(x) or x.size == 0:
            return x
        low, high = (int(f(np.asarray(x))) for f in (np.min, np.max))
    if low < -(2**31) or high >= 2**31:
        raise ValueError(
            f"{where}: got {name} = {low if low < -(2**31) else high}; wanted ints within int32, in which "
            "positions and ids are compared."
        )
    return x
