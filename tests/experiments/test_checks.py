import dataclasses
import importlib
import math
import typing
from pathlib import Path
from typing import Literal

import pytest

from experiments.checks import Range, above, at_least, between, check, check_all, share
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
        with pytest.raises(ValueError, match=rf"{field}: got .*; wanted .*|checkpoint_every") as error:
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
    with pytest.raises(ValueError, match=rf"{path.rpartition('.')[2]}: got "):
        with_value(config_of(name), path, value)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_numbers_in_the_values_of_a_model_are_finite(name):
    kind = config_of(name)
    model = dataclasses.replace(kind().model, logits_scale=1.0)
    object.__setattr__(model, "logits_scale", math.nan)  # whatever the model itself lets through
    with pytest.raises(ValueError, match=r"model.logits_scale: got nan; wanted a finite number"):
        kind(model=model)


def test_the_defaults_are_right():
    for name in EXPERIMENTS:
        check_all(config_of(name)())


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Outer:
    n: int = 1
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, float] | None = None
    many: tuple[int, ...] = ()
    name: str = "x"
    path: Path | None = None
    flag: bool = False
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 0}, "n: got 0; wanted at least 1 and at most 2147483647"),
        ({"n": True}, "n: got True; wanted a whole number, at least 1"),
        ({"n": 2**31}, "n: got 2147483648; wanted at least 1"),
        ({"kind": "c"}, "kind: got 'c'; wanted one of 'a', 'b'"),
        ({"kind": []}, r"kind: got \[\]; wanted one of"),
        ({"pair": (1,)}, r"pair: got \(1,\); wanted 2 values of their kind or None"),
        ({"pair": 3}, r"pair: got 3; wanted 2 values"),
        ({"many": (1, 2.5)}, r"many: got \(1, 2.5\); wanted any number of values of their kind"),
        ({"name": 3}, "name: got 3; wanted text"),
        ({"path": 3}, "path: got 3; wanted a path or None"),
        ({"flag": 1}, "flag: got 1; wanted True or False"),
    ],
)
def test_each_kind_is_checked(changes, said):
    with pytest.raises(ValueError, match=said):
        check(Outer(**changes), n=at_least(1))


def test_names_have_their_path_and_right_values_pass():
    with pytest.raises(ValueError, match=r"inner\.rate: got inf; wanted a finite number"):
        check_all(Outer(inner=Inner(math.inf)))
    check(Outer(n=2**31 - 1, pair=(1, 2), many=(3, 4), path=Path("a")), n=at_least(1))
    check_all(Outer(n=2**32 - 1))


def test_ranges_say_what_they_hold():
    cases = {
        at_least(1): ("at least 1", {0: False, 1: True}),
        above(0): ("above 0", {0: False, 1e-9: True}),
        between(1, 3): ("at least 1 and at most 3", {0: False, 1: True, 3: True, 4: False}),
        share(): ("at least 0 and below 1", {-1e-9: False, 0: True, 1: False}),
        Range(): ("", {1e300: True}),
    }
    for found, (words, values) in cases.items():
        assert str(found) == words and {value: value in found for value in values} == values
