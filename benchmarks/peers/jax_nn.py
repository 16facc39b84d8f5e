"""``jax.nn.dot_product_attention``."""

import jax

from benchmarks.peers.peer import Peer

__all__ = ["PEERS"]


def attention(q, k, v, mask):
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


def masked(q, k, v, causal=False, window=None, lengths=None):
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        is_causal=causal,
        local_window_size=None if window is None else (window - 1, 0),
        key_value_seq_lengths=lengths,
    )


PEERS = (
    Peer(
        "jax.nn",
        "jax.nn.dot_product_attention(q, k, v, mask=mask); structured masks: is_causal, "
        "local_window_size=(window - 1, 0), key_value_seq_lengths=lengths",
        {"attention": attention, "masked_attention": masked},
    ),
)
