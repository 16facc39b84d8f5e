"""Byte-level byte-pair encodings without a tokenizer.json: GPT-2, GPT-NeoX, RoBERTa, BART, Qwen2."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from tfm_jax.pretrained.tokenizers.classes import CLASSES, Vocabulary
from tfm_jax.pretrained.tokenizers.special_tokens import WITHOUT, add_declared, special_tokens
from tfm_jax.pretrained.weights.files import read_json

__all__ = ["byte_pairs"]

_KINDS = {name: CLASSES[name] for name in ("GPT2", "GPTNeoX", "Qwen2", "Roberta")}
_KINDS["Bart"] = CLASSES["Roberta"]


def byte_pairs(directory: Path, kind: str | None, said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of ``vocab.json`` and ``merges.txt``.

    Args:
      directory: that holds them.
      kind: of ``special.kind_of``: how a text is cut, and what stands around it.
      said: the settings of ``special.declared``.

    Returns:
      The tokenizer.

    Raises:
      ValueError: for another kind, for files that do not fit together, and as ``add_declared``.
    """
    if kind not in _KINDS:
        raise ValueError(
            f"{directory} has vocab.json and merges.txt of a tokenizer of class {kind}; known are "
            f"{', '.join(sorted(_KINDS))}: name one as tokenizer_class in tokenizer_config.json, or "
            f"{WITHOUT}"
        )
    special = special_tokens(said, **_KINDS[kind].special)
    try:
        tokenizer = _KINDS[kind].build(_vocabulary(directory), said, special)
    except Exception as error:  # the library raises a bare Exception
        if isinstance(error, ValueError | FileNotFoundError):
            raise
        raise ValueError(f"vocab.json and merges.txt in {directory} do not fit together: {error}") from error
    # The mask takes the space before it.
    tokens = {role: AddedToken(x, lstrip=True) if role == "mask" and x else x for role, x in special.items()}
    add_declared(tokenizer, directory, tokens)
    if _KINDS[kind].around:
        _KINDS[kind].around(tokenizer, said, special)
    return tokenizer


def _vocabulary(directory: Path) -> Vocabulary:
    vocabulary = read_json(directory / "vocab.json")
    lines = (directory / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    if wrong := [merge for merge in merges if len(merge) != 2]:
        raise ValueError(f"{directory / 'merges.txt'} has lines that are no two tokens: {wrong[:3]}")
    return Vocabulary(vocabulary, merges)
