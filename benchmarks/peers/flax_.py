"""Flax's two functions of attention: NNX and Linen."""

from flax import linen, nnx

from benchmarks.peers.peer import Peer, refusing

__all__ = ["PEERS"]


def peer(name, module, masked):
    call = refusing(module.dot_product_attention)
    suites = {
        "attention": lambda q, k, v, mask: call(q, k, v, mask=mask),
        "attention_dropout": lambda q, k, v, mask, rate, key: call(
            q, k, v, mask=mask, dropout_rate=rate, dropout_rng=key
        ),
    }
    how = f"{name}.dot_product_attention(q, k, v, mask=mask); with dropout: dropout_rate, dropout_rng"
    if masked:
        suites["masked_attention"] = lambda q, k, v, causal=False: call(q, k, v, is_causal=causal)
        how += "; by words: is_causal"
    return Peer(f"flax {name}", how, suites)


PEERS = (peer("nnx", nnx, True), peer("linen", linen, False))
