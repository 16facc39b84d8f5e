"""GenerationConfig."""

import pytest

from tfm_jax import data, generate


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("eos_ids", (-1,)),
        ("eos_ids", 2),
        ("pad_id", None),
        ("max_length", -1),
        ("max_total", 2.5),
        ("min_length", -1),
        ("beams", True),
        ("length_penalty", float("nan")),
        ("stopping", "never"),
        ("processors", [generate.TopK(2)]),
        ("do_sample", 1),
    ],
)
def test_invalid_fields(field, wrong):
    with pytest.raises(ValueError, match=f"GenerationConfig: got {field}="):
        generate.GenerationConfig(**{field: wrong})


def test_updated_keeps_what_is_none_and_max_length_replaces_max_total():
    config = generate.GenerationConfig(max_length=9, max_total=12, beams=3)
    assert config.updated() == config == config.updated(max_length=None, beams=None)
    assert config.updated(max_length=30) == generate.GenerationConfig(max_length=30, beams=3)
    with pytest.raises(ValueError, match=r"processors: got .*; wanted a sequence"):
        config.updated(processors=generate.TopK(2))


def test_from_tokenizer():
    config = generate.GenerationConfig.from_tokenizer(data.char_tokenizer("ab"))
    assert (config.start_id, config.prefix_ids, config.suffix_ids, config.eos_ids) == (1, (1,), (2,), (2,))
    assert (config.pad_id, config.beams, config.length_penalty) == (0, 4, 0.6)
