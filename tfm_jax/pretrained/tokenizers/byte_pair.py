"""Byte-level BPE tokenizers from ``vocab.json`` and ``merges.txt``: GPT-2, GPT-NeoX, RoBERTa, BART, Qwen2."""

import tokenizers

from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.tokenizers.classes import CLASSES, Vocabulary
from tfm_jax.pretrained.tokenizers.special_tokens import add_tokens, mask_with_lstrip, special_tokens
from tfm_jax.pretrained.tokenizers.tokenizer_config import WITHOUT_TOKENIZER
from tfm_jax.pretrained.weights.files import Directory, read_json

__all__ = ["read_byte_pair"]

_CLASSES = {name: CLASSES[name] for name in ("GPT2", "GPTNeoX", "Qwen2", "Roberta")}
_CLASSES["Bart"] = CLASSES["Roberta"]


def read_byte_pair(directory: Directory, class_name: str | None, config: Settings) -> tokenizers.Tokenizer:
    """Builds the tokenizer from ``vocab.json`` and ``merges.txt``.

    Args:
      directory: with both files.
      class_name: from ``tokenizer_class``; decides the pre-tokenizer and the post-processor.
      config: from ``read_tokenizer_config``.

    Returns:
      The tokenizer.

    Raises:
      ValueError: an unknown class, files that do not match, and as ``add_tokens``.
    """
    if class_name not in _CLASSES:
        raise ValueError(
            f"{directory}: got vocab.json and merges.txt of tokenizer class {class_name}; wanted one of "
            f"{', '.join(sorted(_CLASSES))}. Name it as tokenizer_class in tokenizer_config.json, or "
            f"{WITHOUT_TOKENIZER}."
        )
    made = _CLASSES[class_name]
    special = special_tokens(config, **made.special_tokens)
    try:
        tokenizer = made.build(_read_vocabulary(directory), config, special)
    except Exception as error:  # tokenizers raises a bare Exception
        if isinstance(error, ValueError | FileNotFoundError):
            raise
        raise ValueError(
            f"{directory}: got vocab.json and merges.txt that do not match ({error}); wanted those of "
            "one tokenizer."
        ) from error
    add_tokens(tokenizer, directory, mask_with_lstrip(special))
    made.set_post_processor(tokenizer, config, special)
    return tokenizer


def _read_vocabulary(directory: Directory) -> Vocabulary:
    tokens = read_json(directory / "vocab.json")
    path = directory / "merges.txt"
    lines = path.read_text(encoding="utf-8").split("\n")
    merges = [line.split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    if wrong := [tuple(merge) for merge in merges if len(merge) != 2]:
        raise ValueError(f"{path}: got lines {wrong[:3]}; wanted two tokens per line.")
    return Vocabulary(tokens, merges=[(left, right) for left, right in merges])
