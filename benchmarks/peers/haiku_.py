"""``haiku.MultiHeadAttention`` with identity projections."""

import haiku
import jax.numpy as jnp

from benchmarks.peers.peer import Peer

__all__ = ["PEERS"]


def identity(shape, dtype):
    return jnp.eye(*shape, dtype=dtype)


def attention(q, k, v, mask):
    (B, _, N, H), K = q.shape, k.shape[2]
    if N != K:
        raise ValueError(f"haiku.MultiHeadAttention: got {N} query and {K} key heads; wanted as many of both")
    layer = haiku.transform(lambda *x: haiku.MultiHeadAttention(N, H, w_init=identity, with_bias=False)(*x))
    flat = [x.reshape(B, -1, N * H) for x in (q, k, v)]
    return layer.apply(layer.init(None, *flat, mask), None, *flat, mask).reshape(q.shape)


PEERS = (
    Peer(
        "haiku",
        "haiku.MultiHeadAttention(N, H, w_init=identity, with_bias=False)(q, k, v, mask)",
        {"attention": attention},
    ),
)
