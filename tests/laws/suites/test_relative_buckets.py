"""``ops.relative_buckets`` satisfies the laws."""

import functools

import pytest

from tests.laws.suites._assertions import assert_all_hold
from tests.marks import slow_rows
from tfm_jax import laws, ops


@pytest.mark.parametrize(
    "buckets, max_distance, bidirectional",
    [(32, 128, True), (6, 20, False), *slow_rows([(32, 128, False), (6, 20, True)])],
)
def test_relative_buckets(buckets, max_distance, bidirectional):
    options = {"buckets": buckets, "max_distance": max_distance, "bidirectional": bidirectional}
    assert_all_hold(functools.partial(ops.relative_buckets, **options), laws.relative_buckets, **options)
