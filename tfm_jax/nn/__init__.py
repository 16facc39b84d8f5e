"""Transformer modules in Flax NNX: parameters, and calls into ``tfm_jax.ops``."""

from tfm_jax.nn import _tabulate  # noqa: F401  - for nnx.tabulate
from tfm_jax.nn.attention import MultiHeadAttention
from tfm_jax.nn.blocks import DecoderBlock, EncoderBlock
from tfm_jax.nn.config import Config, paper_base, paper_big
from tfm_jax.nn.decoding import Cache, decode_step, init_cache, unembed
from tfm_jax.nn.embedding import Embedding
from tfm_jax.nn.encoder import Encoder
from tfm_jax.nn.extras import Metric
from tfm_jax.nn.feed_forward import Glu, Mlp
from tfm_jax.nn.functional import Pure, functionalize
from tfm_jax.nn.heads import ClassificationHead, Classifier, MaskedLanguageModel
from tfm_jax.nn.initializers import GlorotUniform, Initializers, LecunNormal, Normal, TruncatedNormal
from tfm_jax.nn.layers import Linear
from tfm_jax.nn.mixture_of_experts import MixtureOfExperts
from tfm_jax.nn.norms import LayerNorm, RMSNorm
from tfm_jax.nn.patches import Patches
from tfm_jax.nn.pooling import Pooler
from tfm_jax.nn.positions import Alibi, Learned, RelativeBias, Rope, Sinusoidal
from tfm_jax.nn.precision import matmul_precision
from tfm_jax.nn.stack import DecoderStack, EncoderStack
from tfm_jax.nn.summary import summary
from tfm_jax.nn.transformer import Decoder, EncoderDecoder
from tfm_jax.nn.variants import (
    Activation,
    FeedForward,
    Initializer,
    Norm,
    PatchEmbedding,
    Pooling,
    Positions,
    register_variant,
)

__all__ = [
    "Activation",
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
    "GlorotUniform",
    "Glu",
    "Initializer",
    "Initializers",
    "LayerNorm",
    "Learned",
    "LecunNormal",
    "Linear",
    "MaskedLanguageModel",
    "Metric",
    "MixtureOfExperts",
    "Mlp",
    "MultiHeadAttention",
    "Norm",
    "Normal",
    "PatchEmbedding",
    "Patches",
    "Pooler",
    "Pooling",
    "Positions",
    "Pure",
    "RMSNorm",
    "RelativeBias",
    "Rope",
    "Sinusoidal",
    "TruncatedNormal",
    "decode_step",
    "functionalize",
    "init_cache",
    "matmul_precision",
    "paper_base",
    "paper_big",
    "register_variant",
    "summary",
    "unembed",
]
