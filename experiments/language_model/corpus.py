"""From a source's name to texts and a tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import runner
from experiments.language_model.config import DataConfig
from tfm_jax import data

__all__ = ["few_bytes", "load_texts", "make_tokenizer"]


def load_texts(config: DataConfig) -> tuple[list[str], list[str]]:
    """Loads the texts to train on and those to validate on.

    Args:
        config: says where they are.

    Returns:
        The two lists; the second has at most ``config.validation_bytes``.

    Raises:
        FileNotFoundError, data.HubUnavailableError, ValueError: as `data.load` and `data.texts`.
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
        splits["validation"] = data.load_unsplit(config.validation, **options)
    if "validation" not in splits:
        raise ValueError(
            f"{config.source!r} has no texts for validation, and data.held-out is 0: hold a share out, or "
            "name a file of its own with data.validation"
        )
    train, validation = (data.texts(splits[name], config.column) for name in ("train", "validation"))
    return train, few_bytes(validation, config.validation_bytes)


def few_bytes(texts: Sequence[str], most: int) -> list[str]:
    """Texts drawn at random, the same ones every time, that have at most so many bytes; the last one is cut.

    Args:
        texts: the texts.
        most: bytes of UTF-8, at least 1.

    Returns:
        Some of the texts; where they have no more bytes, all of them, in their order.
    """
    if sum(len(text.encode()) for text in texts) <= most:
        return list(texts)
    few = []
    for i in np.random.default_rng(0).permutation(len(texts)):
        part = texts[i].encode()[:most]
        few.append(part.decode(errors="ignore"))  # without the half of a character
        most -= len(part)
        if most == 0:
            break
    return few


def make_tokenizer(config: DataConfig, texts: Sequence[str], directory: Path) -> data.Tokenizer:
    """Makes the tokenizer from the training texts and saves it; takes the saved one where a run goes on.

    Args:
        config: says which kind. Both kinds know every byte: what they encode comes back exactly.
        texts: the training texts.
        directory: of the run.

    Returns:
        The tokenizer.

    Raises:
        ValueError: from `data.train_bpe`, or for a saved one that cannot be read.
    """
    bpe = config.tokenizer == "bpe"
    make = lambda: data.train_bpe(texts, config.vocab_size) if bpe else data.ByteTokenizer()
    return runner.saved_tokenizer(directory, make)
