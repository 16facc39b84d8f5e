"""``ops.sinusoidal`` satisfies the laws."""

import pytest

from tests.laws.suites._assertions import assert_all_hold
from tfm_jax import laws, ops


@pytest.mark.parametrize("dim", [2, 6])
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_sinusoidal(pairing, dim):
    options = {"theta": 50.0 * dim, "pairing": pairing}
    assert_all_hold(lambda positions: ops.sinusoidal(positions, dim, **options), laws.sinusoidal, **options)
