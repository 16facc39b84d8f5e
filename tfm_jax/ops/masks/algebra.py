"""The ``Mask`` type, its operators ``&``, ``|`` and ``~``, and boolean arrays as masks.

``Dense`` is in this module, and not among the other leaves, because the operators wrap plain arrays in it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import ClassVar, NamedTuple, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import pytrees
from tfm_jax.checks import check_shapes
from tfm_jax.ops.masks.tiles import AnyArray, Grid, Ints, Span, any_and_all
from tfm_jax.ops.tracing import is_concrete
from tfm_jax.types import Array

__all__ = [
    "And",
    "Dense",
    "Leaf",
    "Mask",
    "Not",
    "Or",
    "Sizes",
    "check_bool",
    "conjuncts",
    "draw",
    "mask_type",
    "nodes",
]

_LARGEST_DRAWING = 16  # queries, and keys
_ADDITIVE = "An additive mask (0 and -inf) is a bias: pass it as bias=..., or its `x == 0` as the mask."
_NONZERO = "If nonzero means may attend, pass `x != 0` or `x.astype(bool)`."
_AXES = {"": "...|1", "T": "...|1 T", "S": "...|1 S", "TS": "...|1 T S", "NTS": "...|1 N|1 T S"}


M = TypeVar("M", bound="Mask")


class Sizes(NamedTuple):
    """The sizes to evaluate a mask for: ``batch`` is q's leading dims [...]; N, T, S as in ``types``."""

    batch: tuple[int, ...]
    N: int
    T: int
    S: int


