"""``tfm embed``: embeddings of texts."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, ClassVar

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax.cli._encoder_command import EncoderCommand
from tfm_jax.cli._lines import Advance
from tfm_jax.cli._model_command import option_errors
from tfm_jax.cli._options import optional
from tfm_jax.cli._output import json_number, open_atomic, open_jsonl

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Embed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embed(EncoderCommand):
    """Compute an embedding of each text with a sentence encoder, or with the encoder of a run's classifier.

    Any other encoder, such as BERT, gives the mean over tokens, as in sentence-transformers. A line that is
    not UTF-8 gives null in .jsonl and NaN in .npy.
    """

    out: Annotated[Path | None, optional("FILE", "JSON lines on standard output")] = None
    """Write the embeddings to FILE.npy, float32 [lines, D], or to FILE.jsonl, a list of numbers per line."""

    name: ClassVar[str] = "embed"

    @property
    def _npy(self) -> Path | None:
        """The file of ``--out`` if it is one of NumPy."""
        return self.out if self.out is not None and self.out.suffix == ".npy" else None

    def check(self) -> None:
        """Checks the type of the output file too."""
        if self.out is not None and self.out.suffix not in (".npy", ".jsonl"):
            raise ValueError(f"--out: got {self.out}; wanted a name that ends in .npy or .jsonl.")
        super().check()
        if self._npy is not None and self._npy.exists() and not self._npy.is_file():
            raise ValueError(f"--out: got {self.out}, not a regular file; wanted one for .npy. Use .jsonl.")

    def run(self) -> int:
        """Returns 1 if a line failed."""
        self.check_model()
        with option_errors():
            encoder = tfm_jax.runs.load_sentence_encoder(self.directory, **self.load_options)

        def process(numbers: list[int], texts: list[str], advance: Advance) -> "list[np.ndarray]":
            vectors = encoder(texts, batch_size=self.batch_size)
            advance(len(numbers))
            return list(vectors)

        npy = self._npy
        output = open_jsonl(self.out, _to_json) if npy is None else _open_npy(npy, encoder.width)
        with output as write:
            return 1 if self.process_lines(process, write, str) else 0


def _to_json(vector: "np.ndarray") -> str:
    """The shortest decimals that read back as the same float32 numbers."""
    return f"[{', '.join('null' if json_number(x) is None else str(x) for x in vector)}]"


@contextlib.contextmanager
def _open_npy(path: Path, width: int) -> "Iterator[Callable[[np.ndarray | None], None]]":
    """Yields a function that appends a vector to an .npy file, NaN for None."""
    import numpy as np

    rows = 0

    def write_header(file: IO[bytes]) -> None:
        # NumPy pads the header, so that it has the same size for any number of rows.
        file.seek(0)
        shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(file, shape)

    with open_atomic(path, "wb") as file:
        write_header(file)

        def write(vector: np.ndarray | None) -> None:
            nonlocal rows
            rows += 1
            file.write(np.asarray(np.full(width, np.nan) if vector is None else vector, "<f4").tobytes())

        yield write
        write_header(file)
