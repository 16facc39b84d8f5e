import numpy as np
import pytest

from tfm_jax.data._validate import check_range


def test_values_in_range_pass():
    check_range(np.array([0, 4]), 5, "label")
    check_range(np.array([], np.int64), 5, "label")


@pytest.mark.parametrize("bad", [-1, 5])
def test_the_first_value_out_of_range_is_named(bad):
    with pytest.raises(ValueError, match=f"row 1: label {bad} is out of range: wanted 0 <= label < 5"):
        check_range(np.array([0, bad, 9]), 5, "label")


def test_the_row_is_found_among_rows_of_different_lengths():
    values, starts = np.array([1, 2, 3, 9, 4]), np.array([0, 2, 2, 4])  # [1, 2], [], [3, 9], [4]
    with pytest.raises(ValueError, match="row 2: token id 9"):
        check_range(values, 5, "token id", starts)
    with pytest.raises(ValueError, match="row 2: token id 3"):
        check_range(values, 3, "token id", starts)


def test_the_rows_may_be_numbered_from_another_number():
    with pytest.raises(ValueError, match="row 8: label 5"):
        check_range(np.array([0, 5]), 5, "label", first_row=7)
