"""The compilers of TPUs and GPUs, for tests that compile for devices that are not there."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from tfm_jax.train.plan import topologies


def devices_or_skip(name: str) -> list[Any]:
    """The devices of a topology; skips the test where its compiler is not installed."""
    try:
        return topologies.topology(name)
    except ImportError as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def optimized_programs() -> Iterator[None]:
    """Compiles as a run does: with optimizations and lines of source, which conftest.py switches off."""
    names = ("jax_disable_most_optimizations", "jax_traceback_in_locations_limit")
    before = {name: getattr(jax.config, name, None) for name in names}
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_traceback_in_locations_limit", 10)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before[names[0]] is not False)
        jax.config.update("jax_traceback_in_locations_limit", before[names[1]] or 0)
