"""The tokenizer of a checkpoint."""

import json

import pytest
import tokenizers
from tokenizers import models

from tfm_jax.pretrained.tokens import read_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "é", "e"]


def test_a_tokenizer_json(tmp_path):
    tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(
        str(tmp_path / "tokenizer.json")
    )
    assert read_tokenizer(tmp_path).encode("b").ids == [1]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        read_tokenizer(tmp_path)


def test_word_pieces(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.encode("The cats é", "dog").tokens == [
        *("[CLS]", "the", "cat", "##s", "e", "[SEP]"),
        *("[UNK]", "[SEP]"),
    ]
    assert tokenizer.encode("The", "cat").type_ids == [0, 0, 0, 1, 1]
    assert tokenizer.decode(tokenizer.encode("the cats").ids) == "the cats"
    options = {"do_lower_case": False, "strip_accents": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    assert read_tokenizer(tmp_path).encode("The é").tokens == ["[CLS]", "[UNK]", "é", "[SEP]"]


def test_a_vocabulary_without_its_special_tokens(tmp_path):
    (tmp_path / "vocab.txt").write_text("the\ncat\n")
    with pytest.raises(ValueError, match=r"has no \[UNK\], \[CLS\]"):
        read_tokenizer(tmp_path)


def test_sentencepiece_says_what_to_do(tmp_path):
    assert read_tokenizer(tmp_path) is None
    (tmp_path / "source.spm").write_bytes(b"")
    with pytest.raises(ValueError, match=r"source\.spm: make a tokenizer\.json of it .*tokenizer=False"):
        read_tokenizer(tmp_path)
