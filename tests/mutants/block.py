"""Wrong layers: attention and feed-forward, with Add & Norm."""

import functools

import jax.numpy as jnp

from tests.mutants import tiny

JIT = False
D = 16
Q, K, W, OUT = (tiny.draw(seed, D, D) for seed in (2, 3, 4, 5))
UP, DOWN = tiny.draw(6, D, 24), tiny.draw(7, 24, D)


def everything(x):
    return jnp.ones((*x.shape[:2], x.shape[1]), bool)


def attention(x, see=everything):
    logits = jnp.einsum("btd,bsd->bts", x @ Q, x @ K) / 4
    return jnp.einsum("bts,bsd->btd", tiny.softmax(logits, see(x)), x @ W) @ OUT


def feed_forward(x):
    return jnp.maximum(x @ UP, 0) @ DOWN


def pre(f, x, norm):
    return x + f(norm(x))


def layer(x, *, add=pre, norm=tiny.norm, attention=attention, feed_forward=feed_forward):
    return add(feed_forward, add(attention, x, norm), norm)


def part(**parts):
    return functools.partial(layer, **parts)


def seeing(see):
    return functools.partial(attention, see=see)


def in_half_precision(x):
    x = x.astype(jnp.float16)
    variance = jnp.square(x).mean(-1, keepdims=True) - jnp.square(x.mean(-1, keepdims=True))
    return ((x - x.mean(-1, keepdims=True)) / jnp.sqrt(variance + 1e-3)).astype(jnp.float32)


def only_eagerly(x):
    return layer(x, add=(lambda f, x, norm: f(norm(x))) if tiny.is_traced(x) else pre)


RIGHT = layer
MUTANTS = {
    "nothing is added": (part(add=lambda f, x, norm: f(norm(x))), ["add_and_norm"]),
    "what is added to is normalised": (part(add=lambda f, x, norm: norm(x) + f(norm(x))), ["add_and_norm"]),
    "post-norm passes for pre-norm": (part(add=lambda f, x, norm: norm(x + f(x))), ["add_and_norm"]),
    "no norm": (part(norm=lambda x: x), ["add_and_norm"]),
    "the norm's variance overflows in float16": (part(norm=in_half_precision), ["large_inputs"]),
    "the batch is taken for the tokens": (
        part(attention=lambda x: jnp.swapaxes(attention(jnp.swapaxes(x, 0, 1)), 0, 1)),
        ["rows_of_a_batch", "context"],
    ),
    "a causal mask that nobody asked for": (
        part(attention=seeing(lambda x: jnp.tri(x.shape[1], dtype=bool)[None])),
        ["order_of_tokens"],
    ),
    "positions that nobody asked for": (
        part(norm=lambda x: tiny.norm(x) + jnp.arange(1.0 * x.shape[1])[None, :, None]),
        ["order_of_tokens"],
    ),
    "no attention": (part(attention=feed_forward), ["context"]),
    "half precision comes out": (lambda x: layer(x).astype(jnp.float16), ["layers_stack"]),
    "heads are put together and not projected": (
        lambda x: jnp.concatenate([layer(x)] * 2, axis=-1),
        ["layers_stack"],
    ),
    "a batch norm in the place of the layer norm": (
        part(norm=tiny.over_rows_and_tokens),
        ["rows_of_a_batch"],
    ),
    "nothing is added under jit": (only_eagerly, ["compiled_is_eager"]),
}
