"""One tile of the table of logits: who may attend in it, its bias, its dropout. For ``chunked`` and ``ring``.

K key/value heads serve N = K * G query heads through an axis G. Letters of one tile: t queries, s keys.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops.backends.contract import adjust, split_heads
from tfm_jax.ops.dropout import drop_at
from tfm_jax.ops.grid import Grid, Span
from tfm_jax.ops.mask_algebra import Mask, Sizes
from tfm_jax.types import Array

__all__ = ["Plan", "bias_parts", "open_tiles", "part_of", "put_part"]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What is known before the program runs."""

    grid: Grid
    batch: tuple[int, ...]
    N: int
    K: int
    T: int  # queries on all devices
    pairs: np.ndarray  # int32 [tiles that may be open, 2]
    table_shape: tuple[int, int]  # tiles of a bias that is an array, down and across; (1, 1) without one
    known: dict[str, float | None]  # scale and soft_cap, where they are not traced
    bias_of: Callable[..., Array] | None
    dropout_rate: float
    axis: str | None  # of devices, which the queries and the keys are spread over

    def place(self, i: Array, j: Array) -> Array:
        """Where the tile of a bias that is an array stands among its tiles."""
        down, across = self.table_shape
        return (i if down > 1 else 0) * across + (j if across > 1 else 0)

    def split_rows(self, x: Array) -> Array:
        """[..., K, G * t, s] as [..., K, G, t, s]."""
        *batch, _, s = x.shape
        return x.reshape(*batch, self.N // self.K, self.grid.rows, s)

    def join_rows(self, x: Array) -> Array:
        """[..., K, G, t, s] as [..., K, G * t, s]."""
        *batch, G, t, s = x.shape
        return x.reshape(*batch, G * t, s)

    def open(self, raw: Array, data: dict, i: Array, j: Array) -> tuple[Array | None, Array | None]:
        """Who may attend to whom, and what is not finite, [..., 1|K, 1|G, 1|t, 1|s]; None: all, nothing.

        ``raw`` are products of queries and keys, which are not finite where one of the two is not.
        """
        queries, keys = self.grid.spans(i, j)
        allowed = bad = None
        if data["mask"] is not None:
            sizes = Sizes(self.batch, self.N, queries.size, keys.size)
            part = data["mask"].block(queries, Span(data["keys_from"] + keys.start, keys.size))
            allowed = split_heads(part.evaluate(sizes), self.K)
            bad_values = jnp.swapaxes(part_of(data["bad_values"], j), -1, -2)[..., None, :, :]
            bad = ~jnp.isfinite(raw) | bad_values
        if self.grid.S % self.grid.cols:
            inside = (keys.indices() < self.grid.S).reshape((1,) * (len(self.batch) + 3) + (keys.size,))
            allowed = inside if allowed is None else allowed & inside
        return allowed, bad

    def adjust(self, raw: Array, table: Array | None, given: dict, data: dict, i: Array, j: Array) -> Array:
        """Products of queries and keys [..., K, G, t, s] as logits; ``table`` is the bias of this tile."""
        given, bias = self.known | given, table
        if self.bias_of is not None:
            bias = self.bias_of(given["floats"], data["others"], *self._indices(data, i, j))
        bias = None if bias is None else split_heads(bias, self.K)
        return adjust(raw, scale=given["scale"], soft_cap=given["soft_cap"], bias=bias)

    def drop(self, x: Array, data: dict, i: Array, j: Array) -> Array:
        """Dropout of [..., K, G * t, s]: for each query and key the same, however large the tiles are."""
        if data["key"] is None:
            return x
        queries, keys = self._indices(data, i, j)
        heads = np.arange(np.prod((*self.batch, self.N), dtype=int))
        heads = heads.reshape(*self.batch, self.K, self.N // self.K, 1)
        queries = queries.reshape((1,) * (heads.ndim - 1) + queries.shape)
        rows = heads.astype(np.int32) * self.T + queries
        return self.join_rows(drop_at(self.split_rows(x), rows, keys, self.dropout_rate, data["key"]))

    def _indices(self, data: dict, i: Array, j: Array) -> tuple[Array, Array]:
        """Where the queries and keys stand in the whole sequence."""
        queries, keys = self.grid.spans(i, j)
        return data["queries_from"] + queries.indices(), data["keys_from"] + keys.indices()


def open_tiles(mask: Mask | None, grid: Grid) -> tuple[np.ndarray, Array | None]:
    """Tiles that may be open as far as the compiler knows, int32 [n, 2]; and which of them are, bool [n]."""
    if mask is None:
        return np.argwhere(np.ones(grid.shape, bool)).astype(np.int32), None
    pairs = np.argwhere(np.broadcast_to(mask.bounds(grid, traced=False)[0], grid.shape)).astype(np.int32)
    some = mask.bounds(grid)[0]
    if isinstance(some, np.ndarray):
        return pairs, None
    return pairs, jnp.broadcast_to(some, grid.shape)[pairs[:, 0], pairs[:, 1]]


def bias_parts(
    bias: Callable[[Array, Array], Array], grid: Grid, batch_rank: int
) -> tuple[Callable, list, list]:
    """A bias that is a function as one of its arrays too: it, the arrays that have gradients, and the others.

    What the function closes over becomes its arguments: ``custom_vjp`` gives gradients to arguments alone.
    """
    closed = jax.make_jaxpr(bias)(*(span.indices() for span in grid.spans(0, 0)))
    arrays = [jnp.asarray(x) for x in closed.consts]
    is_float = [jnp.issubdtype(x.dtype, jnp.floating) for x in arrays]

    def bias_of(floats: list, others: list, queries: Array, keys: Array) -> Array:
        floats, others = iter(floats), iter(others)
        arrays = [next(floats if of_float else others) for of_float in is_float]
        (tile,) = jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(closed.jaxpr, arrays))(
            queries, keys
        )
        return tile.reshape((1,) * (batch_rank + 3 - tile.ndim) + tile.shape)

    pick = lambda wanted: [x for x, of_float in zip(arrays, is_float, strict=True) if of_float == wanted]
    return bias_of, pick(True), pick(False)


def part_of(x: Any, i: Array | None) -> Any:
    """Part i, on the first axis, of every array of a tree; None: all of it."""
    return x if i is None else jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, False), x)


def put_part(x: Any, part: Any, i: Array | None) -> Any:
    """The tree with that part replaced."""
    put = lambda x, part: jax.lax.dynamic_update_index_in_dim(x, part, i, 0)
    return part if i is None else jax.tree.map(put, x, part)
