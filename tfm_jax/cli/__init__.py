"""The command ``tfm``: models translate, write, embed and classify; checkpoints are converted; laws tried."""

from collections.abc import Sequence

from tfm_jax.console import run_program

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit status: 0, 1 where some lines could not be used or a law does not hold, 2 where nothing could
        be done, 130 after Ctrl-C, 141 where nobody reads the output any more.

    Raises:
        SystemExit: on ``--help``, and on an argument that does not fit, after saying which.
    """
    return run_program("tfm", "tfm_jax.cli.run:run", argv)
