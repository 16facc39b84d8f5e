"""Tiles of the T x S table of queries and keys, and arrays split to match."""

from typing import Literal, NamedTuple, overload

import jax.numpy as jnp
import numpy as np

from tfm_jax.types import Array

__all__ = ["AnyArray", "Grid", "Ints", "Span", "any_and_all"]

AnyArray = Array | np.ndarray
"""NumPy's where the values are known before tracing, which then stay known; or JAX's."""
Ints = int | AnyArray
"""One integer, or one per sequence [...]."""
Padding = Literal["edge", "constant"]


class Span(NamedTuple):
    """``size`` consecutive queries or keys from ``start`` on; ``start`` may be traced."""

    start: int | Array
    size: int

    def indices(self) -> Array:  # -> int32 [size]
        """The indices of its elements."""
        return self.start + jnp.arange(self.size, dtype=jnp.int32)

    def take(self, array: AnyArray, axis: int) -> Array:
        """Its elements of an axis; beyond the end of the axis, the last element repeats."""
        return jnp.take(array, self.indices(), axis=axis, mode="clip")


class Grid(NamedTuple):
    """T queries and S keys in tiles of ``rows`` x ``cols``; the last tiles may reach beyond T and S."""

    T: int
    S: int
    rows: int
    cols: int

    @property
    def shape(self) -> tuple[int, int]:
        """The number of tiles, down and across."""
        return -(-self.T // self.rows), -(-self.S // self.cols)

    def spans(self, i: int | Array, j: int | Array) -> tuple[Span, Span]:
        """The queries and the keys of tile (i, j)."""
        return Span(i * self.rows, self.rows), Span(j * self.cols, self.cols)

    def ends(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """First and last query of each tile (axis -2), [down, 1], or key (axis -1), [across]."""
        n, size = (self.T, self.rows) if axis == -2 else (self.S, self.cols)
        first = np.arange(0, n, size, dtype=np.int32)
        last = np.minimum(first + size, n).astype(np.int32) - np.int32(1)
        return (first[:, None], last[:, None]) if axis == -2 else (first, last)

    @overload
    def split(self, array: np.ndarray, axis: int, of: int, mode: Padding = "edge") -> np.ndarray: ...

    @overload
    def split(self, array: Array, axis: int, of: int, mode: Padding = "edge") -> Array: ...

    def split(self, array: AnyArray, axis: int, of: int, mode: Padding = "edge") -> AnyArray:
        """Splits an axis into [tiles, elements of a tile], padded at its end.

        Args:
          array: NumPy's or JAX's.
          axis: the axis, counted from the right.
          of: -2 if it is over queries, -1 if over keys.
          mode: the padding, as in ``jnp.pad``: "edge" repeats the last element, "constant" is 0.

        Returns:
          An array of the same library.
        """
        n, size = (self.T, self.rows) if of == -2 else (self.S, self.cols)
        axis, tiles = axis + array.ndim, -(-n // size)
        padding = [(0, tiles * size - n if i == axis else 0) for i in range(array.ndim)]
        pad = np.pad if isinstance(array, np.ndarray) else jnp.pad
        array = pad(array, padding, mode)
        return array.reshape(*array.shape[:axis], tiles, size, *array.shape[axis + 1 :])

    def query_tiles(self, x: Array, K: int) -> Array:
        """[..., T, N, H] as [down, ..., K, G * rows, H]: grouped by key/value head."""
        x = self.split(x, -3, -2, "constant")
        *batch, down, rows, N, H = x.shape
        x = x.reshape(*batch, down, rows, K, N // K, H)
        x = jnp.moveaxis(x, (-5, -4), (0, -2))
        return x.reshape(down, *batch, K, N // K * rows, H)

    def join_query_tiles(self, tiles: Array, N: int) -> Array:
        """The inverse of ``query_tiles``."""
        down, *batch, K, _, H = tiles.shape
        tiles = tiles.reshape(down, *batch, K, N // K, self.rows, H)
        x = jnp.moveaxis(tiles, (0, -2), (-5, -4))
        x = x.reshape(*batch, down, self.rows, N, H)
        return x.reshape(*batch, down * self.rows, N, H)[..., : self.T, :, :]

    def key_tiles(self, x: Array) -> Array:
        """[..., S, K, H] as [across, ..., K, cols, H]."""
        x = self.split(x, -3, -1, "constant")
        return jnp.moveaxis(x, (-4, -3), (0, -2))

    def table_tiles(self, table: Array) -> Array:
        """[..., h, 1|T, 1|S] as [1|down, 1|across, ..., h, 1|rows, 1|cols]."""
        *_, T, S = table.shape
        table = table[..., None, :] if S == 1 else self.split(table, -1, -1, "constant")
        table = table[..., None, :, :, :] if T == 1 else self.split(table, -3, -2, "constant")
        return jnp.moveaxis(table, (-4, -2), (0, 1))


def any_and_all(array: AnyArray, axes: tuple[int, ...]) -> tuple[AnyArray, AnyArray]:
    """Whether any, and whether all booleans over some axes are True."""
    if isinstance(array, np.ndarray):
        return np.asarray(array.any(axes)), np.asarray(array.all(axes))
    return array.any(axes), array.all(axes)
