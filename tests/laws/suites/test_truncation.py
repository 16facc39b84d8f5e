"""``ops.top_k``, ``ops.top_p`` and ``ops.min_p`` satisfy the laws."""

import jax
import pytest

from tests.laws.suites._assertions import assert_all_hold
from tfm_jax import laws, ops


def test_top_k():
    assert_all_hold(jax.jit(ops.top_k, static_argnums=1), laws.top_k)


@pytest.mark.parametrize("name", ["top_p", "min_p"])
def test_top_p_and_min_p(name):
    assert_all_hold(jax.jit(getattr(ops, name)), laws.SUITES[name])
