"""The model that reads: encoder."""

from flax import nnx

from tfm_jax.nn.blocks import split_key
from tfm_jax.nn.config import Config
from tfm_jax.nn.embedding import Embedding
from tfm_jax.nn.patches import PatchEmbedding
from tfm_jax.nn.pooling import PoolerLayer
from tfm_jax.nn.positions import count_positions
from tfm_jax.nn.stack import EncoderStack
from tfm_jax.ops.masks import Mask
from tfm_jax.types import Array, Key

__all__ = ["Encoder"]

Weights = dict[str, Array]


def _no_decoder(config: Config) -> None:
    if config.window is not None:
        raise ValueError("window is of decoders; pass an Encoder a mask, such as masks.window(left, right)")
    if config.logits_scale != 1.0 or config.logits_bias:
        raise ValueError("logits_scale and logits_bias are of the logits of decoders; an Encoder has none")


class Encoder(nnx.Module):
    """Tokens or images in, vectors made distinct by their context out.

    Args:
      config: the sizes and variants; ``patches`` makes it read images. A ``window``, ``logits_scale`` or
        ``logits_bias``, which would do nothing here, is refused.
      rngs: draws the parameters.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        _no_decoder(config)
        self.config = config
        embedding = Embedding if config.patches is None else PatchEmbedding
        self.embedding = embedding(config, rngs=rngs)
        self.stack = EncoderStack(config, rngs=rngs)
        self.pooler = None if config.pooler is None else PoolerLayer(config, rngs=rngs)

    def __call__(
        self,
        inputs: Array,
        mask: Mask | Array | None = None,
        *,
        token_types: Array | None = None,
        positions: Array | None = None,
        key: Key | None = None,
        return_weights: bool = False,
    ) -> Array | tuple[Array, Weights]:
        """Encodes.

        Args:
          inputs: int tokens [..., T], or images [..., height, width, channels].
          mask: True = may attend, such as ``masks.padding(valid)``.
          token_types: int [..., T] or [T], below ``config.token_types``; None is type 0 for all.
          positions: int [..., T] or [T]; None counts from 0, as the config says.
          key: for dropout; None is no dropout.
          return_weights: give the attention weights too.

        Returns:
          hidden [..., T, D]; with ``return_weights``, ``(hidden, {"encoder": [L, ..., N, T, T]})``.
        """
        positions = count_positions(self.config, inputs, mask) if positions is None else positions
        x = self.embedding(inputs) if token_types is None else self.embedding(inputs, token_types)
        hidden, weights = self.stack(x, mask, positions=positions, key=key, return_weights=return_weights)
        return (hidden, {"encoder": weights["self"]}) if return_weights else hidden

    def pooled(
        self,
        inputs: Array,
        mask: Mask | Array | None = None,
        *,
        token_types: Array | None = None,
        positions: Array | None = None,
        key: Key | None = None,
    ) -> Array:
        """One vector [..., D] a sequence: what ``config.pooler`` makes of the first token.

        All arguments are those of ``__call__``; a ValueError where the config has no pooler.
        """
        if self.pooler is None:
            raise ValueError("this encoder has no pooler: give its config one, such as pooler=nn.Pooler()")
        encoder_key, pooler_key = split_key(key, 2)
        hidden = self(inputs, mask, token_types=token_types, positions=positions, key=encoder_key)
        return self.pooler(hidden, key=pooler_key)
