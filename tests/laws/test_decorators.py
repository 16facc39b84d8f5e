"""``laws.parametrize``: one pytest test per law, with its name and its counterexample."""

import inspect
import sys

import jax
import pytest
from hypothesis import settings

from tests.mutants.attention import RIGHT
from tfm_jax import laws

EXAMPLES = settings().max_examples
NAMES = ("definition", "fully_masked_rows", "causality")


def returns(function):
    def make():  # pytest marks no lambda
        return function

    return make


@pytest.fixture(scope="module")
def function():
    return jax.jit(RIGHT)


@laws.parametrize(laws.attention.only(*NAMES), examples=EXAMPLES)
def test_attention(function):
    return function


def test_each_law_is_a_test_with_its_name():
    (mark,) = test_attention.pytestmark
    assert mark.args == ("law", list(NAMES))
    assert list(inspect.signature(test_attention).parameters) == ["function", "law"]
    assert test_attention.__name__ == "test_attention"


def test_a_violated_law_raises_its_counterexample_alone():
    @laws.parametrize(laws.attention.only(*NAMES), examples=EXAMPLES)
    def test():
        return lambda q, k, v, mask: RIGHT(q, k, v, None)

    with pytest.raises(
        laws.LawViolated, match=r"violated +fully_masked_rows(.|\n)*output of query 0: got"
    ) as info:
        test(law="fully_masked_rows")
    assert "causality" not in str(info.value)


def test_a_law_that_is_not_supported_fails_unless_it_is_allowed():
    def no_masks(q, k, v, mask):
        raise ValueError("no masks")

    for allowed, expected in (((), laws.LawViolated), (("definition",), pytest.skip.Exception)):
        make = laws.parametrize(laws.attention, allow_unsupported=allowed)(returns(no_masks))
        with pytest.raises(expected, match="no masks"):
            make(law="definition")


def test_a_law_that_says_nothing_under_the_options_is_skipped():
    make = laws.parametrize(laws.attention, kv_heads="equal")(returns(RIGHT))
    with pytest.raises(pytest.skip.Exception, match="grouped_query_heads says nothing"):
        make(law="grouped_query_heads")


def test_tests_of_one_function_share_its_subject():
    made = []

    def subject(function):
        made.append(function)
        return laws.Subject(function)

    suite = laws.Suite("identity", "f(x) -> x", subject, laws.activation.laws)
    functions = [lambda x: x, lambda x: x]

    @laws.parametrize(suite, examples=1)
    def make(at):
        return functions[at]

    for at in (0, 0, 1):
        make(at, law="elements_are_independent")
    assert made == functions


def test_without_pytest_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(ImportError, match=r"laws\.parametrize: got no pytest; wanted it installed"):
        laws.parametrize(laws.attention)
