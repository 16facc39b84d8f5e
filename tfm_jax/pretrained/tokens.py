"""The tokenizer of a checkpoint, by the ``tokenizers`` library."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from tfm_jax.pretrained.byte_pairs import SPECIAL, byte_pairs
from tfm_jax.pretrained.sentence_pieces import MODELS, sentence_pieces
from tfm_jax.pretrained.special import WITHOUT, add_declared, declared, kind_of, special_tokens
from tfm_jax.pretrained.word_pieces import word_pieces

__all__ = ["read_tokenizer"]

# What stands around a text, where a checkpoint does not name it.
_AROUND = {"T5": {"eos": "</s>"}, "Llama": {"bos": "<s>", "eos": "</s>"}} | SPECIAL


def read_tokenizer(directory: Path) -> tokenizers.Tokenizer | None:
    """The tokenizer of a checkpoint, whichever of the usual files it has.

    Args:
      directory: of the checkpoint, with ``tokenizer.json``, or a model of sentencepiece, or ``vocab.json``
        and ``merges.txt``, or ``vocab.txt``; what ``tokenizer_config.json`` says beside them is read too.

    Returns:
      The tokenizer; None where there is none. What a ``tokenizer.json`` puts around a text is what stands
      there, whatever ``add_bos_token`` and ``add_eos_token`` say; they are asked where it puts nothing.

    Raises:
      ValueError: for a file that is no tokenizer, a class of tokenizer that is not known, and a token that is
        to stand around each text and is not named or not in the vocabulary.
    """
    said, there = declared(directory), lambda name: (directory / name).is_file()
    kind = kind_of(directory, said)
    if there("tokenizer.json"):
        return _of_json(directory, kind, said)
    if any(map(there, MODELS)):
        return add_declared(sentence_pieces(directory, kind, said), directory, said)
    if there("vocab.json") and there("merges.txt"):
        tokenizer = add_declared(byte_pairs(directory, kind, said), directory, said)
        if tokenizer.post_processor is None:
            _complete(tokenizer, directory, kind, said)
        return tokenizer
    return add_declared(word_pieces(directory, said), directory, said) if there("vocab.txt") else None


def _of_json(directory: Path, kind: str | None, said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    path = directory / "tokenizer.json"
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from error
    # How the file asks for texts to be cut and padded is of the run that made it.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.post_processor is None:
        _complete(tokenizer, directory, kind, said)
    return tokenizer


def _complete(
    tokenizer: tokenizers.Tokenizer, directory: Path, kind: str | None, said: Mapping[str, Any]
) -> None:
    """Puts around a text what its class does, where the file says nothing of it."""
    special = special_tokens(said, **{"bos": None, "eos": None} | _AROUND.get(kind or "", {}))
    # T5's end is asked for by its class alone, and another's tokenizer may have none.
    ends = kind == "T5" and ("eos_token" in said or tokenizer.token_to_id(special["eos"]) is not None)
    asked = {"bos": said.get("add_bos_token", False), "eos": said.get("add_eos_token", ends)}
    ids = {role: _id_around(tokenizer, directory, role, special[role]) for role in asked if asked[role]}
    if ids:
        begin, end = ([special[role]] if role in ids else [] for role in ("bos", "eos"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*begin, "$A", *end], special_tokens=[(special[role], i) for role, i in ids.items()]
        )


def _id_around(tokenizer: tokenizers.Tokenizer, directory: Path, role: str, token: str | None) -> int:
    if token is None:
        raise ValueError(
            f"the tokenizer in {directory} is asked for add_{role}_token, and no {role}_token is named: name "
            f"it, or say that add_{role}_token is false, in tokenizer_config.json"
        )
    if (found := tokenizer.token_to_id(token)) is None:
        raise ValueError(
            f"the tokenizer in {directory} is to put the {role}_token {token!r} around texts, which its "
            f"vocabulary has not: name another in tokenizer_config.json, or {WITHOUT}"
        )
    return found
