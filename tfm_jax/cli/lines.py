"""Lines of arguments, a file or standard input, each answered in its place; a bad one loses no other."""

import contextlib
import dataclasses
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.conf import arg

from tfm_jax.console import add_filename, print_error
from tfm_jax.ranges import Size

__all__ = [
    "Advance",
    "LineCommand",
    "check_out",
    "json_number",
    "jsonl",
    "optional",
    "text_of",
    "whole",
]

BATCHES = 16
"""Batches between two times that results are given; their lines are sorted by length."""

Advance = Callable[[int], None]


def optional(metavar: str, default: str = "none") -> Any:
    """How --help shows an option that may be left out."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclasses.dataclass(frozen=True)
class LineCommand:
    """What commands share that answer each line."""

    file: Annotated[Path | None, optional("FILE")] = None
    """Take the lines of a file."""
    batch_size: Annotated[Size, arg(metavar="N")] = 32
    """Texts at once; with 1, each line of standard input is answered before the next is read."""

    def check(self, texts: tuple[str, ...]) -> None:
        """Raises for what does not fit, before anything is read."""
        if texts and self.file is not None:
            raise ValueError("the texts are arguments or the lines of --file, not both")
        if self.file is not None:
            with add_filename(self.file):  # is it there? what is opened twice may give its lines once
                os.stat(self.file)
            if self.file.is_dir():
                raise ValueError(f"--file: {self.file} is a directory; wanted a file.")
        elif not texts and sys.stdin is None:
            raise ValueError("standard input is closed: give texts as arguments, or their file with --file")

    def answer(
        self,
        texts: tuple[str, ...],
        use: Callable[[list[int], list[str], Advance], Iterable[Any]],
        give: Callable[[Any], None],
        wanted: Callable[[str], bool] = lambda text: True,
    ) -> int:
        """Answers each line.

        Args:
          texts: the arguments; without any, the lines come from the file or from standard input.
          use: makes of places in the input and their texts an answer each; tells how many are done.
          give: takes the answer of each line in the input's order, None where there is none.
          wanted: whether there is something to answer; a ValueError of it is said, and loses that line alone.

        Returns:
          How many lines could not be used.
        """
        with contextlib.ExitStack() as stack:
            lines, total = _lines(texts, self.file, stack)
            advance = stack.enter_context(_bar(total))
            from_stdin = not texts and self.file is None
            one_by_one = self.batch_size == 1 or (from_stdin and sys.stdin.isatty())
            size = 1 if one_by_one else BATCHES * self.batch_size
            lost, numbered = 0, enumerate(lines)
            while chunk := list(itertools.islice(numbered, size)):
                good = {}
                for number, line in chunk:
                    try:
                        text = text_of(line)
                        if wanted(text):
                            good[number] = text
                    except ValueError as error:
                        lost += 1
                        print_error(f"line {number + 1}: {error}")
                found = use([*good], [*good.values()], advance) if good else ()
                done = dict(zip(good, found, strict=True))
                advance(len(chunk) - len(good))
                for number, _ in chunk:
                    give(done.get(number))
        return lost


def _lines(
    texts: tuple[str, ...], file: Path | None, stack: contextlib.ExitStack
) -> tuple[Iterable[str | bytes], int | None]:
    """The lines; and how many there are, of a file."""
    if texts:
        return texts, None
    if file is None:
        if sys.stdin.isatty():
            print_error("reading lines from the terminal; Ctrl-D ends them")
        return _named(sys.stdin.buffer, "standard input"), None
    total = None
    if file.is_file():  # and not a pipe, whose lines come once
        with file.open("rb") as opened:
            total = sum(1 for _ in opened)
    return _named(stack.enter_context(file.open("rb")), file), total


def _named(lines: Iterable[bytes], where: str | Path) -> Iterator[bytes]:
    """The lines, where an error of reading names what is read."""
    with add_filename(where):
        yield from lines


def text_of(line: str | bytes) -> str:
    """The text of an argument, or of a line of a file; a ValueError for what is not UTF-8."""
    try:
        # What of an argument was not UTF-8 stands in it as surrogates.
        data = line.encode(errors="surrogateescape") if isinstance(line, str) else line.rstrip(b"\r\n")
        return data.decode("utf-8-sig")
    except UnicodeError as error:
        raise ValueError(f"this is not UTF-8: {error}") from error


@contextlib.contextmanager
def whole(path: Path, mode: str, **options: Any) -> Iterator[IO[Any]]:
    """Opens a file for what comes bit by bit; it is there once it is whole, and until then what was there is.

    Args:
      path: of the file; beside it stands what was written so far, as ``path.part``. A pipe or a device is
        written to as it is.
      mode: as ``open`` takes it.
      options: as ``open`` takes them.
    """
    is_file = path.is_file() or not path.exists()
    path = path.resolve() if is_file else path  # what a link names is replaced, and not the link
    part = path.with_name(f"{path.name}.part") if is_file else path
    with add_filename(path):
        with part.open(mode, **options) as file:
            yield file
        if is_file:
            part.replace(path)


def check_out(path: Path | None) -> None:
    """Raises for a file that cannot be written, before a model is loaded."""
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"--out: {path} is a directory; wanted a file.")
    if not path.parent.is_dir():
        raise ValueError(f"--out: got {path}; wanted a file in a directory that exists. Make {path.parent}.")
    if not os.access(path if path.exists() and not path.is_file() else path.parent, os.W_OK):
        raise ValueError(f"--out: got {path}; wanted a file that may be written.")


def json_number(value: float) -> float | None:
    """A number as JSON has it, which knows no NaN and no infinity: these are null."""
    return float(value) if math.isfinite(value) else None


@contextlib.contextmanager
def jsonl(path: Path | None, write: Callable[[Any], str]) -> Iterator[Callable[[Any], None]]:
    """Gives what takes answers and writes a line of JSON for each, "null" where there is none.

    Args:
      path: of the file; None is standard output.
      write: makes the line of an answer, of ASCII alone, which is JSON in every encoding.
    """
    with contextlib.nullcontext(sys.stdout) if path is None else whole(path, "w", encoding="utf-8") as file:
        yield lambda found: print("null" if found is None else write(found), file=file, flush=True)


@contextlib.contextmanager
def _bar(total: int | None) -> Iterator[Advance]:
    """Shows how far a file is, on a terminal; gives what moves it."""
    console = Console(stderr=True)
    if total is None or not console.is_terminal:
        yield lambda n: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("lines"), TimeRemainingColumn())
    # What is printed beside the bar goes where it went: into a pipe, or above the bar.
    with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("", total=total)
        yield lambda n: progress.advance(task, n)
