"""Property-based tests of a Transformer's functions, ours and yours (extra: ``laws``)::

report = laws.check(my_attention, laws.attention)
print(report)
"""

try:
    import hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError(
        "tfm_jax.laws: got no hypothesis; wanted it installed. pip install 'tfm_jax[laws]'."
    ) from error

from tfm_jax.laws import strategies
from tfm_jax.laws.adapters import heads_first, numpy, torch
from tfm_jax.laws.check import check, findings
from tfm_jax.laws.decorators import LawViolated, holds, parametrize
from tfm_jax.laws.law import Law, Suite, Violation, assert_close, law
from tfm_jax.laws.report import Report
from tfm_jax.laws.subject import Subject, Unsupported
from tfm_jax.laws.suites.activation import activation
from tfm_jax.laws.suites.attention import attention
from tfm_jax.laws.suites.attention_dropout import attention_dropout
from tfm_jax.laws.suites.beam_search import beam_search
from tfm_jax.laws.suites.block import block
from tfm_jax.laws.suites.cached_decoder import cached_decoder
from tfm_jax.laws.suites.checkpoint import checkpoint
from tfm_jax.laws.suites.cross_entropy import cross_entropy
from tfm_jax.laws.suites.dropout import dropout
from tfm_jax.laws.suites.encoder import classifier, encoder, encoder_without_positions
from tfm_jax.laws.suites.feed_forward import feed_forward
from tfm_jax.laws.suites.feed_forward_variant import feed_forward_variant
from tfm_jax.laws.suites.gradient_accumulation import data_parallel, gradient_accumulation
from tfm_jax.laws.suites.initializer import initializer
from tfm_jax.laws.suites.language_model import language_model, padded_decoder
from tfm_jax.laws.suites.layer_dropout import layer_dropout
from tfm_jax.laws.suites.layer_norm import layer_norm
from tfm_jax.laws.suites.logits_processor import logits_processor
from tfm_jax.laws.suites.masked_attention import masked_attention
from tfm_jax.laws.suites.mixture_of_experts import mixture_of_experts
from tfm_jax.laws.suites.no_repeat_ngram import no_repeat_ngram
from tfm_jax.laws.suites.norm import norm
from tfm_jax.laws.suites.penalties import frequency_penalty, repetition_penalty
from tfm_jax.laws.suites.position_bias import alibi, position_bias
from tfm_jax.laws.suites.position_scheme import position_scheme
from tfm_jax.laws.suites.relative_buckets import relative_buckets
from tfm_jax.laws.suites.rms_norm import rms_norm
from tfm_jax.laws.suites.rotary import rotary
from tfm_jax.laws.suites.routing import routing
from tfm_jax.laws.suites.sinusoidal import sinusoidal
from tfm_jax.laws.suites.temperature import temperature
from tfm_jax.laws.suites.transformations import transformations
from tfm_jax.laws.suites.truncation import min_p, top_k, top_p

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
        routing,
        mixture_of_experts,
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
        norm,
        activation,
        feed_forward_variant,
        position_scheme,
        initializer,
    )
}
"""All suites, by name."""

__all__ = [
    "SUITES",
    "Law",
    "LawViolated",
    "Report",
    "Subject",
    "Suite",
    "Unsupported",
    "Violation",
    "activation",
    "alibi",
    "assert_close",
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
    "feed_forward_variant",
    "findings",
    "frequency_penalty",
    "gradient_accumulation",
    "heads_first",
    "holds",
    "initializer",
    "language_model",
    "law",
    "layer_dropout",
    "layer_norm",
    "logits_processor",
    "masked_attention",
    "min_p",
    "mixture_of_experts",
    "no_repeat_ngram",
    "norm",
    "numpy",
    "padded_decoder",
    "parametrize",
    "position_bias",
    "position_scheme",
    "relative_buckets",
    "repetition_penalty",
    "rms_norm",
    "rotary",
    "routing",
    "sinusoidal",
    "strategies",
    "temperature",
    "top_k",
    "top_p",
    "torch",
    "transformations",
]
