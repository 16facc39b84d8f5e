"""Special and added tokens: they are never split, and have the ids that the checkpoint declares."""

import json

import pytest

from tests.pretrained.tokenizers.test_byte_pair import CORPUS, train_byte_pair
from tfm_jax.pretrained.tokenizers.read import read_tokenizer


def test_added_tokens(tmp_path):
    trained = train_byte_pair(tmp_path, "Qwen2")
    n, path = trained.get_vocab_size(), tmp_path / "tokenizer_config.json"
    token = {"content": "<|im_start|>", "normalized": False, "special": True}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {str(n + 1): token}}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"got id {n + 1} for the token '<\|im_start\|>'; wanted {n},"):
        read_tokenizer(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<think>": "n"}))
    with pytest.raises(ValueError, match=r"got ids \{'<think>': 'n'\}; wanted integers"):
        read_tokenizer(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<think>": n}))
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.encode("<|im_start|>a<think>").ids == [n + 1, *trained.encode("a").ids, n]
    assert tokenizer.decode([n + 1, n]) == "<think>"


@pytest.mark.parity
def test_added_tokens_outside_the_vocabulary(tmp_path):
    """As in Qwen2.5, whose EOS is neither the first nor the last added token."""
    transformers = pytest.importorskip("transformers")
    trained = train_byte_pair(tmp_path, "Qwen2")
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    del vocabulary["<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(sorted(vocabulary, key=vocabulary.get))}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    n = len(vocabulary)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"]
    added = {str(n + i): {"content": x, "special": i < 3, "normalized": False} for i, x in enumerate(names)}
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    config |= {"bos_token": None, "unk_token": None, "additional_special_tokens": names[1:3]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"added_tokens_decoder": added}))
    reference, loaded = transformers.Qwen2Tokenizer.from_pretrained(tmp_path), read_tokenizer(tmp_path)
    assert [loaded.token_to_id(name) for name in names] == [n, n + 1, n + 2, n + 3]
    for text in ("the<|im_end|>", "<|im_start|>dog<tool>s<|endoftext|>", *CORPUS[:2]):
        assert loaded.encode(text).ids == reference(text)["input_ids"], text
    assert trained.encode("dogs").tokens == loaded.encode("dogs").tokens


@pytest.mark.parity
@pytest.mark.parametrize("where", ["added_tokens_decoder", "added_tokens.json"])
def test_added_tokens_in_another_order_than_their_roles(tmp_path, where):
    """As in Qwen2.5, whose special tokens are not in vocab.json; EOS is the last of them."""
    transformers = pytest.importorskip("transformers")
    trained = train_byte_pair(tmp_path, "Qwen2")
    vocabulary = {token: i - 1 for token, i in trained.get_vocab().items() if token != "<|endoftext|>"}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    n = len(vocabulary)
    ids = {"<|endoftext|>": n, "<|im_start|>": n + 1, "<|im_end|>": n + 2}
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    if where == "added_tokens.json":
        (tmp_path / where).write_text(json.dumps(ids))
    else:
        config[where] = {str(i): {"content": token, **flags} for token, i in ids.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"unk_token": None}))
    loaded, reference = read_tokenizer(tmp_path), transformers.Qwen2Tokenizer.from_pretrained(tmp_path)
    assert {token: loaded.token_to_id(token) for token in ids} == ids
    for text in (*CORPUS[:2], "<|im_start|>user\nthe dog<|im_end|>\n", "a<|endoftext|>"):
        assert loaded.encode(text).ids == reference(text)["input_ids"], text
