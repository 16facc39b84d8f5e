"""The commands as one program, and its one-line errors."""

import logging
from collections.abc import Sequence
from typing import Any

from tfm_jax.cli.classify import Classify
from tfm_jax.cli.convert import Convert
from tfm_jax.cli.embed import Embed
from tfm_jax.cli.laws import Laws
from tfm_jax.cli.numbers import number_rule, read_numbers
from tfm_jax.cli.text import Generate, Translate
from tfm_jax.console import error_line, escape_unencodable, log_to_stderr, parse_options, print_error

__all__ = ["run"]


def run(argv: Sequence[str] | None = None) -> int:
    """Parses the command line, checks the command and runs it; returns the exit status."""
    escape_unencodable()
    try:
        command = read_numbers(_parse(argv))
        with log_to_stderr("tfm_jax", logging.WARNING):
            return command.use()
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        print_error(error_line(error))
        return 2
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "out of memory" in str(error).lower()):
            raise
        print_error(f"out of memory: take a smaller --batch-size, or shorter texts or outputs ({error})")
        return 2


def _parse(argv: Sequence[str] | None) -> Any:
    return parse_options(
        Translate | Generate | Embed | Classify | Convert | Laws,
        argv,
        number_rule,
        prog="tfm",
        description="Uses a trained model, converts a checkpoint, or tries laws on a function.",
    )
