"""What a program keeps in memory, counted in Python objects."""

import gc


def count_objects():
    """The objects that garbage collection leaves."""
    gc.collect()
    return len(gc.get_objects())


def check_another_use_keeps_nothing(use, program):
    """Another use compiles nothing and keeps nothing.

    Args:
      use: makes something, uses it, and returns a weak reference to it.
      program: the jitted function that it calls.
    """

    def state():
        freed = use()
        objects = count_objects()
        assert freed() is None
        return program._cache_size(), objects

    state()
    programs, objects = state()
    again, more = state()
    assert again == programs and more - objects < 20
