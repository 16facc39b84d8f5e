"""Inputs from arguments, or from the lines of a file or standard input; one result each, in order."""

import contextlib
import dataclasses
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.conf import arg

from tfm_jax.cli._options import Command, optional
from tfm_jax.console import add_filename, print_error
from tfm_jax.ranges import Size

__all__ = ["Advance", "LineCommand", "decode_text"]

BATCHES = 16
"""Batches that are read at once, so that lines of similar length share a batch."""

Advance = Callable[[int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class LineCommand(Command):
    """A command that processes each input: an argument, or a line of text."""

    file: Annotated[Path | None, optional("FILE")] = None
    """Read the inputs from a file, one per line."""
    batch_size: Annotated[Size, arg(metavar="N")] = 32
    """Inputs per batch. With 1, each line of standard input is processed before the next is read."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that are arguments."""
        raise NotImplementedError

    def check(self) -> None:
        """Checks that there is one source of inputs and that it can be read."""
        if self.inputs and self.file is not None:
            raise ValueError("--file: got inputs as arguments too; wanted only one of the two.")
        if self.file is not None:
            with add_filename(self.file):  # stat does not open it: a pipe gives its lines only once
                os.stat(self.file)
            if self.file.is_dir():
                raise ValueError(f"--file: got {self.file}, a directory; wanted a file.")
        elif not self.inputs and sys.stdin is None:
            raise ValueError("standard input: got a closed stream; wanted inputs. Pass them, or use --file.")

    def process_lines(
        self,
        process: Callable[[list[int], list[Item], Advance], Iterable[Result]],
        write: Callable[[Result | None], None],
        read: Callable[[str], Item | None],
    ) -> int:
        """Processes the lines in batches, and writes one result per line, in order.

        Args:
          process: maps line numbers (from 0) and what was read from them to one result each; reports
            finished lines to ``advance(n)``.
          write: writes a result; None for a line without one.
          read: what to process of a line, such as the text itself; None processes nothing. If it raises a
            ValueError, the message is printed and the line fails, but no other.

        Returns:
          How many lines failed.
        """
        with contextlib.ExitStack() as stack:
            lines, total = _open_lines(self.inputs, self.file, stack)
            advance = stack.enter_context(_progress_bar(total))
            from_stdin = not self.inputs and self.file is None
            one_by_one = self.batch_size == 1 or (from_stdin and sys.stdin.isatty())
            size = 1 if one_by_one else BATCHES * self.batch_size
            failed, numbered = 0, enumerate(lines)
            while chunk := list(itertools.islice(numbered, size)):
                items: dict[int, Item] = {}
                for number, line in chunk:
                    try:
                        item = read(decode_text(line))
                        if item is not None:
                            items[number] = item
                    except ValueError as error:
                        failed += 1
                        print_error(f"line {number + 1}: {error}")
                results: dict[int, Result] = {}
                if items:
                    results.update(zip(items, process([*items], [*items.values()], advance), strict=True))
                advance(len(chunk) - len(items))
                for number, _ in chunk:
                    write(results.get(number))
        return failed


def _open_lines(
    texts: tuple[str, ...], file: Path | None, stack: contextlib.ExitStack
) -> tuple[Iterable[str | bytes], int | None]:
    """The lines, and how many there are if they are in a file."""
    if texts:
        return texts, None
    if file is None:
        if sys.stdin.isatty():
            print_error("reading lines from the terminal; Ctrl-D ends the input")
        return _read_lines(sys.stdin.buffer, "standard input"), None
    total = None
    if file.is_file():  # not a pipe, which can be read only once
        with file.open("rb") as opened:
            total = sum(1 for _ in opened)
    return _read_lines(stack.enter_context(file.open("rb")), file), total


def _read_lines(lines: Iterable[bytes], where: str | Path) -> Iterator[bytes]:
    """The lines; an error while reading them names the source."""
    with add_filename(where):
        yield from lines


def decode_text(line: str | bytes) -> str:
    """Decodes an argument or a line of a file; a ValueError if it is not UTF-8."""
    try:
        # Python keeps invalid bytes of an argument as surrogates.
        data = line.encode(errors="surrogateescape") if isinstance(line, str) else line.rstrip(b"\r\n")
        return data.decode("utf-8-sig")
    except UnicodeError as error:
        raise ValueError(f"got a text that is not UTF-8; wanted UTF-8 ({error}).") from error


@contextlib.contextmanager
def _progress_bar(total: int | None) -> Iterator[Advance]:
    """Shows the progress through a file, on a terminal; yields the function that advances it."""
    console = Console(stderr=True)
    if total is None or not console.is_terminal:
        yield lambda n: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("lines"), TimeRemainingColumn())
    # Printed lines go above the bar on a terminal, and unchanged into a pipe.
    with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("", total=total)
        yield lambda n: progress.advance(task, n)
