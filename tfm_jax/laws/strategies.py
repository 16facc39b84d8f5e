"""Hypothesis strategies of a Transformer's arguments: masks, shapes, q/k/v, segment ids, tokens, vectors.

The cases of the suites are made of them, and so are those of your own laws (docs/suites.md)::

    @st.composite
    def cases(draw):
        B, T = draw(st.sampled_from([(1, 1), (2, 3)]))
        return draw(strategies.normal((B, T, 4))), draw(strategies.valid(B, T))

A strategy of random numbers draws one seed and makes the numbers of it, so that hypothesis reduces a case in
few steps. Where a law needs the seed too, the case draws it and passes it on. Sizes are drawn from a short
list, the simplest first, because each shape is compiled separately.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tfm_jax.ops import masks
from tfm_jax.types import Array

__all__ = [
    "MASK_KINDS",
    "AttentionShape",
    "attention_shapes",
    "dense_masks",
    "distinct",
    "keys",
    "lengths",
    "mask_expressions",
    "mask_of_kind",
    "normal",
    "per_element",
    "positions",
    "qkv",
    "seeds",
    "segment_ids",
    "tokens",
    "valid",
]

T_co = TypeVar("T_co")
Seed = int | np.random.Generator | None
"""The seed of random numbers, or a generator that makes the next ones; None draws a seed."""
MASK_KINDS = ("causal", "window", "prefix", "padding", "segments", "dense", "heads")
"""The kinds of ``mask_of_kind``: constructors of ``ops.masks``; "heads" is ``dense(per_head=True)``."""


class AttentionShape(NamedTuple):
    """The sizes of q [B, T, N, H], and of k and v [B, S, K, H]."""

    B: int
    T: int
    S: int
    N: int
    K: int
    H: int


# The simplest first. S <= H, so that identity values show the weights. The last one is for functions that
# work in tiles.
ATTENTION_SHAPES = tuple(
    AttentionShape(*sizes)
    for sizes in (
        (1, 1, 1, 1, 1, 4),
        (1, 1, 2, 1, 1, 4),
        (1, 2, 2, 1, 1, 4),
        (1, 2, 3, 2, 2, 4),
        (1, 3, 2, 2, 2, 4),
        (2, 3, 3, 2, 1, 4),
        (2, 3, 4, 4, 2, 4),
        (1, 5, 5, 6, 3, 16),
        (2, 43, 43, 2, 2, 48),
    )
)


def seeds() -> SearchStrategy[int]:
    """Seeds from 0 to 10,000.

    Returns:
      A strategy of ints.
    """
    return st.integers(0, 10**4)


def keys() -> SearchStrategy[Array]:
    """Typed keys of ``jax.random``.

    Returns:
      A strategy of keys, ``jax.random.key(seed)``.
    """
    return seeds().map(jax.random.key)


def _from_seed(make: Callable[[np.random.Generator], T_co], seed: Seed) -> SearchStrategy[T_co]:
    """What ``make`` returns for a generator with this seed, or with one that is drawn."""
    if seed is None:
        return seeds().map(lambda drawn: make(np.random.default_rng(drawn)))
    return st.builds(lambda: make(np.random.default_rng(seed)))


def normal(
    shape: tuple[int, ...], *, scale: float = 1.0, shift: float = 0.0, seed: Seed = None
) -> SearchStrategy[np.ndarray]:
    """Normally distributed numbers in one decimal.

    Equivalent to::

        (scale * rng.standard_normal(shape).round(1) + shift).astype(np.float32)

    Args:
      shape: of the arrays.
      scale: the standard deviation.
      shift: the mean. One that is no multiple of ``scale / 10`` leaves no element 0.
      seed: of the numbers; None draws it.

    Returns:
      A strategy of float32 arrays of that shape.
    """

    def make(rng: np.random.Generator) -> np.ndarray:
        numbers = scale * rng.standard_normal(shape).round(1)
        return (numbers + shift if shift else numbers).astype(np.float32)  # -0 + 0 would be 0

    return _from_seed(make, seed)


def distinct(shape: tuple[int, ...], *, seed: Seed = None) -> SearchStrategy[np.ndarray]:
    """Multiples of 1/8 near 0, all different within a vector: vectors to normalize, logits without ties.

    Args:
      shape: of the arrays, [..., D].
      seed: of the numbers; None draws it.

    Returns:
      A strategy of float32 arrays of that shape. Elements of a vector differ by 1/4 or more.
    """

    def make(rng: np.random.Generator) -> np.ndarray:
        steps = rng.permuted(np.broadcast_to(np.arange(shape[-1]) - shape[-1] // 2, shape), axis=-1)
        return (steps + rng.integers(-3, 4, shape) / 8).astype(np.float32)

    return _from_seed(make, seed)


def per_element(
    elements: SearchStrategy[float], shape: tuple[int, ...], dtype: type[np.generic]
) -> SearchStrategy[np.ndarray]:
    """Arrays with each element drawn from a strategy: labels, weights of tokens, positions.

    Args:
      elements: a strategy of numbers.
      shape: of the arrays.
      dtype: of the arrays.

    Returns:
      A strategy of arrays.
    """
    n = int(np.prod(shape))
    listed = st.lists(elements, min_size=n, max_size=n)
    return listed.map(lambda drawn: np.asarray(drawn, dtype).reshape(shape))


def positions(shape: tuple[int, ...], *, largest: int = 300) -> SearchStrategy[np.ndarray]:
    """Positions from 0, in any order.

    Args:
      shape: of the arrays, such as (T,) or (B, T).
      largest: the largest position.

    Returns:
      A strategy of int32 arrays.
    """
    return per_element(st.integers(0, largest), shape, np.int32)


def tokens(B: int, T: int, *, vocab_size: int = 7, seed: Seed = None) -> SearchStrategy[np.ndarray]:
    """Random tokens.

    Args:
      B: examples.
      T: their length.
      vocab_size: ids range from 0 to ``vocab_size - 1``.
      seed: of the tokens; None draws it.

    Returns:
      A strategy of int32 arrays [B, T].
    """
    return _from_seed(lambda rng: rng.integers(0, vocab_size, (B, T)).astype(np.int32), seed)


def _sizes(low: int, high: int) -> SearchStrategy[int]:
    # Few sizes of a long sequence, because each is compiled separately.
    return st.integers(low, high) if high < 9 else st.sampled_from((low, 5, 20, high))


def lengths(B: int, T: int, *, shortest: int = 1) -> SearchStrategy[np.ndarray]:
    """Lengths of the examples of a padded batch.

    Args:
      B: examples.
      T: the padded length.
      shortest: the least length. For T above 8 the lengths are ``shortest``, 5, 20 and T.

    Returns:
      A strategy of int32 arrays [B], from ``shortest`` to T.
    """
    return per_element(_sizes(shortest, T), (B,), np.int32)


def valid(
    B: int, T: int, *, side: Literal["left", "right"] = "right", shortest: int = 1
) -> SearchStrategy[np.ndarray]:
    """Which positions of a padded batch hold a token.

    Args:
      B: examples.
      T: the padded length.
      side: the side of the padding.
      shortest: the least number of tokens of an example; T leaves no padding.

    Returns:
      A strategy of bool arrays [B, T], False at padding.

    Raises:
      ValueError: for another side.
    """
    if side not in ("left", "right"):
        raise ValueError(f'strategies.valid: got side={side!r}; wanted "left" or "right".')

    def of_lengths(drawn: np.ndarray) -> np.ndarray:
        table = np.arange(T) < drawn[:, None]
        return table if side == "right" else table[:, ::-1].copy()

    return lengths(B, T, shortest=shortest).map(of_lengths)


def segment_ids(B: int, T: int, *, segments: int = 3) -> SearchStrategy[np.ndarray]:
    """Ids of sequences that are packed into one, in order; a segment may be missing.

    Args:
      B: examples.
      T: their length.
      segments: the number of segments of an example, at most.

    Returns:
      A strategy of int32 arrays [B, T], ids from 0 to ``segments - 1``.
    """

    def after_cuts(cuts: tuple[np.ndarray, ...]) -> np.ndarray:
        ids = np.zeros((B, T), np.int32)
        for cut in cuts:
            ids += np.arange(T) >= cut[:, None]
        return ids

    return st.tuples(*[lengths(B, T, shortest=0)] * (segments - 1)).map(after_cuts)


def attention_shapes(
    fits: Callable[[AttentionShape], bool] = lambda shape: True,
) -> SearchStrategy[AttentionShape]:
    """Sizes of q, k and v, one of nine.

    Args:
      fits: the condition that they satisfy, such as ``lambda shape: shape.T == shape.S``.

    Returns:
      A strategy of ``AttentionShape``, with T below, at and above S, and with K below and at N.
    """
    return st.sampled_from([shape for shape in ATTENTION_SHAPES if fits(shape)])


@st.composite
def qkv(draw, shape: AttentionShape, *, seed: Seed = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and values.

    Args:
      shape: their sizes; ``draw(attention_shapes())`` in a composite strategy.
      seed: of the numbers; None draws it.

    Returns:
      A strategy of (q [B, T, N, H], k [B, S, K, H], v [B, S, K, H]), float32.
    """
    B, T, S, N, K, H = shape
    rng = np.random.default_rng(draw(seeds()) if seed is None else seed)
    q, k, v = (draw(normal(sizes, seed=rng)) for sizes in ((B, T, N, H), (B, S, K, H), (B, S, K, H)))
    return q, k, v


