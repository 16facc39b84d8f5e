"""The training and validation texts."""

from collections.abc import Sequence

import numpy as np

from experiments.language_model.config import DataConfig
from tfm_jax import data
from tfm_jax.data.sources import load_unsplit

__all__ = ["load_texts", "sample_texts"]

LEAST_CHARACTERS = 100
"""Of a text that a model is trained on and validated on."""


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
    options = {
        "columns": [config.column],
        "separator": config.separator,
        "encoding": config.encoding,
        "names": config.columns,
    }
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
            f"--data.source {config.source}: got no texts for validation, and --data.held-out 0; wanted "
            "some. Hold a share out, or name a file by --data.validation"
        )
    train, validation = (data.texts(splits[name], config.column) for name in ("train", "validation"))
    n = sum(map(len, train)) + (0 if config.validation else sum(map(len, validation)))
    if n < LEAST_CHARACTERS:
        raise ValueError(
            f"--data.source {config.source}: got {n} characters of text; wanted at least {LEAST_CHARACTERS}, "
            "to train on some and to validate on others. Choose a longer text"
        )
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
        part = texts[int(i)].encode()[:max_bytes]
        drawn.append(part.decode(errors="ignore"))  # drops a truncated character
        max_bytes -= len(part)
        if max_bytes == 0:
            break
    return drawn
