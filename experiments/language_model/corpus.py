"""The training and validation texts."""

from collections.abc import Sequence

import numpy as np

from experiments.inputs import RunInputs, hash_lines, hash_texts, keep_lines
from experiments.language_model.config import DataConfig
from tfm_jax import data
from tfm_jax.data.sources import is_one_text, load_unsplit

__all__ = ["load_texts", "sample_texts"]

LEAST_CHARACTERS = 100
"""Of a text that a model is trained on and validated on."""


def load_texts(config: DataConfig, inputs: RunInputs | None = None) -> tuple[list[str], list[str]]:
    """Loads the training texts and the validation texts.

    Args:
      config: where they are.
      inputs: of the run, whose start may have held some of the training texts out.

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
    texts = {name: data.texts(splits[name], config.column) for name in ("train", "validation")}
    counted = texts["train"] if config.validation else texts["train"] + texts["validation"]
    n = sum(map(len, counted))
    if n < LEAST_CHARACTERS:
        raise ValueError(
            f"--data.source {config.source}: got {n} characters of text; wanted at least {LEAST_CHARACTERS}, "
            "to train on some and to validate on others. Choose a longer text"
        )
    if inputs is not None:
        texts = _without_held_out(texts, config, inputs)
    return texts["train"], sample_texts(texts["validation"], config.validation_bytes)


def _without_held_out(
    texts: dict[str, list[str]], config: DataConfig, inputs: RunInputs
) -> dict[str, list[str]]:
    """The texts without those that the run's start held out; of a document, without their lines."""
    files = ["validation"] if config.validation else []
    if config.held_out_salt is not None and is_one_text(config.source, config.splits):  # split by position
        rows = inputs.regroup({name: hash_lines(parts) for name, parts in texts.items()}, files)
        kept = {i for name, i in (rows or {}).get("train", ()) if name == "train"}
        return texts if rows is None else {**texts, "train": keep_lines(texts["train"], kept)}
    rows = inputs.regroup({name: hash_texts(part) for name, part in texts.items()}, files)
    return texts if rows is None else {name: [texts[s][i] for s, i in part] for name, part in rows.items()}


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
