"""The arrays in masks: their dtypes and shapes checked, and laid out to meet."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.ops.masks.tiles import Grid, Span
from tfm_jax.ops.tracing import is_concrete
from tfm_jax.types import Array

__all__ = ["And", "Dense", "Mask", "Not", "Or", "Part", "Sizes", "booleans", "brackets", "drawing", "place"]


class Sizes(NamedTuple):
    """What a mask is read for: ``batch`` is q's leading dims [...]; N, T and S as in ``tfm_jax.types``."""

    batch: tuple[int, ...]
    N: int
    T: int
    S: int


def place(mask: Any, name: str, letters: str, sizes: Sizes) -> Array:  # -> [..., 1|N, 1|T, 1|S]
    """The array ``name`` of a part, every dim checked, laid out to broadcast against the other parts."""
    array = jnp.asarray(getattr(mask, name))
    cut = max(0, array.ndim - len(letters))
    lead, tail = array.shape[:cut], array.shape[cut:]
    fits = len(tail) == len(letters) and len(lead) in (0, len(sizes.batch))
    fits = fits and all(n in (1, wanted) for n, wanted in zip(lead, sizes.batch, strict=False))
    found = dict(zip(letters, tail, strict=False))
    wanted = {letter: getattr(sizes, letter) for letter in letters}
    if not fits or any(n != wanted[letter] and (letter, n) != ("N", 1) for letter, n in found.items()):
        known = [f"[...] = {brackets(sizes.batch)}", *(f"{letter} = {n}" for letter, n in wanted.items())]
        raise ValueError(
            f"{mask.expression()}: got {name} of shape {brackets(array.shape)}; wanted "
            f"[{', '.join(letters)}] or [{', '.join(['...', *letters])}], where {', '.join(known)} "
            "(1 may stand for a size of [...] or N)."
        )
    return array.reshape(*(lead or (1,) * len(sizes.batch)), *(found.get(letter, 1) for letter in "NTS"))