def dense_masks(B: int, T: int, S: int) -> SearchStrategy[np.ndarray]:
    """Random masks as tables, with fully masked rows.

    Args:
      B: examples.
      T: queries.
      S: keys.

    Returns:
      A strategy of bool arrays [B, 1, T, S], True = may attend. The simplest masks nothing.
    """
    n = -(-B * T * S // 8)

    def unpacked(bits: bytes) -> np.ndarray:
        hidden = np.unpackbits(np.frombuffer(bits, np.uint8), count=B * T * S).astype(bool)
        return ~hidden.reshape(B, 1, T, S)

    return st.binary(min_size=n, max_size=n).map(unpacked)


# --- masks as values, each with its table ---

Index = tuple[int, ...]
Predicate = Callable[[Index, int, int, int], bool]
"""(batch index, head, query, key) -> whether the query may attend to the key."""


@st.composite
def mask_expressions(draw, batch: Index, N: int, T: int, S: int) -> tuple[masks.Mask, np.ndarray]:
    """Masks of ``ops.masks``, and plain arrays, joined by ``&``, ``|`` and ``~``; each with its table.

    Args:
      batch: leading dims.
      N: heads.
      T: queries.
      S: keys.

    Returns:
      A strategy of (mask, table): an expression of up to four parts, and what it means, bool
      [*batch, N, T, S], made by loops.
    """
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    mask, holds = _leaf(draw(st.sampled_from(MASK_KINDS)), rng, batch, N, (T, S))
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from([*MASK_KINDS, "array"]))
        other, other_holds = (
            _array(rng, batch, (T, S)) if kind == "array" else _leaf(kind, rng, batch, N, (T, S))
        )
        match draw(st.sampled_from("&|~")):
            case "&":
                mask = mask & other if rng.random() < 0.5 else other & mask
                holds = functools.partial(_both, holds, other_holds)
            case "|":
                mask = mask | other if rng.random() < 0.5 else other | mask
                holds = functools.partial(_either, holds, other_holds)
            case "~":
                mask, holds = ~mask, functools.partial(_neither, holds)
    return mask, _table(holds, batch, N, T, S)


