"""Output heads: language model, masked language model, classifier."""

import jax.numpy as jnp
from flax import nnx

from tfm_jax import ops
from tfm_jax.checks import as_array, check_shapes
from tfm_jax.nn._parameters import constant
from tfm_jax.nn.blocks import split_key
from tfm_jax.nn.config import Config
from tfm_jax.nn.embedding import Embedding
from tfm_jax.nn.encoder import Encoder
from tfm_jax.nn.extras import Extras, with_extras
from tfm_jax.nn.layers import Linear
from tfm_jax.nn.norms import normalize
from tfm_jax.nn.pooling import PoolBy, pool
from tfm_jax.nn.precision import at_model_precision
from tfm_jax.nn.variants import Activation, as_function
from tfm_jax.ops import masks
from tfm_jax.ops.masks import Mask
from tfm_jax.ranges import RATE, SIZE, check_number
from tfm_jax.sharding import constrain
from tfm_jax.types import Array, Key

__all__ = ["ClassificationHead", "Classifier", "LanguageModelHead", "MaskedLanguageModel"]


class LanguageModelHead(nnx.Module):
    """Output projection of a model with untied embeddings.

    Equivalent to::

        logits = x @ kernel

    Args:
      config: D, V.
      rngs: initializes the kernel [D, V].
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.config = config
        self.projection = Linear(
            (config.d_model,),
            (config.vocab_size,),
            axes="D V",
            bias=False,
            dtype=config.param_dtype,
            initializer=config.initializers.kernel,
            rngs=rngs,
        )

    @at_model_precision
    def __call__(self, x: Array) -> Array:
        """The logits [..., T, V], float32, from hidden states x [..., T, D]."""
        x = as_array("nn.LanguageModelHead", "x", x)
        kernel = self.projection.kernel[...].astype(x.dtype)
        return constrain(jnp.einsum("...D,DV->...V", x, kernel, preferred_element_type=jnp.float32), "V")


class ClassificationHead(nnx.Module):
    """Classification head: pooling, dropout, and a linear layer.

    Equivalent to::

        pooled = x.mean(-2)          # "mean", over the valid positions; "first": x[..., 0, :]; None: x
        logits = dropout(pooled) @ kernel + bias

    Args:
      config: D.
      n_classes: number of classes.
      pooling: ``"mean"``, ``"first"`` (a class token), or None for logits of every token.
      dropout_rate: on the pooled vector, in [0, 1).
      rngs: initializes the kernel.

    Raises:
      ValueError: an unknown pooling, ``n_classes`` below 1, a rate out of range.
    """

    def __init__(
        self, config: Config, n_classes: int, pooling: PoolBy, dropout_rate: float = 0.0, *, rngs: nnx.Rngs
    ):
        if pooling not in ("mean", "first", None):
            raise ValueError(
                f"nn.ClassificationHead: got pooling={pooling!r}; wanted 'mean', 'first' or None."
            )
        check_number("nn.ClassificationHead", "n_classes", n_classes, SIZE)
        check_number("nn.ClassificationHead", "dropout_rate", dropout_rate, RATE)
        self.config = config
        self.pooling: PoolBy = pooling
        self.dropout_rate = dropout_rate
        self.dense = Linear(
            (config.d_model,),
            (n_classes,),
            axes="D C",
            bias=True,
            dtype=config.param_dtype,
            initializer=config.initializers.kernel,
            rngs=rngs,
        )

    @at_model_precision
    def __call__(self, x: Array, valid: Array | None = None, *, key: Key | None = None) -> Array:
        """The logits [..., n_classes], float32, from x [..., T, D]; [..., T, n_classes] without pooling.

        ``valid`` bool [..., T] selects the positions of the mean; a sequence without valid positions pools
        to 0. Another shape or dtype raises a ValueError. ``key`` is for dropout; None is no dropout.
        """
        x = as_array("nn.ClassificationHead", "x", x)
        valid = None if valid is None else as_array("nn.ClassificationHead", "valid", valid)
        check_shapes(
            "nn.ClassificationHead",
            x=(x, "... D" if self.pooling is None and valid is None else "... T D"),
            valid=(valid, "... T", "bool"),
            fix={"valid": "It is False at padding."},
        )
        return self.dense(
            ops.dropout(pool(x.astype(jnp.float32), self.pooling, valid), self.dropout_rate, key)
        )


class MaskedLanguageModel(nnx.Module):
    """Masked language model: an encoder with the head of BERT.

    Equivalent to::

        x = norm(activation(encoder(tokens) @ kernel + bias))
        logits = x @ unembedding + output_bias

    Args:
      config: sizes and variants; with ``tie_embeddings`` the output projection is the embedding.
      activation: of the head, a name that ``ops.activation`` knows, or an ``nn.Activation``.
      rngs: initializes the parameters.

    Raises:
      ValueError: the config has a ``pooler`` or ``patches``, which this model does not use; an unknown
        activation.

    Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers", section 3.1.
    """

    def __init__(self, config: Config, activation: str | Activation = "gelu", *, rngs: nnx.Rngs):
        if config.pooler is not None:
            raise ValueError(
                f"nn.MaskedLanguageModel: got pooler={config.pooler!r}; wanted pooler=None. Only nn.Encoder "
                "and nn.Classifier use it."
            )
        if config.patches is not None:
            raise ValueError(
                f"nn.MaskedLanguageModel: got {config.patches}; wanted patches=None. It reads tokens."
            )
        as_function(activation)  # raises for an unknown name
        self.config, self.activation = config, activation
        self.encoder = Encoder(config, rngs=rngs)
        D, dtype, kernel = config.d_model, config.param_dtype, config.initializers.kernel
        self.dense = Linear((D,), (D,), axes="D D", bias=True, dtype=dtype, initializer=kernel, rngs=rngs)
        self.norm = config.norm.build(D, axis="D", dtype=dtype, rngs=rngs)
        self.head = None if config.tie_embeddings else LanguageModelHead(config, rngs=rngs)
        self.bias = constant(0.0, config.vocab_size, config.param_dtype)

    def axes(self) -> dict[str, str]:
        return {"bias": "V"}

    @at_model_precision
    def __call__(
        self,
        tokens: Array,
        mask: Mask | Array | None = None,
        *,
        token_types: Array | None = None,
        positions: Array | None = None,
        key: Key | None = None,
        return_weights: bool = False,
        return_auxiliary: bool = False,
    ) -> Array | tuple[Array, Extras]:
        """The logits [..., T, V], float32, from int tokens [..., T]; the rest is as in ``Encoder``."""
        x, extras = self.encoder.forward(
            tokens,
            mask=mask,
            token_types=token_types,
            positions=positions,
            key=key,
            return_weights=return_weights,
            return_auxiliary=return_auxiliary,
        )
        x = constrain(as_function(self.activation)(self.dense(x)), "B T D")
        logits = self._unembed(constrain(normalize(self.norm, x), "B T D"))
        logits = logits + jnp.broadcast_to(self.bias[...].astype(logits.dtype), logits.shape)
        return with_extras(logits, extras)

    def _unembed(self, x: Array) -> Array:
        if self.head is not None:
            return self.head(x)
        assert isinstance(self.encoder.embedding, Embedding)  # not of patches
        return self.encoder.embedding.attend(x)


class Classifier(nnx.Module):
    """Encoder with a classification head, for sequences, tokens or images.

    Equivalent to::

        hidden = encoder(inputs, masks.padding(valid))
        logits = head(hidden, valid)                       # of each sequence, or of each token: pooling=None
        logits = head(pooler(hidden))                      # with config.pooler

    Args:
      config: sizes and variants; with ``patches`` the input is images.
      n_classes: number of classes.
      pooling: ``"mean"`` over the valid positions, ``"first"``, or None for logits of every token.
      dropout_rate: on the input of the linear layer, in [0, 1).
      rngs: initializes the parameters.

    Raises:
      ValueError: a ``config.pooler`` with a pooling other than it ``reads`` (``"first"`` for ``Pooler``); and
        as in ``ClassificationHead``.
    """

    def __init__(
        self,
        config: Config,
        n_classes: int = 10,
        pooling: PoolBy = "mean",
        dropout_rate: float = 0.0,
        *,
        rngs: nnx.Rngs,
    ):
        if config.pooler is not None and pooling != config.pooler.reads:
            raise ValueError(
                f"nn.Classifier: got pooling={pooling!r} with {config.pooler}; wanted "
                f"pooling={config.pooler.reads!r}, which says what this pooler reads."
            )
        self.encoder = Encoder(config, rngs=rngs)
        head_pooling = pooling if config.pooler is None else None
        self.head = ClassificationHead(config, n_classes, head_pooling, dropout_rate, rngs=rngs)

    def __call__(
        self,
        inputs: Array,
        valid: Array | None = None,
        *,
        token_types: Array | None = None,
        positions: Array | None = None,
        key: Key | None = None,
        return_weights: bool = False,
        return_auxiliary: bool = False,
    ) -> Array | tuple[Array, Extras]:
        """Class logits.

        Args:
          inputs: int tokens [..., T], or images [..., height, width, channels].
          valid: bool [..., T], False at padding, which is masked in attention and in pooling.
          token_types, positions: as in ``Encoder``.
          key: PRNG key for dropout; None is no dropout.
          return_weights, return_auxiliary: as in ``Encoder``.

        Returns:
          logits [..., n_classes], float32, or [..., T, n_classes] without pooling. With a ``return_*`` flag,
          ``(logits, extras)``, with the extras of ``Encoder``.
        """
        valid = None if valid is None else as_array("nn.Classifier", "valid", valid)
        mask = None if valid is None else masks.padding(valid)
        encoder_key, pooler_key, head_key = split_key(key, 3)
        hidden, extras = self.encoder.forward(
            inputs,
            mask=mask,
            token_types=token_types,
            positions=positions,
            key=encoder_key,
            return_weights=return_weights,
            return_auxiliary=return_auxiliary,
        )
        if self.encoder.pooler is not None:
            hidden, valid = self.encoder.pool(hidden, valid, key=pooler_key), None
        return with_extras(self.head(hidden, valid, key=head_key), extras)
