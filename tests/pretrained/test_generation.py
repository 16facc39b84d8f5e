"""What a checkpoint asks of decoding: each setting is honoured, knowingly ignored, or refused by name."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from tests.pretrained.test_files import CONFIG, params  # noqa: F401  - a fixture
from tfm_jax import generate, pretrained
from tfm_jax.pretrained.generation import recipe_of


def recipe(generation, settings=None, **changes):
    config = dataclasses.replace(CONFIG, generation=generation, settings=settings or {})
    return recipe_of(config, **changes)


def test_nothing_said_is_greedy_and_twenty_tokens():
    found = recipe({})
    assert found == generate.Recipe(max_length=20, length_penalty=found.length_penalty, stopping="heuristic")
    lengths = jnp.array([1, 4], jnp.int32)
    np.testing.assert_allclose(found.length_penalty(lengths), [1, 4])
    np.testing.assert_allclose(recipe({"length_penalty": 0.5}).length_penalty(lengths), [1, 2])


def test_ids_and_lengths():
    found = recipe({"eos_token_id": [2, 5], "bos_token_id": 1, "max_length": 30, "min_length": 4})
    assert (found.ends, found.pad_id, found.start) == ((2, 5), 2, 1)
    assert (found.max_length, found.max_total, found.min_total) == (None, 30, 4)
    found = recipe({"max_new_tokens": 7, "max_length": 30, "min_new_tokens": 3, "pad_token_id": 0})
    assert (found.max_length, found.max_total, found.min_length, found.pad_id) == (7, None, 4, 0)
    both = {"decoder_start_token_id": 6, "bos_token_id": 1}
    assert recipe(both, {"is_encoder_decoder": True}).start == 6
    assert recipe({"bos_token_id": 1}, {"is_encoder_decoder": True}).start == 1
    with pytest.raises(ValueError, match="needs a decoder_start_token_id"):
        recipe({"eos_token_id": 2}, {"is_encoder_decoder": True})


def test_processors_come_in_their_order():
    found = recipe(
        {
            "repetition_penalty": 1.2,
            "no_repeat_ngram_size": 3,
            "bad_words_ids": [[4, 5], [2]],
            "eos_token_id": 2,
        }
        | {
            "forced_bos_token_id": 7,
            "forced_eos_token_id": 2,
            "suppress_tokens": [3],
            "begin_suppress_tokens": [6],
        }
        | {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "min_p": 0.1, "renormalize_logits": True}
    )
    make = generate
    assert found.draws and found.processors == (
        *(make.RepetitionPenalty(1.2), make.NoRepeatNgram(3), make.BadWords(((4, 5),)), make.ForceFirst(7)),
        *(make.ForceLast((2,)), make.Suppress((3,)), make.SuppressFirst((6,), after_forced=True)),
        *(make.Temperature(0.5), make.TopK(11), make.TopP(0.9), make.MinP(0.1), make.Renormalize()),
    )  # fmt: skip
    assert recipe({"temperature": 0.5, "top_k": 3}).processors == ()  # nothing is drawn
    assert recipe({"do_sample": True, "top_k": 0}).processors == ()


def test_an_old_checkpoint_says_it_in_its_config():
    old = {"num_beams": 5, "bos_token_id": 1, "force_bos_token_to_be_generated": True, "hidden_size": 6}
    found = recipe({}, old)
    assert found.beams == 5 and found.processors == (generate.ForceFirst(1),)
    assert recipe({"eos_token_id": 2}, old).beams == 1
    by_default = recipe({}, {"n_positions": 12})
    assert by_default.limits(5) == (7, 0)


def test_changes():
    assert recipe({"num_beams": 4}, num_beams=1).beams == 1
    assert recipe({"max_time": 3.0}, max_time=None).max_length == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"guidance_scale": 1.5},
            "is not supported: guidance_scale=1.5; take it away by guidance_scale=None",
        ),
        ({"sequence_bias": [[[3], 1.0]]}, "sequence_bias="),
        ({"encoder_no_repeat_ngram_size": 3}, "encoder_no_repeat_ngram_size=3"),
        ({"num_beam_groups": 2, "diversity_penalty": 1.0}, "not supported: num_beam_groups=2;"),
        ({"do_sample": True, "typical_p": 0.9}, "typical_p=0.9"),
        ({"stop_strings": ["."], "max_time": 1}, r"max_time=1, stop_strings=\['.'\]"),
        ({"a_new_way": 2}, "a_new_way=2"),
        ({"do_sample": True, "num_beams": 2}, "do_sample=True with num_beams=2 is not supported"),
        ({"early_stopping": "often"}, "early_stopping must be true, false or 'never', got 'often'"),
    ],
)
def test_what_would_change_the_output_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        recipe(settings)


def test_what_changes_nothing_is_ignored():
    neutral = {"guidance_scale": 1, "typical_p": 0.9, "use_cache": False, "output_scores": True}
    neutral |= {
        "num_beam_groups": 1,
        "transformers_version": "5.0",
        "_from_model_config": True,
        "top_h": None,
    }
    assert recipe(neutral).processors == ()


@pytest.fixture
def directory(params, tmp_path):  # noqa: F811
    """A checkpoint whose tokenizer begins a text, and ends none."""
    tokenizer = tokenizers.Tokenizer(
        models.WordLevel({c: i for i, c in enumerate("?<>abcdefgh")}, unk_token="?")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<", ">"])
    tokenizer.post_processor = processors.TemplateProcessing("< $A", special_tokens=[("<", 1)])
    settings = {"bos_token_id": 1, "eos_token_id": 2, "max_new_tokens": 6}
    config = dataclasses.replace(CONFIG, generation=settings)
    pretrained.save(tmp_path / "model", params, config, tokenizer)
    return tmp_path / "model"


def test_a_checkpoint_that_writes(directory):
    generator = pretrained.load_text_generator(directory)
    texts = ["a b c", "h", ""]
    wanted = []
    for text in texts:
        prompt = [[1, *("?<>abcdefgh".index(c) for c in text.split())]]
        found = generate.greedy(generator.model, generator.params, jnp.array(prompt), max_length=6, eos_id=2)
        wanted.append(
            " ".join("?<>abcdefgh"[i] for i in found.tokens[0, : found.lengths[0]] if i not in (1, 2))
        )
    got = generator.write(texts, key=None)
    assert [text.strip() for text in got] == wanted and any(wanted)
    assert "".join(generator.stream("a b c", key=None)).strip() == wanted[0]
    short = pretrained.load_text_generator(directory, generation={"max_new_tokens": 2})
    assert short.write(texts, key=None) == generator.write(texts, key=None, max_length=2)


def test_lengths_that_count_the_prompt(directory):
    generator = pretrained.load_text_generator(
        directory, generation={"max_new_tokens": None, "max_length": 6}
    )
    texts = ["a b c", "h", "d e", "f"]
    wanted = [generator.write([text], key=None, max_length=5 - len(text.split()))[0] for text in texts]
    assert generator.write(texts, key=None, batch_size=2) == wanted
    with pytest.raises(ValueError, match="'a b c d e' is 6 tokens long: with its output it may be 6; cut"):
        generator.write(["a b c d e"], key=None)


def test_beams_of_a_decoder_and_a_key_do_not_mix(directory):
    generator = pretrained.load_text_generator(directory, generation={"num_beams": 3})
    assert len(generator.write(["a b"], key=None)) == 1
    with pytest.raises(ValueError, match="with a key, beams must be 1, got 3"):
        generator.write(["a b"], key=jax.random.key(0))


def test_what_writes_no_text(directory):
    (directory / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="there is no tokenizer in"):
        pretrained.load_text_generator(directory)
    (directory / "generation_config.json").write_text(json.dumps({"dola_layers": "high"}))
    with pytest.raises(FileNotFoundError, match="there is no tokenizer in"):
        pretrained.load_text_generator(directory)
