"""Generation settings of a checkpoint: each is followed, has no effect by name, or is an error."""

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
from tfm_jax.generate._limits import LengthLimits
from tfm_jax.generate.logits_processors import apply_processors
from tfm_jax.pretrained import generation_config as settings
from tfm_jax.pretrained.generation_config import to_generation_config
from tfm_jax.pretrained.tasks import text_generation
from tfm_jax.ranges import COUNT, SIZE


def config_of(generation, config_json=None, **changes):
    config = dataclasses.replace(CONFIG, generation=generation, settings=config_json or {})
    return to_generation_config(config, **changes)


def test_defaults_are_greedy_and_20_tokens():
    found = config_of({})
    assert found == generate.GenerationConfig(
        max_length=20, length_penalty=found.length_penalty, stopping="heuristic"
    )
    lengths = jnp.array([1, 4], jnp.int32)
    np.testing.assert_allclose(found.length_penalty(lengths), [1, 4])
    np.testing.assert_allclose(config_of({"length_penalty": 0.5}).length_penalty(lengths), [1, 2])


def test_equal_settings_give_equal_configs():
    settings = {"do_sample": True, "temperature": 0.5, "num_beams": 1, "length_penalty": 2.0}
    one, other = config_of(settings), config_of(settings)
    assert one == other and hash(one) == hash(other)
    assert one != config_of(settings | {"length_penalty": 3.0})


def test_ids_and_lengths():
    found = config_of({"eos_token_id": [2, 5], "bos_token_id": 1, "max_length": 30, "min_length": 4})
    assert (found.eos_ids, found.pad_id, found.start_id) == ((2, 5), None, 1)
    assert (found.max_length, found.max_total, found.min_total) == (None, 30, 4)
    found = config_of({"max_new_tokens": 7, "max_length": 30, "min_new_tokens": 3, "pad_token_id": 0})
    assert (found.max_length, found.max_total, found.min_length, found.pad_id) == (7, None, 4, 0)
    both = {"decoder_start_token_id": 6, "bos_token_id": 1}
    assert config_of(both, {"is_encoder_decoder": True}).start_id == 6
    assert config_of({"bos_token_id": 1}, {"is_encoder_decoder": True}).start_id == 1
    with pytest.raises(ValueError, match="got neither decoder_start_token_id nor bos_token_id"):
        config_of({"eos_token_id": 2}, {"is_encoder_decoder": True})


