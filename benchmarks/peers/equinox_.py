"""Equinox's ``MultiheadAttention`` with projections that are the identity."""

import equinox
import jax
import jax.numpy as jnp

from benchmarks.peers.peer import Peer

__all__ = ["PEERS"]


def attention(q, k, v, mask=None, rate=0.0, key=None):
    (B, T, N, H), K = q.shape, k.shape[2]
    if N != K:
        raise ValueError(f"MultiheadAttention has one number of heads, not {N} for {K}")
    layer = equinox.nn.MultiheadAttention(
        N, N * H, dropout_p=rate, inference=key is None, key=jax.random.key(0)
    )
    weights = lambda x: [p.weight for p in (x.query_proj, x.key_proj, x.value_proj, x.output_proj)]
    layer = equinox.tree_at(weights, layer, [jnp.eye(N * H, dtype=q.dtype)] * 4)
    flat = [x.reshape(B, -1, N * H) for x in (q, k, v)]
    table = jnp.ones((B, T, k.shape[1]), bool) if mask is None else mask[:, 0]
    if key is None:
        out = jax.vmap(layer)(*flat, table)
    else:
        out = jax.vmap(lambda *x: layer(*x[:4], key=x[4]))(*flat, table, jax.random.split(key, B))
    return out.reshape(q.shape)


PEERS = (
    Peer(
        "equinox",
        "equinox.nn.MultiheadAttention(N, N * H) with the identity as all four projections, under jax.vmap "
        "over the batch: layer(q, k, v, mask); with dropout: dropout_p, a key a row",
        {"attention": attention, "attention_dropout": attention},
    ),
)
