"""Wrong caches."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants import tiny
from tests.mutants.mutant import Mutant
from tfm_jax.laws import CAPACITY

JIT = False


def empty(B):
    return (jnp.zeros((B, CAPACITY, tiny.D)),) * 2


def put(buffer, new, length):
    if length + new.shape[1] > CAPACITY:
        raise ValueError("the cache is full")
    return put_anywhere(buffer, new, length)


def put_anywhere(buffer, new, length):
    return jax.lax.dynamic_update_slice(buffer, new, (0, length, 0))


def see(length, n):
    """Of n tokens after so many others, the slots that each may attend to, bool [n, S]."""
    return jnp.arange(CAPACITY)[None] <= length + jnp.arange(n)[:, None]


def place(length, n):
    return length + jnp.arange(n)


def read(tokens, pieces, *, empty=empty, put=put, see=see, place=place, keep=lambda cache: None):
    cache, length, out = empty(len(tokens)), 0, []
    for n in pieces:
        x = tiny.placed(tiny.EMBED[tokens[:, length : length + n]], place(length, n)[None])
        y = tiny.norm(x)
        cache = [put(old, y @ kernel, length) for old, kernel in zip(cache, (tiny.K, tiny.W), strict=True)]
        x = x + tiny.attend(y @ tiny.Q, *cache, see(length, n)[None]) @ tiny.OUT
        out.append(tiny.logits_of(x + tiny.feed_forward(tiny.norm(x))))
        length += n
    keep(cache)
    return jnp.concatenate(out, axis=1)


def whole(tokens):
    valid = jnp.ones_like(tokens, bool)
    x = tiny.placed(tiny.EMBED[tokens], tiny.counted(valid))
    return tiny.logits_of(tiny.layer(x, tiny.causal(valid)))


def part(**parts):
    return functools.partial(read, **parts)


LEFT_OVER = {}


def used(B):
    return LEFT_OVER.get(B, empty(B))


RIGHT = read
OPTIONS = {"whole": whole}
MUTANTS = {
    "a full cache overwrites its last slot": Mutant(
        part(put=put_anywhere), ["overflow"], "karpathy/nanochat#627"
    ),
    "a full cache takes nothing more": (
        part(
            put=lambda buffer, new, length: buffer.at[:, length + jnp.arange(new.shape[1])].set(
                new, mode="drop"
            )
        ),
        ["overflow"],
    ),
    "the causal mask is aligned top-left": (
        part(see=lambda length, n: see(0, n)),
        ["any_split", "one_by_one", "earlier_pieces_are_remembered"],
    ),
    "one query reads key 0 alone": (
        part(see=lambda length, n: see(length, n) if n > 1 else see(0, 1)),
        ["one_by_one"],
    ),
    "a piece sees no piece before it": (
        part(see=lambda length, n: see(length, n) & (jnp.arange(CAPACITY) >= length)[None]),
        ["earlier_pieces_are_remembered", "any_split"],
    ),
    "a piece sees its own future": (
        part(see=lambda length, n: jnp.broadcast_to(jnp.arange(CAPACITY) < length + n, (n, CAPACITY))),
        ["any_split"],
    ),
    "slots that nothing was written to are seen": (
        part(see=lambda length, n: jnp.ones((n, CAPACITY), bool)),
        ["one_by_one"],
    ),
    "positions are one too far after the first piece": Mutant(
        part(place=lambda length, n: place(length + (length > 0), n)),
        ["any_split", "one_by_one"],
        "fla-org/flash-linear-attention#766",
    ),
    "positions begin anew in every piece": Mutant(
        part(place=lambda length, n: place(0, n)), ["any_split", "one_by_one"], "Blaizzy/mlx-vlm#1983"
    ),
    "a piece overwrites the token before it": (
        part(put=lambda buffer, new, length: put(buffer, new, max(length - 1, 0))),
        ["any_split", "one_by_one"],
    ),
    "only the first piece is written": (
        part(put=lambda buffer, new, length: put(buffer, new, length) if length == 0 else buffer),
        ["any_split", "one_by_one"],
    ),
    "the rows share a cache": (
        part(put=lambda buffer, new, length: put(buffer, jnp.broadcast_to(new[:1], new.shape), length)),
        ["rows_of_a_batch"],
    ),
    "the cache of the text before": (
        part(
            empty=used,
            see=lambda length, n: jnp.ones((n, CAPACITY), bool),
            keep=lambda cache: LEFT_OVER.update({len(cache[0]): cache}),
        ),
        ["begins_empty"],
    ),
}