class Mask:
    """Which query may attend to which key: a value, combined by ``&``, ``|``, ``~``, read by ``to_dense``.

    Either side of ``&`` and ``|`` may be a plain boolean array, NumPy's or JAX's: [T, S], [..., T, S] or
    [..., N, T, S]. Its rank decides which, once the batch is known.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]  # every kind is a dataclass
    # NumPy then leaves `array & mask` to __rand__, instead of looping over the elements of the array.
    __array_ufunc__ = None

    def __and__(self, other: "Mask | AnyArray") -> "Mask":
        return _combine(And, self, other)

    def __rand__(self, other: "Mask | AnyArray") -> "Mask":
        return _combine(And, other, self)

    def __or__(self, other: "Mask | AnyArray") -> "Mask":
        return _combine(Or, self, other)

    def __ror__(self, other: "Mask | AnyArray") -> "Mask":
        return _combine(Or, other, self)

    def __invert__(self) -> "Mask":
        return Not(self)

    def __bool__(self) -> bool:
        # `causal() and padding(valid)` would be padding(valid) alone.
        raise TypeError("Mask: got a mask as a truth value; wanted & | ~ instead of and, or, not.")

    def __repr__(self) -> str:
        sizes: dict[str, int] = {}
        for leaf, name, letters in self.arrays(None):
            shape = getattr(getattr(leaf, name), "shape", ())
            sizes |= dict(zip(letters[::-1], shape[::-1], strict=False))
        T = sizes.get("T", sizes.get("S", 8))
        return self.expression() + draw(self, T, sizes.get("S", T))

    def with_offset(self, offset: Ints | None) -> "Mask":
        """The same mask, with query 0 at position ``offset`` (int or int [...]) in every positional leaf."""
        return self._map(lambda inner: inner.with_offset(offset))

    def block(self, queries: Span, keys: Span) -> "Mask":
        """The mask of a block of consecutive queries and consecutive keys.

        Equivalent to::

            i, j = queries.start, keys.start
            mask.to_dense(T, S)[..., i : i + queries.size, j : j + keys.size]

        Args:
          queries: start, which may be traced, and size.
          keys: likewise.

        Returns:
          A Mask for ``queries.size`` queries and ``keys.size`` keys. Its values beyond T and S are undefined.
        """
        return self._map(lambda inner: inner.block(queries, keys))

    def bounds(self, grid: Grid, traced: bool = True) -> tuple[AnyArray, AnyArray]:
        """For each tile of the T x S table, whether any pair in it is unmasked, and whether all pairs are.

        Equivalent to::

            tiles = mask.to_dense(T, S)[..., i : i + grid.rows, j : j + grid.cols]     # for all i, j
            tiles.any(), tiles.all()                                        # over batch and heads as well

        Args:
          grid: T, S and the size of a tile.
          traced: whether to use JAX arrays too, whose values are known only when the program runs.

        Returns:
          ``(any, all)``: two bool [rows of tiles | 1, columns of tiles | 1], NumPy arrays where the result is
          known without tracing. Conservative: ``any`` may be True and ``all`` False when the mask's structure
          does not decide.
        """
        raise NotImplementedError

    def on_axis(self, axis: str | tuple[str, ...], T: int, S: int) -> "Mask":
        """The mask of one device's queries, where queries and keys are sharded over a mesh axis.

        Equivalent to::

            i = T * jax.lax.axis_index(axis)
            mask.to_dense(T * devices, S * devices)[..., i : i + T, :]

        Args:
          axis: the name of a mapped axis.
          T: queries on each device.
          S: keys on each device.

        Returns:
          A Mask of T queries and all keys. In this mask, arrays over queries or keys hold those of one
          device; a dense array holds the device's queries and all keys.
        """
        return self._map(lambda inner: inner.on_axis(axis, T, S))

    def moved(self, start: Ints) -> "Mask":
        """The mask of queries from position ``start`` on, whose arrays over queries begin there already.

        Equivalent to::

            mask.to_dense(T, S)[..., start:, :]

        Args:
          start: the first query, an int or a traced int32.

        Returns:
          A Mask, in which arrays over queries are the same ones, and positions are moved.
        """
        return self._map(lambda inner: inner.moved(start))

    def separate(self) -> "Mask":
        """The same mask, in which every array is over queries or over keys, not over both."""
        return self._map(lambda inner: inner.separate())

    def letters(self, batch_rank: int) -> "Mask":
        """The same tree with the letters of the last axes in place of each array, such as "TS"."""
        return self._map(lambda inner: inner.letters(batch_rank))

    def to_dense(self, T: int, S: int) -> Array:
        """The mask as booleans, True where a query may attend.

        Args:
          T: the number of queries.
          S: the number of keys.

        Returns:
          bool [..., T, S], where [...] are the leading dims of the mask's arrays (none: [T, S]); with a
          heads axis, [..., 1|N, T, S], when a leaf is per head.

        Raises:
          ValueError: the arrays do not fit T and S or each other, or a positional leaf has no offset
            and T != S.
        """
        leads, heads = [], []
        for leaf, name, letters in self.arrays(None):
            shape = getattr(getattr(leaf, name), "shape", ())
            leads.append(shape[: max(0, len(shape) - len(letters))])
            heads.extend(shape[-3:-2] if letters == "NTS" else ())
        leads = [lead for lead in leads if lead]
        if len({len(lead) for lead in leads}) > 1:
            raise ValueError(
                f"{self.expression()}: got arrays with different leading dims, {sorted(set(leads))}; wanted "
                "one batch shape [...]. An array with a heads axis is masks.dense(array, per_head=True)."
            )
        batch = tuple(max(dims) for dims in zip(*leads, strict=True))
        sizes = Sizes(batch, max(heads, default=1), T, S)
        self.check(sizes)
        allowed = self.evaluate(sizes)
        allowed = jnp.broadcast_to(allowed, (*batch, allowed.shape[-3], T, S))
        return allowed if heads else jnp.squeeze(allowed, -3)

    def check(self, sizes: Sizes, *, within: bool = False) -> None:
        """Raises a ValueError where the mask does not fit the sizes. Compares shapes; evaluates nothing.

        With ``within``, also where an offset that is known before tracing puts the last query beyond the last
        key.
        """
        for inner in self._inner().values():
            inner.check(sizes, within=within)

    def evaluate(self, sizes: Sizes) -> Array:
        """Booleans that broadcast to [..., N, T, S], for sizes that ``check`` accepts.

        An axis that the mask does not depend on may be 1.
        """
        raise NotImplementedError

    def arrays(self, batch_rank: int | None) -> Iterator[tuple["Leaf", str, str]]:
        """(leaf, field, letters of its last axes) of each array; the axes before them are [...] or none."""
        for inner in self._inner().values():
            yield from inner.arrays(batch_rank)

    def expression(self) -> str:
        """The code that makes the mask, with arrays as dtype and shape."""
        arguments = []
        for field in dataclasses.fields(self):
            x = getattr(self, field.name)
            if x is not field.default and x is not False:
                keyword = "" if field.default is dataclasses.MISSING else f"{field.name}="
                shape = getattr(x, "shape", None)
                arguments.append(keyword + (repr(x) if shape is None else f"{x.dtype}{_brackets(shape)}"))
        return f"{type(self).__name__.lower()}({', '.join(arguments)})"

    def _inner(self) -> dict[str, "Mask"]:
        """The masks that this one combines, by field."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: x for name, x in values.items() if isinstance(x, Mask)}

    def _map(self, change: Callable[["Mask"], "Mask"]) -> "Mask":
        """The same combination of changed masks."""
        return dataclasses.replace(self, **{name: change(x) for name, x in self._inner().items()})


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(pytrees.static,))
def mask_type(cls: type[M]) -> type[M]:
    """Makes a subclass of ``Mask`` a frozen dataclass and a pytree."""
    # eq=False: arrays do not compare to one bool. repr=False: Mask draws.
    return pytrees.register(dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls))


