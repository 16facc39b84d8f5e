"""Encoder-only Transformer for tokens or images."""

import jax.numpy as jnp
from flax import nnx

from tfm_jax.checks import check_shapes
from tfm_jax.nn.blocks import split_key
from tfm_jax.nn.config import Config
from tfm_jax.nn.embedding import Embedding
from tfm_jax.nn.extras import Extras, model_extras, with_extras
from tfm_jax.nn.positions import count_positions, valid_tokens
from tfm_jax.nn.precision import at_model_precision
from tfm_jax.nn.stack import EncoderStack
from tfm_jax.ops.masks import Mask
from tfm_jax.types import Array, Key

__all__ = ["Encoder"]


def _check_encoder_config(config: Config) -> None:
    """Raises for fields that only decoders use."""
    if config.window is not None:
        raise ValueError(
            f"nn.Encoder: got window={config.window}; wanted None. Only decoders use it: pass a mask, such "
            "as masks.window(left, right)."
        )
    if config.logits_scale != 1.0 or config.logits_bias:
        raise ValueError(
            f"nn.Encoder: got logits_scale={config.logits_scale}, logits_bias={config.logits_bias}; "
            "wanted 1.0 and False. Only decoders use them."
        )


class Encoder(nnx.Module):
    """Encoder-only Transformer: contextual vectors of tokens or of image patches.

    Args:
      config: sizes and variants; with ``patches`` the input is images.
      rngs: initializes the parameters.

    Raises:
      ValueError: the config has a ``window``, ``logits_scale`` or ``logits_bias``, which only decoders use.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        _check_encoder_config(config)
        self.config = config
        patches = config.patches
        self.embedding = Embedding(config, rngs=rngs) if patches is None else patches.build(config, rngs=rngs)
        self.stack = EncoderStack(config, rngs=rngs)
        self.pooler = None if config.pooler is None else config.pooler.build(config, rngs=rngs)

    def __call__(
        self,
        inputs: Array,
        mask: Mask | Array | None = None,
        *,
        token_types: Array | None = None,
        positions: Array | None = None,
        key: Key | None = None,
        return_weights: bool = False,
        return_auxiliary: bool = False,
    ) -> Array | tuple[Array, Extras]:
        """Encodes tokens or images.

        Args:
          inputs: int tokens [..., T], or images [..., height, width, channels].
          mask: True = may attend, such as ``masks.padding(valid)``.
          token_types: int [..., T] or [T], below ``config.token_types``; None is type 0 for all.
          positions: int [..., T] or [T]; None counts the tokens from 0, without padding if
            ``config.count_padding`` is False.
          key: PRNG key for dropout; None is no dropout.
          return_weights: also return the attention weights.
          return_auxiliary: also return the auxiliary sums of the feed-forward layers.

        Returns:
          hidden [..., T, D]. With a ``return_*`` flag, ``(hidden, extras)``: ``extras["weights"]`` is
          ``{"encoder": [L, ..., N, T, T]}``; ``extras["auxiliary"]`` is ``{name: (sum, weight)}``, added over
          layers.
        """
        hidden, extras = self.forward(
            inputs,
            mask=mask,
            token_types=token_types,
            positions=positions,
            key=key,
            return_weights=return_weights,
            return_auxiliary=return_auxiliary,
        )
        return with_extras(hidden, extras)

    @at_model_precision
    def forward(
        self,
        inputs: Array,
        mask: Mask | Array | None = None,
        *,
        token_types: Array | None = None,
        positions: Array | None = None,
        key: Key | None = None,
        return_weights: bool = False,
        return_auxiliary: bool = False,
    ) -> tuple[Array, Extras]:
        """``(hidden, extras)`` as in ``__call__``; extras is empty without a flag."""
        positions = count_positions(self.config, inputs, mask) if positions is None else positions
        if isinstance(self.embedding, Embedding):
            x = self.embedding(inputs, token_types)
        elif token_types is None:
            x = self.embedding(inputs)
            check_shapes(
                type(self.config.patches).__name__,
                output=(x, f"... T {self.config.d_model}", jnp.dtype(self.config.dtype)),
                fix="A patch embedding returns [..., T, D] in config.dtype.",
            )
        else:
            raise ValueError(
                f"nn.Encoder: got token_types with {self.config.patches}; wanted None. Patches have no types."
            )
        hidden, extras = self.stack(
            x,
            mask=mask,
            positions=positions,
            key=key,
            return_weights=return_weights,
            return_auxiliary=return_auxiliary,
        )
        return hidden, model_extras(encoder=extras)

    def pooled(
        self,
        inputs: Array,
        mask: Mask | Array | None = None,
        *,
        token_types: Array | None = None,
        positions: Array | None = None,
        key: Key | None = None,
    ) -> Array:
        """One vector [..., D] per sequence: ``config.pooler`` applied to the hidden states.

        The arguments are those of ``__call__``. A pooler that reads more than the first token gets the valid
        tokens of ``masks.padding(valid)``, passed alone or joined to other masks by ``&``.

        Raises:
          ValueError: ``config.pooler`` is None; the valid tokens cannot be read from the mask.
        """
        encoder_key, pooler_key = split_key(key, 2)
        hidden, _ = self.forward(
            inputs, mask=mask, token_types=token_types, positions=positions, key=encoder_key
        )
        pooler = self.config.pooler
        valid = None
        if mask is not None and pooler is not None and pooler.reads != "first":
            valid = valid_tokens(
                mask, hidden.shape[:-1], str(pooler), "Call the model, then your own pooler."
            )
        return self.pool(hidden, valid, key=pooler_key)

    @at_model_precision
    def pool(self, hidden: Array, valid: Array | None = None, *, key: Key | None = None) -> Array:
        """``config.pooler`` applied to hidden [..., T, D]; ``valid`` bool [..., T], None is all."""
        if self.pooler is None:
            raise ValueError(
                "nn.Encoder.pooled: got config.pooler=None; wanted an nn.Pooling, such as nn.Pooler()."
            )
        pooled = self.pooler(hidden, valid, key=key)
        check_shapes(
            type(self.config.pooler).__name__,
            x=(hidden, "... T D"),
            pooled=(pooled, "... D"),
            fix="A pooler returns one vector per sequence.",
        )
        return pooled
