"""The page of the laws names laws and functions that there are, and every law of attention."""

import functools
import re
from pathlib import Path

import pytest

import tfm_jax
from tfm_jax import laws

PAGE = Path(__file__).parents[2] / "docs" / "laws.md"


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text()


def sentences(page):
    lines = page.split("## The sentences of the explanation")[1].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return [[cells[0], *(re.findall(r"`([^`]+)`", cell) for cell in cells[1:])] for cells in rows[2:]]


def test_every_law_that_a_sentence_names_is_there(page):
    rows = sentences(page)
    assert len(rows) >= 16 and sum(bool(names) for _, names, _ in rows) >= 10
    for _, names, _ in rows:
        for name in names:
            suite, law = name.split(".")
            assert laws.SUITES[suite][law].name == law


def test_every_function_that_a_sentence_names_is_there(page):
    for _, _, functions in sentences(page):
        assert functions
        for name in functions:
            assert callable(functools.reduce(getattr, name.split("."), tfm_jax))


@pytest.mark.parametrize("name", ["attention", "masked_attention", "attention_dropout"])
def test_every_law_is_on_the_page(page, name):
    for law in laws.SUITES[name]:
        assert f"| `{law.name}` | {law.sentence}" in page, f"run python -m benchmarks.laws: {law.name}"
