"""``ops.repetition_penalty`` and ``ops.frequency_penalty`` satisfy the laws."""

import jax

from tests.laws.suites._assertions import assert_all_hold
from tfm_jax import laws, ops


def counts(logits, tokens):
    return ops.token_counts(tokens, logits.shape[-1])


def test_repetition_penalty():
    def penalize(logits, tokens, penalty):
        return ops.repetition_penalty(logits, counts(logits, tokens) > 0, penalty)

    assert_all_hold(jax.jit(penalize), laws.repetition_penalty)


def test_frequency_penalty():
    def penalize(logits, tokens, penalty):
        return ops.frequency_penalty(logits, counts(logits, tokens), penalty)

    assert_all_hold(jax.jit(penalize), laws.frequency_penalty)
