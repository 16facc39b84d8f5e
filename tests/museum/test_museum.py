"""Every mutant dies: the laws find each of these bugs, and name it by the law that it breaks."""

import jax
import pytest

from tests.museum.attention import MUTANTS, attend
from tfm_jax import laws


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_breaks_its_laws(name):
    mutant, broken = MUTANTS[name]
    report = laws.check(jax.jit(mutant), laws.attention.only(*broken))
    assert set(report.broken) == set(broken), f"{name} lives:\n{report}"


@laws.holds(laws.attention, examples=25)
def test_what_the_mutants_were_made_of_is_right():
    return jax.jit(attend)


def test_the_museum_is_large():
    assert len(MUTANTS) >= 25


def test_every_law_kills_a_mutant():
    assert {law for _, broken in MUTANTS.values() for law in broken} == {x.name for x in laws.attention}
