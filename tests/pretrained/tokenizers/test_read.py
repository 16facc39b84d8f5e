"""The tokenizer of a checkpoint, from tokenizer.json and the settings beside it."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from tests.pretrained.tokenizers.test_wordpiece import WORDS
from tfm_jax.pretrained.tokenizers.read import read_tokenizer


def test_a_tokenizer_json(tmp_path):
    tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(
        str(tmp_path / "tokenizer.json")
    )
    assert read_tokenizer(tmp_path).encode("b").ids == [1]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: got .*; wanted a tokenizer\.json"):
        read_tokenizer(tmp_path)


def test_no_tokenizer(tmp_path):
    assert read_tokenizer(tmp_path) is None


def test_bos_and_eos_of_the_class_and_the_config(tmp_path):
    plain = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<s>": 2}, unk_token="a"))
    plain.save(str(tmp_path / "tokenizer.json"))

    def write(config):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))

    assert read_tokenizer(tmp_path).encode("a").ids == [0]
    write({"tokenizer_class": "T5TokenizerFast"})
    assert read_tokenizer(tmp_path).encode("a").ids == [0, 1]
    write({"add_bos_token": True, "bos_token": {"content": "<s>"}, "eos_token": "</s>"})
    assert read_tokenizer(tmp_path).encode("a").ids == [2, 0]
    write({"add_bos_token": True, "add_eos_token": True, "bos_token": "<s>", "eos_token": "</s>"})
    assert read_tokenizer(tmp_path).encode("a").ids == [2, 0, 1]

    write({"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": True})
    assert read_tokenizer(tmp_path).encode("a").ids == [2, 0, 1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"add_bos_token": True}, "got add_bos_token=true and no bos_token"),
        ({"add_eos_token": True, "bos_token": "<s>"}, "got add_eos_token=true and no eos_token"),
        ({"add_bos_token": True, "bos_token": None}, "got add_bos_token=true and no bos_token"),
        (
            {"add_bos_token": True, "bos_token": "<b>"},
            "got bos_token='<b>' to add to each text; wanted a token of the vocabulary",
        ),
        ({"add_eos_token": True, "eos_token": {"content": "<e>"}}, "got eos_token='<e>' to add"),
        ({"tokenizer_class": "T5Tokenizer", "eos_token": "</s>"}, "got eos_token='</s>' to add"),
        (
            {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True},
            r"got bos_token='<\|endof",
        ),
    ],
)
def test_missing_bos_or_eos(tmp_path, config, message):
    it = tokenizers.Tokenizer(models.WordLevel({"a": 0, "<s>": 1}, unk_token="a"))
    it.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message) as error:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value)
    # A post-processor in the file takes precedence.
    it.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], special_tokens=[("<s>", 1)])
    it.save(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(tmp_path).encode("a").ids == [1, 0]


def write_wordpiece(directory, **config):
    """Writes a cased tokenizer.json of BERT and its config; returns the vocabulary size."""
    words = [*WORDS, "The", "É"]
    it = tokenizers.Tokenizer(models.WordPiece({x: i for i, x in enumerate(words)}, unk_token="[UNK]"))
    it.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    it.add_special_tokens(WORDS[:5])
    it.save(str(directory / "tokenizer.json"))
    if config:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return len(words)


def test_settings_beside_a_tokenizer_json(tmp_path):
    bert = {"tokenizer_class": "BertTokenizerFast"}
    n = write_wordpiece(tmp_path)
    assert read_tokenizer(tmp_path).encode("The É").tokens == ["The", "É"]  # without a config
    for config, wanted in [
        ({"do_lower_case": False}, ["[CLS]", "The", "É", "[SEP]"]),
        ({}, ["[CLS]", "the", "e", "[SEP]"]),
        ({"strip_accents": False}, ["[CLS]", "the", "é", "[SEP]"]),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}, ["The", "É"]),
        ({"do_lower_case": False, "sep_token": "the"}, ["[CLS]", "The", "É", "the"]),
    ]:
        write_wordpiece(tmp_path, **bert | config)
        assert read_tokenizer(tmp_path).encode("The É").tokens == wanted, config
    (tmp_path / "added_tokens.json").write_text(json.dumps({"The É": n}))
    write_wordpiece(tmp_path, **bert, pad_token="<pad>", image_token="<image>", do_lower_case=False)
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.encode("The É<image><pad>").ids == [2, n, n + 2, n + 1, 3]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"split_special_tokens": True}, "got split_special_tokens=True; wanted the default"),
        (
            {"sp_model_kwargs": {"alpha": 1}, "tokenizer_class": "MarianTokenizer"},
            "got sp_model_kwargs=.*is supported. Remove it",
        ),
        ({"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}, "got fast_tokenizer_files="),
        (
            {"tokenizer_class": "MPNetTokenizer", "do_lower_case": True},
            "class MPNet, and do_lower_case=True in",
        ),
        ({"truncation_side": "middle"}, "truncation_side='middle'; wanted 'left' or 'right'"),
        ({"extra_special_tokens": [3]}, "extra_special_tokens=.*; wanted a list of tokens"),
        ({"model_input_names": "ids"}, "model_input_names='ids'; wanted a list of strings"),
        (
            {"added_tokens_decoder": {"90": {"content": "x"}}},
            "got id 90 for the token 'x'; wanted",
        ),
    ],
)
def test_unsupported_settings(tmp_path, config, message):
    write_wordpiece(tmp_path, **config)
    with pytest.raises(ValueError, match=message) as error:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_an_unknown_class_uses_the_file_as_it_is(tmp_path):
    write_wordpiece(tmp_path, tokenizer_class="MPNetTokenizer", add_prefix_space=False)
    assert read_tokenizer(tmp_path).encode("The").tokens == ["The"]


def test_clean_up_tokenization_spaces(tmp_path):
    n = write_wordpiece(
        tmp_path, tokenizer_class="PreTrainedTokenizerFast", clean_up_tokenization_spaces=True
    )
    with pytest.raises(ValueError, match="got clean_up_tokenization_spaces=true; wanted false"):
        read_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    it = tokenizers.Tokenizer.from_file(str(path))
    it.add_tokens([" .", " n't"])
    it.decoder = decoders.Fuse()
    it.save(str(path))
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.decode([5, n, 6, n + 1]) == "the.catn't"
    tokenizer.save(str(path))
    assert read_tokenizer(tmp_path).to_str() == tokenizer.to_str()
