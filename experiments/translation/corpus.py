"""The sentence pairs of each split, the shapes of batches."""

from collections.abc import Mapping

import numpy as np

from experiments.translation.config import DataConfig
from tfm_jax import data
from tfm_jax.data.bucketing import batch_sizes
from tfm_jax.data.columns import source_column
from tfm_jax.data.sources import load_unsplit
from tfm_jax.data.splitting import hold_out

__all__ = ["Pairs", "load_pairs", "make_shapes"]

Pairs = tuple[list[str], list[str]]
"""Source texts and target texts, in order."""


def load_pairs(config: DataConfig) -> dict[str, Pairs]:
    """Loads the pairs of "train", "validation" and "test".

    Args:
      config: where they are.

    Returns:
      Source and target texts by split.

    Raises:
      FileNotFoundError, HubUnavailableError, ImportError, ValueError: as `data.load` and
        `data.text_pairs`.
    """
    files = {"validation": config.validation, "test": config.test}
    shares = {name: 0.0 if file else config.held_out for name, file in files.items()}
    options = {"separator": config.separator, "encoding": config.encoding}
    splits = data.load_splits(config.source, validation=0.0, test=0.0, splits=config.splits, **options)
    data.text_pairs(splits["train"], config.pair)  # errors name a row by its number in the source
    by = [source_column(splits["train"], config.pair)]
    splits = hold_out(splits, by=by, salt=config.held_out_salt, **shares)
    splits |= {name: load_unsplit(file, **options) for name, file in files.items() if file}
    if missing := {"validation", "test"} - splits.keys():
        raise ValueError(
            f"{config.source!r}: got no pairs for {' and '.join(sorted(missing))}, and held_out is 0; wanted "
            "some. Hold a share out, or name a file for each"
        )
    return {name: data.text_pairs(splits[name], config.pair) for name in ("train", *files)}


def make_shapes(
    examples: Mapping[str, data.TranslationExamples],
    config: DataConfig,
    batch_size: int,
    multiple_of: int,
    *,
    sides: int = 1,
) -> tuple[list[tuple[int, int]], list[int]]:
    """Chooses the shapes (S, T) that batches are padded to, and the batch size of each.

    Args:
      examples: the training and validation pairs; each fits a shape.
      config: the number of shapes, and the tokens per batch.
      batch_size: pairs per batch, if the config does not count tokens.
      multiple_of: divides each batch size.
      sides: divides each S and T: the devices that share the positions of a sequence.

    Returns:
      Shapes, smallest first, and batch sizes.

    Raises:
      ValueError: from `data.choose_buckets`.
    """
    lengths = np.concatenate([part.lengths for part in examples.values()])
    shapes = [(s, t) for s, t in data.choose_buckets(lengths, config.buckets, multiple_of=sides)]
    if config.batch_tokens is None:
        return shapes, [batch_size] * len(shapes)
    return shapes, batch_sizes(shapes, config.batch_tokens, multiple_of=multiple_of)
