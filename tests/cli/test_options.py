"""Numeric options: a number out of range is a one-line error that names the option; nothing is loaded."""

import typing

import pytest

from tfm_jax import pretrained, runs
from tfm_jax.cli._options import read_numbers
from tfm_jax.cli.classify import Classify
from tfm_jax.cli.convert import Convert
from tfm_jax.cli.embed import Embed
from tfm_jax.cli.generate import Generate
from tfm_jax.cli.laws import Laws
from tfm_jax.cli.translate import Translate
from tfm_jax.fields import range_of

COMMANDS = {"translate": Translate, "generate": Generate, "embed": Embed, "classify": Classify}
COMMANDS |= {"convert": Convert, "laws": Laws}


def numeric(command):
    """The numeric options of a command, with their annotations."""
    declared = typing.get_type_hints(COMMANDS[command], include_extras=True)
    for name, hint in typing.get_type_hints(COMMANDS[command]).items():
        if {int, float} & {hint, *typing.get_args(hint)}:
            yield name, declared[name]


OPTIONS = [(command, name) for command in COMMANDS for name, _ in numeric(command)]
WRONG = ["nan", "inf", "-inf", "-1", str(-(10**30)), str(10**30), "1e300", "three", "", "None", "[1]", "0x1"]


def test_every_numeric_option_declares_its_range():
    assert len(OPTIONS) == 27
    for command in COMMANDS:
        for name, hint in numeric(command):
            assert range_of(hint) is not None, f"{command} --{name}"


@pytest.fixture
def nothing_loads(monkeypatch):
    for module, name in (
        (pretrained, "load_text_generator"),
        (runs, "load_run"),
        (runs, "load_text_generator"),
        (runs, "load_text_classifier"),
        (runs, "load_image_classifier"),
        (runs, "load_sentence_encoder"),
    ):
        monkeypatch.setattr(module, name, lambda *args, **options: pytest.fail("it was loaded"))


@pytest.mark.parametrize(("command", "name"), OPTIONS)
def test_numbers_out_of_range_are_errors(command, name, tfm, nothing_loads):
    wanted = range_of(dict(numeric(command))[name])
    option = f"--{name.replace('_', '-')}"
    words = {"laws": ["somewhere.function"], "convert": ["somewhere", "text"]}.get(
        command, ["--model", "somewhere", "text"]
    )
    texts = (*WRONG, "0", "2.5", str(2**32)) if wanted.integral else (*WRONG, "0", str(2**32))
    wrong = [text for text in texts if not fits(text, wanted)]
    assert {*WRONG} - {*wrong} <= {"-1"}
    for text in ("nan", "1e300", wrong[-1]):
        status, out, err = tfm(command, *words, f"{option}={text}")
        assert (status, out, err) == (2, "", f"tfm: {option}: got {text}; wanted {wanted.wanted}.\n")


def fits(text, wanted):
    try:
        return (int if wanted.integral else float)(text) in wanted
    except ValueError:
        return False


def test_strings_become_numbers_and_defaults_stay():
    read = read_numbers(Generate(tokens="7", temperature="0", top_p="1", stop=("3",)))
    assert read == Generate(tokens=7, temperature=0.0, top_p=1.0, stop=("3",))
    assert [type(x) for x in (read.tokens, read.top_p, read.top_k)] == [int, float, type(None)]


@pytest.mark.parametrize(
    ("option", "largest", "above"),
    [
        ("batch_size", "2147483647", "2147483648"),
        ("seed", "4294967295", "4294967296"),
        ("temperature", "1e6", "1000001"),
        ("top_p", "1", "1.000001"),
        ("min_p", "1", "1.000001"),
        ("repetition_penalty", "1e6", "1000001"),
    ],
)
def test_the_largest_number_passes_and_a_larger_one_does_not(option, largest, above):
    read_numbers(Generate(**{option: largest}))
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')}: got {above}; wanted "):
        read_numbers(Generate(**{option: above}))
