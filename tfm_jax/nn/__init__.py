"""Transformer modules in Flax NNX: parameters, and calls into ``tfm_jax.ops``."""

from tfm_jax.nn.attention import MultiHeadAttention
from tfm_jax.nn.blocks import DecoderBlock, EncoderBlock
from tfm_jax.nn.config import Config, paper_base, paper_big
from tfm_jax.nn.decoding import Cache, decode_step, init_cache, unembed
from tfm_jax.nn.embedding import Embedding
from tfm_jax.nn.encoder import Encoder
from tfm_jax.nn.feed_forward import FeedForward, Glu, Mlp
from tfm_jax.nn.functional import Pure, functionalize
from tfm_jax.nn.heads import ClassificationHead, Classifier, LanguageModelHead, MaskedLanguageModel
from tfm_jax.nn.layers import Linear
from tfm_jax.nn.norms import LayerNorm, Norm, RMSNorm
from tfm_jax.nn.patches import PatchEmbedding, Patches
from tfm_jax.nn.pooling import Pooler
from tfm_jax.nn.positions import Alibi, Learned, RelativeBias, Rope, Sinusoidal
from tfm_jax.nn.stack import DecoderStack, EncoderStack
from tfm_jax.nn.summary import Summary, summary
from tfm_jax.nn.transformer import Decoder, EncoderDecoder

__all__ = [
    "Alibi",
    "Cache",
    "ClassificationHead",
    "Classifier",
    "Config",
    "Decoder",
    "DecoderBlock",
    "DecoderStack",
    "Embedding",
    "Encoder",
    "EncoderBlock",
    "EncoderDecoder",
    "EncoderStack",
    "FeedForward",
    "Glu",
    "LanguageModelHead",
    "LayerNorm",
    "Learned",
    "Linear",
    "MaskedLanguageModel",
    "Mlp",
    "MultiHeadAttention",
    "Norm",
    "PatchEmbedding",
    "Patches",
    "Pooler",
    "Pure",
    "RMSNorm",
    "RelativeBias",
    "Rope",
    "Sinusoidal",
    "Summary",
    "decode_step",
    "functionalize",
    "init_cache",
    "paper_base",
    "paper_big",
    "summary",
    "unembed",
]
