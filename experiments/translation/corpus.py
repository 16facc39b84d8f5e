"""The sentence pairs of each split, the shapes of batches."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import datasets
import numpy as np

from experiments.translation.config import DataConfig
from tfm_jax import data
from tfm_jax.data.aligned import language_of
from tfm_jax.data.bucketing import batch_sizes
from tfm_jax.data.columns import source_column
from tfm_jax.data.sources import load_unsplit
from tfm_jax.data.splitting import hold_out

__all__ = ["Pairs", "languages", "load_pairs", "make_shapes"]

Pairs = tuple[list[str], list[str]]
"""Source texts and target texts, in order."""
Source = str | tuple[str, str]
"""A file, a directory, a glob or a data set of the hub; or two aligned files."""


class _FileOptions(TypedDict):
    encoding: str
    separator: str | None
    names: Sequence[str] | None


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
    sources: dict[str, Source] = {"train": config.source}
    sources |= {name: file for name in ("validation", "test") if (file := getattr(config, name))}
    _check_order(config, sources)
    options = {name: _file_options(config, file, sources.values()) for name, file in sources.items()}
    splits = data.load_splits(
        config.source, validation=0.0, test=0.0, splits=config.splits, **options["train"]
    )
    _read(splits["train"], config, config.source)  # errors name a row by its number in the source
    splits |= {name: load_unsplit(sources[name], **options[name]) for name in options if name != "train"}
    splits |= {name: _drop_empty(splits[name], file) for name, file in sources.items()}
    shares = {name: 0.0 if name in sources else config.held_out for name in ("validation", "test")}
    by = [_source_column(splits["train"], config)]
    splits = hold_out(splits, by=by, salt=config.held_out_salt, **shares)
    if missing := {"validation", "test"} - splits.keys():
        raise ValueError(
            f"--data.source {_shown(config.source)}: got no pairs for {' and '.join(sorted(missing))}, and "
            "--data.held-out 0; wanted some. Hold a share out, or name files by "
            f"{' and '.join(f'--data.{name}' for name in sorted(missing))}"
        )
    return {
        name: _read(splits[name], config, sources.get(name, config.source))
        for name in ("train", "validation", "test")
    }


def languages(config: DataConfig) -> tuple[str | None, str | None]:
    """The source and the target language; None for one that neither an option nor a file's suffix names."""
    if config.pair is not None:
        source, _, target = config.pair.partition("-")
        return source, target
    if not isinstance(config.source, str):
        source, target = map(language_of, config.source)
        return source, target
    return _columns(config) or (None, None)


def _file_options(config: DataConfig, source: Source, sources: Iterable[Source]) -> _FileOptions:
    """The options of files for one of the sources; those of tables are for the tables among them."""
    is_table = isinstance(source, str) or not any(isinstance(other, str) for other in sources)
    return {
        "encoding": config.encoding,
        "separator": config.separator if is_table else None,
        "names": config.columns if is_table else None,
    }


def _columns(config: DataConfig) -> tuple[str, str] | None:
    """The names of the two columns of a table without a header; None where ``pair`` or names choose them."""
    if config.pair is not None or config.columns is None or len(config.columns) != 2:
        return None
    source, target = config.columns
    return None if {source, target} == {"source", "target"} else (source, target)


def _read(dataset: datasets.Dataset, config: DataConfig, source: Source) -> Pairs:
    """The texts of both sides of a source."""
    if not isinstance(source, str):
        return data.text_pairs(dataset)
    if columns := _columns(config):
        return data.text_pairs(dataset, source=columns[0], target=columns[1])
    return data.text_pairs(dataset, config.pair)


def _source_column(dataset: datasets.Dataset, config: DataConfig) -> str:
    """The column of the source texts, by which pairs are held out."""
    columns = None if not isinstance(config.source, str) else _columns(config)
    if columns:
        return columns[0]
    return source_column(dataset, config.pair if isinstance(config.source, str) else None)


def _check_order(config: DataConfig, sources: Mapping[str, Source]) -> None:
    """Raises for two files in the other order than the languages of the pair, or of the training files."""
    wanted = languages(config)
    if None in wanted or wanted[0] == wanted[1]:
        return
    for name, files in sources.items():
        if isinstance(files, str) or (language_of(files[1]), language_of(files[0])) != wanted:
            continue
        option = f"--data.{'source' if name == 'train' else name}"
        raise ValueError(
            f"got {option} {_shown(files)} for texts of {wanted[0]} and their translations into {wanted[1]}; "
            f"wanted the source texts first. Give {option} {files[1]} {files[0]}, or another --data.pair"
        )


def _shown(source: Source) -> str:
    return source if isinstance(source, str) else " ".join(source)


def _drop_empty(dataset: datasets.Dataset, source: Source) -> datasets.Dataset:
    """The pairs of aligned files without those that have an empty side, which it counts."""
    if isinstance(source, str):
        return dataset
    sides = [[bool(text.strip()) for text in dataset[name]] for name in ("source", "target")]
    kept = [i for i, pair in enumerate(zip(*sides, strict=True)) if all(pair)]
    if len(kept) == len(dataset):
        return dataset
    counts = [f"{side.count(False):,} in {file}" for side, file in zip(sides, source, strict=True)]
    dropped = f"{len(dataset) - len(kept):,} of {len(dataset):,} pairs"
    if not kept:
        raise ValueError(
            f"got {_shown(source)} with an empty side in all of {len(dataset):,} pairs; wanted texts. "
            "Choose other files"
        )
    print(f"translation: dropped {dropped}, which have an empty line: {' and '.join(counts)}", flush=True)
    return dataset.select(kept, keep_in_memory=True)


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
