"""The command line of experiments, parsed in two phases: where the defaults come from, then the options.

A field that takes a variant, such as the positions of a model, is one value on the command line and in the
JSON: ``--model.positions Alibi``, ``--model.positions 'Rope(theta=1e6)'``.
"""

import argparse
import contextlib
import dataclasses
import io
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import tyro

from experiments.config import RunConfig
from experiments.init_from import EXECUTION_FIELDS, read_model_config
from experiments.inputs import inherit_splits
from tfm_jax import console, processes
from tfm_jax.train.run_directory import flatten, load_config
from tfm_jax.values import Variant, from_text, to_dict, to_text, variants

__all__ = ["Sources", "parse", "read_sources", "run"]

C = TypeVar("C", bound=RunConfig)
_TOKENIZER_OPTIONS = ("--data.tokenizer", "--data.vocab-size")


@dataclasses.dataclass(frozen=True)
class Sources:
    """The options that decide which defaults the others have; ``tokenizer``: those of a new tokenizer."""

    data: str | None
    out: Path | None
    resume: bool
    init_from: str | None
    tokenizer: tuple[str, ...]

    def defaults(self, config: type[C]) -> C:
        """The config of the run to resume; else the defaults for the data, with the model of ``--init-from``.

        Raises:
          ValueError: when the run or the model cannot be read.
        """
        kind = config.for_data(self.data)
        assert issubclass(kind, config)
        if self.resume and self.out is not None and (path := self.out / "config.json").is_file():
            return load_config(kind, path)  # with the run's model, also that of an --init-from
        default = kind()
        if self.resume or self.init_from is None:
            return default
        if self.tokenizer:
            raise ValueError(
                f"--init-from: got {', '.join(self.tokenizer)}; wanted the tokenizer of the weights. Leave "
                "the options of a new one out"
            )
        try:
            found = read_model_config(self.init_from, kind.INPUT)
        except (OSError, ValueError) as error:
            raise ValueError(f"--init-from: {error}") from error
        execution = {name: getattr(default.model, name) for name in EXECUTION_FIELDS}
        model = dataclasses.replace(found, **execution)
        return inherit_splits(dataclasses.replace(default, model=model, init_from=self.init_from))


def run(
    experiment: Callable[[C], None], config: type[C], argv: Sequence[str] | None = None, *, name: str
) -> None:
    """Runs an experiment: connects the processes, parses the command line and runs it on all together.

    Args:
      experiment: takes the config.
      config: its class, a dataclass with defaults.
      argv: the arguments; None takes those of the process.
      name: of the experiment.

    Raises:
      SystemExit: as `parse`, and with a message where the processes cannot be connected or disagree.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with console.exit_on_error(name):
        processes.initialize(_read_distributed(argv))
    with processes.together(name):
        parsed = _parse_on_all(config, argv, f"python -m experiments.{name}")
        with console.exit_on_error(name):
            processes.agree("the version of the code", processes.code_version())
            if processes.count() > 1:
                processes.agree("their devices", {"number of local devices": jax.local_device_count()})
            processes.agree("the config", flatten(to_dict(parsed)))
        experiment(parsed)


def _read_distributed(argv: list[str]) -> str:
    """The value of ``--distributed``; one that is left out is put into the arguments."""
    mode = "auto"
    for i in reversed(range(len(argv))):
        option, equals, value = argv[i].partition("=")
        if option == "--distributed":
            if not equals and (i + 1 == len(argv) or argv[i + 1].startswith("--")):
                argv.insert(i + 1, "on")
            mode = value if equals else argv[i + 1]
            break
    return mode


def _parse_on_all(config: type[C], argv: Sequence[str], prog: str) -> C:
    """`parse` on each of several processes, whose errors are the same and are printed once."""
    errors = io.StringIO()
    with contextlib.nullcontext() if processes.count() == 1 else contextlib.redirect_stderr(errors):
        try:
            parsed = parse(config, argv, prog=prog)
        except SystemExit as error:
            if message := errors.getvalue().strip():
                sys.exit(message)
            raise error
    # The saved config is that of all processes, and of a resume.
    return dataclasses.replace(parsed, distributed="auto")


def parse(config: type[C], argv: Sequence[str] | None = None, *, prog: str | None = None) -> C:
    """Parses an experiment's command line.

    Args:
      config: the experiment's config, a dataclass with defaults.
      argv: the arguments; None takes those of the process.
      prog: the command that ``--help`` shows; None takes that of the process.

    Raises:
      SystemExit: on ``--help``, and with a message on an invalid argument.
    """
    console.escape_unencodable()
    argv = sys.argv[1:] if argv is None else argv
    try:
        default = read_sources(argv).defaults(config)
        return console.parse_options(type(default), argv, _text_rule, _auto_rule, prog=prog, default=default)
    except ValueError as error:  # not OSError: that of an unwritable output is the caller's
        sys.exit(f"error: {error}")


def read_sources(argv: Sequence[str]) -> Sources:
    """Reads the options that decide the defaults, and ignores all others."""
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


def _with_hyphens(argument: str) -> str:
    """An option's name as ``--help`` shows it: tyro takes underscores for hyphens."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _text_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Makes tyro take a variant as one value, not as subcommands, and a name or an object as a name."""
    kinds, members = variants(info.type), typing.get_args(info.type)
    if kinds is None and not (str in members and any(map(dataclasses.is_dataclass, members))):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="STR" if kinds is None else "|".join(kinds) or "VARIANT",
        instance_from_str=lambda words: words[0] if kinds is None else from_text(info.type, words[0]),
        is_instance=lambda value: True,  # a default of the code may be of a class that is not registered
        str_from_instance=lambda value: [to_text(value) if isinstance(value, Variant) else str(value)],
    )


def _auto_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """An integer or "auto": the errors of tyro for a union show the code of its types."""
    if not any(typing.get_args(member) == ("auto",) for member in typing.get_args(info.type)):
        return None

    def read(words: list[str]) -> int | str:
        try:
            return words[0] if words[0] == "auto" else int(words[0])
        except ValueError:
            raise ValueError(f"got {words[0]!r}; wanted an integer, or auto.") from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT|auto",
        instance_from_str=read,
        is_instance=lambda value: value == "auto" or isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )
