"""BERT's WordPiece tokenizer from vocab.txt."""

import json
from pathlib import Path

import pytest

from tfm_jax.pretrained.checkpoint_files import CheckpointFiles
from tfm_jax.pretrained.tokenizers.read import read_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "é", "e"]


def test_wordpiece(tmp_path):
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
    with pytest.raises(ValueError, match=r"vocab\.txt: got no \[UNK\], \[CLS\]"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("open_directory", [Path, CheckpointFiles])
def test_windows_line_ends(tmp_path, open_directory):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(WORDS).encode())
    tokenizer = read_tokenizer(open_directory(tmp_path))
    assert tokenizer.encode("the cats").tokens == ["[CLS]", "the", "cat", "##s", "[SEP]"]


@pytest.mark.parametrize("class_name", ["BertJapaneseTokenizer", "BertweetTokenizer", "RobertaTokenizer"])
def test_another_class(tmp_path, class_name):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": class_name}))
    message = f"tokenizer class {class_name[:-9]}; wanted Bert. Name BertTokenizer"
    with pytest.raises(ValueError, match=message):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "DistilBertTokenizerFast"}')
    assert read_tokenizer(tmp_path).encode("the").ids == [2, 5, 3]


def test_special_tokens_as_strings_and_objects(tmp_path):
    words = ["<pad>", "[UNK]", "<bos>", "[SEP]", "[MASK]", "the"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": "<pad>", "cls_token": {"content": "<bos>", "lstrip": False}})
    )
    more = {"cls_token": "[CLS]"}  # the older file takes precedence
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(more))
    assert read_tokenizer(tmp_path).encode("the").tokens == ["<bos>", "the", "[SEP]"]
