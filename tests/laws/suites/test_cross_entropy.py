"""``ops.cross_entropy`` and ``ops.linear_cross_entropy`` satisfy the laws."""

import jax
import jax.numpy as jnp
import pytest

from tests.laws.suites._assertions import assert_all_hold
from tests.marks import slow
from tfm_jax import laws, ops


@pytest.mark.parametrize("ignore_index", [None, *slow(-100)])
def test_cross_entropy(ignore_index):
    def loss(logits, labels, weights, smoothing):
        return ops.cross_entropy(
            logits, labels, weights=weights, label_smoothing=smoothing, ignore_index=ignore_index
        )

    assert_all_hold(loss, laws.cross_entropy, ignore_index=ignore_index)


def test_linear_cross_entropy_with_identity_kernel():
    def loss(logits, labels, weights, smoothing):
        kernel = jnp.eye(logits.shape[-1], dtype=logits.dtype)
        return ops.linear_cross_entropy(
            logits, kernel, labels, weights=weights, label_smoothing=smoothing, ignore_index=-1, chunk_size=2
        )

    # Under jit, because an eager call would compile its scan each time.
    assert_all_hold(jax.jit(loss, static_argnums=3), laws.cross_entropy, ignore_index=-1)
