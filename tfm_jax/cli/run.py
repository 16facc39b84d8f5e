"""The commands as one program, with its exit status."""

import os
import sys
from collections.abc import Sequence

import tyro

from tfm_jax.cli.classify import Classify
from tfm_jax.cli.convert import Convert
from tfm_jax.cli.embed import Embed
from tfm_jax.cli.laws import Laws
from tfm_jax.cli.lines import print_any_letter, say
from tfm_jax.cli.numbers import check_numbers
from tfm_jax.cli.text import Generate, Translate

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit status: 0, 1 where some lines could not be used or a law does not hold, 2 where nothing could
        be done.

    Raises:
        SystemExit: on ``--help``, and on an argument that does not fit, after saying which.
    """
    print_any_letter()
    try:
        command = tyro.cli(
            Translate | Generate | Embed | Classify | Convert | Laws,
            prog="tfm",
            description="Uses a trained model, converts a checkpoint, or tries laws on a function.",
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        check_numbers(command)
        return command.use()
    except BrokenPipeError:  # who reads the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        say(f"{error.filename}: {error.strerror}" if error.strerror else str(error))
        return 2
    except ValueError as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
