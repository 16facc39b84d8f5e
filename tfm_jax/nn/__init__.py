"""Thin Flax NNX modules: parameters, and one call into ``tfm_jax.ops``."""

from tfm_jax.nn.attention import MultiHeadAttention
from tfm_jax.nn.blocks import DecoderBlock, EncoderBlock
from tfm_jax.nn.classifier import Classifier
from tfm_jax.nn.config import Config, paper_base, paper_big
from tfm_jax.nn.embedding import Embedding, PatchEmbedding
from tfm_jax.nn.encoder import Encoder
from tfm_jax.nn.feed_forward import FeedForward
from tfm_jax.nn.functional import Pure, functionalize
from tfm_jax.nn.heads import ClassificationHead, LanguageModelHead
from tfm_jax.nn.linear import Linear, Norm
from tfm_jax.nn.masked import MaskedLanguageModel
from tfm_jax.nn.stack import DecoderStack, EncoderStack
from tfm_jax.nn.transformer import Decoder, EncoderDecoder
from tfm_jax.nn.variants import (
    Alibi,
    Glu,
    LayerNorm,
    Learned,
    Mlp,
    Patches,
    Pooler,
    RelativeBias,
    RMSNorm,
    Rope,
    Sinusoidal,
)

__all__ = [
    "Alibi",
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
    "functionalize",
    "paper_base",
    "paper_big",
]
