"""Numeric options: each refuses what it cannot be, in one line with its name, before anything is loaded."""

import typing

import pytest

from tfm_jax import pretrained, runs
from tfm_jax.cli.classify import Classify
from tfm_jax.cli.convert import Convert
from tfm_jax.cli.embed import Embed
from tfm_jax.cli.laws import Laws
from tfm_jax.cli.numbers import Number, real, whole_number
from tfm_jax.cli.text import Generate, Translate

COMMANDS = {"translate": Translate, "generate": Generate, "embed": Embed, "classify": Classify}
COMMANDS |= {"convert": Convert, "laws": Laws}


def numeric(command):
    """The options of a command whose type holds int or float, by the hint."""
    for name, hint in typing.get_type_hints(COMMANDS[command], include_extras=True).items():
        plain = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        if {int, float} & {plain, *typing.get_args(plain)}:
            yield name, hint


OPTIONS = [(command, name) for command in COMMANDS for name, _ in numeric(command)]
WRONG = ["nan", "inf", "-inf", "-1", str(-(10**30)), str(10**30), "1e300", "three", "", "None", "[1]", "0x1"]


def test_every_numeric_option_says_what_it_may_be():
    assert len(OPTIONS) == 22
    for command in COMMANDS:
        for name, hint in numeric(command):
            assert any(isinstance(x, Number) for x in hint.__metadata__), f"{command} --{name}"


@pytest.fixture
def nothing_loads(monkeypatch):
    for module, name in (
        (pretrained, "load_text_generator"),
        (pretrained, "load_text_classifier"),
        (pretrained, "load_sentence_encoder"),
        (runs, "load_run"),
    ):
        monkeypatch.setattr(module, name, lambda *args, **options: pytest.fail("it was loaded"))


@pytest.mark.parametrize(("command", "name"), OPTIONS)
def test_a_number_that_cannot_be_is_refused_by_the_name_of_its_option(command, name, tfm, nothing_loads):
    hint = dict(numeric(command))[name]
    (number,) = (x for x in hint.__metadata__ if isinstance(x, Number))
    option = f"--{name.replace('_', '-')}"
    words = ["somewhere.function"] if command == "laws" else ["--model", "somewhere", "text"]
    wrong = [text for text in (*WRONG, "0", "2.5") if not number.fits(number.instance_from_str([text]))]
    assert {*WRONG} - {*wrong} <= {"-1"}
    for text in ("nan", "1e300", wrong[-1]):
        status, out, err = tfm(command, *words, f"{option}={text}")
        assert (status, out, err) == (2, "", f"tfm: {option}: got {text}; wanted {number.words}.\n")


def test_the_ranges():
    count, share = whole_number(0, 9), real("a share", lambda x: 0 < x <= 1)
    assert [x for x in (-1, 0, 9, 10, True, 2.0, "3", None) if count.fits(x)] == [0, 9]
    assert [x for x in (0, 1, 0.5, 1.5, True, float("nan"), "1") if share.fits(x)] == [1, 0.5]
    assert count.instance_from_str(["7"]) == 7 and share.instance_from_str(["2"]) == "2"
