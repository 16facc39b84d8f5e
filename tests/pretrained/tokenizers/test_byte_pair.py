"""Byte-level BPE tokenizers from vocab.json and merges.txt."""

import json

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from tfm_jax.pretrained.tokenizers.read import read_tokenizer

CORPUS = ["The quick brown fox jumps over the lazy dog.", "I've 12 dogs, don't you?  \n Ünïcode 数字 too"] * 5
EXTRA = {"GPT2": ["<|endoftext|>"], "Qwen2": ["<|endoftext|>"], "Roberta": ["<s>", "<pad>", "</s>", "<unk>"]}
EXTRA["Roberta"] += ["<mask>"]
EXTRA["Bart"] = EXTRA["Roberta"]


def train_byte_pair(directory, class_name):
    """Writes vocab.json and merges.txt, trained on a few lines; returns the tokenizer."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=EXTRA[class_name], initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    trained.model.save(str(directory))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": f"{class_name}Tokenizer"})
    )
    return trained


def test_train_byte_pair(tmp_path):
    trained = train_byte_pair(tmp_path, "GPT2")
    tokenizer = read_tokenizer(tmp_path)
    for text in (*CORPUS[:2], "", " x"):
        assert tokenizer.encode(text).ids == trained.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("a<|endoftext|>").ids[-1] == 0
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="class None; wanted one of Bart, GPT2, GPTNeoX, Qwen2, Roberta"):
        read_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert read_tokenizer(tmp_path).encode("dogs").ids == trained.encode("dogs").ids
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(ValueError, match=r"merges\.txt: got lines .*; wanted two tokens per line"):
        read_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nabc xyz\n")
    with pytest.raises(ValueError, match=r"got vocab\.json and merges.txt that do not match"):
        read_tokenizer(tmp_path)


def test_bos_token(tmp_path):
    trained = train_byte_pair(tmp_path, "GPT2")
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_tokenizer(tmp_path).encode("dogs").ids == [0, *trained.encode("dogs").ids]
    # By default it is the class's.
    del config["bos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_tokenizer(tmp_path).encode("dogs").ids == [0, *trained.encode("dogs").ids]
    # Qwen2 has none.
    train_byte_pair(tmp_path, "Qwen2")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": True})
    )
    with pytest.raises(ValueError, match="got add_bos_token=true and no bos_token"):
        read_tokenizer(tmp_path)


@pytest.mark.parity
@pytest.mark.parametrize("class_name", EXTRA)
def test_ids_match_transformers(tmp_path, class_name):
    transformers = pytest.importorskip("transformers")
    train_byte_pair(tmp_path, class_name)
    if "<mask>" in EXTRA[class_name]:
        mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False}
        mask |= {"normalized": False, "single_word": False, "special": True}
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": f"{class_name}Tokenizer", "mask_token": mask})
        )
    name = "RobertaTokenizer" if class_name == "Bart" else f"{class_name}Tokenizer"  # the same class
    reference, loaded = getattr(transformers, name).from_pretrained(tmp_path), read_tokenizer(tmp_path)
    for text in (*CORPUS[:2], "", " x", f"the {EXTRA[class_name][-1]} dog"):
        assert loaded.encode(text).ids == reference(text)["input_ids"], text
