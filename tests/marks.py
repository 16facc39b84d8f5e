"""Marks single cases of a parametrized test as slow."""

import pytest


def slow(*names):
    """Cases of one argument, marked as slow."""
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


def slow_rows(rows):
    """Cases of several arguments, marked as slow."""
    return [pytest.param(*row, marks=pytest.mark.slow) for row in rows]


def slow_but(quick, names):
    """Cases of one argument, all marked as slow except for the quick ones."""
    if unknown := set(quick) - set(names):
        raise ValueError(f"slow_but: got quick cases {sorted(unknown)}; wanted some of {sorted(names)}.")
    return [*quick, *slow(*(name for name in names if name not in quick))]