def mask_of_kind(
    kind: str, seed: int, batch: Index, N: int, *, T: int, S: int
) -> tuple[masks.Mask, np.ndarray]:
    """A random mask of one kind, with its table.

    Args:
      kind: of ``MASK_KINDS``.
      seed: of the mask.
      batch: leading dims; the mask may have fewer of them, or 1 in their place.
      N: heads.
      T: queries.
      S: keys.

    Returns:
      (mask, table), as of ``mask_expressions``.

    Raises:
      ValueError: for another kind.
    """
    if kind not in MASK_KINDS:
        raise ValueError(f"strategies.mask_of_kind: got {kind!r}; wanted one of {', '.join(MASK_KINDS)}.")
    mask, holds = _leaf(kind, np.random.default_rng(seed), batch, N, (T, S))
    return mask, _table(holds, batch, N, T, S)


def _leaf(
    kind: str, rng: np.random.Generator, batch: Index, N: int, sizes: tuple[int, int]
) -> tuple[masks.Mask, Predicate]:
    """A mask of a kind, and its predicate."""
    (T, S), lead = sizes, _leading(rng, batch)
    match kind:
        case "causal" | "window":
            return _positional(kind, rng, lead, sizes)
        case "prefix":
            n_keys = rng.integers(0, S + 2, lead)
            mask = masks.prefix(_numpy_or_jax(rng, np.asarray(n_keys)) if lead else int(n_keys))
            return mask, lambda b, n, i, j: bool(j < _pick(n_keys, lead, b))
        case "padding":
            table = rng.random((*lead, S)) < 0.6
            return masks.padding(_numpy_or_jax(rng, table)), lambda b, n, i, j: _pick(table, lead, b)[j]
        case "segments":
            return _segments(rng, batch, lead, sizes)
        case "dense":
            table = rng.random((*lead, T, S)) < 0.5
            return masks.dense(_numpy_or_jax(rng, table)), lambda b, n, i, j: _pick(table, lead, b)[i, j]
    assert kind == "heads"
    table = rng.random((*lead, 1 if rng.random() < 0.3 else N, T, S)) < 0.5
    mask = masks.dense(_numpy_or_jax(rng, table), per_head=True)
    return mask, lambda b, n, i, j: _pick(table, lead, b)[n % table.shape[len(lead)]][i, j]