def brackets(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def booleans(where: str, x: Any) -> Any:
    """``x``, which must be a boolean array; else a ValueError that says how to make it one."""
    x = x if hasattr(x, "dtype") else np.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        mend = "An additive mask (0 and -inf) is a bias: pass it as bias=..., or its `x == 0` as the mask."
    else:
        mend = "If nonzero means may attend, pass `x != 0` or `x.astype(bool)`."
    if not jnp.issubdtype(x.dtype, jnp.bool_):
        raise ValueError(f"{where}: got dtype {x.dtype}; wanted bool, where True means may attend. {mend}")
    return x


_SIDE = 16  # of the largest drawing


def drawing(mask: Any, T: int, S: int) -> str:
    """The top left corner of a mask for T queries and S keys, as text.

    Equivalent to::

        "\\n".join(" ".join("#" if x else "." for x in row) for row in mask.to_dense(T, S))

    Args:
      mask: a Mask.
      T: the number of queries.
      S: the number of keys.

    Returns:
      A legend and one line a query (at most 16 by 16; the first row of the batch, the first head), or the
      empty string where the mask cannot be read: under tracing, where its parts do not fit together, or where
      an array of it has no element.
    """
    leaves = jax.tree.leaves(mask)
    if not all(map(is_concrete, leaves)) or any(0 in np.shape(leaf) for leaf in leaves):
        return ""
    try:
        with jax.ensure_compile_time_eval():  # inside somebody's jit, a mask without tracers is still drawn
            corner = np.asarray(_corner(mask, T, S))
    except (TypeError, ValueError):
        return ""
    cut = f", cut to {_SIDE}" if max(T, S) > _SIDE else ""
    lines = [" ".join("#" if allowed else "." for allowed in row) for row in corner]
    return "\n".join([f"  (T = {T}, S = {S}{cut}; # = may attend)", *lines])


@functools.partial(jax.jit, static_argnums=(1, 2))
def _corner(mask: Any, T: int, S: int) -> Array:
    allowed = mask.to_dense(T, S)
    # Sliced inside the jit: XLA then computes no more of the mask than is drawn.
    return allowed[(0,) * (allowed.ndim - 2)][:_SIDE, :_SIDE]


class Mask:
    """Which query may attend to which key: a value, combined by ``&``, ``|``, ``~`` and read by ``to_dense``.

    Either side of ``&`` and ``|`` may be a plain boolean array, NumPy's or JAX's: [T, S], [..., T, S] or
    [..., N, T, S], told apart by its rank once the batch is known.
    """

    # NumPy then leaves `array & mask` to __rand__, instead of looping over the elements of the array.
    __array_ufunc__ = None

    def __and__(self, other: Any) -> "Mask":
        return _combine(And, self, other)

    def __rand__(self, other: Any) -> "Mask":
        return _combine(And, other, self)

    def __or__(self, other: Any) -> "Mask":
        return _combine(Or, self, other)

    def __ror__(self, other: Any) -> "Mask":
        return _combine(Or, other, self)

    def __invert__(self) -> "Mask":
        return Not(self)

    def __bool__(self) -> bool:
        # `causal() and padding(valid)` would be padding(valid) alone.
        raise TypeError("a mask has no truth value: combine masks by & | ~ instead of and, or, not")

    def __repr__(self) -> str:
        known: dict[str, int] = {}
        for part, name, letters in self.arrays(None):
            shape = getattr(getattr(part, name), "shape", ())
            known |= dict(zip(letters[::-1], shape[::-1], strict=False))
        T = known.get("T", known.get("S", 8))
        return self.expression() + drawing(self, T, known.get("S", T))

    def with_offset(self, offset: int | Array | None) -> "Mask":
        """The same mask, whose positional parts take query 0 to stand at ``offset`` (int or int [...])."""
        return self._each(lambda inner: inner.with_offset(offset))

    def block(self, queries: Span, keys: Span) -> "Mask":
        """The mask of some queries and some keys that follow one another.

        Equivalent to::

            mask.to_dense(T, S)[..., i : i + queries.size, j : j + keys.size]     # i, j: where they start

        Args:
          queries: where they start, which may be traced, and how many they are.
          keys: likewise.

        Returns:
          A Mask for ``queries.size`` queries and ``keys.size`` keys. Beyond T and S it says nothing of use.
        """
        return self._each(lambda inner: inner.block(queries, keys))

    def bounds(self, grid: Grid, traced: bool = True) -> tuple[Any, Any]:
        """For every tile of the table, whether any pair in it may attend, and whether every pair may.

        Equivalent to::

            tiles = mask.to_dense(T, S)[..., i : i + grid.rows, j : j + grid.cols]     # for all i, j
            tiles.any(), tiles.all()                                        # over batch and heads as well

        Args:
          grid: T, S and the size of a tile.
          traced: whether to ask arrays of JAX as well, whose values are known when the program runs.

        Returns:
          Two bool [rows of tiles | 1, columns of tiles | 1]: NumPy's where the mask knows without tracing.
          The first may also be True, the second also be False, where the parts of the mask do not tell.
        """
        raise NotImplementedError

    def on_axis(self, axis: str, T: int, S: int) -> "Mask":
        """The mask of the queries of one device, where queries and keys are spread over an axis of devices.

        Equivalent to::

            mask.to_dense(T * devices, S * devices)[..., i : i + T, :]              # i = T * axis_index(axis)

        Args:
          axis: the name of a mapped axis.
          T: queries on each device.
          S: keys on each device.

        Returns:
          A Mask of T queries and all keys. Arrays of keys and queries were those of one device; a table was
          that of its queries and all keys.
        """
        return self._each(lambda inner: inner.on_axis(axis, T, S))

    def _each(self, change: Any) -> "Mask":
        """The same combination, its masks changed."""
        inner = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(
            self, **{name: change(x) for name, x in inner.items() if isinstance(x, Mask)}
        )

    def to_dense(self, T: int, S: int) -> Array:
        """The mask as booleans, True where a query may attend.

        Args:
          T: the number of queries.
          S: the number of keys.

        Returns:
          bool [..., T, S], where [...] are the leading dims of the mask's arrays (none: [T, S]); with a
          heads axis, [..., 1|N, T, S], when a part is per head.

        Raises:
          ValueError: the arrays do not fit T and S or each other, or a positional part has no offset
            and T != S.
        """
        leads, heads = [], []
        for part, name, letters in self.arrays(None):
            shape = getattr(getattr(part, name), "shape", ())
            leads.append(shape[: max(0, len(shape) - len(letters))])
            heads.extend(shape[-3:-2] if letters == "NTS" else ())
        leads = [lead for lead in leads if lead]
        if len({len(lead) for lead in leads}) > 1:
            raise ValueError(
                f"{self.expression()}: got arrays with different leading dims, {sorted(set(leads))}; wanted "
                "one batch shape [...]. An array with a heads axis is masks.dense(array, per_head=True)."
            )
        batch = tuple(max(dims) for dims in zip(*leads, strict=True))
        allowed = self.evaluate(Sizes(batch, max(heads, default=1), T, S))
        allowed = jnp.broadcast_to(allowed, (*batch, allowed.shape[-3], T, S))
        return allowed if heads else jnp.squeeze(allowed, -3)

    def arrays(self, batch_rank: int | None) -> Iterator[tuple["Mask", str, str]]:
        """(part, field, letters of the last axes) of every array; before those stands [...] or nothing."""
        for field in dataclasses.fields(self):
            inner = getattr(self, field.name)
            if isinstance(inner, Mask):
                yield from inner.arrays(batch_rank)

    def evaluate(self, sizes: Sizes) -> Array:
        """Booleans that broadcast to [..., N, T, S]; an axis that the mask does not depend on may be 1."""
        raise NotImplementedError

    def expression(self) -> str:
        """The code that makes the mask, with arrays by dtype and shape."""
        given = []
        for field in dataclasses.fields(self):
            x = getattr(self, field.name)
            if x is not field.default and x is not False:
                keyword = "" if field.default is dataclasses.MISSING else f"{field.name}="
                shape = getattr(x, "shape", None)
                given.append(keyword + (repr(x) if shape is None else f"{x.dtype}{brackets(shape)}"))
        return f"{type(self).__name__.lower()}({', '.join(given)})"


def node(cls: type) -> type:
    """Makes a class of mask a frozen dataclass and a pytree."""
    # eq=False: arrays do not compare to one bool. repr=False: Mask draws.
    return pytrees.register(dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls))


