"""Haiku's ``MultiHeadAttention`` with projections that are the identity."""

import haiku
import jax.numpy as jnp

from benchmarks.peers.peer import Peer

__all__ = ["PEERS"]


def attention(q, k, v, mask):
    (B, _, N, H), K = q.shape, k.shape[2]
    if N != K:
        raise ValueError(f"MultiHeadAttention has one number of heads, not {N} for {K}")
    eye = lambda shape, dtype: jnp.eye(*shape, dtype=dtype)
    layer = haiku.transform(lambda *x: haiku.MultiHeadAttention(N, H, w_init=eye, with_bias=False)(*x))
    flat = [x.reshape(B, -1, N * H) for x in (q, k, v)]
    return layer.apply(layer.init(None, *flat, mask), None, *flat, mask).reshape(q.shape)


PEERS = (
    Peer(
        "haiku",
        "haiku.MultiHeadAttention(N, H, w_init=the identity, with_bias=False)(q, k, v, mask)",
        {"attention": attention},
    ),
)