def test_processors_are_in_the_order_of_transformers():
    found = config_of(
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
    assert config_of({"temperature": 0.5, "top_k": 3}).processors == ()  # no sampling
    assert config_of({"do_sample": True, "top_k": 0}).processors == ()


def test_generation_settings_in_the_config_of_old_checkpoints():
    old = {"num_beams": 5, "bos_token_id": 1, "force_bos_token_to_be_generated": True, "hidden_size": 6}
    found = config_of({}, old)
    assert found.beams == 5 and found.processors == (generate.ForceFirst(1),)
    assert config_of({"eos_token_id": 2}, old).beams == 1
    by_default = config_of({}, {"n_positions": 12})
    assert LengthLimits("TextGenerator", by_default, None, False).of(5)[:2] == (7, 0)


def test_changes_replace_or_remove_settings():
    assert config_of({"num_beams": 4}, num_beams=1).beams == 1
    assert config_of({"max_time": 3.0}, max_time=None).max_length == 20
    assert config_of({"num_beams": "4"}, num_beams=3).beams == 3
    assert config_of({}, eos_token_id=(np.int64(2), 5)).eos_ids == (2, 5)


def test_sampling_settings_need_do_sample():
    of_file = {"temperature": 0.0, "top_k": -1, "top_p": 7.0}  # without sampling they have no effect
    assert config_of(of_file).processors == ()
    with pytest.raises(ValueError, match=r"temperature=0\.0; wanted a finite number above 0; got top_k=-1"):
        config_of(of_file, do_sample=True, top_p=None)
    for name, value in {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1}.items():
        match = f"got {name}={value} without sampling; wanted do_sample=True too"
        for saved in ({}, {"do_sample": False}):
            with pytest.raises(ValueError, match=match):
                config_of(saved, **{name: value})
        with pytest.raises(ValueError, match=match):
            config_of({"do_sample": True}, **{name: value}, do_sample=False)
        one = {"do_sample": True, "top_k": None} | {name: value}
        assert config_of({"do_sample": True}, **one).processors != config_of({"do_sample": True}).processors
    with pytest.raises(ValueError, match=r"got typical_p=0\.9; wanted 1.0 or None"):
        config_of({}, typical_p=0.9)


def test_top_k_above_the_vocabulary_size_keeps_all():
    V = CONFIG.model.vocab_size
    logits = jax.random.normal(jax.random.key(0), (3, V))
    context = generate.Context(jnp.zeros((3, 1), jnp.int32), jnp.int32(1), jnp.int32(0))
    for top_k in (V, V + 1, 10**30, 0):
        processors = config_of({"do_sample": True, "top_k": top_k}).processors
        np.testing.assert_array_equal(apply_processors(processors, logits, context), logits)


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        (
            {"guidance_scale": 1.5},
            r"got guidance_scale=1.5; wanted 1 or None.* values of guidance_scale, or None",
        ),
        ({"sequence_bias": [[[3], 1.0]]}, "sequence_bias="),
        ({"encoder_no_repeat_ngram_size": 3}, "encoder_no_repeat_ngram_size=3"),
        (
            {"num_beam_groups": 2, "diversity_penalty": 1.0},
            r"config: got num_beam_groups=2; wanted 1 or None, the supported value\. Pass",
        ),
        ({"do_sample": True, "typical_p": 0.9}, "typical_p=0.9"),
        (
            {"stop_strings": ["."], "num_beams": 3},
            r"stop_strings=\['.'\] with num_beams=3; wanted one of the two",
        ),
        ({"max_time": 1}, r"got max_time=1; wanted None"),
        ({"do_sample": True, "top_p": 1.5}, r"top_p=1\.5; wanted a number above 0, at most 1"),
        ({"do_sample": True, "min_p": 1.5}, r"min_p=1\.5; wanted a number from 0 to 1"),
        ({"do_sample": True, "num_beams": 2}, "do_sample=True with num_beams=2; wanted one of the two"),
        ({"early_stopping": "often"}, "early_stopping='often'; wanted true, false or 'never'"),
    ],
)
def test_unsupported_settings_are_errors(generation, message):
    with pytest.raises(ValueError, match=message):
        config_of(generation)


WRONG = {
    SIZE.wanted: {"num_beams": ["4", 0, True, 2.0]}
    | {"max_length": [-3], "max_new_tokens": [0]},
    COUNT.wanted: {"min_length": [-1], "min_new_tokens": [1.5]}
    | {"no_repeat_ngram_size": [[]]},
    "an id from 0 to 10": {"bos_token_id": [11], "pad_token_id": [11], "decoder_start_token_id": [[1]]}
    | {"forced_bos_token_id": [True], "eos_token_id": ["x", [2, 11], [[2]]], "forced_eos_token_id": [2.0]},
    "a list of ids from 0 to 10": {"suppress_tokens": [5, [11]], "begin_suppress_tokens": [{"3": 1}]},
    "a list of words, each a list of ids": {"bad_words_ids": [[3], 3, [[]], [[11]], [["a"]]]},
    "a number from -10 to 10": {"length_penalty": ["long", float("nan"), 10**400, 1e30, -10.5]},
    "a text, or a list of texts": {"stop_strings": ["", [], ["."," "[:0]], 3, [["."]]]},
    "a finite number": {"temperature": ["hot"]}
    | {"repetition_penalty": [0, float("inf")], "top_p": [[]], "min_p": [False]},
    "an integer": {"top_k": ["3", 2.5]},
    "true or false": {"do_sample": [1, "true"], "renormalize_logits": [{}]},
    "true, false or 'never'": {"early_stopping": [1, []]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        (name, value, wanted)
        for wanted, invalid in WRONG.items()
        for name, values in invalid.items()
        for value in values
    ],
)
def test_invalid_values_are_errors(name, value, wanted):
    for found in ({name: value}, {"max_length": 3, name: value}):
        with pytest.raises(ValueError, match=re.escape(f"got {name}={value!r}; wanted {wanted}")):
            config_of(found)


