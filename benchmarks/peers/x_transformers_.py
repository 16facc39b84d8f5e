"""x-transformers' ``Attend``: by itself, and by torch's kernels."""

import torch
from x_transformers.attend import Attend

from benchmarks.peers.peer import Peer, refusing, seed_of
from benchmarks.peers.torch_ import torch_function

__all__ = ["PEERS"]


def peer(name, flash, grouped):
    def make(q, k, **options):
        if q.shape[1] != k.shape[1] and not grouped:
            raise ValueError("grouped heads are not asked here")
        return Attend(flash=flash, **options)

    attention = refusing(torch_function(lambda q, k, v, mask: make(q, k)(q, k, v, mask=mask)[0]))

    def masked(q, k, v, causal=False, lengths=None, offset=None):
        (_, T), S = q.shape[:2], k.shape[1]
        if offset is not None and offset + T != S:
            raise ValueError("Attend wants the queries at the end of the keys")
        valid = None if lengths is None else torch.arange(S) < torch.tensor(lengths.tolist())[:, None]
        call = lambda q, k, v, mask: make(q, k, causal=causal)(q, k, v, mask=valid)[0]
        return refusing(torch_function(call))(q, k, v)

    def dropout(q, k, v, mask, rate, key):
        def call(q, k, v, mask):
            torch.manual_seed(seed)
            return make(q, k, dropout=rate)(q, k, v, mask=mask)[0]

        seed = seed_of(key)
        return refusing(torch_function(call))(q, k, v, mask)

    only = "" if grouped else ", K = N alone"
    return Peer(
        name,
        f"x_transformers.attend.Attend(flash={flash})(q, k, v, mask=mask)[0]{only}, tensors [B, N, T, H], "
        "gradients by torch.autograd; by words: causal, mask [B, S] for lengths, an offset where the "
        "queries are the last; with dropout: dropout, after torch.manual_seed",
        {"attention": attention, "masked_attention": masked, "attention_dropout": dropout},
    )


PEERS = (
    peer("x-transformers", False, True),
    peer("x-transformers, K = N", False, False),
    peer("x-transformers flash, K = N", True, False),
)
