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
from tfm_jax.laws.check import Finding, LawBroken, Report, check, findings, holds
from tfm_jax.laws.law import Broken, Law, Suite, law, same
from tfm_jax.laws.masked_attention import masked_attention
from tfm_jax.laws.masked_case import MaskedAsked, MaskedCase

SUITES = {suite.name: suite for suite in (attention, masked_attention, attention_dropout)}
"""All laws, by what they are laws of."""

__all__ = [
    "SUITES",
    "Asked",
    "AttentionAsked",
    "AttentionCase",
    "AttentionDropoutAsked",
    "Broken",
    "Finding",
    "Law",
    "LawBroken",
    "MaskedAsked",
    "MaskedCase",
    "Refused",
    "Report",
    "Suite",
    "attention",
    "attention_dropout",
    "check",
    "findings",
    "holds",
    "law",
    "masked_attention",
    "same",
]
