"""The ``tfm`` command: models, checkpoints, comparison of runs, laws, plans of steps, devices."""

from collections.abc import Sequence

from tfm_jax.console import run_program

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``tfm``.

    Args:
      argv: the arguments; None means those of the process.

    Returns:
      The exit status: 0; 1 if some lines failed or a law is broken; 2 if nothing could be done; 130 after
      Ctrl-C; 141 after a broken pipe.

    Raises:
      SystemExit: on ``--help``, and after printing a message on an argument that does not fit.
    """
    return run_program("tfm", "tfm_jax.cli.run:run", argv)
