"""BERT's tokenizer: words cut into pieces of a vocabulary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from tfm_jax.pretrained.tokenizers.classes import CLASSES, Vocabulary
from tfm_jax.pretrained.tokenizers.special_tokens import WITHOUT, add_declared, special_tokens

__all__ = ["word_pieces"]


def word_pieces(directory: Path, kind: str | None, said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of ``vocab.txt``: lower case unless the settings differ, between [CLS] and [SEP].

    Args:
      directory: that holds it.
      kind: of ``special.kind_of``: Bert, or None where nothing tells.
      said: the settings of ``special.declared``.

    Returns:
      The tokenizer.

    Raises:
      ValueError: for another kind, and for a vocabulary without its special tokens.
    """
    if kind not in ("Bert", None):
        raise ValueError(
            f"{directory / 'vocab.txt'} is of a tokenizer of class {kind}; known is Bert: name BertTokenizer "
            f"as tokenizer_class in tokenizer_config.json if it is one, or {WITHOUT}"
        )
    lines = (directory / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    vocabulary = {line: i for i, line in enumerate(lines)}
    bert = CLASSES["Bert"]
    special = special_tokens(said, **bert.special)
    if missing := [token for token in special.values() if token not in vocabulary]:
        raise ValueError(f"{directory / 'vocab.txt'} has no {', '.join(missing)}")
    tokenizer = bert.build(Vocabulary(vocabulary), said, special)
    add_declared(tokenizer, directory, special)
    bert.around(tokenizer, said, special)
    return tokenizer
