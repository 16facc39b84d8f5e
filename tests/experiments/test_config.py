"""Each number of an experiment's config is checked: its kind and its range."""

import dataclasses
import importlib
import math
import typing

import pytest

from tfm_jax.values import from_dict, to_dict

EXPERIMENTS = ("classification", "images", "language_model", "translation")


def config_of(name):
    return importlib.import_module(f"experiments.{name}.config").Config


def numeric_fields(kind, prefix=""):
    """Paths of the numeric fields, and whether each is an integer, without those of the model."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            if field.name != "model":
                yield from numeric_fields(hint, f"{prefix}{field.name}.")
        elif {int, float} & {hint, *typing.get_args(hint)}:
            yield f"{prefix}{field.name}", int in {hint, *typing.get_args(hint)}


FIELDS = [(name, *field) for name in EXPERIMENTS for field in numeric_fields(config_of(name))]


def with_value(kind, path, value):
    """The default config with another value of one field, read as from config.json."""
    saved = to_dict(kind())
    *sections, last = path.split(".")
    inner = saved
    for section in sections:
        inner = inner[section]
    inner[last] = [value, value] if last == "size" else value
    if path == "resume_step":
        saved["resume"] = True
    return from_dict(kind, saved)


def named(path):
    """How an error names a field: its option; of what two options share, the field of the dataclass."""
    if path.startswith(("augment", "views.changes")):
        return f"AugmentConfig: got {path.rpartition('.')[2]}="
    return f"--{path.replace('_', '-')}: got "


def test_numeric_fields_are_found():
    assert len(FIELDS) > 100 and ("language_model", "sample.top_p", False) in FIELDS


@pytest.mark.parametrize(("name", "path", "integer"), FIELDS)
def test_invalid_number_raises_by_name(name, path, integer):
    bad = [math.nan, math.inf, -math.inf, -1e30, "many", [], True]
    for value in [*bad, *([2.5, 10**30, -(10**30)] if integer else [])]:
        with pytest.raises(ValueError, match=f"{named(path)}.*; wanted .*|checkpoint-every") as error:
            with_value(config_of(name), path, value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("classification", "data.held_out", -1),
        ("classification", "data.held_out", 1.0),
        ("classification", "data.buckets", 10**6),
        ("translation", "data.buckets", 10**6),
        ("translation", "data.batch_tokens", 10**9),
        ("language_model", "data.vocab_size", 10**9),
        ("images", "data.classes", 10**9),
        ("translation", "search.beams", 0),
        ("translation", "average", 0),
        ("language_model", "sample.top_p", 0.0),
        ("language_model", "sample.top_p", 1.1),
        ("language_model", "sample.temperature", 0.0),
        ("language_model", "data.overlap", 256),
        ("images", "views.copies", -1),
        ("images", "views.changes.rotate", -1.0),
        ("images", "data.size", 0),
        ("images", "label_smoothing", 1.0),
    ],
)
def test_fields_used_after_training_are_checked(name, path, value):
    with pytest.raises(ValueError, match=named(path)):
        with_value(config_of(name), path, value)


@pytest.mark.parametrize(
    ("name", "path", "largest"),
    [
        ("classification", "data.buckets", 256),
        ("translation", "data.buckets", 256),
        ("classification", "data.vocab_size", 2**20),
        ("language_model", "data.vocab_size", 2**20),
        ("translation", "data.vocab_size", 2**20),
        ("images", "data.classes", 2**20),
        ("images", "data.size", 2**16),
        ("images", "views.copies", 1024),
        ("language_model", "data.length", 2**24),
        ("translation", "data.batch_tokens", 2**26),
        ("translation", "search.beams", 1024),
        ("translation", "search.length_penalty", 100),
        ("images", "train.batch_size", 2**20),
        ("images", "train.accumulate", 2**20),
        ("images", "train.steps", 2**31 - 1),
        ("images", "train.seed", 2**32 - 1),
    ],
)
def test_largest_number_passes_and_the_next_raises(name, path, largest):
    with_value(config_of(name), path, largest)
    with pytest.raises(ValueError, match=named(path)):
        with_value(config_of(name), path, largest + 1)
