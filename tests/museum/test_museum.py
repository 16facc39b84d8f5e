"""Every mutant dies: the laws find each of these bugs, and name it by the law that it breaks.

A wing of the museum is a module with ``RIGHT``, a right function, and ``MUTANTS``: by name a wrong one, the
laws that must break, and where such a bug was seen (``mutant.Mutant``). The summary of the run says how many
mutants were killed (``tests/conftest.py``).
"""

import re

import jax
import pytest

from tests.museum import attention, attention_dropout, masked_attention
from tfm_jax import laws

WINGS = {
    "attention": (laws.attention, attention),
    "masked_attention": (laws.masked_attention, masked_attention),
    "attention_dropout": (laws.attention_dropout, attention_dropout),
}
ALL = [(wing, name) for wing, (_, module) in WINGS.items() for name in module.MUTANTS]


@pytest.mark.parametrize("wing, name", ALL)
def test_the_mutant_breaks_its_laws(wing, name):
    suite, module = WINGS[wing]
    mutant, broken, *_ = module.MUTANTS[name]
    report = laws.check(jax.jit(mutant), suite.only(*broken))
    assert set(report.broken) == set(broken), f"{name} lives:\n{report}"


@pytest.mark.parametrize("wing", WINGS)
def test_what_the_mutants_were_made_of_is_right(wing):
    suite, module = WINGS[wing]
    report = laws.check(jax.jit(module.RIGHT), suite, examples=25)
    assert report.ok, report


def test_the_museum_is_large_and_its_bugs_were_seen():
    assert len(ALL) >= 25
    seen = [seen for _, module in WINGS.values() for _, _, *rest in module.MUTANTS.values() for seen in rest]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+|", thread) for thread in seen)
    assert len(set(filter(None, seen))) >= 25


@pytest.mark.parametrize("wing", WINGS)
def test_every_law_kills_a_mutant(wing):
    suite, module = WINGS[wing]
    assert {law for _, broken, *_ in module.MUTANTS.values() for law in broken} == {x.name for x in suite}
