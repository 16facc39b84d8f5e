"""``ops.dropout`` satisfies the laws."""

from tests.laws.suites._assertions import assert_all_hold
from tfm_jax import laws, ops


def test_dropout():
    assert_all_hold(ops.dropout, laws.dropout)
