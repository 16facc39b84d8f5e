"""Opening data files: decompression, decoding, and one-line errors that name the file."""

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

__all__ = ["COMPRESSED", "check_encoding", "line_error", "open_bytes", "open_text", "reading"]

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""The suffixes of compressed files."""

_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, csv.Error, RecursionError)


def check_encoding(encoding: str) -> None:
    """Raises unless Python knows the text encoding.

    Args:
      encoding: its name.

    Raises:
      ValueError: it is unknown, or no text encoding.
    """
    try:
        "a".encode(encoding)
    except (LookupError, ValueError, TypeError) as error:
        raise ValueError(
            f"load: got encoding={encoding!r} ({error}); wanted a text encoding that Python knows. Pass, for "
            "example, 'utf-8', 'latin-1' or 'utf-16'."
        ) from error


def line_error(file: Path, line: int, problem: str) -> ValueError:
    """The error for a line of a file; lines count from 1."""
    return ValueError(f"{file}, line {line}: {problem}")


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns the errors of damaged files into a one-line ValueError that names the file.

    Errors of the system, such as a missing permission, pass unchanged, since they name the file.
    """
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = "it is nested too deep" if isinstance(error, RecursionError) else _one_line(error)
        raise ValueError(
            f"{file}: got a damaged or truncated file, or not what its suffix declares ({reason}); wanted "
            "one that can be read. Replace it."
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def open_bytes(file: Path) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile | io.BufferedReader:
    """The decompressed content of a file, by its suffix."""
    suffix = file.suffix.lower()
    if suffix == ".zst":
        return pa.input_stream(str(file), compression="zstd")
    if suffix == ".gz":
        return gzip.open(file, "rb")
    if suffix == ".bz2":
        return bz2.open(file, "rb")
    return lzma.open(file, "rb") if suffix == ".xz" else open(file, "rb")


@contextlib.contextmanager
def open_text(file: Path, encoding: str, newline: str | None) -> Iterator[io.TextIOWrapper]:
    """The decoded content of a file, compressed or not, without a byte-order mark.

    Args:
      file: its path.
      encoding: a text encoding.
      newline: as for ``open``.

    Raises:
      ValueError: the file is damaged, or some bytes are not in the encoding; names the line.
    """
    codec = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    with reading(file):
        try:
            with open_bytes(file) as raw, io.TextIOWrapper(raw, encoding=codec, newline=newline) as text:
                yield text
        except UnicodeError as error:  # UTF-16 without its mark is a UnicodeError, not a UnicodeDecodeError
            line, start = _first_bad_line(file, codec)
            likely = "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin-1"
            raise line_error(
                file,
                line,
                f"got bytes that are not {encoding} ({getattr(error, 'reason', error)}); wanted the encoding "
                f"of the file. Pass it, such as encoding={likely!r} (--data.encoding {likely}).",
            ) from error


def _first_bad_line(file: Path, codec: str) -> tuple[int, bytes]:
    """The line of the first byte that cannot be decoded, and the first bytes of the file."""
    decoder, line, start = codecs.getincrementaldecoder(codec)(), 1, b""
    with open_bytes(file) as raw:
        while chunk := raw.read(1 << 16):
            start = start or chunk[:4]
            try:
                line += decoder.decode(chunk).count("\n")
            except UnicodeDecodeError as error:
                return line + error.object[: error.start].count(b"\n"), start
            except UnicodeError:
                break
    return line, start
