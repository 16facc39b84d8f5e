"""``ops.alibi`` and a learned bias of relative position buckets satisfy the laws."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.suites._assertions import assert_all_hold
from tfm_jax import laws, ops


@pytest.mark.parametrize("N", [1, 4, 6])
def test_alibi(N):
    assert_all_hold(functools.partial(ops.alibi, N), laws.alibi)


def test_learned_bias_of_buckets():
    table = jnp.asarray(np.random.default_rng(0).standard_normal((3, 32)), jnp.float32)
    assert_all_hold(lambda q, k: table[:, ops.relative_buckets(q, k)], laws.position_bias)
