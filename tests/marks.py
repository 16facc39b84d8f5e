"""Cases of a test that the suite leaves out, as it does slow tests: others of the same test stay in it."""

import pytest


def slow(*names):
    """These cases, marked as slow."""
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


def slow_rows(rows):
    """These rows, each a case of several arguments, marked as slow."""
    return [pytest.param(*row, marks=pytest.mark.slow) for row in rows]


def slow_but(quick, names):
    """These cases, all marked as slow but for the quick ones."""
    if unknown := set(quick) - set(names):
        raise ValueError(f"no such cases: {sorted(unknown)}")
    return [*quick, *slow(*(name for name in names if name not in quick))]
