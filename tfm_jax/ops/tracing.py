"""What is known while a function is traced."""

from collections.abc import Callable

__all__ = ["surely"]


def surely(comparison: Callable[[], bool]) -> bool:
    """Whether a comparison of sizes holds, whatever the symbolic sizes of ``jax.export`` turn out to be.

    Equivalent to::

        bool(comparison())                                  # of sizes that are numbers

    Args:
      comparison: compares sizes, such as ``lambda: T * S <= 65536``.

    Returns:
      True where it holds for every value of the symbols; False where it fails, or may fail.
    """
    try:
        return bool(comparison())
    except Exception as error:
        # JAX exports no name for it.
        if type(error).__name__ != "InconclusiveDimensionOperation":
            raise
        return False
