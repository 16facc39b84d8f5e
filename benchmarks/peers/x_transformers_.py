"""``Attend`` of x-transformers, with its own attention and with torch's kernels."""

import torch
from x_transformers.attend import Attend

from benchmarks.peers.peer import Peer, seed_of
from benchmarks.peers.torch_ import torch_function

__all__ = ["PEERS"]


def peer(name, flash, grouped):
    """``Attend``; without grouped heads, only cases with K = N are supported."""

    def make(q, k, **options):
        if q.shape[1] != k.shape[1] and not grouped:
            raise ValueError("Attend: got grouped heads; wanted K = N")
        return Attend(flash=flash, **options)

    attention = torch_function(lambda q, k, v, mask: make(q, k)(q, k, v, mask=mask)[0])

    def masked(q, k, v, causal=False, lengths=None, offset=None):
        (_, T), S = q.shape[:2], k.shape[1]
        if offset is not None and offset + T != S:
            raise ValueError("Attend: got another offset; wanted S - T")
        valid = None if lengths is None else torch.arange(S) < torch.tensor(lengths.tolist())[:, None]

        def call(q, k, v):
            return make(q, k, causal=causal)(q, k, v, mask=valid)[0]

        return torch_function(call)(q, k, v)

    def dropout(q, k, v, mask, rate, key):
        def call(q, k, v, mask):
            torch.manual_seed(seed)
            return make(q, k, dropout=rate)(q, k, v, mask=mask)[0]

        seed = seed_of(key)
        return torch_function(call)(q, k, v, mask)

    only = "" if grouped else ", K = N only"
    return Peer(
        name,
        f"x_transformers.attend.Attend(flash={flash})(q, k, v, mask=mask)[0]{only}, tensors [B, N, T, H], "
        "gradients by torch.autograd; structured masks: causal, mask [B, S] for lengths, an offset for the "
        "last queries; dropout: dropout, after torch.manual_seed",
        {"attention": attention, "masked_attention": masked, "attention_dropout": dropout},
    )


PEERS = (
    peer("x-transformers", False, True),
    peer("x-transformers, K = N", False, False),
    peer("x-transformers flash, K = N", True, False),
)
