"""The mask, bias and dropout of one tile of logits, for ``chunked`` and ``ring``.

K key/value heads serve N = K * G query heads through an axis G. A tile has t queries and s keys.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from tfm_jax.checks import check_shapes
from tfm_jax.ops.backends.common import adjust_logits, row_heads, split_heads
from tfm_jax.ops.dropout import drop_at
from tfm_jax.ops.masks.algebra import Mask, Sizes
from tfm_jax.ops.masks.tiles import Grid, Span
from tfm_jax.types import Array

__all__ = ["Plan", "put_tile", "split_bias", "take_tile", "unmasked_tiles"]

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The static values of one call: sizes, tiles, and the arguments that are not traced."""

    grid: Grid
    batch: tuple[int, ...]
    N: int
    K: int
    lengths: tuple[int, int]  # queries and keys on the devices of the ring
    table: tuple[int, int]  # N and T on all devices
    pairs: np.ndarray  # int32 [tiles that may be unmasked, 2]
    bias_grid: tuple[int, int]  # tiles of a bias array, down and across; (1, 1) without one
    static: dict[str, float | None]  # scale and soft_cap, where they are not traced
    join_bias: Callable[[list, list], Callable[[Array, Array], Array]] | None  # the inverse of split_bias
    dropout_rate: float
    axis: str | tuple[str, ...] | None  # the mesh axis that queries and keys are sharded over

    def bias_index(self, i: Array, j: Array) -> Array | int:
        """The index of tile (i, j) among the tiles of a bias array."""
        down, across = self.bias_grid
        return (i if down > 1 else 0) * across + (j if across > 1 else 0)

    def split_rows(self, x: Array) -> Array:
        """[..., K, G * t, s] as [..., K, G, t, s]."""
        *batch, _, s = x.shape
        return x.reshape(*batch, self.N // self.K, self.grid.rows, s)

    def join_rows(self, x: Array) -> Array:
        """[..., K, G, t, s] as [..., K, G * t, s]."""
        *batch, G, t, s = x.shape
        return x.reshape(*batch, G * t, s)

    def evaluate_mask(
        self, products: Array, data: dict, i: Array, j: Array
    ) -> tuple[Array | None, Array | None]:
        """The mask of tile (i, j), and the pairs with NaN or Inf in their query, key or value.

        Returns:
          ``(allowed, nonfinite)``: bool [..., 1|K, 1|G, 1|t, 1|s] each. None for ``allowed`` if every pair
          is; None for ``nonfinite`` without a mask. A NaN or Inf in a query or a key shows in its products.
        """
        queries, keys = self.grid.spans(i, j)
        allowed = nonfinite = None
        if data["mask"] is not None:
            sizes = Sizes(self.batch, self.N, queries.size, keys.size)
            block = data["mask"].block(queries, Span(data["keys_from"] + keys.start, keys.size))
            allowed = split_heads(block.evaluate(sizes), self.K)
            nonfinite_v = jnp.swapaxes(take_tile(data["nonfinite_v"], j), -1, -2)[..., None, :, :]
            nonfinite = ~jnp.isfinite(products) | nonfinite_v
        if self.grid.S % self.grid.cols:
            inside = (keys.indices() < self.grid.S).reshape((1,) * (len(self.batch) + 3) + (keys.size,))
            allowed = inside if allowed is None else allowed & inside
        return allowed, nonfinite

    def adjust_logits(
        self, products: Array, bias: Array | None, traced: dict, data: dict, i: Array, j: Array
    ) -> Array:
        """Logits from products of queries and keys [..., K, G, t, s]; ``bias``: the tile of a bias array."""
        numbers: dict = self.static | traced
        if data["mask"] is not None:
            # ``evaluate_mask`` finds NaN and Inf; here they would reach gradients: 0 * NaN is NaN.
            products = jnp.where(jnp.isfinite(products), products, 0)
        if self.join_bias is not None:
            function = self.join_bias(traced["bias"], data["bias"])
            bias = function(*self._indices(data, i, j))
            bias = bias.reshape((1,) * (len(self.batch) + 3 - bias.ndim) + bias.shape)
        bias = None if bias is None else split_heads(bias, self.K)
        return adjust_logits(products, scale=numbers["scale"], soft_cap=numbers["soft_cap"], bias=bias)

    def dropout(self, x: Array, data: dict, i: Array, j: Array) -> Array:
        """Dropout of [..., K, G * t, s]; whether a pair is kept does not depend on the tiles."""
        if data["key"] is None:
            return x
        keys, (N, T) = self._indices(data, i, j)[1], self.table
        queries = jnp.minimum(data["first_query"] + self.grid.spans(i, j)[0].indices(), T - 1)
        heads = row_heads(data["examples"], data["heads"], N, (self.K, self.N // self.K, 1))
        rows = heads * T + queries.reshape((1,) * (heads.ndim - 1) + queries.shape)
        return self.join_rows(drop_at(self.split_rows(x), rows, keys, self.dropout_rate, data["key"]))

    def _indices(self, data: dict, i: Array, j: Array) -> tuple[Array, Array]:
        """The indices of queries and keys in the full sequence; beyond its end, the last index."""
        queries, keys = self.grid.spans(i, j)
        T, S = self.lengths
        return (
            jnp.minimum(data["queries_from"] + queries.indices(), T - 1),
            jnp.minimum(data["keys_from"] + keys.indices(), S - 1),
        )


def unmasked_tiles(mask: Mask | None, grid: Grid) -> tuple[np.ndarray, Array | None]:
    """The tiles to visit, and which of them the values of the mask leave unmasked.

    Returns:
      ``(pairs, unmasked)``: int32 [n, 2], the tiles that the structure of the mask does not rule out; and
      bool [n], known when the program runs, or None if all n are visited.
    """
    if mask is None:
        return np.argwhere(np.ones(grid.shape, bool)).astype(np.int32), None
    pairs = np.argwhere(np.broadcast_to(mask.bounds(grid, traced=False)[0], grid.shape)).astype(np.int32)
    unmasked = mask.bounds(grid)[0]
    if isinstance(unmasked, np.ndarray):
        return pairs, None
    return pairs, jnp.broadcast_to(unmasked, grid.shape)[pairs[:, 0], pairs[:, 1]]


def split_bias(
    bias: Callable[[Array, Array], Array], grid: Grid, *, varying: bool
) -> tuple[Callable, list, list]:
    """Splits a bias function into floating arrays, other arrays, and a function that joins them again.

    ``custom_vjp`` differentiates arguments only, so the arrays become arguments. They are the leaves of a
    function that is a pytree, such as ``jax.tree_util.Partial``, and what any other function closes over.

    Returns:
      ``(join, floats, others)``, where ``join(floats, others)`` is the bias function.
    """
    closed_jaxpr = jax.make_jaxpr(bias)(*(span.indices() for span in grid.spans(0, 0)))
    check_shapes(
        "attention",
        bias=(closed_jaxpr.out_avals[0], "... T|1 S|1"),
        sizes={"T": grid.rows, "S": grid.cols},
        fix="Compute the bias from the indices of queries and keys that are its arguments.",
    )
    if jax.tree_util.all_leaves([bias]):  # a plain function
        if not any(isinstance(x, jax.core.Tracer) for x in closed_jaxpr.consts):
            return (lambda floats, others: bias), [], []
        if varying:
            raise ValueError(
                "attention: got a bias function that closes over arrays, inside shard_map; wanted "
                "jax.tree_util.Partial(function, *arrays), with function(*arrays, queries, keys)."
            )

        def run(*arguments: Array) -> Array:
            *consts, queries, keys = arguments
            program = jax.extend.core.ClosedJaxpr(closed_jaxpr.jaxpr, consts)
            return jax.extend.core.jaxpr_as_fun(program)(queries, keys)[0]

        bias = jax.tree_util.Partial(run, *closed_jaxpr.consts)
    leaves, tree = jax.tree.flatten(bias)
    is_float = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in leaves]

    def join(floats: list, others: list) -> Callable[[Array, Array], Array]:
        rest = {True: iter(floats), False: iter(others)}
        return jax.tree.unflatten(tree, [next(rest[is_one]) for is_one in is_float])

    leaves = [*zip(map(jnp.asarray, leaves), is_float, strict=True)]
    return join, [x for x, is_one in leaves if is_one], [x for x, is_one in leaves if not is_one]


def take_tile(x: Tree, i: Array | int | None) -> Tree:
    """Element i of the first axis of every array in a tree; None: the tree itself."""
    return x if i is None else jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, False), x)


def put_tile(x: Tree, tile: Tree, i: Array | int | None) -> Tree:
    """The tree with that element replaced."""
    if i is None:
        return tile
    return jax.tree.map(lambda x, tile: jax.lax.dynamic_update_index_in_dim(x, tile, i, 0), x, tile)
