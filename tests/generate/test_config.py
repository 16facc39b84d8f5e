"""GenerationConfig: fields, and which functions follow them."""

import jax
import jax.numpy as jnp
import pytest

from tests.generate.models import build, tokens
from tfm_jax import data, generate, nn

PROMPT = tokens(2, 4)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("eos_ids", (-1,)),
        ("eos_ids", 2),
        ("eos_ids", ("2",)),
        ("eos_ids", (2.0,)),
        ("pad_id", -1),
        ("pad_id", jnp.int32(1)),
        ("start_id", 1.5),
        ("max_length", -1),
        ("max_length", 10**30),
        ("max_length", float("nan")),
        ("max_total", 2.5),
        ("min_length", -1),
        ("min_length", True),
        ("beams", True),
        ("beams", 0),
        ("beams", None),
        ("n_best", 0),
        ("n_best", 2),
        ("length_penalty", float("nan")),
        ("length_penalty", "1"),
        ("length_penalty", jnp.float32(1)),
        ("stopping", "never"),
        ("processors", [generate.TopK(2)]),
        ("processors", generate.TopK(2)),
        ("do_sample", 1),
    ],
)
def test_invalid_fields(field, wrong):
    with pytest.raises(ValueError, match=f"GenerationConfig: got {field}="):
        generate.GenerationConfig(**{field: wrong})


def test_min_length_above_max_length():
    with pytest.raises(ValueError, match="GenerationConfig: got min_length=5 with max_length=3; wanted min"):
        generate.GenerationConfig(max_length=3, min_length=5)


def test_updated():
    config = generate.GenerationConfig(max_length=9, max_total=12, min_length=8, beams=3)
    assert config.updated() == config == config.updated(max_length=None, beams=None)
    assert config.updated(max_length=30) == generate.GenerationConfig(max_length=30, min_length=8, beams=3)
    assert config.updated(max_length=5) == generate.GenerationConfig(max_length=5, min_length=6, beams=3)
    assert config.updated(max_length=8, max_total=11).max_total == 11
    assert config.updated(processors=[generate.TopK(2)]).processors == (generate.TopK(2),)
    with pytest.raises(ValueError, match=r"processors: got .*; wanted a sequence. Put it into a tuple"):
        config.updated(processors=generate.TopK(2))
    with pytest.raises(ValueError, match="GenerationConfig: got min_length=7 with max_length=5"):
        config.updated(max_length=5, min_length=7)


def test_from_tokenizer():
    config = generate.GenerationConfig.from_tokenizer(data.char_tokenizer("ab"))
    assert (config.start_id, config.prefix_ids, config.suffix_ids, config.eos_ids) == (1, (1,), (2,), (2,))
    assert (config.pad_id, config.beams, config.length_penalty) == (0, 4, 0.6)


FUNCTIONS = {
    "greedy": generate.greedy,
    "sample": lambda *inputs: generate.sample(*inputs, key=jax.random.key(0)),
    "stream": lambda *inputs: generate.stream(*inputs, key=jax.random.key(0)),
    "beam_search": generate.beam_search,
}
WITHOUT_BEAMS = ("greedy", "sample", "stream")


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("options", "wanted", "functions"),
    [
        ({"prefix_ids": (1,)}, r"prefix_ids=\(\). Prepend prefix_ids to inputs", (*FUNCTIONS,)),
        ({"suffix_ids": (2,)}, r"suffix_ids=\(\). Append suffix_ids to inputs", (*FUNCTIONS,)),
        ({"stop_strings": ("a",)}, r"stop_strings=\(\). Cut decoded texts", (*FUNCTIONS,)),
        ({"beams": 2}, "beams=1. For beams call beam_search", WITHOUT_BEAMS),
        ({"do_sample": True}, "do_sample=False. For sampling call sample", ("greedy", "beam_search")),
    ],
)
def test_settings_that_a_function_cannot_follow(function, options, wanted, functions):
    model, params = build(nn.Decoder)
    config = generate.GenerationConfig(max_length=2, **options)
    if function not in functions:
        assert list(FUNCTIONS[function](model, params, PROMPT, config))
        return
    ((field, value),) = options.items()
    with pytest.raises(ValueError) as caught:
        FUNCTIONS[function](model, params, PROMPT, config)
    found = str(caught.value)
    assert found.startswith(f"{function}: got {field}={value!r}; wanted ")
    assert caught.match(f"{wanted}.* Pass config.updated\\({field}=")


def test_all_settings_of_texts_are_named_together():
    model, params = build(nn.Decoder)
    config = generate.GenerationConfig(max_length=2, prefix_ids=(1,), suffix_ids=(2,), beams=4, n_best=2)
    with pytest.raises(
        ValueError, match=r"got prefix_ids=\(1,\), suffix_ids=\(2,\), beams=4, n_best=2; wanted"
    ) as caught:
        generate.greedy(model, params, PROMPT, config)
    advice = "config.updated(prefix_ids=(), suffix_ids=(), beams=1, n_best=1)"
    assert advice in str(caught.value)
    generate.greedy(model, params, PROMPT, eval(advice, {"config": config}))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_config_of_another_type(function):
    model, params = build(nn.Decoder)
    with pytest.raises(ValueError, match=f"{function}: got config=5; wanted a GenerationConfig, such as"):
        FUNCTIONS[function](model, params, PROMPT, 5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_beam_settings_without_beams_have_no_effect(function):
    model, params = build(nn.Decoder)
    plain = generate.GenerationConfig(max_length=3, eos_ids=(2,))
    of_beams = generate.GenerationConfig(max_length=3, eos_ids=(2,), length_penalty=0.6, stopping="heuristic")
    first, second = (FUNCTIONS[function](model, params, PROMPT, config) for config in (plain, of_beams))
    for a, b in zip(first, second, strict=True):
        assert function == "beam_search" or (a == b).all()
    if function == "beam_search":
        assert (first.tokens == second.tokens).all() and (first.log_probs == second.log_probs).all()
