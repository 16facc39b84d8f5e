"""The steps that the backends share: mask, bias, logits, softmax, and NaN or Inf in the inputs."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tfm_jax import pytrees
from tfm_jax.ops.masks.algebra import Mask, Sizes
from tfm_jax.types import Array

__all__ = [
    "Bias",
    "BiasFunction",
    "adjust_logits",
    "all_examples",
    "bias_array",
    "evaluate_mask",
    "fix_rows",
    "heads_first",
    "keys_last",
    "mask_logits",
    "nonfinite_rows",
    "row_heads",
    "shifted_exp",
    "softmax",
    "split_heads",
    "zero_nonfinite",
    "zero_nonfinite_qkv",
]

Bias = Array | Callable[[Array, Array], Array]
"""An array [..., 1|N, 1|T, 1|S], or a function of int32 query and key indices that returns one."""


@pytrees.register
@dataclasses.dataclass(frozen=True)
class BiasFunction:
    """A bias as a function of indices, with letters for the arrays that it reads.

    On a mesh each device gets its heads and its examples of these arrays. The arrays of any other function
    are whole on each device, which then evaluates the bias of all heads and examples.

    Equivalent to::

        lambda i, j: function(*arrays, i, j)

    Args:
      arrays: what the function reads, such as slopes [N] or positions [..., T].
      function: from these arrays and int32 indices of queries and keys to [..., N|1, T|1, S|1].
      axes: of each array, such as "N" or "... T"; "..." are leading dims of q, or none.
    """

    arrays: tuple[Array, ...]
    function: Callable[..., Array] = dataclasses.field(metadata={"static": True})
    axes: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    def __call__(self, queries: Array, keys: Array) -> Array:
        return self.function(*self.arrays, queries, keys)


def evaluate_mask(mask: Mask | None, q: Array, k: Array) -> Array | None:
    """A mask that fits q and k, as bool [..., 1|N, T, S]."""
    if mask is None:
        return None
    *batch, T, N, _ = q.shape
    S = k.shape[-3]
    allowed = mask.evaluate(Sizes(tuple(batch), N, T, S))
    return jnp.broadcast_to(allowed, (*allowed.shape[:-2], T, S))


def bias_array(bias: Bias | None, q: Array, k: Array) -> Array | None:
    """The bias as an array [..., 1|N, 1|T, 1|S]; calls it if it is a function."""
    if not callable(bias):
        return bias
    T, S, rank = q.shape[-3], k.shape[-3], q.ndim
    array = bias(jnp.arange(T, dtype=jnp.int32), jnp.arange(S, dtype=jnp.int32))
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def zero_nonfinite_qkv(
    q: Array,  # [..., T, N, H]
    k: Array,  # [..., S, K, H]
    v: Array,  # [..., S, K, Hv]
) -> tuple[Array, Array, Array, Array, Array]:  # the same three, bool [..., T, N, 1], bool [..., S, K, 1]
    """Replaces NaN and Inf by 0; also returns which queries, and which keys or values, had any.

    A masked key has weight 0, and 0 * NaN is NaN, so the products need finite inputs. ``mask_logits`` puts
    NaN back where the mask allows the key.
    """
    (q, nonfinite_q), (k, nonfinite_k), (v, nonfinite_v) = map(zero_nonfinite, (q, k, v))
    return q, k, v, nonfinite_q, nonfinite_k | nonfinite_v


def zero_nonfinite(x: Array) -> tuple[Array, Array]:  # [..., H] -> [..., H], bool [..., 1]
    """Replaces NaN and Inf by 0; also returns which vectors had any."""
    finite = jnp.isfinite(x)
    return jnp.where(finite, x, 0), ~finite.all(-1, keepdims=True)


def adjust_logits(
    products: Array, *, scale: float | Array, soft_cap: float | Array | None, bias: Array | None
) -> Array:
    """Logits from the products of queries and keys: scaled, soft-capped, biased, in their dtype."""
    logits = products * jnp.asarray(scale, products.dtype)
    if soft_cap is not None:
        cap = jnp.asarray(soft_cap, logits.dtype)
        logits = cap * jnp.tanh(logits / cap)
    return logits if bias is None else logits + bias.astype(logits.dtype)


# Compiled: as an array outside of jit, the NaN would stop every run under jax_debug_nans.
@functools.partial(jax.jit, inline=True)
def mask_logits(logits: Array, allowed: Array | None, nonfinite: Array | None) -> Array:
    """-inf at masked positions, NaN at unmasked positions whose query or key is not finite."""
    if nonfinite is not None:
        logits = jnp.where(nonfinite, jnp.nan, logits)
    return logits if allowed is None else jnp.where(allowed, logits, -jnp.inf)


def shifted_exp(x: Array) -> tuple[Array, Array]:  # [..., T, S] -> [..., T, S], [..., T, 1]
    """exp(x - max(x)) and its sums over the last axis; the sum is 1 for a fully masked row."""
    # The initial value keeps the maximum finite in a fully masked row: -inf - (-inf) is NaN.
    exp = jnp.exp(x - jnp.max(x, -1, keepdims=True, initial=jnp.finfo(x.dtype).min))
    # Every other sum is at least 1. With `where`, XLA's CPU compiler computes the sum twice.
    return exp, jnp.maximum(exp.sum(-1, keepdims=True), 1)


@jax.custom_jvp
def softmax(x: Array) -> Array:
    """Softmax over the last axis; exactly 0 where x is -inf, also in fully masked rows and rows with NaN."""
    exp, total = shifted_exp(x)
    return jnp.where(jnp.isneginf(x), 0, exp / total)


@softmax.defjvp
def _softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # From the weights alone: the backward pass keeps one [T, S] table per head and meets no infinity.
    weights, (tangent,) = softmax(*primals), tangents
    change = weights * tangent
    # A sum that is NaN must not reach masked positions.
    return weights, jnp.where(weights == 0, 0, change - weights * change.sum(-1, keepdims=True))


@functools.partial(jax.jit, inline=True)
def fix_rows(
    out: Array,  # [..., T, N, Hv]
    allowed: Array,  # bool [..., 1|N, T, S]
    nonfinite_q: Array,  # bool [..., T, N, 1]
    nonfinite_k: Array,  # bool [..., S, K, 1]
) -> Array:
    """Brings another library's output to our contract: 0 in fully masked rows, NaN where a row reads one.

    XLA fuses the booleans into one pass: no table of T x S is kept.
    """
    nonfinite = nonfinite_rows(allowed, nonfinite_q, nonfinite_k)
    return jnp.where(nonfinite, jnp.nan, jnp.where(_any_key(allowed), out, 0))


def nonfinite_rows(allowed: Array, nonfinite_q: Array, nonfinite_k: Array) -> Array:
    """Whether each query [..., T, N, 1] reads NaN or Inf: of its own, or of a key that it may attend to."""
    N = nonfinite_q.shape[-2]
    return (nonfinite_q & _any_key(allowed)) | _any_key(allowed & keys_last(nonfinite_k, N))


def _any_key(table: Array) -> Array:  # bool [..., 1|N, T, S] -> bool [..., T, 1|N, 1]
    return jnp.swapaxes(jnp.any(table, -1), -1, -2)[..., None]


def all_examples(batch: tuple[int, ...]) -> Array:
    """The flat index of each example of leading dims [...]."""
    return jnp.arange(math.prod(batch), dtype=jnp.int32).reshape(batch)


def row_heads(examples: Array, heads: Array, n_heads: int, shape: tuple[int, ...]) -> Array:
    """The indices [..., *shape] of the heads [N] of examples [...], among ``n_heads`` of each example."""
    examples = examples.reshape(*examples.shape, *(1,) * len(shape))
    return examples * n_heads + heads.reshape((1,) * (examples.ndim - len(shape)) + shape)


def heads_first(x: Array) -> Array:
    """[..., T, N, H] as [..., N, T, H], or back."""
    return jnp.swapaxes(x, -3, -2)


def split_heads(table: Array, K: int) -> Array:
    """[..., 1|N, t, s] as [..., 1|K, 1|G, t, s]."""
    *batch, N, t, s = table.shape
    return table.reshape(*batch, *((1, 1) if N == 1 else (K, N // K)), t, s)


def keys_last(x: Array, N: int) -> Array:
    """[..., S, K, 1] as [..., N, 1, S]: each key/value head repeated for its query heads."""
    *batch, S, K, _ = x.shape
    x = jnp.broadcast_to(heads_first(x), (*batch, K, S, N // K))
    return jnp.swapaxes(x, -2, -1).reshape(*batch, N, S)[..., None, :]
