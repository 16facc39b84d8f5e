"""``ops.temperature`` satisfies the laws."""

import jax

from tests.laws.suites._assertions import assert_all_hold
from tfm_jax import laws, ops


def test_temperature():
    assert_all_hold(jax.jit(ops.temperature), laws.temperature)
