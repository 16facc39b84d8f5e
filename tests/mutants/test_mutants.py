"""Every mutant dies: the laws find each of these bugs, and name it by the law that it breaks.

A wing of the museum is a module with ``RIGHT``, a right function, and ``MUTANTS``: by name a wrong one, the
laws that must break, and where such a bug was seen (``mutant.Mutant``). Its functions are tried under jit,
unless it says ``JIT = False``; what their suite is to know of them is in ``OPTIONS``. The summary of the run
says how many mutants were killed (``tests/conftest.py``).
"""

import importlib
import re

import jax
import pytest

from tests.marks import slow_rows
from tfm_jax import laws

WINGS = {
    name: (suite, importlib.import_module(f"tests.museum.{name}")) for name, suite in laws.SUITES.items()
}
# That a mutant dies is asked here, not by which small case.
pytestmark = pytest.mark.usefixtures("unshrunk")
ALL = [(wing, name) for wing, (_, module) in WINGS.items() for name in module.MUTANTS]


def one_a_law(wing):
    """The names of the first mutants that break, together, every law of their wing."""
    found = set()
    for name, (_, broken, *_) in WINGS[wing][1].MUTANTS.items():
        if not found.issuperset(broken):
            found.update(broken)
            yield name


QUICK = [(wing, name) for wing in WINGS for name in one_a_law(wing)]


def check(wing, function, suite, **options):
    module = WINGS[wing][1]
    function = jax.jit(function) if getattr(module, "JIT", True) else function
    return laws.check(function, suite, **options, **getattr(module, "OPTIONS", {}))


@pytest.mark.parametrize("wing, name", [*QUICK, *slow_rows(row for row in ALL if row not in QUICK)])
def test_the_mutant_breaks_its_laws(wing, name):
    suite, module = WINGS[wing]
    mutant, broken, *_ = module.MUTANTS[name]
    # It ends at the first case that breaks a law; some bugs show in few cases.
    report = check(wing, mutant, suite.only(*broken), examples=400)
    assert set(report.broken) == set(broken), f"{name} lives:\n{report}"


@pytest.mark.parametrize("wing", WINGS)
def test_what_the_mutants_were_made_of_is_right(wing):
    suite, module = WINGS[wing]
    # Few: that the laws hold of what is right is what tests/laws tries, at length.
    report = check(wing, module.RIGHT, suite, examples=2)
    assert report.ok, str(report)


def test_the_museum_is_large_and_its_bugs_were_seen():
    assert len(ALL) >= 150
    seen = [seen for _, module in WINGS.values() for _, _, *rest in module.MUTANTS.values() for seen in rest]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+|", thread) for thread in seen)
    assert len(set(filter(None, seen))) >= 25


@pytest.mark.parametrize("wing", WINGS)
def test_every_law_kills_a_mutant(wing):
    suite, module = WINGS[wing]
    assert {law for _, broken, *_ in module.MUTANTS.values() for law in broken} == {x.name for x in suite}
