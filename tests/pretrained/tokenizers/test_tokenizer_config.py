"""Settings of tokenizer_config.json: types, precedence, and the tokenizer's class."""

import json

import pytest

from tfm_jax.pretrained.tokenizers.tokenizer_config import read_tokenizer_config, rebuilding_class


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"added_tokens_decoder": []}, "added_tokens_decoder=.*; wanted an object from ids"),
        ({"added_tokens_decoder": {"a": {"content": "x"}}}, "added_tokens_decoder="),
        ({"added_tokens_decoder": {"9": {}}}, "added_tokens_decoder="),
        ({"added_tokens_decoder": {"9": {"content": "x", "lstrip": "no"}}}, "added_tokens_decoder="),
        ({"bos_token": 4}, "bos_token=4; wanted a string"),
        ({"bos_token": {"content": 4}}, "bos_token=4; wanted a string"),
        ({"add_prefix_space": "no"}, "add_prefix_space='no'; wanted true or false"),
        ({"add_bos_token": 1}, "add_bos_token=1; wanted true or false"),
        ({"extra_ids": -1}, "extra_ids=-1; wanted an integer of at least 0"),
        ({"src_lang": True}, "src_lang=True; wanted a string"),
    ],
)
def test_settings_of_another_type(tmp_path, settings, message):
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message) as error:
        read_tokenizer_config(tmp_path)
    assert str(error.value).startswith(f"{path}: got ")


def test_null_is_no_setting(tmp_path):
    config = {"bos_token": {"content": "<s>"}, "unk_token": "<u>", "extra_ids": 3}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(config))
    nulls = {"added_tokens_decoder": None, "do_lower_case": None, "unk_token": None, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(nulls))
    wanted = {"bos_token": "<s>", "unk_token": "<u>", "extra_ids": 3, "eos_token": "</s>"}
    assert read_tokenizer_config(tmp_path) == wanted
    # The other file is ignored where tokenizer_config.json has an added_tokens_decoder.
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(nulls | {"added_tokens_decoder": {}}))
    assert read_tokenizer_config(tmp_path) == {"added_tokens_decoder": {}, "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("model_type", "config", "wanted"),
    [
        ("bert", {}, "Bert"),
        ("bert", {"tokenizer_class": "XLMRobertaTokenizer"}, "XLMRoberta"),
        ("bert", {"tokenizer_class": "PreTrainedTokenizerFast"}, None),
        ("qwen2", {"tokenizer_class": "LlamaTokenizerFast"}, "Qwen2"),
        ("mistral", {"tokenizer_class": "LlamaTokenizer"}, None),
        ("llama", {}, None),
        ("llama", {"tokenizer_class": "LlamaTokenizer"}, "Llama"),
        ("bloom", {"tokenizer_class": "BloomTokenizerFast"}, None),
        (None, {"tokenizer_class": "T5TokenizerFast"}, "T5"),
    ],
)
def test_rebuilding_class(tmp_path, model_type, config, wanted):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert rebuilding_class(tmp_path, config, is_byte_level=False) == wanted
    assert rebuilding_class(tmp_path, config, is_byte_level=True) == (None if wanted == "Llama" else wanted)
    (tmp_path / "tokenizer_config.json").unlink()
    assert model_type == "qwen2" or rebuilding_class(tmp_path, {}, is_byte_level=False) is None
