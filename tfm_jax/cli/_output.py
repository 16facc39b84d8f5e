"""Output files of commands: written whole or not at all, as JSON lines or anything else."""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from tfm_jax.console import add_filename

__all__ = ["check_output", "json_number", "open_atomic", "open_jsonl"]

Result = TypeVar("Result")


def check_output(path: Path | None) -> None:
    """Checks that the file of ``--out`` can be written, before a model is loaded.

    Raises:
      ValueError: it cannot.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"--out: got {path}, a directory; wanted a file.")
    if not path.parent.is_dir():
        raise ValueError(f"--out: got {path}; wanted a file in a directory that exists. Make {path.parent}.")
    if not os.access(path if path.exists() and not path.is_file() else path.parent, os.W_OK):
        raise ValueError(f"--out: got {path}; wanted a file that can be written.")


@contextlib.contextmanager
def open_atomic(path: Path, mode: Literal["w", "wb"], *, encoding: str | None = None) -> Iterator[IO[Any]]:
    """Opens a file that replaces ``path`` only when the context ends without an error.

    Args:
      path: of the file. Until then, the output is in ``path.part`` beside it. A pipe or a device is written
        directly.
      mode, encoding: as for ``open``.
    """
    is_file = path.is_file() or not path.exists()
    path = path.resolve() if is_file else path  # replaces the target of a link, not the link
    part = path.with_name(f"{path.name}.part") if is_file else path
    with add_filename(path):
        with part.open(mode, encoding=encoding) as file:
            yield file
        if is_file:
            part.replace(path)


@contextlib.contextmanager
def open_jsonl(
    path: Path | None, to_json: Callable[[Result], str]
) -> Iterator[Callable[[Result | None], None]]:
    """Yields a function that writes a result as a line of JSON, None as "null".

    Args:
      path: of the file; None means standard output.
      to_json: converts a result to JSON in ASCII, which is valid in every encoding.
    """
    with contextlib.ExitStack() as stack:
        file = sys.stdout
        if path is not None:
            file = stack.enter_context(open_atomic(path, "w", encoding="utf-8"))

        def write(result: Result | None) -> None:
            print("null" if result is None else to_json(result), file=file, flush=True)

        yield write


def json_number(value: float) -> float | None:
    """A number for JSON: None instead of NaN and Inf, which JSON lacks."""
    return float(value) if math.isfinite(value) else None