@mask_type
class And(Mask):
    """Allows what both sides allow."""

    left: Mask
    right: Mask

    def evaluate(self, sizes: Sizes) -> Array:
        return self.left.evaluate(sizes) & self.right.evaluate(sizes)

    def bounds(self, grid: Grid, traced: bool = True) -> tuple[AnyArray, AnyArray]:
        any_left, all_left = self.left.bounds(grid, traced)
        any_right, all_right = self.right.bounds(grid, traced)
        return any_left & any_right, all_left & all_right

    def expression(self) -> str:
        return f"{_operand(self.left, Or)} & {_operand(self.right, Or)}"


@mask_type
class Or(Mask):
    """Allows what at least one side allows."""

    left: Mask
    right: Mask

    def evaluate(self, sizes: Sizes) -> Array:
        return self.left.evaluate(sizes) | self.right.evaluate(sizes)

    def bounds(self, grid: Grid, traced: bool = True) -> tuple[AnyArray, AnyArray]:
        any_left, all_left = self.left.bounds(grid, traced)
        any_right, all_right = self.right.bounds(grid, traced)
        return any_left | any_right, all_left | all_right

    def expression(self) -> str:
        return f"{_operand(self.left)} | {_operand(self.right)}"


@mask_type
class Not(Mask):
    """Allows what the inner mask does not allow."""

    inner: Mask

    def evaluate(self, sizes: Sizes) -> Array:
        return ~self.inner.evaluate(sizes)

    def bounds(self, grid: Grid, traced: bool = True) -> tuple[AnyArray, AnyArray]:
        any_pair, all_pairs = self.inner.bounds(grid, traced)
        return ~all_pairs, ~any_pair

    def expression(self) -> str:
        return f"~{_operand(self.inner, And, Or)}"


class Leaf(Mask):
    """A mask that contains no other mask."""

    axes: ClassVar[dict[str, str]]
    """The letters of the last axes of each array field; the axes before them are [...] or none."""

    def arrays(self, batch_rank: int | None) -> Iterator[tuple["Leaf", str, str]]:
        for name, letters in self.axes.items():
            if getattr(self, name) is not None:
                yield self, name, letters

    def moved(self, start: Ints) -> Mask:
        return self

    def separate(self) -> Mask:
        return self

    def letters(self, batch_rank: int) -> Mask:
        return dataclasses.replace(self, **{name: letters for _, name, letters in self.arrays(batch_rank)})

    def bounds(self, grid: Grid, traced: bool = True) -> tuple[AnyArray, AnyArray]:
        if not traced and any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(self)):
            return np.ones((1, 1), bool), np.zeros((1, 1), bool)
        return self.tile_bounds(grid)

    def tile_bounds(self, grid: Grid) -> tuple[AnyArray, AnyArray]:
        """``bounds``, from the values of the arrays."""
        raise NotImplementedError

    def check(self, sizes: Sizes, *, within: bool = False) -> None:
        known = {"...": sizes.batch, "N": sizes.N, "T": sizes.T, "S": sizes.S}
        function = f"masks.{type(self).__name__.lower()}"
        for _, name, letters in self.arrays(len(sizes.batch)):
            check_shapes(function, {name: (getattr(self, name), _AXES[letters])}, sizes=known)

    def broadcastable(self, name: str, letters: str, sizes: Sizes) -> Array:  # -> [..., 1|N, 1|T, 1|S]
        """The array ``name``, whose last axes are ``letters``, reshaped to broadcast to [..., N, T, S]."""
        array = jnp.asarray(getattr(self, name))
        lead, last = _split_shape(array.shape, letters)
        found = dict(zip(letters, last, strict=True))
        return array.reshape(*(lead or (1,) * len(sizes.batch)), *(found.get(letter, 1) for letter in "NTS"))


