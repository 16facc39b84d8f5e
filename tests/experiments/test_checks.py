"""Every number of an experiment's settings is refused by its name where it is none, or out of range."""

import dataclasses
import importlib
import math
import typing

import pytest

from tfm_jax.values import from_dict, to_dict

EXPERIMENTS = ("classification", "digits", "language_model", "translation")


def config_of(name):
    return importlib.import_module(f"experiments.{name}.config").Config


def numeric_fields(kind, prefix=""):
    """Paths of the fields that take numbers, and whether whole ones; those of the model are its own."""
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
    """The defaults with another value of one field, as a config.json may have it."""
    saved = to_dict(kind())
    *sections, last = path.split(".")
    inner = saved
    for section in sections:
        inner = inner[section]
    inner[last] = [value, value] if last == "size" else value
    if path == "resume_step":
        saved["resume"] = True
    return from_dict(kind, saved)


def test_there_are_numbers_to_check():
    assert len(FIELDS) > 100 and ("language_model", "sample.top_p", False) in FIELDS


@pytest.mark.parametrize(("name", "path", "whole"), FIELDS)
def test_a_number_that_is_none_or_too_large_is_refused_by_name(name, path, whole):
    field = path.rpartition(".")[2]
    bad = [math.nan, math.inf, -math.inf, -1e30, "many", [], True]
    for value in [*bad, *([2.5, 10**30, -(10**30)] if whole else [])]:
        with pytest.raises(ValueError, match=rf"\w+: got {field}=.*; wanted .*|checkpoint_every") as error:
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
        ("digits", "data.classes", 10**9),
        ("translation", "search.beams", 0),
        ("translation", "average", 0),
        ("language_model", "sample.top_p", 0.0),
        ("language_model", "sample.top_p", 1.1),
        ("language_model", "sample.temperature", 0.0),
        ("language_model", "data.overlap", 256),
        ("digits", "views.copies", -1),
        ("digits", "views.changes.rotate", -1.0),
        ("digits", "data.size", 0),
        ("digits", "label_smoothing", 1.0),
    ],
)
def test_what_is_used_after_training_alone_is_checked_too(name, path, value):
    with pytest.raises(ValueError, match=rf"\w+: got {path.rpartition('.')[2]}="):
        with_value(config_of(name), path, value)


@pytest.mark.parametrize(
    ("name", "path", "most"),
    [
        ("classification", "data.buckets", 256),
        ("translation", "data.buckets", 256),
        ("classification", "data.vocab_size", 2**20),
        ("language_model", "data.vocab_size", 2**20),
        ("translation", "data.vocab_size", 2**20),
        ("digits", "data.classes", 2**20),
        ("digits", "data.size", 2**16),
        ("digits", "views.copies", 1024),
        ("language_model", "data.length", 2**24),
        ("translation", "data.batch_tokens", 2**26),
        ("translation", "search.beams", 1024),
        ("translation", "search.length_penalty", 100),
        ("digits", "train.batch_size", 2**20),
        ("digits", "train.accumulate", 2**20),
        ("digits", "train.steps", 2**31 - 1),
        ("digits", "train.seed", 2**32 - 1),
    ],
)
def test_the_largest_number_passes_and_the_next_is_refused(name, path, most):
    with_value(config_of(name), path, most)
    with pytest.raises(ValueError, match=rf"\w+: got {path.rpartition('.')[2]}="):
        with_value(config_of(name), path, most + 1)
