"""What command-line programs share: exit status, options, one-line errors, and robust standard streams."""

import contextlib
import errno
import io
import logging
import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

__all__ = [
    "add_filename",
    "error_line",
    "escape_unencodable",
    "exit_on_error",
    "log_to_stderr",
    "parse_options",
    "print_error",
    "print_table",
    "run_program",
]

CTRL_C, BROKEN_PIPE = 130, 141
"""Exit statuses: 128 plus the number of the signal, SIGINT or SIGPIPE."""


def run_program(name: str, main: str, *args: object) -> int:
    """Runs the main function of a program and returns the exit status.

    The function is imported here, so that Ctrl-C during a slow import is handled too.

    Args:
      name: of the program, printed before each message.
      main: the function, as "module:function".
      args: its arguments.

    Returns:
      What the function returns (0 for None); 130 after Ctrl-C; 141 after a broken pipe; 2 if
      the output cannot be written, after a one-line message.

    Raises:
      SystemExit: from the function.
    """
    if not _is_replaced(sys.stdout):
        _open_streams()
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _exit_now)
    try:
        try:
            status = pkgutil.resolve_name(main)(*args)
        finally:  # also on SystemExit, such as from --help
            sys.stdout.flush()
        return status or 0
    except KeyboardInterrupt:
        return CTRL_C
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except OSError as error:
        _discard_output()
        print_error(error_line(error), name)
        return 2


def parse_options(
    options: Any,
    argv: Sequence[str] | None,
    *rules: "Callable[[PrimitiveTypeInfo], PrimitiveConstructorSpec | None]",
    **tyro_args: Any,
) -> Any:
    """Parses command-line options with tyro; a flag has no ``--no-`` twin.

    Args:
      options: the dataclass, or a union of dataclasses as subcommands.
      argv: the arguments; None means those of the process.
      rules: tyro primitive rules, for fields of other types.
      tyro_args: of ``tyro.cli``.

    Returns:
      An instance of ``options``.

    Raises:
      SystemExit: on ``--help``, and after printing a message on an argument that does not fit.
    """
    import tyro  # slow: not before it is needed

    registry = tyro.constructors.ConstructorRegistry()
    for rule in rules:
        registry.primitive_rule(rule)
    with registry:
        return tyro.cli(options, args=argv, config=(tyro.conf.FlagCreatePairsOff,), **tyro_args)


@contextlib.contextmanager
def exit_on_error(name: str) -> Iterator[None]:
    """Exits with a one-line message, not a traceback, on an ImportError, OSError or ValueError."""
    try:
        yield
    except BrokenPipeError:  # the reader of the output is gone: not an error
        raise
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{name}: {error_line(error)}")


def error_line(error: BaseException) -> str:
    """An exception as one line: ``file: reason`` for an OSError of a file."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def print_error(message: str, name: str = "tfm") -> None:
    """Prints a line on standard error, if it can be written."""
    with contextlib.suppress(OSError):
        print(f"{name}: {message}", file=sys.stderr, flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], bold: Sequence[bool] = ()) -> None:
    """Prints a table; a terminal folds cells that do not fit into its width, a pipe gets whole lines.

    Args:
      columns: their heads.
      rows: the cells of each.
      bold: for each row whether it is bold, on a terminal; () for none.
    """
    from rich.box import SIMPLE_HEAD  # slow: not before it is needed
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=100_000)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for i, row in enumerate(rows):
        table.add_row(*map(Text, row), style="bold" if i < len(bold) and bold[i] else None)
    console.print(table)


@contextlib.contextmanager
def log_to_stderr(logger_name: str, level: int, name: str = "tfm") -> Iterator[None]:
    """Prints the messages of a logger, from this level up, on standard error within the context."""
    logger, handler = logging.getLogger(logger_name), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False  # a handler of another library on the root logger would print each line again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def escape_unencodable() -> None:
    """Makes standard output escape characters that its encoding lacks, instead of raising."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def add_filename(filename: str | Path) -> Iterator[None]:
    """Sets the filename of an OSError that has none, as errors of reading and writing do."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(filename)
        raise


class _Output(io.TextIOWrapper):
    """Standard output whose errors name it."""

    def write(self, text: str) -> int:
        with add_filename("standard output"):
            return super().write(text)

    def flush(self) -> None:
        with add_filename("standard output"):
            super().flush()


class _Closed(io.RawIOBase):
    """A stream for a closed descriptor: it can be flushed, but not written."""

    name = "standard output"

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        raise OSError(errno.EBADF, "it is closed", self.name)


def _exit_now(*_: object) -> None:
    """Ends the process on Ctrl-C.

    A KeyboardInterrupt can become an ImportError while a library is imported, and is ignored in a callback of
    the garbage collector.
    """
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")  # show the cursor, which a progress bar hides
    os._exit(CTRL_C)


def _is_replaced(stream: IO[str] | None) -> bool:
    """Whether a caller has replaced standard output."""
    return stream is not None and stream is not sys.__stdout__


def _open_streams() -> None:
    """Replaces closed or unusable standard streams.

    A closed descriptor is opened on the null device. Otherwise the next file that is opened would get its
    number, and libraries would write to it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  - open until the process ends
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(_Closed(), "utf-8", write_through=True)
    elif isinstance(sys.stdout, io.TextIOWrapper) and not isinstance(sys.stdout, _Output):
        stdout = sys.stdout
        options = {name: getattr(stdout, name) for name in ("errors", "line_buffering", "write_through")}
        sys.stdout = sys.__stdout__ = _Output(stdout.detach(), stdout.encoding, **options)


def _discard_output() -> None:
    """Redirects standard output to the null device, so that no flush at exit fails."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
