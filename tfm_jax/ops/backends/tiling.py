"""One tile of the table of logits: who may attend in it, its bias, its dropout. For ``chunked`` and ``ring``.

K key/value heads serve N = K * G query heads through an axis G. Letters of one tile: t queries, s keys.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from tfm_jax.ops.backends.common import adjust, split_heads
from tfm_jax.ops.dropout import drop_at
from tfm_jax.ops.masks.algebra import Mask, Sizes
from tfm_jax.ops.masks.tiles import Grid, Span
from tfm_jax.types import Array

__all__ = ["Plan", "bias_parts", "open_tiles", "part_of", "put_part"]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What is known before the program runs."""

    grid: Grid
    batch: tuple[int, ...]
    N: int
    K: int
    whole: tuple[int, int]  # queries and keys on all devices
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
        if data["mask"] is not None:
            # What is not finite is found by ``open``; here it would reach gradients, for 0 * nan is nan.
            raw = jnp.where(jnp.isfinite(raw), raw, 0)
        if self.bias_of is not None:
            bias = self.bias_of(given["bias"], data["bias"])(*self._indices(data, i, j))
            bias = bias.reshape((1,) * (len(self.batch) + 3 - bias.ndim) + bias.shape)
        bias = None if bias is None else split_heads(bias, self.K)
        return adjust(raw, scale=given["scale"], soft_cap=given["soft_cap"], bias=bias)

    def drop(self, x: Array, data: dict, i: Array, j: Array) -> Array:
        """Dropout of [..., K, G * t, s]: for each query and key the same, however large the tiles are."""
        if data["key"] is None:
            return x
        queries, keys = self._indices(data, i, j)
        heads = jnp.arange(math.prod((*self.batch, self.N)), dtype=jnp.int32)
        heads = heads.reshape(*self.batch, self.K, self.N // self.K, 1)
        queries = queries.reshape((1,) * (heads.ndim - 1) + queries.shape)
        rows = heads * self.whole[0] + queries
        return self.join_rows(drop_at(self.split_rows(x), rows, keys, self.dropout_rate, data["key"]))

    def _indices(self, data: dict, i: Array, j: Array) -> tuple[Array, Array]:
        """Where the queries and keys stand in the whole sequence; the last again beyond its end."""
        queries, keys = self.grid.spans(i, j)
        T, S = self.whole
        return (
            jnp.minimum(data["queries_from"] + queries.indices(), T - 1),
            jnp.minimum(data["keys_from"] + keys.indices(), S - 1),
        )


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
    bias: Callable[[Array, Array], Array], grid: Grid, *, varying: bool
) -> tuple[Callable, list, list]:
    """A bias that is a function, apart: what puts it together again, its arrays with gradients, its others.

    ``custom_vjp`` gives gradients to arguments alone. The arrays of a function that is a pytree, such as
    ``jax.tree_util.Partial``, are its leaves; of any other function, what it closes over that is traced.
    """
    closed = jax.make_jaxpr(bias)(*(span.indices() for span in grid.spans(0, 0)))
    _check_tile(closed.out_avals[0].shape, grid)
    if jax.tree_util.all_leaves([bias]):  # a plain function
        if not any(isinstance(x, jax.core.Tracer) for x in closed.consts):
            return lambda floats, others: bias, [], []
        if varying:
            raise ValueError(
                "attention: got a bias that is a function and closes over arrays, inside shard_map; wanted "
                "jax.tree_util.Partial(function, *arrays), which names them, of (*arrays, queries, keys)."
            )
        program = lambda consts: jax.extend.core.ClosedJaxpr(closed.jaxpr, consts)
        run = lambda *x: jax.extend.core.jaxpr_as_fun(program(x[:-2]))(*x[-2:])[0]
        bias = jax.tree_util.Partial(run, *closed.consts)
    leaves, tree = jax.tree.flatten(bias)
    is_float = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in leaves]

    def join(floats: list, others: list) -> Callable[[Array, Array], Array]:
        floats, others = iter(floats), iter(others)
        return jax.tree.unflatten(tree, [next(floats if of_float else others) for of_float in is_float])

    pick = lambda wanted: [jnp.asarray(x) for x, f in zip(leaves, is_float, strict=True) if f == wanted]
    return join, pick(True), pick(False)


def _check_tile(shape: tuple[int, ...], grid: Grid) -> None:
    if any(n not in (1, size) for n, size in zip(shape[-2:], (grid.rows, grid.cols), strict=True)):
        raise ValueError(
            f"attention: got a bias that is a function and gives {list(shape)} of {grid.rows} queries and "
            f"{grid.cols} keys; wanted [..., N|1, {grid.rows}|1, {grid.cols}|1]: a table of the indices that "
            "it is given."
        )


def part_of(x: Any, i: Array | None) -> Any:
    """Part i, on the first axis, of every array of a tree; None: all of it."""
    return x if i is None else jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, False), x)


def put_part(x: Any, part: Any, i: Array | None) -> Any:
    """The tree with that part replaced."""
    put = lambda x, part: jax.lax.dynamic_update_index_in_dim(x, part, i, 0)
    return part if i is None else jax.tree.map(put, x, part)
