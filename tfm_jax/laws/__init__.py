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
from tfm_jax.laws.check import Finding, LawBroken, Report, check, findings, holds
from tfm_jax.laws.cross_entropy import CrossEntropyAsked, CrossEntropyCase, cross_entropy
from tfm_jax.laws.dropout import DropoutAsked, DropoutCase, dropout
from tfm_jax.laws.feed_forward import FeedForwardAsked, feed_forward
from tfm_jax.laws.law import Broken, Law, Suite, law, same
from tfm_jax.laws.layer_norm import layer_norm
from tfm_jax.laws.position_bias import AlibiAsked, alibi, position_bias
from tfm_jax.laws.positions_case import PairsAsked, PositionsCase
from tfm_jax.laws.relative_buckets import BucketsAsked, relative_buckets
from tfm_jax.laws.rms_norm import rms_norm
from tfm_jax.laws.rotary import RotaryAsked, RotaryCase, rotary
from tfm_jax.laws.sinusoidal import SinusoidalAsked, sinusoidal
from tfm_jax.laws.vectors import NormAsked, VectorsAsked, VectorsCase

SUITES = {
    suite.name: suite
    for suite in (
        attention,
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
    )
}
"""All laws, by what they are laws of."""

__all__ = [
    "SUITES",
    "AlibiAsked",
    "Asked",
    "AttentionAsked",
    "AttentionCase",
    "Broken",
    "BucketsAsked",
    "CrossEntropyAsked",
    "CrossEntropyCase",
    "DropoutAsked",
    "DropoutCase",
    "FeedForwardAsked",
    "Finding",
    "Law",
    "LawBroken",
    "NormAsked",
    "PairsAsked",
    "PositionsCase",
    "Refused",
    "Report",
    "RotaryAsked",
    "RotaryCase",
    "SinusoidalAsked",
    "Suite",
    "VectorsAsked",
    "VectorsCase",
    "alibi",
    "attention",
    "check",
    "cross_entropy",
    "dropout",
    "feed_forward",
    "findings",
    "holds",
    "law",
    "layer_norm",
    "position_bias",
    "relative_buckets",
    "rms_norm",
    "rotary",
    "same",
    "sinusoidal",
]
