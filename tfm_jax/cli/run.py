"""The ``tfm`` program: parses the command line, checks it, and runs the command."""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from typing import Any

from tfm_jax import compilation_cache
from tfm_jax.cli._options import Command, number_rule, read_numbers
from tfm_jax.cli.classify import Classify
from tfm_jax.cli.compare import Compare
from tfm_jax.cli.convert import Convert
from tfm_jax.cli.doctor import Doctor
from tfm_jax.cli.embed import Embed
from tfm_jax.cli.generate import Generate
from tfm_jax.cli.laws import Laws
from tfm_jax.cli.plan import Plan, split
from tfm_jax.cli.translate import Translate
from tfm_jax.console import error_line, escape_unencodable, log_to_stderr, parse_options, print_error

__all__ = ["check", "parse", "run"]


def run(argv: Sequence[str] | None = None) -> int:
    """Runs ``tfm``, as ``tfm_jax.cli.main``; expected errors are one line on standard error."""
    escape_unencodable()
    try:
        command = check(parse(argv))
        compilation_cache.enable(command.compilation_cache)
        with log_to_stderr("tfm_jax", logging.WARNING):
            return command.run()
    except BrokenPipeError:
        raise
    except (ImportError, OSError, ValueError) as error:
        print_error(error_line(error))
        return 2
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "out of memory" in str(error).lower()):
            raise
        print_error(f"out of memory: use a smaller --batch-size, or shorter texts or outputs ({error})")
        return 2


def parse(argv: Sequence[str] | None) -> Command:
    """Phase 1: tyro parses the options; numbers are still strings."""
    argv = sys.argv[1:] if argv is None else argv
    if list(argv[:1]) == ["plan"]:
        own, options = split(argv[1:])
        return dataclasses.replace(_parse(["plan", *own]), options=options)
    return _parse(argv)


def _parse(argv: Sequence[str]) -> Any:
    return parse_options(
        Translate | Generate | Embed | Classify | Convert | Compare | Laws | Plan | Doctor,
        argv,
        number_rule,
        prog="tfm",
        description="Run a trained model (tfm COMMAND MODEL INPUT ...), convert a model, compare runs, check "
        "laws, plan a step, or show the devices.",
    )


def check(command: Command) -> Command:
    """Phase 2: reads the numbers, and checks that options fit together and files exist; loads nothing."""
    command = read_numbers(command)
    command.check()
    return command
