"""Programs on a console: their exit status, and streams that are closed, full or read no further."""

import contextlib
import errno
import io
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["name_errors", "print_any_letter", "run_program", "say"]

CTRL_C, BROKEN_PIPE = 130, 141
"""Exit statuses: 128 and the number of the signal, SIGINT and SIGPIPE."""


def run_program(name: str, main: str, *args: Any) -> int:
    """Runs a program's main function, which is imported only here: Ctrl-C may come at any time.

    Args:
      name: of the program, before each message.
      main: the function, as "module:function".
      args: that it takes.

    Returns:
      The exit status: what the function returns (0 where that is None), 130 after Ctrl-C, 141 where nobody
      reads the output any more, 2 after one line where it cannot be written.

    Raises:
      SystemExit: of the function.
    """
    if sys.stdout in (None, sys.__stdout__):  # and not one that somebody put in its place
        _open_streams()
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _leave_at_once)
    try:
        try:
            status = pkgutil.resolve_name(main)(*args)
        finally:  # also of a SystemExit, such as that of --help
            sys.stdout.flush()
        return status or 0
    except KeyboardInterrupt:
        return CTRL_C
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        _drop_output()
        say(f"{error.filename}: {error.strerror}" if error.filename else str(error), name)
        return 2


def say(message: str, name: str = "tfm") -> None:
    """A line on standard error, if anybody reads it."""
    with contextlib.suppress(OSError):
        print(f"{name}: {message}", file=sys.stderr, flush=True)


def print_any_letter() -> None:
    """Letters that the terminal does not know are printed as escapes, and end nothing."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def name_errors(where: str | Path) -> Iterator[None]:
    """Gives an OSError within, of a file that is read or written, the name of that file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(where)
        raise


class _Output(io.TextIOWrapper):
    """Standard output, whose errors name it."""

    def write(self, text: str) -> int:
        with name_errors("standard output"):
            return super().write(text)

    def flush(self) -> None:
        with name_errors("standard output"):
            super().flush()


class _Closed(io.RawIOBase):
    """What is closed, as a stream: it can be flushed, but not written to."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(errno.EBADF, "it is closed", "standard output")


def _leave_at_once(*_: Any) -> None:
    """Ends the process on Ctrl-C.

    A KeyboardInterrupt would be an ImportError where it comes while a library is imported, and nothing at all
    where it comes in a callback of the garbage collector.
    """
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")  # a progress bar hides the cursor
    os._exit(CTRL_C)


def _open_streams() -> None:
    """Makes of the process's standard output and error streams that can be used.

    A closed descriptor is filled, or the next file that is opened would get what libraries write to it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest that is free: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  - to the end
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(_Closed(), "utf-8", write_through=True)
    elif not isinstance(sys.stdout, _Output):
        found = sys.stdout
        options = {name: getattr(found, name) for name in ("errors", "line_buffering", "write_through")}
        sys.stdout = sys.__stdout__ = _Output(found.detach(), found.encoding, **options)


def _drop_output() -> None:
    """Nothing more is written, nor complained of, when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
