"""``ops.no_repeat_ngram`` satisfies the laws."""

import jax

from tests.laws.suites._assertions import assert_all_hold
from tfm_jax import laws, ops


def test_no_repeat_ngram():
    assert_all_hold(jax.jit(ops.no_repeat_ngram, static_argnums=3), laws.no_repeat_ngram)
