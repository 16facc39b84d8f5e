import numpy as np
import pytest

from tfm_jax.data._validate import check_range


def test_values_in_range_pass():
    check_range("f", "label", np.array([0, 4]), 5)
    check_range("f", "label", np.array([], np.int64), 5)


@pytest.mark.parametrize("bad", [-1, 5])
def test_the_first_value_out_of_range_is_named(bad):
    with pytest.raises(ValueError, match=f"^f: got label {bad} in row 1; wanted 0 <= label < 5"):
        check_range("f", "label", np.array([0, bad, 9]), 5)


def test_the_row_is_found_among_rows_of_different_lengths():
    values, starts = np.array([1, 2, 3, 9, 4]), np.array([0, 2, 2, 4])  # [1, 2], [], [3, 9], [4]
    with pytest.raises(ValueError, match="got token id 9 in row 2"):
        check_range("f", "token id", values, 5, starts)
    with pytest.raises(ValueError, match="got token id 3 in row 2"):
        check_range("f", "token id", values, 3, starts)


def test_rows_may_be_counted_from_another_number():
    with pytest.raises(ValueError, match="got label 5 in row 8"):
        check_range("f", "label", np.array([0, 5]), 5, first_row=7)
