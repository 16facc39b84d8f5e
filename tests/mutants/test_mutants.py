"""Mutation tests of the laws: every mutant violates the laws that it lists.

Each suite has a module of its name with ``RIGHT``, a correct function, and ``MUTANTS``, wrong functions by
description. Functions are tested under jit unless the module has ``JIT = False``; ``OPTIONS`` are options of
the suite. The test summary prints the number of killed mutants (``tests/conftest.py``).
"""

import importlib
import re

import jax
import pytest

from tests.marks import slow_rows
from tfm_jax import laws

MODULES = {name: importlib.import_module(f"tests.mutants.{name}") for name in laws.SUITES}
# These tests need a counterexample, not the smallest one.
pytestmark = pytest.mark.usefixtures("unshrunk")
ALL = [(suite, mutant) for suite, module in MODULES.items() for mutant in module.MUTANTS]


def cover_of_laws(suite):
    """The names of mutants, the first ones first, that violate every law of the suite together."""
    covered = set()
    for name, mutant in MODULES[suite].MUTANTS.items():
        if not covered.issuperset(mutant.violates):
            covered.update(mutant.violates)
            yield name


QUICK = [(suite, mutant) for suite in MODULES for mutant in cover_of_laws(suite)]


def check(suite, function, *names, **options):
    module = MODULES[suite]
    function = jax.jit(function) if getattr(module, "JIT", True) else function
    tested = laws.SUITES[suite].only(*names) if names else laws.SUITES[suite]
    return laws.check(function, tested, **options, **getattr(module, "OPTIONS", {}))


@pytest.mark.parametrize("suite, name", [*QUICK, *slow_rows(row for row in ALL if row not in QUICK)])
def test_mutant_violates_its_laws(suite, name):
    mutant = MODULES[suite].MUTANTS[name]
    # A check stops at the first counterexample. Some bugs show in few cases.
    report = check(suite, mutant.function, *mutant.violates, examples=400)
    assert set(report.violated) == set(mutant.violates), f"{name} survives:\n{report}"


@pytest.mark.parametrize("suite", MODULES)
def test_original_is_correct(suite):
    # Few examples: tests/laws checks correct functions thoroughly.
    report = check(suite, MODULES[suite].RIGHT, examples=2)
    assert report.ok, str(report)


def test_there_are_many_mutants_with_known_threads():
    assert len(ALL) >= 150
    threads = [mutant.seen for module in MODULES.values() for mutant in module.MUTANTS.values()]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+|", thread) for thread in threads)
    assert len(set(filter(None, threads))) >= 25


@pytest.mark.parametrize("suite", MODULES)
def test_every_law_has_a_mutant(suite):
    violated = {law for mutant in MODULES[suite].MUTANTS.values() for law in mutant.violates}
    assert violated == {law.name for law in laws.SUITES[suite]}
