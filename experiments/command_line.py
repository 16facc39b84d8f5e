"""The command line of experiments, parsed in two phases: where the defaults come from, then the options.

A field that takes a variant, such as the positions of a model, is one value on the command line and in the
JSON: ``--model.positions Alibi``, ``--model.positions 'Rope(theta=1e6)'``.
"""

import argparse
import dataclasses
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from experiments.config import RunConfig, load_config
from experiments.init_from import InitFromConfig, with_initial_model
from tfm_jax import console
from tfm_jax.values import Variant, from_text, to_text, variants

__all__ = ["Sources", "parse", "parse_options", "read_sources"]

C = TypeVar("C", bound=RunConfig)

_TOKENIZER_OPTIONS = ("--data.tokenizer", "--data.vocab-size")


@dataclasses.dataclass(frozen=True)
class Sources:
    """The options that decide which defaults the others have.

    Args:
      data: the value of ``--data.source``.
      out: the value of ``--out``.
      resume: whether ``--resume`` is given.
      init_from: the value of ``--init-from``.
      tokenizer: the given options of a new tokenizer, which ``--init-from`` excludes.
    """

    data: str | None
    out: Path | None
    resume: bool
    init_from: str | None
    tokenizer: tuple[str, ...]

    def defaults(self, config: type[C]) -> C:
        """The defaults of the other options.

        Args:
          config: the experiment's config.

        Returns:
          The config of the run in ``--out`` to ``--resume``; or the defaults for the data source, with the
          model of ``--init-from``.

        Raises:
          ValueError: when the run or the model cannot be read.
        """
        config = config.for_data(self.data)
        if self.resume:  # the run's config has its model, also that of an --init-from
            has_config = self.out is not None and (self.out / "config.json").is_file()
            return load_config(config, self.out) if has_config else config()
        if self.init_from is None or not issubclass(config, InitFromConfig):
            return config()
        if self.tokenizer:
            raise ValueError(
                f"--init-from: got {', '.join(self.tokenizer)}; wanted the tokenizer of the weights. Leave "
                "the options of a new one out"
            )
        return with_initial_model(config(), self.init_from)


def parse(config: type[C], argv: Sequence[str] | None = None, *, prog: str | None = None) -> C:
    """Parses an experiment's command line.

    Equivalent to::

        sources = read_sources(argv)
        parse_options(sources.defaults(config), argv)

    Args:
      config: the experiment's config, a dataclass with defaults.
      argv: the arguments; None takes those of the process.
      prog: the command that ``--help`` shows; None takes that of the process.

    Returns:
      The config.

    Raises:
      SystemExit: on ``--help``, and with a message on an invalid argument.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        return parse_options(read_sources(argv).defaults(config), argv, prog=prog)
    except ValueError as error:  # not OSError: that of an unwritable output is the caller's
        sys.exit(f"error: {error}")


def read_sources(argv: Sequence[str]) -> Sources:
    """Phase 1: reads the options that decide the defaults, and ignores all others.

    Args:
      argv: the arguments.

    Returns:
      The `Sources`.
    """
    argv = [_with_hyphens(argument) for argument in argv]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--data.source", dest="data", nargs="?")
    parser.add_argument("--out", type=Path, nargs="?")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--init-from", nargs="?")
    try:
        options = vars(parser.parse_known_args(argv)[0])
    except argparse.ArgumentError:  # such as --resume=1: phase 2 prints the error
        options = vars(parser.parse_args([]))
    names = {argument.partition("=")[0] for argument in argv}
    return Sources(**options, tokenizer=tuple(name for name in _TOKENIZER_OPTIONS if name in names))


def parse_options(default: C, argv: Sequence[str], *, prog: str | None = None) -> C:
    """Phase 2: parses all options.

    Args:
      default: the values of options that are not given.
      argv: the arguments.
      prog: as for `parse`.

    Returns:
      The config.

    Raises:
      SystemExit: on ``--help`` and on an invalid argument.
      ValueError: when the values do not fit together.
    """
    return console.parse_options(type(default), argv, _variant_rule, _name_rule, prog=prog, default=default)


def _with_hyphens(argument: str) -> str:
    """An option's name as ``--help`` shows it: tyro takes underscores for hyphens."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _variant_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Makes tyro take a field of a kind of variants as one value, not as subcommands."""
    if (kinds := variants(info.type)) is None:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join(kinds) or "VARIANT",
        instance_from_str=lambda words: from_text(info.type, words[0]),
        # A default of the code may be of a class that is not registered.
        is_instance=lambda value: isinstance(value, str | Variant | None),
        str_from_instance=lambda value: [to_text(value)],
    )


def _name_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Makes tyro take a field that holds a name or an object, such as a ``Backend``, as a name."""
    members = typing.get_args(info.type)
    if str not in members or not any(map(dataclasses.is_dataclass, members)):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="STR",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )
