"""``assert_all_hold``: a function satisfies a suite, and supports all its cases."""

from hypothesis import settings

from tfm_jax import laws


def assert_all_hold(function, suite, **options):
    report = laws.check(function, suite, examples=settings().max_examples, **options)
    assert report.ok, report
    assert not any(found.unsupported for found in report.findings), report
