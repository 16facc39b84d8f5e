"""``experiments.images`` under its former name, which its runs and messages keep."""

from collections.abc import Sequence

from experiments.images import run

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs ``experiments.images`` as "digits".

    Args:
      argv: the arguments; None takes those of the process.

    Raises:
      SystemExit: as ``experiments.images.run.main``.
    """
    run.main(argv, name="digits")
