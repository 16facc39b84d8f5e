"""What a checkpoint asks of decoding: each setting is honoured, knowingly ignored, or refused by name."""

import dataclasses
import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from tests.pretrained.weights.test_files import CONFIG, params  # noqa: F401  - a fixture
from tfm_jax import generate, pretrained
from tfm_jax.generate._limits import TextLimits
from tfm_jax.pretrained import generation_config as settings
from tfm_jax.pretrained.generation_config import to_generation_config
from tfm_jax.pretrained.tasks import text_generation


def recipe(generation, config_json=None, **changes):
    config = dataclasses.replace(CONFIG, generation=generation, settings=config_json or {})
    return to_generation_config(config, **changes)


def test_nothing_said_is_greedy_and_twenty_tokens():
    found = recipe({})
    assert found == generate.GenerationConfig(
        max_length=20, length_penalty=found.length_penalty, stopping="heuristic"
    )
    lengths = jnp.array([1, 4], jnp.int32)
    np.testing.assert_allclose(found.length_penalty(lengths), [1, 4])
    np.testing.assert_allclose(recipe({"length_penalty": 0.5}).length_penalty(lengths), [1, 2])


def test_ids_and_lengths():
    found = recipe({"eos_token_id": [2, 5], "bos_token_id": 1, "max_length": 30, "min_length": 4})
    assert (found.eos_ids, found.pad_id, found.start_id) == ((2, 5), 2, 1)
    assert (found.max_length, found.max_total, found.min_total) == (None, 30, 4)
    found = recipe({"max_new_tokens": 7, "max_length": 30, "min_new_tokens": 3, "pad_token_id": 0})
    assert (found.max_length, found.max_total, found.min_length, found.pad_id) == (7, None, 4, 0)
    both = {"decoder_start_token_id": 6, "bos_token_id": 1}
    assert recipe(both, {"is_encoder_decoder": True}).start_id == 6
    assert recipe({"bos_token_id": 1}, {"is_encoder_decoder": True}).start_id == 1
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
    assert found.do_sample and found.processors == (
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
    assert TextLimits(by_default, None, False).of(5)[:2] == (7, 0)


def test_changes():
    assert recipe({"num_beams": 4}, num_beams=1).beams == 1
    assert recipe({"max_time": 3.0}, max_time=None).max_length == 20
    assert recipe({"num_beams": "4"}, num_beams=3).beams == 3
    assert recipe({}, eos_token_id=(np.int64(2), 5)).eos_ids == (2, 5)


def test_what_is_said_of_drawing_is_honoured_or_refused():
    of_file = {"temperature": 0.0, "top_k": -1, "top_p": 7.0}  # where nothing is drawn they say nothing
    assert recipe(of_file).processors == ()
    with pytest.raises(ValueError, match=r"temperature=0\.0, wanted a finite number above 0; top_k=-1"):
        recipe(of_file, do_sample=True, top_p=None)
    for name, value in {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1}.items():
        match = f"{name}={value} is of drawing, and nothing is drawn: say do_sample=True too"
        for said in ({}, {"do_sample": False}):
            with pytest.raises(ValueError, match=match):
                recipe(said, **{name: value})
        with pytest.raises(ValueError, match=match):
            recipe({"do_sample": True}, **{name: value}, do_sample=False)
        one = {"do_sample": True, "top_k": None} | {name: value}
        assert recipe({"do_sample": True}, **one).processors != recipe({"do_sample": True}).processors
    with pytest.raises(ValueError, match=r"typical_p=0\.9 is not supported"):
        recipe({}, typical_p=0.9)


def test_a_top_k_beyond_the_vocabulary_keeps_all():
    V = CONFIG.model.vocab_size
    logits = jax.random.normal(jax.random.key(0), (3, V))
    context = generate.Context(jnp.zeros((3, 1), jnp.int32), jnp.int32(1), jnp.int32(0))
    for top_k in (V, V + 1, 10**30, 0):
        processors = recipe({"do_sample": True, "top_k": top_k}).processors
        np.testing.assert_array_equal(generate.apply_processors(processors, logits, context), logits)


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        (
            {"guidance_scale": 1.5},
            "guidance_scale=1.5 is not supported.* else of guidance_scale, or None",
        ),
        ({"sequence_bias": [[[3], 1.0]]}, "sequence_bias="),
        ({"encoder_no_repeat_ngram_size": 3}, "encoder_no_repeat_ngram_size=3"),
        ({"num_beam_groups": 2, "diversity_penalty": 1.0}, "done: num_beam_groups=2 is not supported. Say"),
        ({"do_sample": True, "typical_p": 0.9}, "typical_p=0.9"),
        ({"stop_strings": ["."], "num_beams": 3}, r"stop_strings=\['.'\] with num_beams=3 is not supported"),
        ({"max_time": 1}, r"max_time=1 is not supported"),
        ({"do_sample": True, "top_p": 1.5}, r"top_p=1\.5, wanted a number above 0, at most 1"),
        ({"do_sample": True, "min_p": 1.5}, r"min_p=1\.5, wanted a number from 0 to 1"),
        ({"do_sample": True, "num_beams": 2}, "do_sample=True with num_beams=2 is not supported"),
        ({"early_stopping": "often"}, "early_stopping='often', wanted true, false or 'never'"),
    ],
)
def test_what_would_change_the_output_is_refused(generation, message):
    with pytest.raises(ValueError, match=message):
        recipe(generation)


