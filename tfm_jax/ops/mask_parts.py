"""The parts of a mask that know what they mean: positions and ids, instead of a table of booleans.

They are values for backends to read (a kernel can skip the blocks that ``Causal`` forbids) and are made by
the functions of ``masks``.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from tfm_jax.ops.mask_algebra import Mask, Sizes, node, place
from tfm_jax.ops.mask_drawing import at_hand
from tfm_jax.types import Array

__all__ = ["Causal", "Padding", "Prefix", "Segments", "Window"]


class _Positional(Mask):
    """Compares absolute positions: query i stands at offset + i, key j at j."""

    def with_offset(self, offset: int | Array | None) -> Mask:
        return dataclasses.replace(self, offset=integers("with_offset", "offset", offset))

    def arrays(self, batch_rank: int | None) -> Iterator[tuple[Mask, str, str]]:
        if self.offset is not None:
            yield self, "offset", ""

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


@node
class Window(_Positional):
    """offset + i - left <= key j <= offset + i + right, for query i; a side that is None has no limit."""

    left: int | None = dataclasses.field(default=None, metadata={"static": True})
    right: int | None = dataclasses.field(default=None, metadata={"static": True})
    offset: Any = None

    def evaluate(self, sizes: Sizes) -> Array:
        allowed = jnp.ones((1,) * (len(sizes.batch) + 3), bool)
        if self.left is not None:
            allowed = allowed & (self._ahead(sizes) >= -self.left)
        if self.right is not None:
            allowed = allowed & (self._ahead(sizes) <= self.right)
        return allowed


@node
class Prefix(Mask):
    """Key j < n, for every query. ``n``: int or int [...]."""

    n: Any

    def arrays(self, batch_rank: int | None) -> Iterator[tuple[Mask, str, str]]:
        yield self, "n", ""

    def evaluate(self, sizes: Sizes) -> Array:
        return _arange(sizes.S, -1, sizes) < place(self, "n", "", sizes).astype(jnp.int32)


@node
class Padding(Mask):
    """Keys that are valid, for every query. ``valid``: bool [..., S]."""

    valid: Any

    def arrays(self, batch_rank: int | None) -> Iterator[tuple[Mask, str, str]]:
        yield self, "valid", "S"

    def evaluate(self, sizes: Sizes) -> Array:
        return place(self, "valid", "S", sizes)


@node
class Segments(Mask):
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


def _arange(n: int, axis: int, sizes: Sizes) -> Array:  # -> int32 [1, ..., 1], n long on `axis`
    shape = [1] * (len(sizes.batch) + 3)
    shape[axis] = n
    return jnp.arange(n, dtype=jnp.int32).reshape(shape)


def integers(where: str, name: str, x: Any) -> Any:
    """``x``, which must be None, an int or an array of ints, where known within int32; else a ValueError."""
    if x is None:
        return x
    if isinstance(x, int) and not isinstance(x, bool):
        low = high = x
    else:
        x = x if hasattr(x, "dtype") else np.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"{where}: got {name} of dtype {x.dtype}; wanted an int or an array of ints.")
        if jnp.can_cast(x.dtype, jnp.int32) or not at_hand(x) or x.size == 0:
            return x
        low, high = (int(f(np.asarray(x))) for f in (np.min, np.max))
    if low < -(2**31) or high >= 2**31:
        raise ValueError(
            f"{where}: got {name} = {low if low < -(2**31) else high}; wanted ints within int32, in which "
            "positions and ids are compared."
        )
    return x
