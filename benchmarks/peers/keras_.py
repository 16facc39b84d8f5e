"""Keras on JAX: ``keras.ops.dot_product_attention``, and ``MultiHeadAttention`` with identity projections."""

import functools
import os

os.environ["KERAS_BACKEND"] = "jax"  # keras reads it on import

import jax.numpy as jnp
import keras
import numpy as np

from benchmarks.peers.peer import Peer, seed_of

__all__ = ["PEERS"]


def attention(q, k, v, mask):
    return keras.ops.dot_product_attention(q, k, v, mask=mask)


def masked(q, k, v, causal=False):
    return keras.ops.dot_product_attention(q, k, v, is_causal=causal)


@functools.cache
def layer(N, H, dtype="float32", rate=0.0, seed=None, window=None):
    built = keras.layers.MultiHeadAttention(
        N, H, use_bias=False, dropout=rate, seed=seed, sliding_window=window, dtype=dtype
    )
    built.build((None, None, N * H), (None, None, N * H))
    eye = np.eye(N * H)
    built.set_weights([eye.reshape(N * H, N, H)] * 3 + [eye.reshape(N, H, N * H)])
    return built


def layer_attention(q, k, v, mask=None, *, training=False, causal=False, **options):
    (B, _, N, H), K = q.shape, k.shape[2]
    if N != K:
        raise ValueError(f"keras.MultiHeadAttention: got {N} query and {K} key heads; wanted as many of both")
    flat = [x.reshape(B, -1, N * H) for x in (q, v, k)]
    call = layer(N, H, jnp.dtype(q.dtype).name, **options)
    mask = None if mask is None else mask[:, 0]
    return call(*flat, attention_mask=mask, training=training, use_causal_mask=causal).reshape(q.shape)


def layer_masked(q, k, v, causal=False, window=None, lengths=None):
    mask = None
    if lengths is not None:
        S = k.shape[1]
        mask = jnp.broadcast_to((jnp.arange(S) < lengths[:, None])[:, None, None], (len(q), 1, q.shape[1], S))
    return layer_attention(q, k, v, mask, causal=causal, window=window)


def layer_dropout(q, k, v, mask, rate, key):
    layer.cache_clear()  # a layer's random generator has state
    return layer_attention(q, k, v, mask, training=True, rate=rate, seed=seed_of(key) % 2**31)


PEERS = (
    Peer(
        "keras.ops",
        "keras.ops.dot_product_attention(q, k, v, mask=mask), on JAX; structured masks: is_causal",
        {"attention": attention, "masked_attention": masked},
    ),
    Peer(
        "keras layer",
        "keras.layers.MultiHeadAttention(N, H, use_bias=False)(q, v, k, attention_mask=mask), with identity "
        "projections, on JAX; structured masks: use_causal_mask, sliding_window, lengths as a dense mask; "
        "dropout: dropout, seed, training=True",
        {
            "attention": layer_attention,
            "masked_attention": layer_masked,
            "attention_dropout": layer_dropout,
        },
    ),
)
