"""Language-model batches from a stream of texts that need not fit into memory, or end.

The texts are read in the order in which they come and cut where a row ends. The state is the stream's own and
a place in one text, so resuming reads nothing twice but that text.
"""

import copy
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np

from tfm_jax.data._validate import check_range
from tfm_jax.data.columns import check_columns
from tfm_jax.data.packing import empty_batch, put_piece
from tfm_jax.data.sequences import encode_documents
from tfm_jax.data.tokenizers import Tokenizer

__all__ = ["StreamIterator", "StreamLoader"]


class StreamLoader:
    """Full language-model batches from a stream, epoch after epoch, without end.

    Equivalent to::

        pairs = (pair for document in documents for pair in itertools.pairwise(document))
        rows = itertools.batched(pairs, length)     # a document that goes on in the next row is a new segment

    Args:
        dataset: the stream, such as `load` gives with ``streaming=True``; one part of it for each process
            (``datasets.distributed.split_dataset_by_node``). Its shards come in another order in every epoch.
            A stream shuffled through a buffer is not resumed exactly: what the buffer held is lost.
        tokenizer: its begin and end tokens are used if it has them.
        length: the length T of a row.
        batch_size: the rows of a batch, of this process.
        column: the name of the column with the texts.
        vocab_size: the model's, if it is not the tokenizer's; ids must be below it.

    Raises:
        ValueError: there is no such column.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        tokenizer: Tokenizer,
        *,
        length: int,
        batch_size: int,
        column: str = "text",
        vocab_size: int | None = None,
    ):
        check_columns(dataset, [column], "column='...'")
        self.dataset, self.tokenizer, self.column = dataset, tokenizer, column
        self.length, self.batch_size = length, batch_size
        self.vocab_size = vocab_size or tokenizer.vocab_size

    def __iter__(self) -> "StreamIterator":
        return StreamIterator(self)


class StreamIterator(Iterator[dict[str, np.ndarray]]):
    """A place in a stream's batches: ``get_state`` and ``set_state`` read and move it.

    Attributes:
        dropped: how many empty texts this iterator has left out.
    """

    def __init__(self, loader: StreamLoader):
        self._loader = loader
        self.dropped = 0
        self.set_state({"epoch": 0, "stream": None, "row": 0, "offset": 0})

    def __next__(self) -> dict[str, np.ndarray]:
        length = self._loader.length
        batch = empty_batch(self._loader.batch_size, length)
        for row in range(self._loader.batch_size):
            at = segment = 0
            while at < length:
                while self._offset >= len(self._document) - 1:
                    self._read()
                end = min(self._offset + length - at, len(self._document) - 1)
                segment += 1
                put_piece(batch, row, at, segment, self._document[self._offset : end + 1])
                at += end - self._offset
                self._offset = end
        return batch

    def get_state(self) -> dict[str, Any]:
        """The place: a small dict that JSON can hold."""
        return {"epoch": self._epoch, "stream": self._before, "row": self._row, "offset": self._offset}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a place that ``get_state`` told."""
        self._epoch, self._before, self._row = state["epoch"], state["stream"], state["row"]
        self._open(self._before, self._row)
        self._document = np.zeros(0, np.int32)
        if state["offset"]:
            self._read()
        self._offset = state["offset"]

    def _open(self, state: dict[str, Any] | None, row: int = 0) -> None:
        # A copy: epoch and position would stay with the data set, which others may read, too.
        self._stream = copy.deepcopy(self._loader.dataset)
        self._stream.set_epoch(self._epoch)
        if state is not None:
            self._stream.load_state_dict(state)
        self._texts = iter(self._stream)
        self._after = state  # the stream's state before the next text; None at its start
        self._next_row = row
        self._useful = state is not None

    def _read(self) -> None:
        """Read the next text, or turn to the next epoch."""
        row = next(self._texts, None)
        if row is None:
            if not self._useful:
                raise ValueError(
                    "the stream has no text of two tokens or more; choose another source or split"
                )
            self._epoch += 1
            self._open(None)
            return
        text = row.get(self._loader.column)
        if not isinstance(text, str):
            raise ValueError(
                f"row {self._next_row}: wanted text in column {self._loader.column!r}, got {row!r:.80}; "
                "correct or drop the row"
            )
        document = encode_documents([text], self._loader.tokenizer)[0]
        start = np.zeros(1, np.int64)
        check_range(document, self._loader.vocab_size, "token id", start, first_row=self._next_row)
        self._before, self._after = self._after, self._stream.state_dict()
        self._row, self._next_row = self._next_row, self._next_row + 1
        self._document = document
        self._offset = 0
        if len(self._document) > 1:
            self._useful = True
        else:
            self.dropped += 1
