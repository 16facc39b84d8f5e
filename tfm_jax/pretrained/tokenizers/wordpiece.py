"""BERT's WordPiece tokenizer from ``vocab.txt``."""

import tokenizers

from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.tokenizers.classes import CLASSES, Vocabulary
from tfm_jax.pretrained.tokenizers.special_tokens import add_tokens, special_tokens
from tfm_jax.pretrained.tokenizers.tokenizer_config import WITHOUT_TOKENIZER
from tfm_jax.pretrained.weights.files import Directory

__all__ = ["read_wordpiece"]


def read_wordpiece(directory: Directory, class_name: str | None, config: Settings) -> tokenizers.Tokenizer:
    """Builds the tokenizer from ``vocab.txt``.

    Args:
      directory: with the file.
      class_name: from ``tokenizer_class``: "Bert", or None if no file implies one.
      config: from ``read_tokenizer_config``.

    Returns:
      The tokenizer: lower case unless the config differs, with [CLS] and [SEP].

    Raises:
      ValueError: another class, or a vocabulary that lacks a special token.
    """
    path = directory / "vocab.txt"
    if class_name not in ("Bert", None):
        raise ValueError(
            f"{path}: got a vocabulary of tokenizer class {class_name}; wanted Bert. Name BertTokenizer as "
            f"tokenizer_class in tokenizer_config.json if it is one, or {WITHOUT_TOKENIZER}."
        )
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    vocabulary = {line: i for i, line in enumerate(lines)}
    bert = CLASSES["Bert"]
    special = special_tokens(config, **bert.special_tokens)
    if missing := [str(token) for token in special.values() if token not in vocabulary]:
        raise ValueError(f"{path}: got no {', '.join(missing)}; wanted all special tokens in the vocabulary.")
    tokenizer = bert.build(Vocabulary(vocabulary), config, special)
    add_tokens(tokenizer, directory, special)
    bert.set_post_processor(tokenizer, config, special)
    return tokenizer
