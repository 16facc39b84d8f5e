"""Packed language-model batches from a stream of texts that may be larger than memory, or infinite.

Texts are read in the order of the stream and split where a sequence is full. The state is that of the stream
and an offset in one text, so resuming reads only that text again.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import numpy as np

from tfm_jax.data._validate import check_range
from tfm_jax.data.columns import check_columns
from tfm_jax.data.packing import empty_batch, write_chunk
from tfm_jax.data.sequences import encode_documents
from tfm_jax.types import Json, LanguageModelBatch, Tokenizer

__all__ = ["StreamIterator", "StreamLoader"]


class StreamLoader:
    """Full language-model batches from a stream, epoch after epoch, without end.

    Equivalent to::

        pairs = (pair for document in documents for pair in itertools.pairwise(document))
        sequences = itertools.batched(pairs, length)    # a document that is split continues as a new segment

    Args:
      dataset: the stream, such as `load` returns with ``streaming=True``; one part of it per process
        (``datasets.distributed.split_dataset_by_node``). Its shards are in another order in every epoch.
        A stream that is shuffled through a buffer does not resume exactly: the buffer is lost.
      tokenizer: its BOS and EOS are added if it has them.
      length: T, of a sequence.
      batch_size: the number of sequences in a batch, of this process.
      column: the name of the column with the texts.
      vocab_size: the model's, if it is not the tokenizer's; ids must be below it.

    Raises:
      ValueError: the stream has no such column.
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
        check_columns("StreamLoader", dataset, [column], "column='...'")
        self.dataset, self.tokenizer, self.column = dataset, tokenizer, column
        self.length, self.batch_size = length, batch_size
        self.vocab_size = vocab_size or tokenizer.vocab_size

    def __iter__(self) -> "StreamIterator":
        return StreamIterator(self)


class StreamIterator(Iterator[LanguageModelBatch[np.ndarray]]):
    """Iterator over the batches of a `StreamLoader`, with ``get_state`` and ``set_state``.

    Attributes:
      dropped: how many empty texts this iterator has dropped.
    """

    def __init__(self, loader: StreamLoader):
        self._loader = loader
        self.dropped = 0
        self.set_state({"epoch": 0, "stream": None, "row": 0, "offset": 0})

    def __next__(self) -> LanguageModelBatch[np.ndarray]:
        length = self._loader.length
        batch = empty_batch(self._loader.batch_size, length, pad_id=0)  # every position is written
        for sequence in range(self._loader.batch_size):
            position = segment = 0
            while position < length:
                while self._offset >= len(self._document) - 1:
                    self._read()
                end = min(self._offset + length - position, len(self._document) - 1)
                segment += 1
                write_chunk(batch, sequence, position, segment, self._document[self._offset : end + 1])
                position += end - self._offset
                self._offset = end
        return batch

    def get_state(self) -> dict[str, Json]:
        """The position in the stream, as a small dict for JSON."""
        return {"epoch": self._epoch, "stream": self._before, "row": self._row, "offset": self._offset}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Moves to a position that ``get_state`` returned."""
        self._epoch, self._before, self._row = state["epoch"], state["stream"], state["row"]
        self._open(self._before, self._row)
        self._document = np.zeros(0, np.int32)
        if state["offset"]:
            self._read()
        self._offset = state["offset"]

    def _open(self, state: dict[str, Json] | None, row: int = 0) -> None:
        # A copy, since epoch and position are kept in the data set, which others may read.
        self._stream = copy.deepcopy(self._loader.dataset)
        self._stream.set_epoch(self._epoch)
        if state is not None:
            self._stream.load_state_dict(state)
        self._texts = iter(self._stream)
        self._after = state  # the stream's state before the next text; None at its start
        self._next_row = row
        self._has_text = state is not None

    def _read(self) -> None:
        """Reads the next text, or starts the next epoch."""
        row = next(self._texts, None)
        if row is None:
            if not self._has_text:
                raise ValueError(
                    "StreamLoader: got no text of two tokens or more; wanted at least one. Choose another "
                    "source or split."
                )
            self._epoch += 1
            self._open(None)
            return
        text = row.get(self._loader.column)
        if not isinstance(text, str):
            raise ValueError(
                f"StreamLoader: got {row!r:.80} in row {self._next_row}; wanted a text in column "
                f"{self._loader.column!r}. Correct or drop the row."
            )
        document = encode_documents([text], self._loader.tokenizer)[0]
        start, size = np.zeros(1, np.int64), self._loader.vocab_size
        check_range("StreamLoader", "token id", document, size, start, first_row=self._next_row)
        self._before, self._after = self._after, self._stream.state_dict()
        self._row, self._next_row = self._next_row, self._next_row + 1
        self._document = document
        self._offset = 0
        if len(self._document) > 1:
            self._has_text = True
        else:
            self.dropped += 1
