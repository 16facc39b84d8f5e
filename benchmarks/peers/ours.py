"""``ops.attention``, with each implementation that runs on a CPU."""

import functools

import jax
import jax.numpy as jnp

from benchmarks.peers.peer import Peer
from tfm_jax import ops
from tfm_jax.laws.suites.cases.masked_attention import structured_mask

__all__ = ["PEERS"]


def peer(name: str) -> Peer:
    attend = functools.partial(ops.attention, implementation=name)

    @functools.partial(jax.jit, static_argnames=("causal", "window"))
    def jitted(q, k, v, **mask_args):
        return attend(q, k, v, structured_mask(q.shape[1], **mask_args))

    def masked(q, k, v, offset=None, **mask_args):
        return jitted(q, k, v, offset=None if offset is None else jnp.int32(offset), **mask_args)

    @functools.partial(jax.jit, static_argnums=4)
    def dropout(q, k, v, mask, rate, key):
        return attend(q, k, v, mask, dropout_rate=rate, key=key)

    suites = {"attention": jax.jit(attend), "masked_attention": masked, "attention_dropout": dropout}
    return Peer(f"tfm_jax {name}", f'ops.attention(q, k, v, mask, implementation="{name}")', suites)


PEERS = tuple(map(peer, ("reference", "chunked", "cpu_decode", "xla")))
