"""Dataclass fields fit their annotations, or the error names the field."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax.fields import check_fields, option_name, range_of
from tfm_jax.ranges import RATE, SIZE, Rate, Size


@dataclasses.dataclass(frozen=True)
class Red:
    depth: Size = 1


@dataclasses.dataclass(frozen=True)
class Blue:
    depth: Size = 1


@dataclasses.dataclass(frozen=True)
class DarkBlue(Blue):
    pass


@dataclasses.dataclass(frozen=True)
class Paint:
    """One field of every supported annotation, and a class variable."""

    colour: Red | Blue | None = None
    coats: Size = 1
    mixed: Rate | None = None
    lid: bool = False
    brand: str = "x"
    finish: Literal["matt", "gloss"] | None = None
    spots: tuple[Size, ...] = ()
    area: Size | tuple[Size, Size] = 1
    path: Path | None = None
    mix: float | Callable[[int], int] = 0.0
    FREE: ClassVar[tuple[str, ...]] = ("lid",)

    def __post_init__(self):
        check_fields(self)


VALID = {
    "colour": st.sampled_from([None, Red(), Blue(2)]),
    "coats": st.integers(1, 99),
    "mixed": st.none() | st.floats(0, 0.9),
    "lid": st.booleans(),
    "brand": st.text(),
    "finish": st.sampled_from(["matt", "gloss", None]),
    "spots": st.lists(st.integers(1, 9)).map(tuple),
    "area": st.integers(1, 9) | st.tuples(st.integers(1, 9), st.integers(1, 9)),
    "path": st.sampled_from([None, Path("a")]),
    "mix": st.sampled_from([0.5, 2, abs]),
}
WRONG = {
    "colour": [Red, Blue, "red", "Blue()", DarkBlue(), 3, (), [Red()], Paint],
    "coats": [0, -1, 1.0, "1", True, None, 2**31, np.ones(1)],
    "mixed": [1.0, -0.1, float("nan"), "0", False, np.float32(2)],
    "lid": [0, 1, "no", None, np.True_],
    "brand": [3, None, b"x", ["x"]],
    "finish": ["Matt", "", 0, b"matt", np.ones(2)],
    "spots": [[1], (0,), (1, 2.5), 1, None],
    "area": [0, (1,), (1, 0), (1, 2, 3), [1, 2]],
    "path": ["a", 3],
    "mix": ["0", None, True, object()],
}


@given(st.fixed_dictionaries({}, optional=VALID))
def test_every_valid_value_is_accepted(fields):
    Paint(**fields)


@pytest.mark.parametrize(("name", "wrong"), [(name, x) for name, wrong in WRONG.items() for x in wrong])
def test_invalid_values_are_errors_that_name_the_field(name, wrong):
    with pytest.raises(ValueError) as error:
        Paint(**{name: wrong})
    assert str(error.value).startswith(f"Paint: got {name}={wrong!r}; wanted ")


def test_every_field_has_valid_and_invalid_values():
    assert {field.name for field in dataclasses.fields(Paint)} == VALID.keys() == WRONG.keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": Red}, "wanted an instance of Red or Blue, or None. Pass Red(...), an instance."),
        ({"colour": "blue"}, "wanted an instance of Red or Blue, or None. Pass Blue(...), an instance."),
        (
            {"colour": DarkBlue()},
            "wanted an instance of Red or Blue, or None. A subclass of Blue is not supported.",
        ),
        ({"finish": "Matt"}, "wanted 'matt', 'gloss' or None."),
        ({"mixed": 2}, "wanted a number in [0, 1), or None."),
        ({"brand": 3}, "wanted a string."),
    ],
)
def test_message_says_what_was_wanted(fields, message):
    with pytest.raises(ValueError) as error:
        Paint(**fields)
    assert str(error.value).endswith(message)


@pytest.mark.parametrize(
    ("hint", "wanted"),
    [
        (Size, SIZE),
        (Size | None, SIZE),
        (Annotated[Rate | None, "mark"], RATE),
        (Annotated[float | None, "mark", RATE], RATE),
        (Annotated[int, "mark"], None),
        (tuple[Size, ...], None),
        (str | None, None),
    ],
)
def test_range_of_an_annotation(hint, wanted):
    assert range_of(hint) is wanted


def test_long_values_are_truncated_in_the_message():
    with pytest.raises(ValueError) as error:
        Paint(lid="x" * 1000)
    assert len(str(error.value)) < 150


@pytest.mark.parametrize(
    ("field", "option"),
    [("steps", "--steps"), ("train.batch_size", "--train.batch-size"), ("a_b.c_d", "--a-b.c-d")],
)
def test_the_option_of_a_field(field, option):
    assert option_name(field) == option
