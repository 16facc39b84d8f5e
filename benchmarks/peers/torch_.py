"""``torch.nn.functional.scaled_dot_product_attention``, with the default and each CPU kernel."""

import contextlib

import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.attention import SDPBackend, bias, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.peers.peer import Peer, from_numpy, seed_of

__all__ = ["PEERS", "torch_function"]


def to_torch(x):
    """A tensor [B, N, T, H] from an array [B, T, N, H]."""
    if x.dtype == jnp.bfloat16:
        return torch.tensor(x.astype(np.float32)).to(torch.bfloat16).transpose(1, 2)
    return torch.tensor(x).transpose(1, 2)


def to_numpy(x):
    """An array [B, T, N, H] from a tensor [B, N, T, H]."""
    x = x.detach().transpose(1, 2)
    return x.float().numpy().astype(jnp.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()


def torch_function(call):
    """A JAX function from a function of tensors q, k, v [B, N, T, H] and mask, differentiated by torch."""

    def run(q, k, v, mask=None, *, cotangent=None, **options):
        tensors = [to_torch(x).requires_grad_(cotangent is not None) for x in (q, k, v)]
        out = call(*tensors, None if mask is None else torch.tensor(mask), **options)
        if cotangent is None:
            return to_numpy(out)
        return tuple(map(to_numpy, torch.autograd.grad(out, tensors, to_torch(cotangent))))

    return from_numpy(run, lambda cotangent, *x, **options: run(*x, cotangent=cotangent, **options))


def sdpa(kernel):
    """The wrapped functions by suite, with one kernel, or the default for None."""

    def call(q, k, v, mask, **options):
        with contextlib.nullcontext() if kernel is None else sdpa_kernel(kernel):
            return scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.shape[1] != k.shape[1], **options)

    attention = torch_function(call)

    def masked(q, k, v, causal=False, offset=None):
        T, S = q.shape[1], k.shape[1]
        if offset not in (None, 0) or (offset == 0 and T != S):
            if not causal or offset + T != S:
                raise ValueError("causal_lower_right: got another offset; wanted causal and offset S - T")
            lower_right = torch_function(lambda q, k, v, mask: call(q, k, v, bias.causal_lower_right(T, S)))
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