@node
class And(Mask):
    """Both sides allow it."""

    left: Mask
    right: Mask

    def evaluate(self, sizes: Sizes) -> Array:
        return self.left.evaluate(sizes) & self.right.evaluate(sizes)

    def bounds(self, grid: Grid, traced: bool = True) -> tuple[Any, Any]:
        (some, every), (some_right, every_right) = (
            self.left.bounds(grid, traced),
            self.right.bounds(grid, traced),
        )
        return some & some_right, every & every_right

    def expression(self) -> str:
        return f"{_operand(self.left, Or)} & {_operand(self.right, Or)}"


@node
class Or(Mask):
    """At least one side allows it."""

    left: Mask
    right: Mask

    def evaluate(self, sizes: Sizes) -> Array:
        return self.left.evaluate(sizes) | self.right.evaluate(sizes)

    def bounds(self, grid: Grid, traced: bool = True) -> tuple[Any, Any]:
        (some, every), (some_right, every_right) = (
            self.left.bounds(grid, traced),
            self.right.bounds(grid, traced),
        )
        return some | some_right, every | every_right

    def expression(self) -> str:
        return f"{_operand(self.left)} | {_operand(self.right)}"


@node
class Not(Mask):
    """The inner mask does not allow it."""

    inner: Mask

    def evaluate(self, sizes: Sizes) -> Array:
        return ~self.inner.evaluate(sizes)

    def bounds(self, grid: Grid, traced: bool = True) -> tuple[Any, Any]:
        some, every = self.inner.bounds(grid, traced)
        return ~every, ~some

    def expression(self) -> str:
        return f"~{_operand(self.inner, And, Or)}"


class Part(Mask):
    """A mask that holds no other."""

    def bounds(self, grid: Grid, traced: bool = True) -> tuple[Any, Any]:
        if not traced and any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(self)):
            return np.ones((1, 1), bool), np.zeros((1, 1), bool)
        return self.tile_bounds(grid)

    def tile_bounds(self, grid: Grid) -> tuple[Any, Any]:
        """As ``bounds``, of what its arrays hold."""
        raise NotImplementedError


@node
class Dense(Part):
    """A boolean array: [..., T, S], or [..., N, T, S] if ``per_head``; None: its rank tells, once read."""

    array: Any
    per_head: bool | None = pytrees.static(default=None)

    def arrays(self, batch_rank: int | None) -> Iterator[tuple[Mask, str, str]]:
        per_head = self.per_head
        if per_head is None and batch_rank is not None:
            per_head = self.array.ndim == batch_rank + 3
        yield self, "array", "NTS" if per_head else "TS"

    def evaluate(self, sizes: Sizes) -> Array:
        ((_, name, letters),) = self.arrays(len(sizes.batch))
        return place(self, name, letters, sizes)

    def block(self, queries: Span, keys: Span) -> Mask:
        return dataclasses.replace(self, array=keys.of(queries.of(self.array, -2), -1))

    def tile_bounds(self, grid: Grid) -> tuple[Any, Any]:
        tiles = grid.split(grid.split(self.array, -2, -2), -1, -1)  # [..., down, rows, across, cols]
        others = (*range(tiles.ndim - 4), -3, -1)
        return tiles.any(others), tiles.all(others)


def _combine(kind: type[Mask], *sides: Any) -> Any:
    if not all(isinstance(side, Mask) or hasattr(side, "dtype") for side in sides):
        return NotImplemented
    return kind(
        *(side if isinstance(side, Mask) else Dense(booleans("mask & | array", side)) for side in sides)
    )


def _operand(mask: Any, *loose: type[Mask]) -> str:
    """A child's expression, in parentheses where its operator binds more loosely than the parent's."""
    if not isinstance(mask, Mask):  # a child that JAX put there: an axis number, a PartitionSpec
        return repr(mask)
    return f"({mask.expression()})" if isinstance(mask, loose) else mask.expression()
