"""Cases: few shapes, the simplest first, different texts; and every law is in a suite."""

import importlib
import pkgutil

import numpy as np
import pytest
from hypothesis import find, settings
from hypothesis.errors import NoSuchExample

from tfm_jax import laws
from tfm_jax.laws import suites
from tfm_jax.laws.suites.cases import logits, positions, vectors
from tfm_jax.laws.suites.cross_entropy import cases as cross_entropy_cases
from tfm_jax.laws.suites.dropout import cases as dropout_cases
from tfm_jax.laws.suites.rotary import cases as rotary_cases


@pytest.mark.parametrize(
    "cases, smallest",
    [
        (vectors.cases(), "B = 1, T = 1, D = 2\nx = [["),
        (rotary_cases(), "B = 1, T = 1, N = 1, H = 2\nx = [["),
        (positions.cases(), "positions of queries [0], of keys [0]"),
        (cross_entropy_cases(), "B = 1, T = 1, V = 2\nlogits = [["),
        (logits.cases(lambda V: (1, V)), "B = 1, V = 2; called with 1\nlogits = [["),
        (logits.histories(), "B = 1, V = 2\nlogits = [["),
        (dropout_cases(), "x of shape [16, 16] = [["),
    ],
)
def test_cases_have_few_shapes_and_the_smallest_is_first(cases, smallest):
    shapes, texts = set(), set()

    def collect(x):
        shapes.add(tuple(np.shape(y) for y in vars(x).values() if isinstance(y, np.ndarray)))
        texts.add(str(x))
        return False

    without_database = settings(max_examples=100, database=None, derandomize=True)
    with pytest.raises(NoSuchExample):
        find(cases, collect, settings=without_database)
    assert 2 <= len(shapes) <= 4 and len(texts) >= 50
    assert str(find(cases, lambda x: True, settings=without_database)).startswith(smallest)


def test_every_law_is_in_a_suite():
    in_suites, found = {id(law) for suite in laws.SUITES.values() for law in suite}, set()
    for module in pkgutil.walk_packages(suites.__path__, f"{suites.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, laws.Law):
                found.add(id(value))
    assert len(found) > 150 and found <= in_suites


def test_law_names_are_unique_within_a_suite():
    for suite in laws.SUITES.values():
        names = [law.name for law in suite]
        assert len(set(names)) == len(names)
