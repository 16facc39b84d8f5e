"""Reader of two aligned text files: line n of one is the translation of line n of the other."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import datasets

from tfm_jax.data._layout import kind_of
from tfm_jax.data._open import COMPRESSED, open_text

__all__ = ["AlignedReader", "find_aligned", "language_of"]

_LANGUAGE = re.compile(r"\.([a-z]{2,3}([-_][a-z]{2,4})?)(\.txt|\.text)?$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class AlignedReader:
    """The lines of two files, in the columns "source" and "target"; empty lines too.

    A line ends with LF or CRLF. No other character ends one, so that both files have the lines that other
    tools count.

    Args:
      target: the file of the targets.
      encoding: of both files.
    """

    target: Path
    encoding: str

    def features(self, files: Sequence[Path]) -> datasets.Features:
        """The columns."""
        return datasets.Features({name: datasets.Value("string") for name in ("source", "target")})

    def rows(self, file: Path) -> Iterator[dict[str, object]]:
        """The pairs of lines; a ValueError at the end if one file has more lines."""
        sources, targets = _lines(file, self.encoding), _lines(self.target, self.encoding)
        for n, (source, target) in enumerate(zip_longest(sources, targets)):
            if source is None or target is None:
                more = n + 1 + sum(1 for _ in (sources if target is None else targets))
                counts = (more, n) if target is None else (n, more)
                raise ValueError(
                    f"load: got {counts[0]:,} lines in {file} and {counts[1]:,} in {self.target}; wanted as "
                    "many in both, each the translation of the line with its number. Align the files."
                )
            yield {"source": source, "target": target}


def find_aligned(source: Sequence[str]) -> tuple[Path, Path]:
    """The two files of an aligned source.

    Args:
      source: their paths, source texts first; the files may be compressed.

    Returns:
      The paths.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: there are not two, or one is no text file.
    """
    if len(source) != 2 or isinstance(source, str):
        raise ValueError(
            f"load: got {len(source)} paths, {tuple(source)!r:.200}; wanted one source, or two aligned text "
            "files. Name the file of the source texts, then that of the target texts."
        )
    first, second = (Path(name).expanduser() for name in source)
    for name, path in zip(source, (first, second), strict=True):
        if not path.is_file():
            problem = "a directory" if path.is_dir() else "no such file"
            raise FileNotFoundError(
                f"load: got {name!r} (from {Path.cwd()}) and found {problem}; wanted two aligned text files, "
                "such as train.en and train.fr. Check the path."
            )
        if kind_of(path.name) not in (None, "text"):
            raise ValueError(
                f"load: got {name!r} as one of two aligned files; wanted text files, a sentence in each "
                "line. Load a table or JSON as a single source, which holds both sides."
            )
    return first, second


def language_of(file: str) -> str | None:
    """The language that a file's suffix names: "fr" of train.fr, of train.fr.gz and of train.fr.txt."""
    path = Path(file)
    found = _LANGUAGE.search(path.stem if path.suffix.lower() in COMPRESSED else path.name)
    return found[1] if found and found[1].lower() not in ("txt", "src", "tgt", "trg", "ref") else None


def _lines(file: Path, encoding: str) -> Iterator[str]:
    with open_text(file, encoding, "\n") as text:
        for line in text:
            yield line.removesuffix("\n").removesuffix("\r")
