"""What stands on top of the vectors: logits over tokens, or over classes."""

import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_array
from tfm_jax.nn.blocks import split_key
from tfm_jax.nn.config import Config
from tfm_jax.nn.encoder import Encoder
from tfm_jax.nn.layers import Linear
from tfm_jax.nn.norms import Norm
from tfm_jax.nn.parameters import constant
from tfm_jax.nn.pooling import Pooling, pool
from tfm_jax.ops import masks
from tfm_jax.ops.masks import Mask
from tfm_jax.ranges import RATE, SIZE, check_number
from tfm_jax.types import Array, Key

__all__ = ["ClassificationHead", "Classifier", "LanguageModelHead", "MaskedLanguageModel"]


class LanguageModelHead(nnx.Module):
    """An output projection of its own, for models that do not tie it to the embedding.

    Equivalent to::

        logits = x @ kernel

    Args:
      config: D, V.
      rngs: draws the kernel [D, V].
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.projection = Linear(
            (config.d_model,), (config.vocab_size,), bias=False, dtype=config.param_dtype, rngs=rngs
        )

    def __call__(self, x: Array) -> Array:
        """The logits [..., T, V], float32, of x [..., T, D]."""
        x = as_array("nn.LanguageModelHead", "x", x)
        kernel = self.projection.kernel[...].astype(x.dtype)
        return jnp.einsum("...D,DV->...V", x, kernel, preferred_element_type=jnp.float32)


class ClassificationHead(nnx.Module):
    """Pools the vectors of a sequence into one and maps it to class logits, or maps each of them.

    Equivalent to::

        pooled = x.mean(-2)          # "mean", over the valid positions; "first": x[..., 0, :]; None: x
        logits = dropout(pooled) @ kernel + bias

    Args:
      config: D.
      n_classes: how many logits.
      pooling: ``"mean"``, ``"first"`` (a class token), or None: logits of every vector.
      dropout_rate: on what is mapped, in [0, 1).
      rngs: draws the kernel.

    Raises:
      ValueError: for another pooling, less than one class, a rate out of range.
    """

    def __init__(
        self, config: Config, n_classes: int, pooling: Pooling, dropout_rate: float = 0.0, *, rngs: nnx.Rngs
    ):
        if pooling not in ("mean", "first", None):
            raise ValueError(f"ClassificationHead: got pooling={pooling!r}; wanted 'mean', 'first' or None.")
        check_number("ClassificationHead", "n_classes", n_classes, SIZE)
        check_number("ClassificationHead", "dropout_rate", dropout_rate, RATE)
        self.pooling, self.dropout_rate = pooling, dropout_rate
        self.dense = Linear((config.d_model,), (n_classes,), bias=True, dtype=config.param_dtype, rngs=rngs)

    def __call__(self, x: Array, valid: Array | None = None, *, key: Key | None = None) -> Array:
        """The logits [..., n_classes], float32, of x [..., T, D]; [..., T, n_classes] without pooling.

        ``valid`` bool [..., T] says which positions the mean counts; a row without one pools to 0. Of another
        shape or dtype it raises a ValueError. ``key`` is for dropout, None is none.
        """
        x = as_array("nn.ClassificationHead", "x", x)
        valid = None if valid is None else as_array("nn.ClassificationHead", "valid", valid)
        if valid is not None and (valid.shape != x.shape[:-1] or valid.dtype != bool):
            raise ValueError(
                f"valid must be bool [..., T] = {x.shape[:-1]}, got {valid.dtype}{list(valid.shape)}"
            )
        return self.dense(
            ops.dropout(pool(x.astype(jnp.float32), self.pooling, valid), self.dropout_rate, key)
        )


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


class Classifier(nnx.Module):
    """An encoder, pooled or not, with a dense layer of one logit a class.

    Equivalent to::

        hidden = encoder(inputs, masks.padding(valid))
        logits = head(hidden, valid)                       # pooled, or of every token where pooling is None
        logits = head(pooler(hidden))                      # where there is a config.pooler

    Args:
      config: the sizes and variants; ``patches`` makes it read images.
      n_classes: how many.
      pooling: ``"mean"`` over the valid positions, ``"first"``, or None: logits of every token.
      dropout_rate: on what the dense layer reads, in [0, 1).
      rngs: draws the parameters.

    Raises:
      ValueError: for a ``config.pooler`` beside another pooling than ``"first"``; as ``ClassificationHead``.
    """

    def __init__(
        self,
        config: Config,
        n_classes: int = 10,
        pooling: Pooling = "mean",
        dropout_rate: float = 0.0,
        *,
        rngs: nnx.Rngs,
    ):
        if config.pooler is not None and pooling != "first":
            raise ValueError(
                f"{config.pooler} reads the first token: pass pooling='first', got pooling={pooling!r}, or a "
                "config without a pooler"
            )
        self.encoder = Encoder(config, rngs=rngs)
        own = pooling if config.pooler is None else None
        self.head = ClassificationHead(config, n_classes, own, dropout_rate, rngs=rngs)

    def __call__(
        self,
        inputs: Array,
        valid: Array | None = None,
        *,
        token_types: Array | None = None,
        positions: Array | None = None,
        key: Key | None = None,
        return_weights: bool = False,
    ) -> Array | tuple[Array, dict[str, Array]]:
        """Classifies.

        Args:
          inputs: int tokens [..., T], or images [..., height, width, channels].
          valid: bool [..., T], False at padding: neither attended to nor pooled.
          token_types, positions: as ``Encoder`` takes them.
          key: for dropout; None is no dropout.
          return_weights: give the attention weights too.

        Returns:
          logits [..., n_classes], float32, or [..., T, n_classes] without pooling; with ``return_weights``,
          ``(logits, {"encoder": ...})``.
        """
        valid = None if valid is None else as_array("nn.Classifier", "valid", valid)
        mask = None if valid is None else masks.padding(valid)
        encoder_key, pooler_key, head_key = split_key(key, 3)
        encoded = self.encoder(
            inputs,
            mask,
            token_types=token_types,
            positions=positions,
            key=encoder_key,
            return_weights=return_weights,
        )
        hidden, weights = encoded if return_weights else (encoded, None)
        if self.encoder.pooler is not None:
            hidden, valid = self.encoder.pooler(hidden, key=pooler_key), None
        logits = self.head(hidden, valid, key=head_key)
        return (logits, weights) if return_weights else logits
