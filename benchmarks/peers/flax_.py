"""``dot_product_attention`` of Flax NNX and of Flax Linen."""

from flax import linen, nnx

from benchmarks.peers.peer import Peer

__all__ = ["PEERS"]


def peer(name, module, has_is_causal):
    call = module.dot_product_attention

    def attention(q, k, v, mask):
        return call(q, k, v, mask=mask)

    def dropout(q, k, v, mask, rate, key):
        return call(q, k, v, mask=mask, dropout_rate=rate, dropout_rng=key)

    def masked(q, k, v, causal=False):
        return call(q, k, v, is_causal=causal)

    suites = {"attention": attention, "attention_dropout": dropout}
    called = f"{name}.dot_product_attention(q, k, v, mask=mask); dropout: dropout_rate, dropout_rng"
    if has_is_causal:
        suites["masked_attention"] = masked
        called += "; structured masks: is_causal"
    return Peer(f"flax {name}", called, suites)


PEERS = (peer("nnx", nnx, True), peer("linen", linen, False))
