"""``torch.nn.functional.scaled_dot_product_attention``, with the default and each CPU kernel."""

import contextlib

import torch
from torch.nn.attention import SDPBackend, bias, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.peers.peer import Peer, seed_of
from tfm_jax import laws

__all__ = ["PEERS", "torch_function"]


def torch_function(call):
    """A JAX function from a function of tensors q, k, v [B, N, T, H] and mask, differentiated by torch."""
    return laws.heads_first(laws.torch(call))


def sdpa(kernel):
    """The wrapped functions by suite, with one kernel, or the default for None."""

    def call(q, k, v, mask=None, **options):
        with contextlib.nullcontext() if kernel is None else sdpa_kernel(kernel):
            return scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.shape[1] != k.shape[1], **options)

    attention = torch_function(call)

    def masked(q, k, v, causal=False, offset=None):
        T, S = q.shape[1], k.shape[1]
        if offset not in (None, 0) or (offset == 0 and T != S):
            if not causal or offset + T != S:
                raise ValueError("causal_lower_right: got another offset; wanted causal and offset S - T")
            lower_right = torch_function(lambda q, k, v: call(q, k, v, bias.causal_lower_right(T, S)))
            return lower_right(q, k, v)
        return attention(q, k, v, is_causal=causal)

    def dropout(q, k, v, mask, rate, key):
        def seeded(*x):
            torch.manual_seed(seed)
            return call(*x, dropout_p=rate)

        seed = seed_of(key)
        return torch_function(seeded)(q, k, v, mask)

    return {"attention": attention, "masked_attention": masked, "attention_dropout": dropout}


CALLED = (
    "torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=N != K), tensors "
    "[B, N, T, H], gradients by torch.autograd{}; structured masks: is_causal, with an offset "
    "causal_lower_right(T, S); dropout: dropout_p after torch.manual_seed"
)
KERNELS = {
    "torch": (None, ""),
    "torch math": (SDPBackend.MATH, ", under sdpa_kernel(MATH)"),
    "torch flash": (SDPBackend.FLASH_ATTENTION, ", under sdpa_kernel(FLASH_ATTENTION)"),
}
PEERS = tuple(Peer(name, CALLED.format(context), sdpa(kernel)) for name, (kernel, context) in KERNELS.items())
