"""BERT's tokenizer: words cut into pieces of a vocabulary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from tfm_jax.pretrained.special import special_tokens

__all__ = ["word_pieces"]


def word_pieces(directory: Path, said: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of ``vocab.txt``: lower case unless told otherwise, between [CLS] and [SEP].

    Args:
      directory: that holds it.
      said: the settings of ``special.declared``.

    Returns:
      The tokenizer.

    Raises:
      ValueError: for a vocabulary without its special tokens.
    """
    lines = (directory / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    vocabulary = {line: i for i, line in enumerate(lines)}
    special = special_tokens(
        said, **{role: f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad", "mask")}
    )
    if missing := [token for token in special.values() if token not in vocabulary]:
        raise ValueError(f"{directory / 'vocab.txt'} has no {', '.join(missing)}")
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=said.get("do_lower_case", True),
        strip_accents=said.get("strip_accents"),
        handle_chinese_chars=said.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(special.values()))
    at = lambda role: (special[role], vocabulary[special[role]])
    tokenizer.post_processor = processors.BertProcessing(at("sep"), at("cls"))
    return tokenizer
