"""``ops.feed_forward`` and ``ops.gated_feed_forward`` satisfy the laws."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.suites._assertions import assert_all_hold
from tfm_jax import laws, ops


@pytest.mark.parametrize("gated", [False, True])
def test_feed_forward(gated):
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape) / 3 for shape in ((5, 7), (5, 7), (7, 5))]

    def layer(x):
        w_gate, w_in, w_out = (jnp.asarray(w, x.dtype) for w in weights)
        return ops.gated_feed_forward(x, w_gate, w_in, w_out) if gated else ops.feed_forward(x, w_in, w_out)

    assert_all_hold(layer, laws.feed_forward, dim=5)
