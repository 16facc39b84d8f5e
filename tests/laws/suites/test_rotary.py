"""``ops.rotary`` satisfies the laws."""

import functools

import pytest

from tests.laws.suites._assertions import assert_all_hold
from tests.marks import slow
from tfm_jax import laws, ops


@pytest.mark.parametrize("theta", [10_000.0, *slow(500_000.0)])
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_rotary(pairing, theta):
    options = {"pairing": pairing, "theta": theta}
    assert_all_hold(functools.partial(ops.rotary, **options), laws.rotary, **options)