def _array(
    rng: np.random.Generator, batch: Index, sizes: tuple[int, int]
) -> tuple[np.ndarray | Array, Predicate]:
    """A plain array, of NumPy or of JAX, and its predicate."""
    (T, S), lead = sizes, batch if rng.random() < 0.5 else ()
    table = rng.random((*lead, T, S)) < 0.5
    return _numpy_or_jax(rng, table), lambda b, n, i, j: _pick(table, lead, b)[i, j]


def _numpy_or_jax(rng: np.random.Generator, array: np.ndarray) -> np.ndarray | Array:
    """The array, of NumPy, whose values are known while tracing, or of JAX."""
    return array if rng.random() < 0.5 else jnp.asarray(array)


def _leading(rng: np.random.Generator, batch: Index) -> Index:
    """Leading dims of a mask's array: none, or each as in ``batch`` or 1."""
    if rng.random() < 0.3:
        return ()
    return tuple(n if rng.random() < 0.7 else 1 for n in batch)


def _pick(array: np.ndarray, lead: Index, b: Index) -> np.ndarray:
    """The value of an array with leading dims ``lead`` at batch index ``b``."""
    if not lead:
        return array
    return np.asarray(array)[tuple(0 if n == 1 else i for n, i in zip(lead, b, strict=True))]


def _positional(
    kind: str, rng: np.random.Generator, lead: Index, sizes: tuple[int, int]
) -> tuple[masks.Mask, Predicate]:
    T, S = sizes
    offsets = np.asarray(rng.integers(-1, max(0, S - T) + 1, lead)) if lead or T != S else None
    offset = None if offsets is None else _numpy_or_jax(rng, offsets)

    def position(b: Index, i: int) -> int:
        return i if offsets is None else int(_pick(offsets, lead, b)) + i

    if kind == "causal":
        return masks.causal(offset), lambda b, n, i, j: j <= position(b, i)
    left, right = (None if x == 3 else int(x) for x in rng.integers(0, 4, 2))
    low = -100 if left is None else -left
    high = 100 if right is None else right
    return masks.window(left, right, offset), lambda b, n, i, j: low <= j - position(b, i) <= high


def _segments(
    rng: np.random.Generator, batch: Index, lead: Index, sizes: tuple[int, int]
) -> tuple[masks.Mask, Predicate]:
    T, S = sizes
    ids = rng.integers(0, 3, (*lead, T))
    key_lead = _leading(rng, batch)
    key_ids = rng.integers(0, 3, (*key_lead, S)).astype(np.int32)
    if T == S and rng.random() < 0.5:
        mask = masks.segments(_numpy_or_jax(rng, ids))
        return mask, lambda b, n, i, j: _pick(ids, lead, b)[i] == _pick(ids, lead, b)[j]
    mask = masks.segments(_numpy_or_jax(rng, ids), _numpy_or_jax(rng, key_ids))
    return mask, lambda b, n, i, j: _pick(ids, lead, b)[i] == _pick(key_ids, key_lead, b)[j]


def _both(first: Predicate, second: Predicate, b: Index, n: int, i: int, j: int) -> bool:
    return first(b, n, i, j) and second(b, n, i, j)


def _either(first: Predicate, second: Predicate, b: Index, n: int, i: int, j: int) -> bool:
    return first(b, n, i, j) or second(b, n, i, j)


def _neither(holds: Predicate, b: Index, n: int, i: int, j: int) -> bool:
    return not holds(b, n, i, j)


def _table(holds: Predicate, batch: Index, N: int, T: int, S: int) -> np.ndarray:
    """The bool array [*batch, N, T, S] of a predicate."""
    table = np.zeros((*batch, N, T, S), bool)
    for index in np.ndindex(*table.shape):
        *b, n, i, j = index
        table[index] = holds(tuple(b), n, i, j)
    return table