WRONG = {
    "a whole number of at least 1": {"num_beams": ["4", 0, True, 2.0]}
    | {"max_length": [-3], "max_new_tokens": [0]},
    "a whole number of at least 0": {"min_length": [-1], "min_new_tokens": [1.5]}
    | {"no_repeat_ngram_size": [[]]},
    "an id from 0 to 10": {"bos_token_id": [11], "pad_token_id": [11], "decoder_start_token_id": [[1]]}
    | {"forced_bos_token_id": [True], "eos_token_id": ["x", [2, 11], [[2]]], "forced_eos_token_id": [2.0]},
    "a list of ids from 0 to 10": {"suppress_tokens": [5, [11]], "begin_suppress_tokens": [{"3": 1}]},
    "a list of words, each a list of ids": {"bad_words_ids": [[3], 3, [[]], [[11]], [["a"]]]},
    "a number from -10 to 10": {"length_penalty": ["long", float("nan"), 10**400, 1e30, -10.5]},
    "a text, or a list of texts": {"stop_strings": ["", [], ["."," "[:0]], 3, [["."]]]},
    "a finite number": {"temperature": ["hot"]}
    | {"repetition_penalty": [0, float("inf")], "top_p": [[]], "min_p": [False]},
    "a whole number": {"top_k": ["3", 2.5]},
    "true or false": {"do_sample": [1, "true"], "renormalize_logits": [{}]},
    "true, false or 'never'": {"early_stopping": [1, []]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        (name, value, wanted)
        for wanted, said in WRONG.items()
        for name, values in said.items()
        for value in values
    ],
)
def test_a_value_that_does_not_fit(name, value, wanted):
    for found in ({name: value}, {"max_length": 3, name: value}):
        with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}, wanted {wanted}")):
            recipe(found)


def test_all_that_is_wrong_is_said_together():
    wrong = {"num_beams": "4", "top_k": "2", "guidance_scale": 3, "max_time": 2, "eos_token_id": 11}
    with pytest.raises(ValueError, match="what is asked of generation") as error:
        recipe(wrong | {"max_length": 7})
    assert all(f"{name}={value!r}" in str(error.value) for name, value in wrong.items())
    assert "max_length" not in str(error.value) and len(str(error.value).splitlines()) == 1
    assert recipe(wrong | {"max_length": 7}, **dict.fromkeys(wrong)).max_total == 7


