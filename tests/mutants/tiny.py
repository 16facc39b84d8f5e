"""A Transformer of one layer in a few lines, of which the wings take the parts that they exchange."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

V, D, LONGEST = 7, 8, 16


def draw(seed, *shape):
    x = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0])
    return jnp.asarray(x, jnp.float32)


EMBED, TABLE = 2 * draw(0, V, D), draw(1, LONGEST, D)
Q, K, W, OUT = (2 * draw(seed, D, D) for seed in (2, 3, 4, 5))
UP, DOWN = draw(6, D, 2 * D), draw(7, 2 * D, D)


def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)


def softmax(logits, opened):
    """Over what is open [B, T, S]; 0 where nothing is."""
    top = jnp.where(opened, logits, -1e30).max(-1, keepdims=True)
    e = jnp.where(opened, jnp.exp(jnp.where(opened, logits - top, 0)), 0)
    return e / jnp.maximum(e.sum(-1, keepdims=True), 1e-30)


def nearly_closed(logits, opened):
    return jax.nn.softmax(jnp.where(opened, logits, logits - 10.0), axis=-1)


def attend(q, k, v, opened, softmax=softmax):
    logits = jnp.einsum("btd,bsd->bts", q, k) / np.float32(np.sqrt(D))
    return jnp.einsum("bts,bsd->btd", softmax(logits, opened), v)


def feed_forward(x):
    return jnp.maximum(x @ UP, 0) @ DOWN


def layer(x, opened, norm=norm, softmax=softmax):
    y = norm(x)
    x = x + attend(y @ Q, y @ K, y @ W, opened, softmax) @ OUT
    return x + feed_forward(norm(x))


def placed(x, positions):
    return x + TABLE[positions]


def nowhere(x, positions):
    return x


def counted(valid):
    """Where each token stands in its row, [B, T]: what is not valid stands at 0."""
    return jnp.maximum(jnp.cumsum(valid, 1) - 1, 0)


def causal(valid):
    """Which keys each query may see, bool [B, T, T]."""
    return jnp.tri(valid.shape[1], dtype=bool)[None] & valid[:, None, :]


def logits_of(x):
    return norm(x) @ EMBED.T


# Bugs that may be in any model.


def over_rows_and_tokens(x):
    """A batch norm where a layer norm should be."""
    x = x - x.mean((0, 1), keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean((0, 1), keepdims=True) + 1e-5)


DRAWS = itertools.count()


def left_on(x):
    """A norm with a dropout behind it that nobody turned off."""
    keep = jax.random.bernoulli(jax.random.key(next(DRAWS)), 0.7, x.shape)
    return jnp.where(keep, norm(x) / 0.7, 0)


def is_traced(x):
    return isinstance(x, jax.core.Tracer)
