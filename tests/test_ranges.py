"""Numbers out of range are errors that name the argument; traced numbers pass."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import ranges
from tfm_jax.ranges import Range, check_each, check_number, check_static, integer_range, real_range

INSIDE = {
    "SIZE": st.integers(1, 2**31 - 1),
    "COUNT": st.integers(0, 2**31 - 1),
    "BUCKETS": st.integers(1, 1024),
    "SEED": st.integers(0, 2**32 - 1),
    "POSITIVE": st.floats(0, exclude_min=True, allow_infinity=False) | st.integers(1, 10**300),
    "NOT_NEGATIVE": st.floats(0, allow_infinity=False),
    "FINITE": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**300), 10**300),
    "RATE": st.floats(0, 1, exclude_max=True),
    "SHARE": st.floats(0, 1, exclude_min=True),
    "UNIT": st.floats(0, 1) | st.integers(0, 1),
}
OUTSIDE = {
    "SIZE": st.integers(max_value=0) | st.integers(2**31) | st.floats(),
    "COUNT": st.integers(max_value=-1) | st.integers(2**31) | st.floats(),
    "BUCKETS": st.integers(max_value=0) | st.integers(1025),
    "SEED": st.integers(max_value=-1) | st.integers(2**32) | st.floats(),
    "POSITIVE": st.floats(max_value=0) | st.integers(max_value=0) | st.just(10**309),
    "NOT_NEGATIVE": st.floats(max_value=0, exclude_max=True),
    "FINITE": st.integers(10**309) | st.integers(max_value=-(10**309)),  # no float holds them
    "RATE": st.floats(max_value=0, exclude_max=True) | st.floats(1),
    "SHARE": st.floats(max_value=0) | st.floats(1, exclude_min=True),
    "UNIT": st.floats(max_value=0, exclude_max=True) | st.floats(1, exclude_min=True),
}
NEVER = st.sampled_from([math.nan, math.inf, -math.inf, True, False, None, "1", "", [1], (), 1j, object()])


def test_every_range_has_cases():
    names = {name for name, value in vars(ranges).items() if isinstance(value, Range)}
    assert names == INSIDE.keys() == OUTSIDE.keys()


@pytest.mark.parametrize("name", INSIDE)
@given(st.data())
def test_numbers_in_range_pass_and_others_are_errors(name, data):
    allowed = getattr(ranges, name)
    check_number("f", "x", data.draw(INSIDE[name]), allowed)
    wrong = data.draw(OUTSIDE[name] | NEVER)
    with pytest.raises(ValueError) as error:
        check_number("f", "x", wrong, allowed)
    assert str(error.value) == f"f: got x={wrong!r}; wanted {allowed.wanted}."


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, lambda x: jnp.asarray(x, jnp.bfloat16)])
def test_every_element_of_an_array_is_checked(make):
    check_each("f", "x", make([0.5, 1.0]), ranges.SHARE)
    for wrong in ([0.5, 0.0], [0.5, math.nan], [True, True]):
        with pytest.raises(ValueError, match=r"f: got x=\["):
            check_each("f", "x", make(wrong) if wrong[0] is not True else np.array(wrong), ranges.SHARE)


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_arrays_are_not_numbers_except_0d_arrays_for_real_ranges(make):
    check_number("f", "x", make(0.5), ranges.SHARE)
    for value, allowed in (
        (make([0.5, 1.0]), ranges.SHARE),
        (make(3), ranges.SIZE),
        (make([3]), ranges.SIZE),
    ):
        with pytest.raises(ValueError, match=r"f: got x=[aA]rray\(.*; wanted an? .*, not an array"):
            check_number("f", "x", value, allowed)


def test_numpy_scalars_are_numbers():
    check_number("f", "x", np.int64(3), ranges.SIZE)
    check_number("f", "x", np.float32(0.5), ranges.RATE)
    with pytest.raises(ValueError, match="got x=True"):
        check_number("f", "x", np.bool_(True), ranges.UNIT)


def test_traced_numbers_pass():
    def f(x):
        check_number("f", "x", x, ranges.POSITIVE)
        return x

    assert jax.jit(f)(-1.0) == -1.0
    assert jax.eval_shape(f, -1.0).shape == ()


@given(st.integers(), st.integers(), st.integers())
def test_ranges_include_their_bounds(minimum, maximum, value):
    inside = minimum <= value <= maximum
    assert (value in integer_range(minimum, maximum)) == inside == (value in real_range(minimum, maximum))
    assert (value in integer_range(minimum)) == (minimum <= value < 2**31)


def test_ranges_in_words():
    assert integer_range(3).wanted == "an integer from 3 to 2**31 - 1"
    assert integer_range(3, 5).wanted == "an integer from 3 to 5"
    assert real_range(-10, 10).wanted == "a number from -10 to 10"


def test_ranges_are_declared_without_jax():
    code = "import sys, tfm_jax.ranges as r, tfm_jax.fields; assert 1 in r.SIZE; print('jax' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_check_static_rejects_tracers():
    check_static("f", "x", 0.5, ranges.RATE)
    with pytest.raises(ValueError, match=r"f: got x=.*Tracer.*; wanted .*, known before tracing"):
        jax.jit(lambda x: check_static("f", "x", x, ranges.RATE))(0.5)
    with pytest.raises(ValueError, match=r"f: got x=.*Tracer.*; wanted an integer .*, not an array"):
        jax.jit(lambda x: check_number("f", "x", x, ranges.SIZE))(3)
