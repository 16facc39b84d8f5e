"""A one-layer Transformer in a few lines, for mutants of models."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

V, D, MAX_LENGTH = 7, 8, 16


def random_array(seed, *shape):
    x = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0])
    return jnp.asarray(x, jnp.float32)


EMBED, POSITIONS = 2 * random_array(0, V, D), random_array(1, MAX_LENGTH, D)
Q, K, W, OUT = (2 * random_array(seed, D, D) for seed in (2, 3, 4, 5))
UP, DOWN = random_array(6, D, 2 * D), random_array(7, 2 * D, D)


def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)


def softmax(logits, mask):
    """Softmax over the unmasked keys, mask [B, T, S]; 0 in a fully masked row."""
    top = jnp.where(mask, logits, -1e30).max(-1, keepdims=True)
    e = jnp.where(mask, jnp.exp(jnp.where(mask, logits - top, 0)), 0)
    return e / jnp.maximum(e.sum(-1, keepdims=True), 1e-30)


def soft_mask_softmax(logits, mask):
    return jax.nn.softmax(jnp.where(mask, logits, logits - 10.0), axis=-1)


def attend(q, k, v, mask, softmax=softmax):
    logits = jnp.einsum("btd,bsd->bts", q, k) / np.float32(np.sqrt(D))
    return jnp.einsum("bts,bsd->btd", softmax(logits, mask), v)


def feed_forward(x):
    return jnp.maximum(x @ UP, 0) @ DOWN


def layer(x, mask, norm=norm, softmax=softmax):
    y = norm(x)
    x = x + attend(y @ Q, y @ K, y @ W, mask, softmax) @ OUT
    return x + feed_forward(norm(x))


def add_positions(x, positions):
    return x + POSITIONS[positions]


def no_positions(x, positions):
    return x


def positions_of(valid):
    """The position of each token among the valid ones, [B, T]; 0 at left padding."""
    return jnp.maximum(jnp.cumsum(valid, 1) - 1, 0)


def causal(valid):
    """The causal mask, and that of padding, bool [B, T, T]."""
    return jnp.tri(valid.shape[1], dtype=bool)[None] & valid[:, None, :]


def logits_of(x):
    return norm(x) @ EMBED.T


# Bugs of any model.


def batch_norm(x):
    """A norm over the examples and tokens."""
    x = x - x.mean((0, 1), keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean((0, 1), keepdims=True) + 1e-5)


CALLS = itertools.count()


def norm_with_dropout(x):
    """A norm with a dropout that is always on."""
    keep = jax.random.bernoulli(jax.random.key(next(CALLS)), 0.7, x.shape)
    return jnp.where(keep, norm(x) / 0.7, 0)


def is_traced(x):
    return isinstance(x, jax.core.Tracer)
