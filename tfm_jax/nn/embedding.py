"""Token embedding."""

import math

import jax.numpy as jnp
from flax import nnx

from tfm_jax.checks import as_array, check_shapes
from tfm_jax.nn._lookup import lookup
from tfm_jax.nn._parameters import initialize
from tfm_jax.nn.config import Config
from tfm_jax.nn.precision import at_model_precision
from tfm_jax.sharding import constrain
from tfm_jax.types import Array

__all__ = ["Embedding"]


class Embedding(nnx.Module):
    """Token embedding, and the output projection tied to it: ``attend``.

    Equivalent to::

        x = table[tokens] * sqrt(D)          # sqrt(D) with config.scale_embeddings
        x = x + token_types[types]           # with config.token_types
        logits = x @ table.T                 # attend

    Args:
      config: V, D, ``scale_embeddings``, ``token_types``, ``dtype``.
      rngs: initializes the tables, by ``config.initializers.embedding``.

    Raises:
      ValueError: ``config.vocab_size`` is 0.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        if config.vocab_size < 1:
            raise ValueError(f"nn.Embedding: got vocab_size={config.vocab_size}; wanted at least 1.")
        self.config = config
        D, dtype = config.d_model, config.param_dtype
        initializer, n_types = config.initializers.embedding, config.token_types
        self.table = initialize(initializer, rngs.params(), (config.vocab_size, D), dtype)
        types = initialize(initializer, rngs.params(), (n_types, D), dtype) if n_types else None
        self.token_types = types

    def axes(self) -> dict[str, str]:
        """The letters of the parameters; Y numbers the token types."""
        return {"table": "V D"} | ({} if self.token_types is None else {"token_types": "Y D"})

    def __call__(self, tokens: Array, token_types: Array | None = None) -> Array:
        """Embeds int tokens [..., T] as [..., T, D]; an id outside [0, V) gives NaN.

        ``token_types`` int [..., T] or [T] defaults to type 0 for every token.
        """
        tokens = as_array("nn.Embedding", "tokens", tokens)
        check_shapes("nn.Embedding", tokens=(tokens, "...", "int"))
        scale = math.sqrt(self.config.d_model) if self.config.scale_embeddings else 1.0
        # In float32 where token types are added before the cast.
        dtype = self.config.dtype if self.token_types is None else None
        x = constrain(lookup(self.table[...], tokens, scale=scale, dtype=dtype), "B T D")
        if self.token_types is not None:
            if token_types is None:
                types = jnp.zeros(tokens.shape[-1:], jnp.int32)
            else:
                types = as_array("nn.Embedding", "token_types", token_types)
            x = x + jnp.broadcast_to(lookup(self.token_types[...], types, "Y D"), x.shape)
        elif token_types is not None:
            raise ValueError("nn.Embedding: got token_types with config.token_types=0; wanted None.")
        return x.astype(self.config.dtype)

    @at_model_precision
    def attend(self, x: Array) -> Array:
        """The logits [..., T, V], float32, from hidden states x [..., T, D]."""
        x = as_array("nn.Embedding", "x", x)
        table = self.table[...].astype(x.dtype)
        return constrain(jnp.einsum("...D,VD->...V", x, table, preferred_element_type=jnp.float32), "V")
