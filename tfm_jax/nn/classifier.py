"""An encoder that says which class its input belongs to, or each of its tokens."""

from flax import nnx

from tfm_jax.checks import as_array
from tfm_jax.nn.blocks import split_key
from tfm_jax.nn.config import Config
from tfm_jax.nn.encoder import Encoder
from tfm_jax.nn.heads import ClassificationHead, Pooling
from tfm_jax.ops import masks
from tfm_jax.types import Array, Key

__all__ = ["Classifier"]


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
