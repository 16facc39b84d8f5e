"""The tokenizer of a checkpoint, by the ``tokenizers`` library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from tfm_jax.pretrained.byte_pairs import SPECIAL, byte_pairs
from tfm_jax.pretrained.sentence_pieces import MODELS, sentence_pieces
from tfm_jax.pretrained.special import add_declared, declared, kind_of, special_tokens
from tfm_jax.pretrained.word_pieces import word_pieces

__all__ = ["read_tokenizer"]


def read_tokenizer(directory: Path) -> tokenizers.Tokenizer | None:
    """The tokenizer of a checkpoint, whichever of the usual files it has.

    Args:
      directory: of the checkpoint, with ``tokenizer.json``, or a model of sentencepiece, or ``vocab.json``
        and ``merges.txt``, or ``vocab.txt``; what ``tokenizer_config.json`` says beside them is read too.

    Returns:
      The tokenizer; None where there is none.

    Raises:
      ValueError: for a file that is no tokenizer, and a class of tokenizer that is not known.
    """
    said, there = declared(directory), lambda name: (directory / name).is_file()
    kind = kind_of(directory, said)
    if there("tokenizer.json"):
        return _of_json(directory / "tokenizer.json", kind, said)
    if any(map(there, MODELS)):
        return add_declared(sentence_pieces(directory, kind, said), directory, said)
    if there("vocab.json") and there("merges.txt"):
        tokenizer = add_declared(byte_pairs(directory, kind, said), directory, said)
        if tokenizer.post_processor is None:
            _complete(tokenizer, kind, said)
        return tokenizer
    return add_declared(word_pieces(directory, said), directory, said) if there("vocab.txt") else None


def _of_json(path: Path, kind: str | None, said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from error
    # How the file asks for texts to be cut and padded is of the run that made it.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.post_processor is None:
        _complete(tokenizer, kind, said)
    return tokenizer


def _complete(tokenizer: tokenizers.Tokenizer, kind: str | None, said: Mapping[str, Any]) -> None:
    """Puts around a text what its class does, where the file says nothing of it."""
    end = kind == "T5" or said.get("add_eos_token", False)
    begin = said.get("add_bos_token", False)
    defaults = {"bos": None, "eos": "</s>" if kind == "T5" else None} | SPECIAL.get(kind or "", {})
    special = special_tokens(said, **defaults)
    around = [special["bos"] if begin else None, "$A", special["eos"] if end else None]
    template = [token for token in around if token is not None]
    ids = [(token, tokenizer.token_to_id(token)) for token in template if token != "$A"]
    if ids and all(i is not None for _, i in ids):
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
