"""The command line of experiments, parsed in two phases: where the defaults come from, then the options.

A field has the last of these values: the experiment's default, that in the file of ``--config`` or in the run
of ``--resume``, that of ``--set``, of ``--sweep`` or of its own option. A field that takes a variant, such as
the positions of a model, is one value everywhere: ``--model.positions Alibi``, ``'Rope(theta=1e6)'``.
"""

import argparse
import contextlib
import dataclasses
import functools
import inspect
import io
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import jax
import tyro

from experiments import sweep
from experiments.config import RunConfig
from experiments.init_from import EXECUTION_FIELDS, read_model_config
from experiments.inputs import inherit_splits
from experiments.settings import field_name, read_assignments, read_file, set_fields, with_file
from experiments.small_data import fit_to_data
from tfm_jax import console, processes
from tfm_jax.fields import option_name
from tfm_jax.train.run_directory import flatten, load_config
from tfm_jax.values import Variant, from_text, to_dict, to_text, variants

__all__ = ["Sources", "parse", "read_sources", "run"]

C = TypeVar("C", bound=RunConfig)
_OF_A_START = ("--out", "--resume")
_TOKENIZER_OPTIONS = ("--data.tokenizer", "--data.vocab-size")
_OF_THE_DATA = (("vocab_size", 0), ("patches", None))
"""Fields of a model, with the value by which they are those of the data or of the initial weights."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """The options that decide which defaults the others have; ``tokenizer``: those of a new tokenizer."""

    data: str | None = None
    out: Path | None = None
    resume: bool = False
    init_from: str | None = None
    config: Path | None = None
    set: tuple[str, ...] = ()
    sweep: tuple[tuple[str, ...], ...] = ()
    tokenizer: tuple[str, ...] = ()

    def defaults(self, config: type[C], swept: Mapping[str, str] | None = None) -> C:
        """The config of the run to resume, of --config or of the experiment, with the values of --set.

        Whether its fields fit together is not checked: the options may make them fit.

        Args:
          config: of the experiment.
          swept: the values of ``--sweep`` by field, which replace those of ``--set``.

        Raises:
          ValueError: when a file, the run or the model cannot be read, or a value does not fit its field.
        """
        assigned = {**read_assignments(self.set), **(swept or {})}
        default = self._default(config, assigned)
        own = {name: text for name, text in assigned.items() if name not in (swept or {})}
        return set_fields(set_fields(default, own), swept or {}, "--sweep")

    def fields(self) -> list[str]:
        """The paths of the fields that ``--config`` and ``--set`` set."""
        saved = {} if self.config is None else read_file(self.config)
        return [*flatten(saved), *read_assignments(self.set)]

    def _default(self, config: type[C], assigned: Mapping[str, str]) -> C:
        """The config below the assigned values, of which the data and the weights decide the other fields."""
        if self.config is not None and self.resume:
            raise ValueError(
                "--config: got --resume too; wanted one of them: a resume has the run's own config."
            )
        saved = {} if self.config is None else read_file(self.config)
        section = saved.get("data")
        source = section.get("source") if isinstance(section, dict) else None
        kind = config.for_data(self.data or assigned.get("data.source") or source)
        assert issubclass(kind, config)
        if self.resume and self.out is not None and (path := self.out / "config.json").is_file():
            return load_config(kind, path)  # with the run's model, also that of an --init-from
        default = with_file(kind(), saved, self.config)
        init_from = self.init_from or assigned.get("init_from")
        if "model" not in saved:  # else that of the weights of its init_from
            init_from = init_from or default.init_from
        if self.resume or init_from in (None, "None"):
            return default
        given = [f"--set {name}" for name in assigned if name in map(field_name, _TOKENIZER_OPTIONS)]
        if tokenizer := (*self.tokenizer, *given):
            raise ValueError(
                f"--init-from: got {', '.join(tokenizer)}; wanted the tokenizer of the weights. Leave "
                "the options of a new one out"
            )
        try:
            found = read_model_config(init_from, kind.INPUT)
        except (OSError, ValueError) as error:
            raise ValueError(f"--init-from: {error}") from error
        execution = {name: getattr(default.model, name) for name in EXECUTION_FIELDS}
        model = dataclasses.replace(found, **execution)
        default = inherit_splits(dataclasses.replace(default, model=model, init_from=init_from))
        # What the file has is compared with the weights and their splits, but for what it leaves to the data.
        named = {name: x for name, x in saved.get("model", {}).items() if (name, x) not in _OF_THE_DATA}
        return with_file(default, {**saved, "model": named, "init_from": init_from}, self.config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Line:
    """The options that set several fields, and that the config of a run does not keep."""

    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A file with the defaults of the other options: the config.json of a run, or one in that form with some
    of its fields."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE|FILE")] = ()
    """Set a field as its option does, such as train.steps=5; or the name of a file with one NAME=VALUE per
    line. An option replaces the value."""
    sweep: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]],
        tyro.conf.arg(metavar="NAME=VALUE [VALUE ...]"),
    ] = ()
    """Train a run with each of these values, each in a directory below --out, and print a table of their
    results: train.seed=0 1 2, 'train.seed=range(8)'. Several sweeps train each combination."""


@functools.cache
def _line_class(kind: type[RunConfig]) -> type[RunConfig]:
    """A config with the fields of `_Line`; one class, so that errors name the options as they are."""
    return dataclasses.dataclass(frozen=True, kw_only=True)(type(kind.__name__, (kind, _Line), {}))


def _line(run: RunConfig) -> RunConfig:
    """The config as a default of the options, without the checks of the whole: the result is checked."""
    line = object.__new__(_line_class(type(run)))
    line.__dict__.update(vars(_Line()) | vars(run))
    return line


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
        argv = _with_saved_arguments(argv)
    prog = f"python -m experiments.{name}"
    with processes.together(name):
        if (sources := read_sources(argv)).sweep:
            _run_sweep(experiment, config, argv, sources, name, prog)
            return
        parsed = _parse_on_all(lambda: parse(config, argv, prog=prog))
        with console.exit_on_error(name):
            processes.agree("the version of the code", processes.code_version())
            if processes.count() > 1:
                processes.agree("their devices", {"number of local devices": jax.local_device_count()})
            processes.agree("the config", flatten(to_dict(parsed)))
        experiment(parsed)


def _run_sweep(
    experiment: Callable[[C], None],
    config: type[C],
    argv: Sequence[str],
    sources: Sources,
    name: str,
    prog: str,
) -> None:
    """Trains all runs of a sweep; exits with 1 if one failed."""
    notes: dict[str | None, None] = {}

    def parse_one(values: dict[str, str], out: Path, resume: bool) -> C:
        # A run that was started has its own config, which the file made.
        file = None if resume else sources.config
        own = dataclasses.replace(sources, out=out, resume=resume, config=file)
        parsed = _parse(config, argv, own, values, prog)
        notes.setdefault(parsed.note)
        return dataclasses.replace(parsed.run, out=out, resume=resume, distributed="auto")

    with console.exit_on_error(name):
        if processes.count() > 1:
            raise ValueError(
                f"--sweep: got {processes.count()} processes; wanted one. Start the runs one by one, or the "
                "sweep in one process with --distributed off."
            )
        kept = [group for group in _with_assignments(argv) if _option(group) not in _OF_A_START]
        planned = sweep.plan(
            sweep.read_sweep(sources.sweep), parse_one, name=name, out=sources.out, resume=sources.resume,
            arguments=[word for group in kept for word in group],
        )  # fmt: skip
    for note in filter(None, notes):
        console.print_error(note, name)
    if status := sweep.train_all(planned, experiment):
        sys.exit(status)


def _with_saved_arguments(argv: list[str]) -> list[str]:
    """For ``--out DIR --resume`` alone, where DIR has a sweep: the options of the sweep, below these."""
    sources = read_sources(argv)
    if sources.sweep or not sources.resume or sources.out is None:
        return argv
    if (saved := sweep.saved_arguments(sources.out)) is None:
        return argv
    replaced = set(map(_field, _with_assignments(argv)))
    kept = [group for group in _with_assignments(saved) if _field(group) not in replaced]
    return [*(word for group in kept for word in group), *argv]


def _with_assignments(argv: Sequence[str]) -> list[list[str]]:
    """The options, each with its words; in place of each file of ``--set`` the values that it has."""
    options = [group for group in _groups(argv) if _option(group) != "--set"]
    assigned = read_assignments(read_sources(argv).set)
    return [*options, *(["--set", f"{name}={text}"] for name, text in assigned.items())]


def _groups(argv: Sequence[str]) -> list[list[str]]:
    """The options, each with its words."""
    groups: list[list[str]] = []
    for word in argv:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups


def _option(group: Sequence[str]) -> str:
    """The name of the option of a group, as ``--help`` shows it."""
    return _with_hyphens(group[0]).partition("=")[0]


def _field(group: Sequence[str]) -> str:
    """The path of the field of an option, or of a ``--set NAME=VALUE``; without the "no" of a boolean."""
    option = _option(group)
    name = group[1].partition("=")[0] if option == "--set" and len(group) > 1 else option
    return re.sub(r"(^|\.)no_", r"\1", field_name(name))


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


def _parse_on_all(parse: Callable[[], C]) -> C:
    """`parse` on each of several processes, whose errors are the same and are printed once."""
    errors = io.StringIO()
    with contextlib.nullcontext() if processes.count() == 1 else contextlib.redirect_stderr(errors):
        try:
            parsed = parse()
        except SystemExit as error:
            if message := errors.getvalue().strip():
                sys.exit(message)
            raise error
    if processes.is_main():
        sys.stderr.write(errors.getvalue())
    # The saved config is that of all processes, and of a resume.
    return dataclasses.replace(parsed, distributed="auto")


def parse(config: type[C], argv: Sequence[str] | None = None, *, prog: str | None = None) -> C:
    """Parses an experiment's command line of one run.

    Of a new run on small data, fields that nothing sets get values that fit the data, which a line on
    standard error names.

    Args:
      config: the experiment's config, a dataclass with defaults.
      argv: the arguments; None takes those of the process.
      prog: the command that ``--help`` shows; None takes that of the process.

    Raises:
      SystemExit: on ``--help``, and with a message on an invalid argument, such as ``--sweep``.
    """
    argv = sys.argv[1:] if argv is None else argv
    parsed = _parse(config, argv, read_sources(argv), {}, prog)
    if parsed.has_sweep:
        sys.exit(
            "error: --sweep: got it for one run; wanted python -m experiments.NAME, which trains several."
        )
    if parsed.note is not None:
        console.print_error(parsed.note, (prog or "").rpartition(".")[2].rpartition(" ")[2])
    return parsed.run


@dataclasses.dataclass(frozen=True)
class _Parsed(Generic[C]):
    """The config of a command line, whether it has a sweep, and a line for the user."""

    run: C
    has_sweep: bool
    note: str | None


def _parse(
    config: type[C], argv: Sequence[str], sources: Sources, swept: Mapping[str, str], prog: str | None
) -> _Parsed[C]:
    """Parses the command line of one run; ``swept`` are its values of ``--sweep``."""
    console.escape_unencodable()
    try:
        _check_given(argv, swept)
        default = sources.defaults(config, swept)
        kind = type(default)
        line: Any = console.parse_options(
            _line_class(kind), argv, _text_rule, _auto_rule, prog=prog, default=_line(default),
            description=inspect.getdoc(kind),
        )  # fmt: skip
        run = kind(**{field.name: getattr(line, field.name) for field in dataclasses.fields(kind)})
        note = None
        if not sources.resume:
            names = set(map(option_name, (*sources.fields(), *swept)))
            run, note = fit_to_data(run, names | set(map(_option, _groups(argv))))
        return _Parsed(run, bool(line.sweep), note)
    except ValueError as error:  # not OSError: that of an unwritable output is the caller's
        sys.exit(f"error: {error}")


def _check_given(argv: Sequence[str], swept: Mapping[str, str]) -> None:
    """Raises for --config given twice, and for an option beside a sweep of its field."""
    groups = _groups(argv)
    if list(map(_option, groups)).count("--config") > 1:
        raise ValueError("--config: got it twice; wanted it once. Leave one out.")
    for group in groups:
        if _option(group) != "--set" and _field(group) in swept:
            raise ValueError(f"{_option(group)}: got a --sweep of it too; wanted one of both. Leave one out.")


def read_sources(argv: Sequence[str]) -> Sources:
    """Reads the options that decide the defaults, and ignores all others."""
    argv = [_with_hyphens(argument) for argument in argv]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--data.source", dest="data", nargs="?")
    parser.add_argument("--out", type=Path, nargs="?")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--init-from", nargs="?")
    parser.add_argument("--config", type=Path, nargs="?")
    parser.add_argument("--set", action="append", nargs="?", default=[])
    parser.add_argument("--sweep", action="append", nargs="*", default=[])
    try:
        options = vars(parser.parse_known_args(argv)[0])
    except argparse.ArgumentError:  # such as --resume=1: phase 2 prints the error
        options = vars(parser.parse_args([]))
    options["set"] = tuple(word for word in options["set"] if word is not None)
    options["sweep"] = tuple(map(tuple, options["sweep"]))
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
