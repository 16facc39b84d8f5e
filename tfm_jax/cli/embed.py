"""``tfm embed``: texts into vectors."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import tfm_jax  # its rooms load when they are used: --help waits for none
from tfm_jax.cli.encoder import EncoderCommand
from tfm_jax.cli.lines import Advance, check_out, json_number, jsonl, optional, whole

__all__ = ["Embed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embed(EncoderCommand):
    """Makes a vector of each text, with a model of sentence-transformers.

    Of any other encoder, such as BERT, it is the mean over the tokens, as there. A line that is not UTF-8 has
    null in jsonl, nan in npy; the others keep their places.
    """

    out: Annotated[Path | None, optional("FILE", "jsonl on standard output")] = None
    """Write the vectors to FILE.npy, float32 [lines, D], or FILE.jsonl, a list of numbers a line."""

    def use(self) -> int:
        """Gives 1 where a line could not be used."""
        self.check(self.text)
        if self.out is not None and self.out.suffix not in (".npy", ".jsonl"):
            raise ValueError(f"--out ends in .npy or .jsonl, got {self.out}")
        check_out(self.out)
        if (
            self.out is not None
            and self.out.suffix == ".npy"
            and self.out.exists()
            and not self.out.is_file()
        ):
            raise ValueError(f"--out: {self.out} is no ordinary file, which .npy takes; write .jsonl to it.")
        encoder = tfm_jax.pretrained.load_sentence_encoder(
            self.model, self.dtype, self.mesh(), allow_pickle=self.allow_pickle
        )

        def use(numbers: list[int], texts: list[str], advance: Advance) -> list[Any]:
            vectors = encoder(texts, batch_size=self.batch_size)
            advance(len(numbers))
            return list(vectors)

        is_npy = self.out is not None and self.out.suffix == ".npy"
        with _npy(self.out, encoder.width) if is_npy else jsonl(self.out, _list) as give:
            return 1 if self.answer(self.text, use, give) else 0


def _list(vector: Any) -> str:
    """The shortest numbers that read back as the same float32."""
    return f"[{', '.join('null' if json_number(x) is None else str(x) for x in vector)}]"


@contextlib.contextmanager
def _npy(path: Path, width: int) -> Iterator[Callable[[Any], None]]:
    """Rows as they come, into a file that is there once it is whole; nan where there is no vector."""
    import numpy as np

    rows = 0

    def head(file: Any) -> None:
        # NumPy leaves room in it for any number of rows.
        file.seek(0)
        shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(file, shape)

    with whole(path, "wb") as file:
        head(file)

        def give(vector: Any) -> None:
            nonlocal rows
            rows += 1
            file.write(np.asarray(np.full(width, np.nan) if vector is None else vector, "<f4").tobytes())

        yield give
        head(file)