@mask_type
class Dense(Leaf):
    """A boolean array: [..., T, S], or [..., N, T, S] if ``per_head``.

    ``per_head=None`` leaves the choice to the array's rank, once the batch is known.
    """

    array: AnyArray
    per_head: bool | None = pytrees.static(default=None)

    def arrays(self, batch_rank: int | None) -> Iterator[tuple[Leaf, str, str]]:
        per_head = self.per_head
        if per_head is None and batch_rank is not None:
            per_head = self.array.ndim == batch_rank + 3
        yield self, "array", "NTS" if per_head else "TS"

    def evaluate(self, sizes: Sizes) -> Array:
        ((_, name, letters),) = self.arrays(len(sizes.batch))
        return self.broadcastable(name, letters, sizes)

    def block(self, queries: Span, keys: Span) -> Mask:
        return dataclasses.replace(self, array=keys.take(queries.take(self.array, -2), -1))

    def tile_bounds(self, grid: Grid) -> tuple[AnyArray, AnyArray]:
        tiles = grid.split(grid.split(self.array, -2, -2), -1, -1)  # [..., down, rows, across, cols]
        inside = (*range(tiles.ndim - 4), -3, -1)
        return any_and_all(tiles, inside)


def conjuncts(mask: Mask | None) -> list[Mask]:
    """The masks that ``&`` joins.

    Equivalent to::

        [*conjuncts(mask.left), *conjuncts(mask.right)] if isinstance(mask, And) else [mask]
    """
    if mask is None:
        return []
    return [*conjuncts(mask.left), *conjuncts(mask.right)] if isinstance(mask, And) else [mask]


def nodes(mask: Mask | None) -> Iterator[Mask]:
    """Every mask in an expression, leaves and operators, except for the ``&``."""
    if mask is None:
        return
    if not isinstance(mask, And):
        yield mask
    for inner in mask._inner().values():
        yield from nodes(inner)


def check_bool(function: str, name: str, x: AnyArray) -> AnyArray:
    """``x`` as an array; a ValueError with the fix where its dtype is not bool."""
    x = x if hasattr(x, "dtype") else np.asarray(x)
    fix = _ADDITIVE if jnp.issubdtype(x.dtype, jnp.floating) else _NONZERO
    check_shapes(function, {name: (x, "...", "bool")}, fix=f"True means may attend. {fix}")
    return x


def draw(mask: Mask, T: int, S: int) -> str:
    """The top left corner of a mask for T queries and S keys, as text.

    Equivalent to::

        "\\n".join(" ".join("#" if x else "." for x in row) for row in mask.to_dense(T, S))

    Args:
      mask: a Mask.
      T: the number of queries.
      S: the number of keys.

    Returns:
      A legend and one line per query (at most 16 by 16; the first example of the batch, the first head). The
      empty string where the mask cannot be evaluated: under tracing, where its leaves do not fit each other,
      or where an array has no elements.
    """
    leaves = jax.tree.leaves(mask)
    if not all(map(is_concrete, leaves)) or any(0 in np.shape(leaf) for leaf in leaves):
        return ""
    try:
        with jax.ensure_compile_time_eval():  # a mask without tracers is drawn inside jit too
            corner = np.asarray(_corner(mask, T, S))
    except (TypeError, ValueError):
        return ""
    cut = f", cut to {_LARGEST_DRAWING}" if max(T, S) > _LARGEST_DRAWING else ""
    lines = [" ".join("#" if allowed else "." for allowed in row) for row in corner]
    return "\n".join([f"  (T = {T}, S = {S}{cut}; # = may attend)", *lines])


@functools.partial(jax.jit, static_argnums=(1, 2))
def _corner(mask: Mask, T: int, S: int) -> Array:
    allowed = mask.to_dense(T, S)
    # Sliced inside jit: XLA then computes only what is drawn.
    return allowed[(0,) * (allowed.ndim - 2)][:_LARGEST_DRAWING, :_LARGEST_DRAWING]


def _combine(operator: "type[And] | type[Or]", *sides: Mask | AnyArray) -> Mask:
    if not all(isinstance(side, Mask) or hasattr(side, "dtype") for side in sides):
        return NotImplemented
    return operator(
        *(
            side if isinstance(side, Mask) else Dense(check_bool("mask & | array", "array", side))
            for side in sides
        )
    )


def _operand(mask: object, *looser: type[Mask]) -> str:
    """A child's expression, in parentheses where its operator binds more loosely than the parent's."""
    if not isinstance(mask, Mask):  # JAX puts other values there: an axis number, a PartitionSpec
        return repr(mask)
    return f"({mask.expression()})" if isinstance(mask, looser) else mask.expression()


def _split_shape(shape: tuple[int, ...], letters: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Leading dims, and one size per letter; fewer if the shape is too short."""
    n_leading = max(0, len(shape) - len(letters))
    return shape[:n_leading], shape[n_leading:]


def _brackets(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