HONOURED = [name for values in WRONG.values() for name in values]
NUMBERS = st.integers() | st.integers(-2, 12) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3) | st.just("never"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.parametrize("name", HONOURED)
@given(value=VALUES, draws=st.booleans())
def test_any_value_of_json_is_a_recipe_or_an_error_that_names_the_setting(name, value, draws):
    said = {"do_sample": draws, name: value}
    for found, changes in ((said, {}), ({"do_sample": draws}, {name: value})):
        if name == "pad_token_id" and type(value) is int and value < 0 and not changes:
            continue  # no pad token, which is said and does no harm
        try:
            assert isinstance(recipe(found, **changes), generate.GenerationConfig)
        except ValueError as error:
            assert f"{name}={value!r}" in str(error)


def test_what_changes_nothing_is_ignored():
    neutral = {"guidance_scale": 1, "typical_p": 0.9, "use_cache": False, "output_scores": True}
    neutral |= {
        "num_beam_groups": 1,
        "transformers_version": "5.0",
        "_from_model_config": True,
        "top_h": None,
    }
    assert recipe(neutral).processors == ()


def test_unknown_keys_of_a_checkpoint_are_named_once_and_ignored(caplog):
    plain = recipe({"eos_token_id": 2, "pad_token_id": None, "num_beams": 2})
    file = {"eos_token_id": 2, "task": "transcribe", "a_new_way": [2], "pad_token_id": -1, "num_beams": 2}
    got = recipe(file)
    assert dataclasses.replace(got, length_penalty=plain.length_penalty) == plain
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(" them: a_new_way=[2], pad_token_id=-1, task='transcribe'")
    caplog.clear()
    assert recipe(file, pad_token_id=3, task=None, a_new_way=None).pad_id == 3 and not caplog.records
    for name, value, wanted in (
        ("task", "translate", "is not known"),
        ("pad_token_id", -1, "wanted an id from"),
    ):
        with pytest.raises(ValueError, match=f"{name}={value!r},? {wanted}"):
            recipe({}, **{name: value})


@pytest.mark.parity
def test_every_setting_of_transformers_is_followed_refused_or_known_to_change_nothing():
    """A new one of theirs is to be sorted in: does it change the tokens?"""
    config = pytest.importorskip("transformers").GenerationConfig()
    known = settings._KNOWN | settings._IGNORED
    theirs = vars(config).keys() - {"_commit_hash"}
    assert len(theirs) > 60 and not theirs - known, theirs - known
    assert set(settings.SETTINGS) <= theirs


def test_stop_strings(caplog):
    assert recipe({"stop_strings": "."}).stop_strings == (".",)
    assert recipe({"stop_strings": [".", "\n\n"]}).stop_strings == (".", "\n\n")
    assert (
        recipe({"stop_strings": ["."], "num_beams": 3}, stop_strings=None).stop_strings
        == recipe({}).stop_strings
        == ()
    )


@pytest.fixture(scope="module")
def directory(params, tmp_path_factory):  # noqa: F811
    """A checkpoint whose tokenizer begins a text, and ends none."""
    tokenizer = tokenizers.Tokenizer(
        models.WordLevel({c: i for i, c in enumerate("?<>abcdefgh")}, unk_token="?")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<", ">"])
    tokenizer.post_processor = processors.TemplateProcessing("< $A", special_tokens=[("<", 1)])
    settings = {"bos_token_id": 1, "eos_token_id": 2, "max_new_tokens": 6}
    config = dataclasses.replace(CONFIG, generation=settings)
    path = tmp_path_factory.mktemp("checkpoint") / "model"
    pretrained.save(path, params, config, tokenizer)
    return path


@pytest.fixture(scope="module")
def loaded(directory):
    return pretrained.load(directory)


@pytest.fixture
def load(directory, loaded, monkeypatch):
    """The checkpoint, asked to generate: one model, which is compiled for once."""
    monkeypatch.setattr(text_generation, "load", lambda *args, **options: loaded)
    return functools.partial(pretrained.load_text_generator, directory)


def test_a_checkpoint_that_writes(load):
    generator = load()
    texts = ["a b c", "h f g", ""]
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
    short = load(generation={"max_new_tokens": 2})
    assert short.write(texts, key=None) == generator.write(texts, key=None, max_length=2)


def test_a_text_ends_before_a_stop_string(load):
    """As the settings say, unless the call does."""
    texts, endless = ["a b c", "h f g"], {"eos_token_id": None}
    plain = load(generation=endless)
    whole = plain.write(texts, key=None)
    stop = whole[0][2:5]
    wanted = [text.partition(stop)[0] for text in whole]
    assert stop and wanted != whole
    generator = load(generation=endless | {"stop_strings": [stop]})
    assert generator.write(texts, key=None) == plain.write(texts, key=None, stop=[stop]) == wanted
    assert "".join(generator.stream(texts[0], key=None)) == wanted[0]
    assert generator.write(texts, key=None, stop=()) == whole


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"num_beams": 0}, "num_beams=0, wanted a whole number of at least 1"),
        ({"a_new_way": 2}, "a_new_way=2 is not known"),
        ({"eos_token_id": -1}, "eos_token_id=-1, wanted an id from 0 to the last of the vocabulary, or"),
    ],
)
def test_what_fits_no_checkpoint_is_refused_before_one_is_loaded(monkeypatch, generation, message):
    monkeypatch.setattr(text_generation, "load", lambda *args, **options: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match=f"generation: got {message}"):
        pretrained.load_text_generator("somewhere", generation=generation)


def test_lengths_that_count_the_prompt(load):
    generator = load(generation={"max_new_tokens": None, "max_length": 6})
    texts = ["a b c", "h", "d e f", "g"]
    wanted = [generator.write([text], key=None, max_length=5 - len(text.split()))[0] for text in texts]
    assert generator.write(texts, key=None, batch_size=2) == wanted
    with pytest.raises(ValueError, match="got 'a b c d e' of 6 tokens; wanted at most 5, as prompt and"):
        generator.write(["a b c d e"], key=None)


def test_beams_of_a_decoder_and_a_key_do_not_mix(load):
    generator = load(generation={"num_beams": 3})
    assert len(generator.write(["a b"], key=None)) == 1
    with pytest.raises(ValueError, match="got a key with beams=3; wanted key=None"):
        generator.write(["a b"], key=jax.random.key(0))


def test_what_writes_no_text(directory, tmp_path):
    directory = shutil.copytree(directory, tmp_path / "model")
    (directory / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="there is no tokenizer in"):
        pretrained.load_text_generator(directory)
    (directory / "generation_config.json").write_text(json.dumps({"dola_layers": "high"}))
    with pytest.raises(FileNotFoundError, match="there is no tokenizer in"):
        pretrained.load_text_generator(directory)
