"""From a source's name to rows of tokens: the pairs of each split, the tokenizer, the batches' shapes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments import runner
from experiments.translation.config import DataConfig
from tfm_jax import data

__all__ = ["Pairs", "load_pairs", "make_shapes", "make_tokenizer"]

Pairs = tuple[list[str], list[str]]
"""Sources and targets, in order."""


def load_pairs(config: DataConfig) -> dict[str, Pairs]:
    """Loads the pairs of "train", "validation" and "test".

    Args:
        config: says where they are.

    Returns:
        Sources and targets by split.

    Raises:
        FileNotFoundError, data.HubUnavailableError, ImportError, ValueError: as `data.load` and
            `data.text_pairs`.
    """
    own = {"validation": config.validation, "test": config.test}
    shares = {name: 0.0 if source else config.held_out for name, source in own.items()}
    options = {"separator": config.separator, "encoding": config.encoding}
    splits = data.load_splits(config.source, validation=0.0, test=0.0, splits=config.splits, **options)
    data.text_pairs(splits["train"], config.pair)  # a row without one is named by its number in the source
    by = [data.source_column(splits["train"], config.pair)]
    splits = data.hold_out(splits, by=by, salt=config.held_out_salt, **shares)
    splits |= {name: data.load_unsplit(source, **options) for name, source in own.items() if source}
    if missing := {"validation", "test"} - splits.keys():
        raise ValueError(
            f"{config.source!r} has no pairs for {' and '.join(sorted(missing))}, and held_out is 0: "
            "hold a share out, or name a file for each"
        )
    return {name: data.text_pairs(splits[name], config.pair) for name in ("train", *own)}


def make_tokenizer(config: DataConfig, train: Pairs, directory: Path) -> data.Tokenizer:
    """Makes the tokenizer from the training pairs and saves it; takes the saved one where a run goes on.

    Args:
        config: says which kind.
        train: the pairs to learn it from, both sides together.
        directory: of the run.

    Returns:
        The tokenizer, for both sides.

    Raises:
        ValueError: from `data.train_bpe`, or for a saved one that cannot be read.
    """
    bpe, texts = config.tokenizer == "bpe", [text for side in train for text in side]
    make = lambda: data.train_bpe(texts, config.vocab_size) if bpe else data.char_tokenizer(texts)
    return runner.saved_tokenizer(directory, make)


def make_shapes(
    rows: Mapping[str, data.TranslationExamples], config: DataConfig, batch_size: int, multiple_of: int
) -> tuple[list[tuple[int, int]], list[int]]:
    """The few shapes (S, T) that batches are padded to, and how many pairs a batch of each has.

    Args:
        rows: of training and validation; a shape fits each.
        config: how many shapes, and how large a batch.
        batch_size: pairs in a batch, where the config does not count tokens.
        multiple_of: a batch is cut into so many equal parts.

    Returns:
        Shapes, smallest first, and sizes.

    Raises:
        ValueError: from `data.choose_buckets`.
    """
    lengths = np.concatenate([part.lengths for part in rows.values()])
    shapes = data.choose_buckets(lengths, config.buckets, multiple_of=1)
    if config.batch_tokens is None:
        return shapes, [batch_size] * len(shapes)
    return shapes, data.batch_sizes(shapes, config.batch_tokens, multiple_of=multiple_of)
