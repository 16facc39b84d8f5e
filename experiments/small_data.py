"""Defaults that fit small data: sizes of model, vocabulary and batches, and the warm-up, by their amount."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from experiments.config import RunConfig, SmallData
from tfm_jax import data
from tfm_jax.data.builtin import SOURCES
from tfm_jax.data.columns import iter_column
from tfm_jax.data.sources import is_local
from tfm_jax.fields import option_name

__all__ = ["fit_to_data"]

C = TypeVar("C", bound=RunConfig)
_COUPLED = (
    ("model.d_model", "model.n_heads", "model.n_kv_heads", "model.head_dim", "model.d_ff"),
    ("model.n_layers", "train.optimizer.frozen_layers"),
    ("train.evaluate_every", "train.checkpoint_every"),
    ("train.steps", "profile"),
    ("train.batch_size", "train.accumulate", "mesh."),
    ("data.length", "data.overlap"),
)
"""Fields that have to fit each other: an option of one keeps the defaults of all."""
_OF_WEIGHTS = ("model.", "data.vocab_size")
"""Fields that ``--init-from`` decides."""
_WARMUP = "train.optimizer.warmup"


def fit_to_data(config: C, options: Collection[str]) -> tuple[C, str | None]:
    """The config with the values for its data, of the fields that no option sets.

    The amount of training data alone decides: built-in and large data keep the defaults, as do data that
    cannot be read, of which the run reports the error.

    Args:
      config: as parsed.
      options: the names of the options that were given, such as "--model.d-model".

    Returns:
      The config, and a line for the user; None where nothing changes.
    """
    small, settings = config.SMALL_DATA, getattr(config, "data", None)
    if small is None or settings is None or settings.source in SOURCES:
        return config, None
    n = _count(settings, small)
    limits = [limit for limit in small.values if n is not None and n < limit]
    if n is None or not limits:
        return config, None
    changes = {name: x for name, x in small.values[min(limits)].items() if _is_free(name, options, config)}
    steps = changes.get("train.steps", config.train.steps)
    assert isinstance(steps, int)
    if _WARMUP in changes:
        changes[_WARMUP] = min(int(str(changes[_WARMUP])), max(1, steps // 10))
    if not changes:
        return config, None
    chosen = " ".join(f"{option_name(name)} {value}" for name, value in changes.items())
    line = f"defaults for {n:,} {small.unit}: {chosen} (give one of these options to set it)"
    return _replaced(config, changes), line


def _count(settings: Any, small: SmallData) -> int | None:
    """The number of training rows or characters, or one above the limits; None where it cannot be read."""
    most = max(small.values)
    files = {
        "splits": settings.splits,
        "separator": settings.separator,
        "encoding": settings.encoding,
        "names": getattr(settings, "columns", None),
    }
    try:
        rows = data.load(settings.source, streaming=is_local(settings.source), **files)
        if rows.column_names == ["text"] and getattr(settings, "task", None) == "tokens":
            return _sum_up(
                (str(row).count("\n\n") + 1 for row in iter_column(rows, "text")), most
            )  # sentences of CoNLL
        if small.column is None:
            if names := rows.column_names:
                rows = rows.select_columns([names[-1]])  # of images the label: none is decoded
            return sum(1 for _ in islice(rows, most))
        return _sum_up(map(len, (row[getattr(settings, small.column)] for row in rows)), most)
    except (ImportError, KeyError, OSError, TypeError, ValueError):
        return None


def _sum_up(numbers: Iterator[int], most: int) -> int:
    total = 0
    for number in numbers:
        total += number
        if total >= most:
            break
    return total


def _is_free(name: str, options: Collection[str], config: RunConfig) -> bool:
    """Whether neither an option nor the initial weights decide a field."""
    if config.init_from is not None and name.startswith(_OF_WEIGHTS):
        return False
    coupled = next((group for group in _COUPLED if name in group), (name,))
    return not any(option.startswith(option_name(other)) for other in coupled for option in options)


def _replaced(config: Any, changes: Mapping[str, object]) -> Any:
    """A dataclass with other values of fields, by dotted name; all of one dataclass at once."""
    inner: dict[str, dict[str, object]] = {}
    fields: dict[str, object] = {}
    for name, value in changes.items():
        first, dot, rest = name.partition(".")
        if dot:
            inner.setdefault(first, {})[rest] = value
        else:
            fields[first] = value
    fields |= {name: _replaced(getattr(config, name), values) for name, values in inner.items()}
    return dataclasses.replace(config, **fields)
