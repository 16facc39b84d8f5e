"""Mutants of a decoder with a KV cache."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant
from tfm_jax.laws.suites.cached_decoder import CAPACITY

JIT = False


def empty_cache(B):
    return (jnp.zeros((B, CAPACITY, tiny.D)),) * 2


def write(buffer, new, length):
    if length + new.shape[1] > CAPACITY:
        raise ValueError("the cache is full")
    return write_unchecked(buffer, new, length)


def write_unchecked(buffer, new, length):
    return jax.lax.dynamic_update_slice(buffer, new, (0, length, 0))


def mask_of(length, n):
    """The slots that each of n tokens after ``length`` tokens may attend to, bool [n, S]."""
    return jnp.arange(CAPACITY)[None] <= length + jnp.arange(n)[:, None]


def positions_of(length, n):
    return length + jnp.arange(n)


def read(
    tokens,
    chunks,
    *,
    empty_cache=empty_cache,
    write=write,
    mask_of=mask_of,
    positions_of=positions_of,
    on_end=lambda cache: None,
):
    cache, length, out = empty_cache(len(tokens)), 0, []
    for n in chunks:
        positions = positions_of(length, n)[None]
        x = tiny.add_positions(tiny.EMBED[tokens[:, length : length + n]], positions)
        y = tiny.norm(x)
        cache = [write(old, y @ kernel, length) for old, kernel in zip(cache, (tiny.K, tiny.W), strict=True)]
        x = x + tiny.attend(y @ tiny.Q, *cache, mask_of(length, n)[None]) @ tiny.OUT
        out.append(tiny.logits_of(x + tiny.feed_forward(tiny.norm(x))))
        length += n
    on_end(cache)
    return jnp.concatenate(out, axis=1)


def full(tokens):
    valid = jnp.ones_like(tokens, bool)
    x = tiny.add_positions(tiny.EMBED[tokens], tiny.positions_of(valid))
    return tiny.logits_of(tiny.layer(x, tiny.causal(valid)))


def variant(**parts):
    return functools.partial(read, **parts)


OLD_CACHES = {}


RIGHT = read
OPTIONS = {"full": full}
MUTANTS = {
    "a full cache overwrites its last slot": Mutant(
        variant(write=write_unchecked), ["overflow"], "karpathy/nanochat#627"
    ),
    "a full cache ignores new tokens": Mutant(
        variant(
            write=lambda buffer, new, length: buffer.at[:, length + jnp.arange(new.shape[1])].set(
                new, mode="drop"
            )
        ),
        ["overflow"],
    ),
    "the causal mask is aligned top-left": Mutant(
        variant(mask_of=lambda length, n: mask_of(0, n)),
        ["chunked_matches_full", "token_by_token_matches_full", "earlier_chunks_are_cached"],
    ),
    "a single query reads only key 0": Mutant(
        variant(mask_of=lambda length, n: mask_of(length, n) if n > 1 else mask_of(0, 1)),
        ["token_by_token_matches_full"],
    ),
    "a chunk does not see earlier chunks": Mutant(
        variant(mask_of=lambda length, n: mask_of(length, n) & (jnp.arange(CAPACITY) >= length)[None]),
        ["earlier_chunks_are_cached", "chunked_matches_full"],
    ),
    "a chunk sees its own future": Mutant(
        variant(mask_of=lambda length, n: jnp.broadcast_to(jnp.arange(CAPACITY) < length + n, (n, CAPACITY))),
        ["chunked_matches_full"],
    ),
    "empty slots are read": Mutant(
        variant(mask_of=lambda length, n: jnp.ones((n, CAPACITY), bool)),
        ["token_by_token_matches_full"],
    ),
    "positions are one too large after the first chunk": Mutant(
        variant(positions_of=lambda length, n: positions_of(length + (length > 0), n)),
        ["chunked_matches_full", "token_by_token_matches_full"],
        "fla-org/flash-linear-attention#766",
    ),
    "positions restart in every chunk": Mutant(
        variant(positions_of=lambda length, n: positions_of(0, n)),
        ["chunked_matches_full", "token_by_token_matches_full"],
        "Blaizzy/mlx-vlm#1983",
    ),
    "a chunk overwrites the token before it": Mutant(
        variant(write=lambda buffer, new, length: write(buffer, new, max(length - 1, 0))),
        ["chunked_matches_full", "token_by_token_matches_full"],
    ),
    "only the first chunk is written": Mutant(
        variant(write=lambda buffer, new, length: write(buffer, new, length) if length == 0 else buffer),
        ["chunked_matches_full", "token_by_token_matches_full"],
    ),
    "examples share a cache": Mutant(
        variant(
            write=lambda buffer, new, length: write(buffer, jnp.broadcast_to(new[:1], new.shape), length)
        ),
        ["examples_are_independent"],
    ),
    "the cache is not cleared": Mutant(
        variant(
            empty_cache=lambda B: OLD_CACHES.get(B, empty_cache(B)),
            mask_of=lambda length, n: jnp.ones((n, CAPACITY), bool),
            on_end=lambda cache: OLD_CACHES.update({len(cache[0]): cache}),
        ),
        ["cache_starts_empty"],
    ),
}
