"""``assert_close``: shapes, infinities, and one number for all elements."""

import pytest

from tfm_jax import laws


def test_other_shapes_differ():
    with pytest.raises(laws.Violation, match=r"output: got shape \[2, 1\]; wanted \[3\]"):
        laws.assert_close([[1.0], [1.0]], [1.0, 1.0, 1.0])
    assert laws.assert_close([[1.0], [1.0]], 1.0) is None


def test_infinite_numbers_are_equal_without_a_warning():
    inf = float("inf")
    assert laws.assert_close([-inf, inf], [-inf, inf]) is None
    with pytest.raises(laws.Violation, match=r"at \[1\] 0, not -inf"):
        laws.assert_close([-inf, 0.0], [-inf, -inf])
