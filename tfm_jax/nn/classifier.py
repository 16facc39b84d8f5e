"""An encoder that says which class its input belongs to."""

from typing import Literal

from flax import nnx

from tfm_jax.nn.config import Config
from tfm_jax.nn.encoder import Encoder
from tfm_jax.nn.heads import ClassificationHead
from tfm_jax.ops import masks
from tfm_jax.types import Array, Key

__all__ = ["Classifier"]


class Classifier(nnx.Module):
    """An encoder, pooled, with a dense layer of one logit a class.

    Args:
      config: the sizes and variants; ``patches`` makes it read images.
      n_classes: how many.
      pooling: ``"mean"`` over the valid positions, or ``"first"``.
      rngs: draws the parameters.
    """

    def __init__(
        self,
        config: Config,
        n_classes: int = 10,
        pooling: Literal["mean", "first"] = "mean",
        *,
        rngs: nnx.Rngs,
    ):
        self.encoder = Encoder(config, rngs=rngs)
        self.head = ClassificationHead(config, n_classes, pooling, rngs=rngs)

    def __call__(
        self,
        inputs: Array,
        valid: Array | None = None,
        *,
        key: Key | None = None,
        return_weights: bool = False,
    ) -> Array | tuple[Array, dict[str, Array]]:
        """Classifies.

        Args:
          inputs: int tokens [..., T], or images [..., height, width, channels].
          valid: bool [..., T], False at padding: neither attended to nor pooled.
          key: for dropout; None is no dropout.
          return_weights: give the attention weights too.

        Returns:
          logits [..., n_classes], float32; with ``return_weights``, ``(logits, {"encoder": ...})``.
        """
        mask = None if valid is None else masks.padding(valid)
        encoded = self.encoder(inputs, mask, key=key, return_weights=return_weights)
        hidden, weights = encoded if return_weights else (encoded, None)
        logits = self.head(hidden, valid)
        return (logits, weights) if return_weights else logits
