"""Every mutant dies: the laws find each of these bugs, and name it by the law that it breaks.

A wing of the museum is a module with ``RIGHT``, a right function, and ``MUTANTS``: by name a wrong one, and
the laws that must break; with ``OPTIONS`` of the suite where it needs some. The summary of the run says how
many mutants were killed (``tests/conftest.py``).
"""

import jax
import pytest

from tests.museum import (
    alibi,
    attention,
    cross_entropy,
    dropout,
    feed_forward,
    layer_norm,
    position_bias,
    relative_buckets,
    rms_norm,
    rotary,
    sinusoidal,
)
from tfm_jax import laws

WINGS = {
    "attention": (laws.attention, attention),
    "layer_norm": (laws.layer_norm, layer_norm),
    "rms_norm": (laws.rms_norm, rms_norm),
    "sinusoidal": (laws.sinusoidal, sinusoidal),
    "rotary": (laws.rotary, rotary),
    "position_bias": (laws.position_bias, position_bias),
    "alibi": (laws.alibi, alibi),
    "relative_buckets": (laws.relative_buckets, relative_buckets),
    "feed_forward": (laws.feed_forward, feed_forward),
    "dropout": (laws.dropout, dropout),
    "cross_entropy": (laws.cross_entropy, cross_entropy),
}
ALL = [(wing, name) for wing, (_, module) in WINGS.items() for name in module.MUTANTS]


def options(module):
    return getattr(module, "OPTIONS", {})


@pytest.mark.parametrize("wing, name", ALL)
def test_the_mutant_breaks_its_laws(wing, name):
    suite, module = WINGS[wing]
    mutant, broken = module.MUTANTS[name]
    report = laws.check(jax.jit(mutant), suite.only(*broken), **options(module))
    assert set(report.broken) == set(broken), f"{name} lives:\n{report}"


@pytest.mark.parametrize("wing", WINGS)
def test_what_the_mutants_were_made_of_is_right(wing):
    suite, module = WINGS[wing]
    report = laws.check(jax.jit(module.RIGHT), suite, examples=25, **options(module))
    assert report.ok, report


def test_the_museum_is_large():
    assert len(ALL) >= 25


@pytest.mark.parametrize("wing", WINGS)
def test_every_law_kills_a_mutant(wing):
    suite, module = WINGS[wing]
    assert {law for _, broken in module.MUTANTS.values() for law in broken} == {x.name for x in suite}
