"""The training and validation texts, and the tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.language_model.config import DataConfig
from experiments.runner import load_or_make_tokenizer
from tfm_jax import data
from tfm_jax.data.sources import load_unsplit

__all__ = ["load_texts", "make_tokenizer", "sample_texts"]


def load_texts(config: DataConfig) -> tuple[list[str], list[str]]:
    """Loads the training texts and the validation texts.

    Args:
      config: where they are.

    Returns:
      The two lists; validation texts have at most ``config.validation_bytes``.

    Raises:
      FileNotFoundError, HubUnavailableError, ValueError: as `data.load` and `data.texts`.
    """
    held_out = 0.0 if config.validation else config.held_out
    options = {"columns": [config.column], "separator": config.separator, "encoding": config.encoding}
    splits = data.load_splits(
        config.source,
        validation=held_out,
        test=0.0,
        salt=config.held_out_salt,
        splits=config.splits,
        **options,
    )
    if config.validation:
        splits["validation"] = load_unsplit(config.validation, **options)
    if "validation" not in splits:
        raise ValueError(
            f"{config.source!r}: got no texts for validation, and held_out is 0; wanted some. Hold a share "
            "out, or name a file"
        )
    train, validation = (data.texts(splits[name], config.column) for name in ("train", "validation"))
    return train, sample_texts(validation, config.validation_bytes)


def sample_texts(texts: Sequence[str], max_bytes: int) -> list[str]:
    """Draws texts at random, the same ones at every call, with a limited number of bytes.

    Args:
      texts: the texts.
      max_bytes: in UTF-8, at least 1.

    Returns:
      All texts, in order, if they have no more bytes; else some of them, the last one truncated.
    """
    if sum(len(text.encode()) for text in texts) <= max_bytes:
        return list(texts)
    drawn = []
    for i in np.random.default_rng(0).permutation(len(texts)):
        part = texts[i].encode()[:max_bytes]
        drawn.append(part.decode(errors="ignore"))  # drops a truncated character
        max_bytes -= len(part)
        if max_bytes == 0:
            break
    return drawn


def make_tokenizer(config: DataConfig, texts: Sequence[str], directory: Path) -> data.Tokenizer:
    """Learns the tokenizer from the training texts and saves it; loads the saved one on a resume.

    Args:
      config: the kind of tokenizer. Both kinds are lossless: they have every byte.
      texts: the training texts.
      directory: of the run.

    Returns:
      The tokenizer.

    Raises:
      ValueError: from `data.train_bpe`, or for a saved one that cannot be read.
    """

    def make() -> data.Tokenizer:
        return data.train_bpe(texts, config.vocab_size) if config.tokenizer == "bpe" else data.ByteTokenizer()

    return load_or_make_tokenizer(directory, make)
