"""torch's ``scaled_dot_product_attention``, by choice and by each kernel of a CPU; and ``flex_attention``."""

import contextlib

import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.attention import SDPBackend, bias, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.peers.peer import Peer, seed_of, through_numpy

__all__ = ["PEERS", "heads_first", "numpy_of", "torch_function"]


def heads_first(x):
    """An array [B, T, N, H] as a tensor [B, N, T, H]."""
    if x.dtype == jnp.bfloat16:
        return torch.tensor(x.astype(np.float32)).to(torch.bfloat16).transpose(1, 2)
    return torch.tensor(x).transpose(1, 2)


def numpy_of(x, heads_moved=True):
    """A tensor [B, N, T, H] as an array [B, T, N, H]."""
    x = x.detach().transpose(1, 2)
    return x.float().numpy().astype(jnp.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()


def torch_function(call):
    """A function of tensors q, k, v and mask with heads in front, for JAX; torch differentiates it."""

    def run(q, k, v, mask=None, *, slope=None, **options):
        tensors = [heads_first(x).requires_grad_(slope is not None) for x in (q, k, v)]
        out = call(*tensors, None if mask is None else torch.tensor(mask), **options)
        if slope is None:
            return numpy_of(out)
        return tuple(map(numpy_of, torch.autograd.grad(out, tensors, heads_first(slope))))

    return through_numpy(run, lambda slope, *x, **options: run(*x, slope=slope, **options))


def sdpa(kernel):
    chosen = lambda: contextlib.nullcontext() if kernel is None else sdpa_kernel(kernel)

    def call(q, k, v, mask, **options):
        with chosen():
            return scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.shape[1] != k.shape[1], **options)

    attention = torch_function(call)

    def masked(q, k, v, causal=False, offset=None):
        T, S = q.shape[1], k.shape[1]
        if offset not in (None, 0) or (offset == 0 and T != S):
            if not causal or offset + T != S:
                raise ValueError("causal_lower_right wants the queries at the end of the keys")
            with_bias = lambda q, k, v, mask: call(q, k, v, bias.causal_lower_right(T, S))
            return torch_function(with_bias)(q, k, v)
        return attention(q, k, v, is_causal=causal)

    def dropout(q, k, v, mask, rate, key):
        def seeded(*x):
            torch.manual_seed(seed)
            return call(*x, dropout_p=rate)

        seed = seed_of(key)
        return torch_function(seeded)(q, k, v, mask)

    return {"attention": attention, "masked_attention": masked, "attention_dropout": dropout}


HOW = (
    "torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=N != K), tensors "
    "[B, N, T, H], gradients by torch.autograd{}; by words: is_causal, at an offset "
    "causal_lower_right(T, S); with dropout: dropout_p after torch.manual_seed"
)
KERNELS = {
    "torch": (None, ""),
    "torch math": (SDPBackend.MATH, ", under sdpa_kernel(MATH)"),
    "torch flash": (SDPBackend.FLASH_ATTENTION, ", under sdpa_kernel(FLASH_ATTENTION)"),
}
PEERS = tuple(Peer(name, HOW.format(said), sdpa(kernel)) for name, (kernel, said) in KERNELS.items())
