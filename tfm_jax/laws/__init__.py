"""Property-based laws of a Transformer's functions, to be tried on ours and on yours (extra: ``laws``).

report = laws.check(my_attention, laws.attention)
print(report)
"""

try:
    import hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError("the laws are tried by hypothesis: pip install 'tfm_jax[laws]'") from error

from tfm_jax.laws.asked import Asked, Refused
from tfm_jax.laws.attention import attention
from tfm_jax.laws.attention_case import AttentionAsked, AttentionCase
from tfm_jax.laws.attention_dropout import AttentionDropoutAsked, attention_dropout
from tfm_jax.laws.beam_search import BeamAsked, BeamCase, beam_search
from tfm_jax.laws.block import BlockAsked, BlockCase, block
from tfm_jax.laws.cached_decoder import CAPACITY, CacheAsked, CacheCase, cached_decoder
from tfm_jax.laws.check import Finding, LawBroken, Report, check, findings, holds
from tfm_jax.laws.checkpoint import SavedAsked, SavedCase, checkpoint
from tfm_jax.laws.cross_entropy import CrossEntropyAsked, CrossEntropyCase, cross_entropy
from tfm_jax.laws.dropout import DropoutAsked, DropoutCase, dropout
from tfm_jax.laws.encoder import classifier, encoder, encoder_without_positions
from tfm_jax.laws.feed_forward import FeedForwardAsked, feed_forward
from tfm_jax.laws.gradient_accumulation import BatchAsked, BatchCase, data_parallel, gradient_accumulation
from tfm_jax.laws.language_model import language_model, padded_decoder
from tfm_jax.laws.law import Broken, Law, Suite, law, same
from tfm_jax.laws.layer_dropout import KeyCase, LayerDropoutAsked, layer_dropout
from tfm_jax.laws.layer_norm import layer_norm
from tfm_jax.laws.logits_case import HistoryCase, LogitsAsked, LogitsCase
from tfm_jax.laws.logits_processor import ProcessorAsked, logits_processor
from tfm_jax.laws.masked_attention import masked_attention
from tfm_jax.laws.masked_case import MaskedAsked, MaskedCase
from tfm_jax.laws.min_p import min_p
from tfm_jax.laws.no_repeat_ngram import NgramAsked, no_repeat_ngram
from tfm_jax.laws.penalties import frequency_penalty, repetition_penalty
from tfm_jax.laws.position_bias import AlibiAsked, alibi, position_bias
from tfm_jax.laws.positions_case import PairsAsked, PositionsCase
from tfm_jax.laws.relative_buckets import BucketsAsked, relative_buckets
from tfm_jax.laws.rms_norm import rms_norm
from tfm_jax.laws.rotary import RotaryAsked, RotaryCase, rotary
from tfm_jax.laws.sinusoidal import SinusoidalAsked, sinusoidal
from tfm_jax.laws.temperature import temperature
from tfm_jax.laws.tokens_case import ModelAsked, TokensCase
from tfm_jax.laws.top_k import top_k
from tfm_jax.laws.top_p import top_p
from tfm_jax.laws.transformations import ArraysCase, PureAsked, transformations
from tfm_jax.laws.vectors import NormAsked, VectorsAsked, VectorsCase

SUITES = {
    suite.name: suite
    for suite in (
        attention,
        block,
        language_model,
        encoder,
        encoder_without_positions,
        classifier,
        padded_decoder,
        cached_decoder,
        beam_search,
        gradient_accumulation,
        data_parallel,
        layer_dropout,
        checkpoint,
        transformations(),
        masked_attention,
        attention_dropout,
        layer_norm,
        rms_norm,
        sinusoidal,
        rotary,
        position_bias,
        alibi,
        relative_buckets,
        feed_forward,
        dropout,
        cross_entropy,
        logits_processor,
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        frequency_penalty,
        no_repeat_ngram,
    )
}
"""All laws, by what they are laws of."""

__all__ = [
    "CAPACITY",
    "SUITES",
    "AlibiAsked",
    "ArraysCase",
    "Asked",
    "AttentionAsked",
    "AttentionCase",
    "AttentionDropoutAsked",
    "BatchAsked",
    "BatchCase",
    "BeamAsked",
    "BeamCase",
    "BlockAsked",
    "BlockCase",
    "Broken",
    "BucketsAsked",
    "CacheAsked",
    "CacheCase",
    "CrossEntropyAsked",
    "CrossEntropyCase",
    "DropoutAsked",
    "DropoutCase",
    "FeedForwardAsked",
    "Finding",
    "HistoryCase",
    "KeyCase",
    "Law",
    "LawBroken",
    "LayerDropoutAsked",
    "LogitsAsked",
    "LogitsCase",
    "MaskedAsked",
    "MaskedCase",
    "ModelAsked",
    "NgramAsked",
    "NormAsked",
    "PairsAsked",
    "PositionsCase",
    "ProcessorAsked",
    "PureAsked",
    "Refused",
    "Report",
    "RotaryAsked",
    "RotaryCase",
    "SavedAsked",
    "SavedCase",
    "SinusoidalAsked",
    "Suite",
    "TokensCase",
    "VectorsAsked",
    "VectorsCase",
    "alibi",
    "attention",
    "attention_dropout",
    "beam_search",
    "block",
    "cached_decoder",
    "check",
    "checkpoint",
    "classifier",
    "cross_entropy",
    "data_parallel",
    "dropout",
    "encoder",
    "encoder_without_positions",
    "feed_forward",
    "findings",
    "frequency_penalty",
    "gradient_accumulation",
    "holds",
    "language_model",
    "law",
    "layer_dropout",
    "layer_norm",
    "logits_processor",
    "masked_attention",
    "min_p",
    "no_repeat_ngram",
    "padded_decoder",
    "position_bias",
    "relative_buckets",
    "repetition_penalty",
    "rms_norm",
    "rotary",
    "same",
    "sinusoidal",
    "temperature",
    "top_k",
    "top_p",
    "transformations",
]
