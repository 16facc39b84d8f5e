"""Tokens, images and positions into vectors."""

import math

import jax.numpy as jnp
from flax import nnx

from tfm_jax.checks import as_array
from tfm_jax.nn.config import Config
from tfm_jax.nn.parameters import look_up, normal
from tfm_jax.types import Array

__all__ = ["Embedding"]


class Embedding(nnx.Module):
    """A learned vector a token; ``attend`` reads the same table as the output projection.

    Equivalent to::

        x = table[tokens] * sqrt(D)          # sqrt(D) where config.scale_embeddings
        x = x + token_types[types]           # where there are config.token_types
        logits = x @ table.T                 # attend

    Args:
      config: V, D, ``scale_embeddings``, ``token_types``, ``dtype``.
      rngs: draws the tables from a normal of standard deviation D ** -0.5.

    Raises:
      ValueError: for a vocabulary that is not positive.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        if config.vocab_size < 1:
            raise ValueError(f"tokens need a vocabulary: vocab_size={config.vocab_size}, wanted at least 1")
        self.config = config
        std, dtype = config.d_model**-0.5, config.param_dtype
        table = lambda rows: normal(std, rngs.params(), (rows, config.d_model), dtype)
        self.table = table(config.vocab_size)
        self.token_types = table(config.token_types) if config.token_types else None

    def __call__(self, tokens: Array, token_types: Array | None = None) -> Array:
        """Looks up int tokens [..., T] as [..., T, D]; an id outside [0, V) gives NaN.

        ``token_types`` int [..., T] or [T] says of which type each is; None is type 0 for all.
        """
        tokens = as_array("nn.Embedding", "tokens", tokens)
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"tokens must be integer ids [..., T], got {tokens.dtype}{tokens.shape}")
        x = look_up(self.table[...], tokens)
        if self.config.scale_embeddings:
            x = x * math.sqrt(self.config.d_model)
        if self.token_types is not None:
            if token_types is None:
                types = jnp.zeros(tokens.shape[-1:], jnp.int32)
            else:
                types = as_array("nn.Embedding", "token_types", token_types)
            x = x + jnp.broadcast_to(look_up(self.token_types[...], types), x.shape)
        elif token_types is not None:
            raise ValueError("this model knows no token types: config.token_types is 0")
        return x.astype(self.config.dtype)

    def attend(self, x: Array) -> Array:
        """The logits [..., T, V] of x [..., T, D], in float32."""
        x = as_array("nn.Embedding", "x", x)
        table = self.table[...].astype(x.dtype)
        return jnp.einsum("...D,VD->...V", x, table, preferred_element_type=jnp.float32)
