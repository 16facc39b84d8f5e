"""An encoder that says which tokens stand where some were masked."""

import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.nn.config import Config
from tfm_jax.nn.encoder import Encoder
from tfm_jax.nn.heads import LanguageModelHead
from tfm_jax.nn.linear import Linear, Norm
from tfm_jax.nn.parameters import constant
from tfm_jax.ops.masks import Mask
from tfm_jax.types import Array, Key

__all__ = ["MaskedLanguageModel"]


class MaskedLanguageModel(nnx.Module):
    """An encoder with the head of BERT: one more layer, a norm, and the embedding as the output projection.

    Equivalent to::

        x = norm(activation(encoder(tokens) @ kernel + bias))
        logits = x @ unembedding + output_bias

    Args:
      config: the sizes and variants; ``tie_embeddings`` says whether the projection is the embedding.
      activation: of the head, by the name that ``ops.activation`` takes.
      rngs: draws the parameters.

    Raises:
      ValueError: for a config with a ``pooler``, which nothing would read; for an unknown activation.

    Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers", section 3.1.
    """

    def __init__(self, config: Config, activation: str = "gelu", *, rngs: nnx.Rngs):
        if config.pooler is not None:
            raise ValueError("a pooler is of an Encoder or a Classifier; masked tokens are read one by one")
        ops.activation(activation)  # known?
        self.activation = activation
        self.encoder = Encoder(config, rngs=rngs)
        of = {"dtype": config.param_dtype, "rngs": rngs}
        self.dense = Linear((config.d_model,), (config.d_model,), bias=True, **of)
        self.norm = Norm(config.norm, config.d_model, **of)
        self.head = None if config.tie_embeddings else LanguageModelHead(config, rngs=rngs)
        self.bias = constant(0.0, config.vocab_size, config.param_dtype)

    def __call__(
        self,
        tokens: Array,
        mask: Mask | Array | None = None,
        *,
        token_types: Array | None = None,
        positions: Array | None = None,
        key: Key | None = None,
    ) -> Array:
        """The logits [..., T, V], float32, of int tokens [..., T]; the rest is as ``Encoder`` takes it."""
        x = self.encoder(tokens, mask, token_types=token_types, positions=positions, key=key)
        x = self.norm(ops.activation(self.activation)(self.dense(x)))
        logits = self.encoder.embedding.attend(x) if self.head is None else self.head(x)
        return logits + jnp.broadcast_to(self.bias[...].astype(logits.dtype), logits.shape)
