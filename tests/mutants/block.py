"""Mutants of a Transformer block."""

import functools

import jax.numpy as jnp

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant

JIT = False
D = 16
Q, K, W, OUT = (tiny.random_array(seed, D, D) for seed in (2, 3, 4, 5))
UP, DOWN = tiny.random_array(6, D, 24), tiny.random_array(7, 24, D)


def no_mask(x):
    return jnp.ones((*x.shape[:2], x.shape[1]), bool)


def attention(x, mask=no_mask):
    logits = jnp.einsum("btd,bsd->bts", x @ Q, x @ K) / 4
    return jnp.einsum("bts,bsd->btd", tiny.softmax(logits, mask(x)), x @ W) @ OUT


def feed_forward(x):
    return jnp.maximum(x @ UP, 0) @ DOWN


def pre_norm(f, x, norm):
    return x + f(norm(x))


def no_residual(f, x, norm):
    return f(norm(x))


def block(x, *, residual=pre_norm, norm=tiny.norm, attention=attention, feed_forward=feed_forward):
    return residual(feed_forward, residual(attention, x, norm), norm)


def variant(**parts):
    return functools.partial(block, **parts)


def float16_norm(x):
    x = x.astype(jnp.float16)
    variance = jnp.square(x).mean(-1, keepdims=True) - jnp.square(x.mean(-1, keepdims=True))
    return ((x - x.mean(-1, keepdims=True)) / jnp.sqrt(variance + 1e-3)).astype(jnp.float32)


RIGHT = block
MUTANTS = {
    "no residual connection": Mutant(variant(residual=no_residual), ["residual_and_norm"]),
    "the residual is normalized": Mutant(
        variant(residual=lambda f, x, norm: norm(x) + f(norm(x))), ["residual_and_norm"]
    ),
    "post-norm instead of pre-norm": Mutant(
        variant(residual=lambda f, x, norm: norm(x + f(x))), ["residual_and_norm"]
    ),
    "no norm": Mutant(variant(norm=lambda x: x), ["residual_and_norm"]),
    "the norm overflows in float16": Mutant(variant(norm=float16_norm), ["large_inputs"]),
    "attention is over the batch": Mutant(
        variant(attention=lambda x: jnp.swapaxes(attention(jnp.swapaxes(x, 0, 1)), 0, 1)),
        ["examples_are_independent", "context_matters"],
    ),
    "a causal mask": Mutant(
        variant(attention=functools.partial(attention, mask=lambda x: jnp.tri(x.shape[1], dtype=bool)[None])),
        ["permutation_equivariance"],
    ),
    "positions are added": Mutant(
        variant(norm=lambda x: tiny.norm(x) + jnp.arange(1.0 * x.shape[1])[None, :, None]),
        ["permutation_equivariance"],
    ),
    "no attention": Mutant(variant(attention=feed_forward), ["context_matters"]),
    "the output is float16": Mutant(lambda x: block(x).astype(jnp.float16), ["layers_compose"]),
    "heads are concatenated without a projection": Mutant(
        lambda x: jnp.concatenate([block(x)] * 2, axis=-1), ["layers_compose"]
    ),
    "batch norm instead of layer norm": Mutant(variant(norm=tiny.batch_norm), ["examples_are_independent"]),
    "no residual connection under jit": Mutant(
        lambda x: block(x, residual=no_residual if tiny.is_traced(x) else pre_norm),
        ["compiled_matches_eager"],
    ),
}
