"""``ops.layer_norm`` satisfies the laws."""

import functools

import jax.numpy as jnp
import pytest

from tests.laws.suites._assertions import assert_all_hold
from tests.marks import slow
from tfm_jax import laws, ops


@pytest.mark.parametrize("eps", [1e-5, *slow(1e-12, 1e-3)])
def test_layer_norm(eps):
    assert_all_hold(functools.partial(ops.layer_norm, eps=eps), laws.layer_norm, eps=eps)


def test_with_unit_parameters():
    def norm(x):
        return ops.layer_norm(x, jnp.ones(x.shape[-1]), jnp.zeros(x.shape[-1]))

    assert_all_hold(norm, laws.layer_norm)
