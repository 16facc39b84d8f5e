"""Length limits: resolved once per call, for inputs of every length."""

import numpy as np
import pytest

from tfm_jax.generate import GenerationConfig
from tfm_jax.generate._limits import Limits, TextLimits, resolve_limits


def lengths(limits, n):
    found = limits.of(n)
    return found.max_length, found.min_length


def test_limits_carry_lengths_and_special_ids():
    options = {"max_length": 5, "min_length": 2, "pad_id": 3, "bos_id": 1}
    assert resolve_limits("greedy", eos_id=(2, 4), **options) == Limits(5, 2, (2, 4), 3, 1)
    assert resolve_limits("greedy", eos_id=np.array([2, 4]), **options).eos_ids == (2, 4)
    assert resolve_limits("greedy", eos_id=2, **options).eos_ids == (2,)
    assert resolve_limits("greedy", eos_id=None, **options).eos_ids == ()
    config = GenerationConfig((2, 4), pad_id=3, start_id=1, max_length=5, min_length=2)
    assert TextLimits(config, None, is_encoder_decoder=False).of(7) == Limits(5, 2, (2, 4), 3, 1)
    with pytest.raises(ValueError, match="greedy: got min_length=6 with max_length=5"):
        resolve_limits("greedy", eos_id=None, **{**options, "min_length": 6})


def test_totals_count_the_prompt():
    config = GenerationConfig(max_length=9, max_total=12, min_total=8)
    limits = TextLimits(config, None, is_encoder_decoder=False)
    assert [lengths(limits, n) for n in (1, 5, 10)] == [(9, 8), (7, 4), (2, 0)]
    assert limits.depends_on_prompt and limits.max_input == 11
    updated = TextLimits(config.updated(max_length=30), None, is_encoder_decoder=False)
    assert lengths(updated, 10) == (30, 0) and updated.depends_on_prompt and updated.max_input is None


def test_totals_count_the_start_token_of_an_encoder_decoder():
    limits = TextLimits(GenerationConfig(max_total=12, min_total=8), None, is_encoder_decoder=True)
    assert [lengths(limits, n) for n in (1, 40)] == [(11, 8)] * 2
    assert not limits.depends_on_prompt and limits.max_input is None


def test_default_length_of_a_translation():
    config = GenerationConfig(min_length=4)
    assert lengths(TextLimits(config, None, is_encoder_decoder=True), 16) == (66, 4)
    assert lengths(TextLimits(config, 24, is_encoder_decoder=True), 16) == (24, 4)


def test_positions_limit_the_input():
    config = GenerationConfig(max_length=16)
    limits = TextLimits(config, 24, is_encoder_decoder=False)
    assert limits.max_input == 24 - 15  # the last output token is not read
    limits.check_inputs(["abc"], [np.zeros(9, np.int32)])
    with pytest.raises(ValueError, match="got 'abc' of 10 tokens; wanted at most 9, as the model has 24"):
        limits.check_inputs(["abc"], [np.zeros(10, np.int32)])
    assert TextLimits(config, 24, is_encoder_decoder=True).max_input == 24


def test_a_decoder_requires_a_length():
    with pytest.raises(ValueError, match="TextGenerator: got max_length=None; wanted"):
        TextLimits(GenerationConfig(), None, is_encoder_decoder=False)
    TextLimits(GenerationConfig(), None, is_encoder_decoder=True)
