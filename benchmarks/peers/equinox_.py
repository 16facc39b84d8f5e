"""``equinox.nn.MultiheadAttention`` with identity projections."""

import equinox
import jax
import jax.numpy as jnp

from benchmarks.peers.peer import Peer

__all__ = ["PEERS"]


def projection_weights(layer):
    return [x.weight for x in (layer.query_proj, layer.key_proj, layer.value_proj, layer.output_proj)]


def attention(q, k, v, mask=None, rate=0.0, key=None):
    (B, T, N, H), K = q.shape, k.shape[2]
    if N != K:
        raise ValueError(
            f"equinox.MultiheadAttention: got {N} query and {K} key heads; wanted as many of both"
        )
    layer = equinox.nn.MultiheadAttention(
        N, N * H, dropout_p=rate, inference=key is None, key=jax.random.key(0)
    )
    layer = equinox.tree_at(projection_weights, layer, [jnp.eye(N * H, dtype=q.dtype)] * 4)
    flat = [x.reshape(B, -1, N * H) for x in (q, k, v)]
    mask = jnp.ones((B, T, k.shape[1]), bool) if mask is None else mask[:, 0]
    if key is None:
        out = jax.vmap(layer)(*flat, mask)
    else:
        out = jax.vmap(lambda *x: layer(*x[:4], key=x[4]))(*flat, mask, jax.random.split(key, B))
    return out.reshape(q.shape)


PEERS = (
    Peer(
        "equinox",
        "equinox.nn.MultiheadAttention(N, N * H)(q, k, v, mask), with identity projections, under jax.vmap "
        "over the batch; dropout: dropout_p, one key per example",
        {"attention": attention, "attention_dropout": attention},
    ),
)
