"""Reader of text files: documents."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets

from tfm_jax.data._open import open_text

__all__ = ["LONGEST_ROW", "TextReader"]

LONGEST_ROW = 1 << 16  # characters


@dataclasses.dataclass(frozen=True)
class TextReader:
    """Documents in a column "text", split into rows of at most 65,536 characters.

    Args:
      encoding: of the file.
    """

    encoding: str

    def features(self, files: Sequence[Path]) -> datasets.Features:
        """The column."""
        return datasets.Features({"text": datasets.Value("string")})

    def rows(self, file: Path) -> Iterator[dict[str, object]]:
        """The rows of a document, split at line ends where possible; an empty document is one empty row."""
        with open_text(file, self.encoding, None) as text:
            for row in _split(text):
                yield {"text": row}


def _split(text: io.TextIOBase) -> Iterator[str]:
    rest = text.read(LONGEST_ROW + 1)
    while len(rest) > LONGEST_ROW:
        end = rest.rfind("\n", 0, LONGEST_ROW) + 1 or LONGEST_ROW
        yield rest[:end]
        rest = rest[end:]
        rest += text.read(LONGEST_ROW + 1 - len(rest))
    yield rest
