"""Length limits: resolved once per call, for inputs of every length."""

import numpy as np
import pytest

from tests.generate.models import build, tokens
from tfm_jax import generate, nn
from tfm_jax.generate import GenerationConfig
from tfm_jax.generate._limits import LengthLimits, Limits, resolve_limits


def lengths(limits, n):
    found = limits.of(n)
    return found.max_length, found.min_length


def of_texts(config, n_positions=None, is_encoder_decoder=False):
    return LengthLimits("TextGenerator", config, n_positions, is_encoder_decoder)


def test_limits_carry_lengths_and_special_ids():
    config = GenerationConfig((2, 4), pad_id=3, start_id=1, max_length=5, min_length=2)
    assert of_texts(config).of(7) == Limits(5, 2, (2, 4), 3, 1)
    model, _ = build(nn.Decoder)
    assert resolve_limits("greedy", model, 7, config, padded=True) == Limits(5, 2, (2, 4), 3, 1)


def test_default_pad_id():
    assert of_texts(GenerationConfig((4, 2), max_length=5)).of(7).pad_id == 4
    assert of_texts(GenerationConfig(max_length=5)).of(7).pad_id == -1  # no output ends early


def test_totals_count_the_prompt():
    config = GenerationConfig(max_length=9, max_total=12, min_total=8)
    limits = of_texts(config)
    assert [lengths(limits, n) for n in (1, 5, 10)] == [(9, 8), (7, 4), (2, 0)]
    assert limits.depends_on_prompt and limits.max_input == 11
    updated = of_texts(config.updated(max_length=30))
    assert lengths(updated, 10) == (30, 0) and updated.depends_on_prompt and updated.max_input is None


def test_equal_totals_allow_no_eos():
    limits = of_texts(GenerationConfig(max_total=12, min_total=12))
    assert [lengths(limits, n) for n in (1, 5)] == [(11, 12), (7, 8)]
    model, params = build(nn.Decoder)
    prompt = tokens(8, 4, seed=1)
    free = generate.greedy(model, params, prompt, GenerationConfig((2, 4, 5), max_length=5))
    got = generate.greedy(model, params, prompt, GenerationConfig((2, 4, 5), max_length=5, min_length=6))
    assert np.isin(free.tokens[:, -1], (2, 4, 5)).any() and not np.isin(got.tokens, (2, 4, 5)).any()


def test_totals_count_the_start_token_of_an_encoder_decoder():
    limits = of_texts(GenerationConfig(max_total=12, min_total=8), is_encoder_decoder=True)
    assert [lengths(limits, n) for n in (1, 40)] == [(11, 8)] * 2
    assert not limits.depends_on_prompt and limits.max_input is None


def test_default_length_of_a_translation():
    config = GenerationConfig(min_length=24)
    assert lengths(of_texts(config, is_encoder_decoder=True), 16) == (66, 24)
    assert lengths(of_texts(config, 24, is_encoder_decoder=True), 16) == (24, 24)
    with pytest.raises(ValueError, match="got min_length=24 with max_length=22, the default; wanted min_le"):
        of_texts(config, 22, is_encoder_decoder=True).of(16)


def test_positions_limit_the_input():
    config = GenerationConfig(max_length=16)
    limits = of_texts(config, 24)
    assert limits.max_input == 24 - 15  # the last output token is not read
    limits.check_inputs(["abc"], [np.zeros(9, np.int32)])
    with pytest.raises(ValueError, match="got 'abc' of 10 tokens; wanted at most 9, as the model has 24"):
        limits.check_inputs(["abc"], [np.zeros(10, np.int32)])
    assert of_texts(config, 24, is_encoder_decoder=True).max_input == 24


def test_a_decoder_requires_a_length():
    with pytest.raises(ValueError, match="TextGenerator: got max_length=None; wanted"):
        of_texts(GenerationConfig())
    of_texts(GenerationConfig(), is_encoder_decoder=True)
    model, params = build(nn.Decoder)
    with pytest.raises(ValueError, match="greedy: got max_length=None; wanted a number of tokens"):
        generate.greedy(model, params, tokens(2, 4), GenerationConfig())


@pytest.mark.parametrize("function", [generate.greedy, generate.beam_search])
def test_functions_of_token_ids_follow_totals(function):
    model, params = build(nn.Decoder)
    prompt = tokens(2, 4)
    total = GenerationConfig(max_total=9, min_total=8, eos_ids=(1, 5))
    same = GenerationConfig(max_length=5, min_length=5, eos_ids=(1, 5))
    got = function(model, params, prompt, total).tokens
    np.testing.assert_array_equal(got, function(model, params, prompt, same).tokens)
    free = function(model, params, prompt, GenerationConfig(max_length=5, eos_ids=(1, 5))).tokens
    assert got.shape == free.shape and (got != free).any()
    name = function.__name__
    with pytest.raises(
        ValueError, match=f"{name}: got prompts of 4 tokens with max_total=4; wanted at most 3"
    ):
        function(model, params, prompt, GenerationConfig(max_total=4))


def test_totals_with_padded_prompts():
    model, params = build(nn.Decoder)
    prompt, valid = tokens(2, 4), np.array([[False, True, True, True], [True, True, True, True]])

    def greedy(**fields):
        return generate.greedy(model, params, prompt, GenerationConfig((2,), **fields), valid=valid).tokens

    # A total that limits no prompt, as in the configs of most checkpoints.
    np.testing.assert_array_equal(greedy(max_length=3, max_total=7), greedy(max_length=3))
    for fields in ({"max_length": 3, "max_total": 6}, {"max_total": 6}, {"max_length": 3, "min_total": 5}):
        with pytest.raises(ValueError, match=r"greedy: got max_total=.* with valid; wanted the same limits"):
            greedy(**fields)


def test_default_length_of_the_functions_with_an_encoder_decoder():
    model, params = build(nn.EncoderDecoder, positions=nn.Learned(20))
    config = GenerationConfig(start_id=1)
    assert generate.greedy(model, params, tokens(2, 4), config).tokens.shape == (2, 20)
    model, params = build(nn.EncoderDecoder)
    assert generate.greedy(model, params, tokens(2, 4), config).tokens.shape == (2, 54)