def test_all_problems_are_in_one_error():
    wrong = {"num_beams": "4", "top_k": "2", "guidance_scale": 3, "max_time": 2, "eos_token_id": 11}
    with pytest.raises(ValueError, match=r"^to_generation_config: got") as error:
        config_of(wrong | {"max_length": 7})
    assert all(f"{name}={value!r}" in str(error.value) for name, value in wrong.items())
    assert "max_length" not in str(error.value) and len(str(error.value).splitlines()) == 1
    assert config_of(wrong | {"max_length": 7}, **dict.fromkeys(wrong)).max_total == 7


SUPPORTED = [name for values in WRONG.values() for name in values]
NUMBERS = st.integers() | st.integers(-2, 12) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3) | st.just("never"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.parametrize("name", SUPPORTED)
@given(value=VALUES, samples=st.booleans())
def test_any_json_value_is_valid_or_an_error_that_names_the_setting(name, value, samples):
    settings = {"do_sample": samples, name: value}
    for found, changes in ((settings, {}), ({"do_sample": samples}, {name: value})):
        if name == "pad_token_id" and type(value) is int and value < 0 and not changes:
            continue  # logged as no pad token
        try:
            assert isinstance(config_of(found, **changes), generate.GenerationConfig)
        except ValueError as error:
            assert f"{name}={value!r}" in str(error)


def test_settings_without_effect_are_ignored():
    neutral = {"guidance_scale": 1, "typical_p": 0.9, "use_cache": False, "output_scores": True}
    neutral |= {
        "num_beam_groups": 1,
        "transformers_version": "5.0",
        "_from_model_config": True,
        "top_h": None,
    }
    assert config_of(neutral).processors == ()


def test_unknown_keys_of_a_checkpoint_are_logged_once_and_ignored(caplog):
    plain = config_of({"eos_token_id": 2, "pad_token_id": None, "num_beams": 2})
    file = {"eos_token_id": 2, "task": "transcribe", "a_new_way": [2], "pad_token_id": -1, "num_beams": 2}
    got = config_of(file)
    assert dataclasses.replace(got, length_penalty=plain.length_penalty) == plain
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(" keys: a_new_way=[2], pad_token_id=-1, task='transcribe'")
    caplog.clear()
    assert config_of(file, pad_token_id=3, task=None, a_new_way=None).pad_id == 3 and not caplog.records
    for name, value, wanted in (
        ("task", "translate", "wanted a known setting"),
        ("pad_token_id", -1, "wanted an id from"),
    ):
        with pytest.raises(ValueError, match=f"{name}={value!r}; {wanted}"):
            config_of({}, **{name: value})


@pytest.mark.parity
def test_every_setting_of_transformers_is_supported_unsupported_or_without_effect():
    """A new setting of transformers must be classified: does it change the tokens?"""
    config = pytest.importorskip("transformers").GenerationConfig()
    known = settings._KNOWN | settings._NO_EFFECT
    reference = vars(config).keys() - {"_commit_hash"}
    assert len(reference) > 60 and not reference - known, reference - known
    assert set(settings.SETTINGS) <= reference


def test_stop_strings(caplog):
    assert config_of({"stop_strings": "."}).stop_strings == (".",)
    assert config_of({"stop_strings": [".", "\n\n"]}).stop_strings == (".", "\n\n")
    assert (
        config_of({"stop_strings": ["."], "num_beams": 3}, stop_strings=None).stop_strings
        == config_of({}).stop_strings
        == ()
    )


@pytest.fixture(scope="module")
def directory(params, tmp_path_factory):  # noqa: F811
    """A checkpoint whose tokenizer adds BOS, and no EOS."""
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
    """Loads the generator with one shared model, so that it compiles once."""
    monkeypatch.setattr(text_generation, "load_files", lambda *args: loaded)
    return functools.partial(pretrained.load_text_generator, directory)


def test_a_generator_writes_and_streams_the_greedy_text(load):
    generator = load()
    texts = ["a b c", "h f g", ""]
    wanted = []
    for text in texts:
        prompt = [[1, *("?<>abcdefgh".index(c) for c in text.split())]]
        config = generator.default_config  # the checkpoint's, as it is
        found = generate.greedy(generator.model, generator.params, jnp.array(prompt), config)
        wanted.append(
            " ".join("?<>abcdefgh"[i] for i in found.tokens[0, : found.lengths[0]] if i not in (1, 2))
        )
    got = generator.write(texts, key=None)
    assert [text.strip() for text in got] == wanted and any(wanted)
    assert "".join(generator.stream("a b c", key=None)).strip() == wanted[0]
    short = load(generation={"max_new_tokens": 2})
    assert short.write(texts, key=None) == generator.write(texts, key=None, max_length=2)


def test_a_text_ends_before_a_stop_string(load):
    """The stop strings of a call replace those of the settings."""
    texts, endless = ["a b c", "h f g"], {"eos_token_id": None}
    plain = load(generation=endless)
    complete = plain.write(texts, key=None)
    stop = complete[0][2:5]
    wanted = [text.partition(stop)[0] for text in complete]
    assert stop and wanted != complete
    generator = load(generation=endless | {"stop_strings": [stop]})
    assert generator.write(texts, key=None) == plain.write(texts, key=None, stop=[stop]) == wanted
    assert "".join(generator.stream(texts[0], key=None)) == wanted[0]
    assert generator.write(texts, key=None, stop=()) == complete


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"num_beams": 0}, "num_beams=0; wanted " + re.escape(SIZE.wanted)),
        ({"a_new_way": 2}, "a_new_way=2; wanted a known setting"),
        ({"eos_token_id": -1}, "eos_token_id=-1; wanted an id from 0 to the last of the vocabulary, or"),
    ],
)
def test_invalid_changes_are_errors_before_loading(monkeypatch, generation, message):
    monkeypatch.setattr(text_generation, "load_files", lambda *args: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match=f"generation: got {message}"):
        pretrained.load_text_generator("somewhere", generation=generation)


def test_a_maximum_length_that_includes_the_prompt(load):
    generator = load(generation={"max_new_tokens": None, "max_length": 6})
    texts = ["a b c", "h", "d e f", "g"]
    wanted = [generator.write([text], key=None, max_length=5 - len(text.split()))[0] for text in texts]
    assert generator.write(texts, key=None, batch_size=2) == wanted
    with pytest.raises(ValueError, match="got 'a b c d e' of 6 tokens; wanted at most 5, as prompt and"):
        generator.write(["a b c d e"], key=None)


def test_beam_search_with_a_key_is_an_error(load):
    generator = load(generation={"num_beams": 3})
    assert len(generator.write(["a b"], key=None)) == 1
    with pytest.raises(ValueError, match="got a key with beams=3; wanted key=None"):
        generator.write(["a b"], key=jax.random.key(0))


def test_a_missing_tokenizer_is_an_error(directory, tmp_path):
    directory = shutil.copytree(directory, tmp_path / "model")
    (directory / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="got no tokenizer in"):
        pretrained.load_text_generator(directory)
    (directory / "generation_config.json").write_text(json.dumps({"dola_layers": "high"}))
    with pytest.raises(FileNotFoundError, match="got no tokenizer in"):
        pretrained.load_text_generator(directory)
