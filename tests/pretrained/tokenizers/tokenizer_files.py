"""Tokenizer directories as transformers writes each of its classes, and texts to try them on."""

import importlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

__all__ = ["BUILT", "TEXTS", "Built", "write"]

CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "I've 12 dogs, don't you?  \n Ünïcode 数字 too",
    "Über the hills and far away, 3.14 naïve cafés",
] * 4
WORDS = [
    "The quick dog",
    "over the lazy fox",
    "I've 12 dogs",
    "don't",
    "Ünïcode",
    "naïve cafés",
    "Über",
    "數字",
]
WORDS += [
    "日本 the dog",
    "ｆｏｘ jumps",
    "🙂 dog 👨‍👩‍👧",
    "e\u0301 cafe\u0301",
    "a\tb\nc",
    "12 345 6789",
    "HELLO wORLD",
]
WORDS += [
    "quick-brown_fox",
    "far  away   too",
    "the . dog , fox !",
    "x" * 30,
    "ﬁne ½ ①",
    "مرحبا",
    "привет Мир",
]
TEXTS = [
    *("", " ", "  ", "\n", *WORDS, *(f" {w}" for w in WORDS), *(f"{w} " for w in WORDS)),
    *(f"  {w}\t" for w in WORDS),
    *("the </s> dog", "<s>the dog", "a<mask>b", "a <mask> b", "the [MASK] dog[SEP]", "[CLS]x", "<pad> the"),
    *(
        "<|endoftext|>the",
        "the<|endoftext|>",
        "<unk> the <unk>",
        "<extra_id_0> dog<extra_id_1>",
        "en_XX the dog",
    ),
    *("<new> the<new>dog", "the NEW dog", "<pad2>x", "<image>dog", "ab<|im_end|> cd"),
]
"""Cased, with accents, of several scripts, with white space at both ends, with special tokens inside."""


class Built(NamedTuple):
    """A tokenizer class and its model.

    Args:
      name: of the class.
      model_type: in config.json.
      settings: arguments of the class.
    """

    name: str
    model_type: str
    settings: Mapping[str, Any] = MappingProxyType({})


BUILT = {
    "bert": Built("BertTokenizer", "bert"),
    "bert, cased": Built("BertTokenizer", "bert", {"do_lower_case": False}),
    "distilbert": Built("DistilBertTokenizer", "distilbert"),
    "bert, multilingual": Built("XLMRobertaTokenizer", "bert"),
    "roberta": Built("RobertaTokenizer", "roberta"),
    "bart": Built("BartTokenizer", "bart"),
    "gpt2": Built("GPT2Tokenizer", "gpt2"),
    "opt": Built("GPT2Tokenizer", "opt", {"add_bos_token": True}),
    "gpt_neox": Built("GPTNeoXTokenizer", "gpt_neox"),
    "qwen2": Built("Qwen2Tokenizer", "qwen2", {"eos_token": "<|im_end|>"}),
    "llama": Built("LlamaTokenizer", "llama", {"add_bos_token": True}),
    "t5": Built("T5Tokenizer", "t5"),
    "mbart": Built("MBartTokenizer", "mbart", {"src_lang": "en_XX", "tgt_lang": "ro_RO"}),
    "mbart50": Built("MBart50Tokenizer", "mbart", {"src_lang": "de_DE"}),
    "bloom": Built("PreTrainedTokenizerFast", "bloom", {"eos_token": "</s>"}),
    "mistral": Built("LlamaTokenizer", "mistral", {"add_bos_token": True}),
}

BYTES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
LANGUAGES = ("ar_AR", "de_DE", "en_XX", "ro_RO")


def _trained(model, pre_tokenizer, trainer, normalizer=None):
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(CORPUS, trainer)
    return json.loads(tokenizer.to_str())["model"]


def _bytes():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=BYTES, initial_alphabet=alphabet, show_progress=False
    )
    state = _trained(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainer)
    return {"vocab": state["vocab"], "merges": [tuple(pair) for pair in state["merges"]]}


def _llama():
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=special, show_progress=False)
    state = _trained(models.BPE(), pre_tokenizers.Metaspace(split=False), trainer)
    return {"vocab": state["vocab"], "merges": [tuple(pair) for pair in state["merges"]]}


def _unigram(first, last=()):
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    state = _trained(models.Unigram(), pre_tokenizers.Metaspace(), trainer)
    pieces = [(text, score) for text, score in state["vocab"][1:]]
    return {"vocab": [*((x, 0.0) for x in first), *pieces, *((x, 0.0) for x in last)]}


def _words():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=110, special_tokens=special, show_progress=False)
    normalizer = normalizers.BertNormalizer(lowercase=False)
    state = _trained(
        models.WordPiece(unk_token="[UNK]"), pre_tokenizers.BertPreTokenizer(), trainer, normalizer
    )
    lower = {f"{token.lower()}": None for token in state["vocab"] if token not in special}
    return {"vocab": {token: i for i, token in enumerate(dict.fromkeys([*state["vocab"], *lower]))}}


def _vocabulary(name, model_type):
    if name in ("BertTokenizer", "DistilBertTokenizer"):
        return _words()
    if name == "LlamaTokenizer":
        return _llama()
    if name == "T5Tokenizer":
        return _unigram(["<pad>", "</s>", "<unk>"], [f"<extra_id_{i}>" for i in reversed(range(100))])
    if name in ("MBartTokenizer", "MBart50Tokenizer"):
        module = importlib.import_module(
            f"transformers.models.{name.removesuffix('Tokenizer').lower()}."
            f"tokenization_{name.removesuffix('Tokenizer').lower()}"
        )
        return _unigram(["<s>", "<pad>", "</s>", "<unk>"], [*module.FAIRSEQ_LANGUAGE_CODES, "<mask>"])
    if name == "XLMRobertaTokenizer":
        return _unigram(["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"])
    return _bytes()


def write(directory, built: Built, **config):
    """Writes the tokenizer's files as transformers saves them, and a config.json; returns its tokenizer."""
    import transformers

    vocabulary = _vocabulary(built.name, built.model_type)
    if built.name == "PreTrainedTokenizerFast":
        tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary["vocab"], vocabulary["merges"]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        reference = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **built.settings)
    else:
        reference = getattr(transformers, built.name)(**vocabulary, **built.settings)
    reference.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps({"model_type": built.model_type, **config}))
    return reference
