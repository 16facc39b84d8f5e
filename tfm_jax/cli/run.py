"""The commands as one program, and its one-line errors."""

import logging
from collections.abc import Sequence

import tyro

from tfm_jax.cli.classify import Classify
from tfm_jax.cli.convert import Convert
from tfm_jax.cli.embed import Embed
from tfm_jax.cli.laws import Laws
from tfm_jax.cli.lines import log_lines
from tfm_jax.cli.numbers import number_rule, read_numbers
from tfm_jax.cli.text import Generate, Translate
from tfm_jax.console import print_any_letter, say

__all__ = ["run"]


def run(argv: Sequence[str] | None = None) -> int:
    """Runs the command as ``tfm_jax.cli.main``; raises where the output ends and on Ctrl-C."""
    print_any_letter()
    rules = tyro.constructors.ConstructorRegistry()
    rules.primitive_rule(number_rule)
    try:
        with rules:
            command = tyro.cli(
                Translate | Generate | Embed | Classify | Convert | Laws,
                prog="tfm",
                description="Uses a trained model, converts a checkpoint, or tries laws on a function.",
                args=argv,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        command = read_numbers(command)
        with log_lines("tfm_jax", logging.WARNING):
            return command.use()
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        return 2
    except (ImportError, ValueError) as error:
        say(str(error))
        return 2
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "out of memory" in str(error).lower()):
            raise
        say(f"out of memory: take a smaller --batch-size, or shorter texts or outputs ({error})")
        return 2
