"""Cases of a test that the suite leaves out, as it does slow tests: others of the same test stay in it."""

import pytest


def slow(*names):
    """These cases, marked as slow."""
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]
