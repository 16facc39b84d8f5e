"""The dropout of ``ops.attention`` satisfies the laws."""

import functools

import jax
import pytest
from hypothesis import settings

from tests.marks import slow
from tests.ops.backends.test_contract import RUNNABLE
from tfm_jax import laws, ops


@pytest.mark.parametrize("name", ["reference", *slow("chunked by 8")])
def test_backends(name):
    @functools.partial(jax.jit, static_argnums=4)
    def attend(q, k, v, mask, rate, key):
        return ops.attention(q, k, v, mask, dropout_rate=rate, key=key, implementation=RUNNABLE[name])

    report = laws.check(attend, laws.attention_dropout, examples=settings().max_examples)
    assert report.ok, report
