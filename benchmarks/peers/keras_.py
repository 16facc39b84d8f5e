"""Keras on JAX: its function, and its layer with projections that are the identity."""

import functools
import os

os.environ["KERAS_BACKEND"] = "jax"  # read when keras is imported

import jax.numpy as jnp
import keras
import numpy as np

from benchmarks.peers.peer import Peer, seed_of

__all__ = ["PEERS"]


def masked(q, k, v, causal=False):
    return keras.ops.dot_product_attention(q, k, v, is_causal=causal)


@functools.cache
def layer(N, H, dtype="float32", rate=0.0, seed=None, window=None):
    made = keras.layers.MultiHeadAttention(
        N, H, use_bias=False, dropout=rate, seed=seed, sliding_window=window, dtype=dtype
    )
    made.build((None, None, N * H), (None, None, N * H))
    eye = np.eye(N * H)
    made.set_weights([eye.reshape(N * H, N, H)] * 3 + [eye.reshape(N, H, N * H)])
    return made


def by_layer(q, k, v, mask=None, *, training=False, causal=False, **options):
    (B, _, N, H), K = q.shape, k.shape[2]
    if N != K:
        raise ValueError(f"MultiHeadAttention has one number of heads, not {N} for {K}")
    flat = [x.reshape(B, -1, N * H) for x in (q, v, k)]
    call = layer(N, H, jnp.dtype(q.dtype).name, **options)
    table = None if mask is None else mask[:, 0]
    return call(*flat, attention_mask=table, training=training, use_causal_mask=causal).reshape(q.shape)


def layer_masked(q, k, v, causal=False, window=None, lengths=None):
    valid = None
    if lengths is not None:
        S = k.shape[1]
        valid = jnp.broadcast_to(
            (jnp.arange(S) < lengths[:, None])[:, None, None], (len(q), 1, q.shape[1], S)
        )
    return by_layer(q, k, v, valid, causal=causal, window=window)


def layer_dropout(q, k, v, mask, rate, key):
    layer.cache_clear()  # its generator goes on from call to call
    return by_layer(q, k, v, mask, training=True, rate=rate, seed=seed_of(key) % 2**31)


PEERS = (
    Peer(
        "keras.ops",
        "keras.ops.dot_product_attention(q, k, v, mask=mask), on JAX; by words: is_causal",
        {
            "attention": lambda q, k, v, mask: keras.ops.dot_product_attention(q, k, v, mask=mask),
            "masked_attention": masked,
        },
    ),
    Peer(
        "keras layer",
        "keras.layers.MultiHeadAttention(N, H, use_bias=False) with the identity as all four projections, "
        "(q, v, k, attention_mask=mask), on JAX; by words: use_causal_mask, sliding_window, lengths as a "
        "table; with dropout: dropout, seed, training=True",
        {"attention": by_layer, "masked_attention": layer_masked, "attention_dropout": layer_dropout},
    ),
)
