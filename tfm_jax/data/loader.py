"""One deterministic loader: batch i is a function of the rows, the batching and i alone.

Reading ahead in threads is grain's; what a batch holds is decided by index, so the state of an iterator is
the number of the next batch, and nothing has to be replayed to resume.
"""

import functools
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import grain
import numpy as np

from tfm_jax.ranges import COUNT, SIZE, check_number, check_numbers

__all__ = ["BatchSampler", "Loader", "LoaderIterator", "Rows", "UniformBatchSampler"]


class Rows(Protocol):
    """Examples that can be taken by index, whole batches at a time."""

    def __len__(self) -> int: ...

    @property
    def fingerprint(self) -> int:
        """A checksum of the content, kept with the loader's state."""
        ...

    def take(self, indices: np.ndarray, shape: tuple[int, ...] | None = None) -> dict[str, np.ndarray]:
        """The rows at these indices, stacked; padded to ``shape`` where rows have different lengths."""
        ...


class BatchSampler(Protocol):
    """Which rows are batch i; -1 stands for a row that only fills the batch up (never for its first).

    With a seed it goes on for ever; with ``seed=None`` it raises IndexError from batch ``per_epoch`` on.
    """

    rows: int
    sizes: list[int]  # the batch size of each shape
    seed: int | None
    per_epoch: int

    @property
    def settings(self) -> dict[str, Any]: ...

    def __getitem__(self, i: int) -> tuple[np.ndarray, tuple[int, ...] | None]: ...


class UniformBatchSampler:
    """Which rows are batch i, for rows that all have one shape: a function of i and the seed.

    Equivalent to::

        stream = (row for epoch in itertools.count() for row in shuffled(range(rows), seed, epoch))
        batches = itertools.batched(stream, batch_size)          # with a seed
        batches = itertools.batched(range(rows), batch_size)     # without; the last one filled up with -1

    Args:
        rows: the number of rows.
        batch_size: the number of rows in a batch.
        seed: shuffles anew in every epoch, without end; every batch is full (it may span two epochs). None:
            the rows in order, once (for evaluation).

    Attributes:
        per_epoch: the number of batches in an epoch, rounded up.

    Raises:
        ValueError: there are no rows, or ``batch_size`` is not positive.
    """

    def __init__(self, rows: int, batch_size: int, seed: int | None = None):
        if rows < 1:
            raise ValueError("cannot make batches of no rows; the data set is empty")
        check_number("UniformBatchSampler", "batch_size", batch_size, SIZE)
        if seed is not None:
            check_number("UniformBatchSampler", "seed", seed, COUNT)
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.sizes = [batch_size]
        self.per_epoch = -(-rows // batch_size)
        self._order = functools.lru_cache(maxsize=2)(self._make_order)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the order of the rows; kept with the loader's state."""
        return {"rows": self.rows, "batch_size": self.batch_size, "seed": self.seed}

    def __getitem__(self, i: int) -> tuple[np.ndarray, None]:
        """The row indices of batch i (-1 fills up); no shape, there is but one."""
        places = np.arange(i * self.batch_size, (i + 1) * self.batch_size)
        if self.seed is None:
            if i >= self.per_epoch:
                raise IndexError(i)
            return np.where(places < self.rows, places, -1), None
        epochs = places // self.rows
        pieces = [self._order(int(epoch))[places[epochs == epoch] % self.rows] for epoch in np.unique(epochs)]
        return np.concatenate(pieces), None

    def _make_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows)


class Loader:
    """Batches as dicts of numpy arrays, read ahead in threads; the same ones every time, wherever it resumes.

    Equivalent to::

        for i in itertools.count():
            indices, shape = batches[i]
            yield rows.take(indices, shape)       # all zeros where an index is -1

    Args:
        rows: what to take the rows from (`image_classification_examples`, `translation_examples`, `language_model_examples`).
        batches: which rows to take (`UniformBatchSampler`, `BucketBatchSampler`). Without a seed the iteration ends
            after one pass in order, and each batch has one more entry, ``"row"``: the index of each row, -1
            for a row that only fills up (of weight 0), to bring predictions back into order.
        rank: this process, 0 to ``world - 1``. It gets the ``rank``-th part of every batch, so that the
            parts side by side are the batch of a single process.
        world: the number of processes; divides every batch size.
        threads: threads that read ahead; 0 reads when asked. Never changes what is read.

    Raises:
        ValueError: the rows and the batches do not belong together, or a batch does not divide by ``world``.
    """

    def __init__(self, rows: Rows, batches: BatchSampler, *, rank: int = 0, world: int = 1, threads: int = 2):
        check_number("Loader", "world", world, SIZE)
        check_numbers("Loader", COUNT, rank=rank, threads=threads)
        if rank >= world:
            raise ValueError(f"rank {rank} is not one of 0 to {world - 1} (world is {world})")
        self.batches = batches
        self.threads = threads
        if batches.rows != len(rows):
            raise ValueError(f"the batches are made for {batches.rows} rows, but there are {len(rows)}")
        for size in batches.sizes:
            if size % world:
                raise ValueError(f"batch size {size} does not divide into world={world} equal parts")
        self._source = _Source(rows, batches, rank, world)

    @property
    def per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return self.batches.per_epoch

    def __iter__(self) -> "LoaderIterator":
        return LoaderIterator(self)


class LoaderIterator(Iterator[dict[str, np.ndarray]]):
    """A place in a loader's batches: ``get_state`` and ``set_state`` read and move it."""

    def __init__(self, loader: Loader):
        self._rows, self._settings = loader._source.rows, loader.batches.settings
        options = grain.ReadOptions(num_threads=loader.threads, prefetch_buffer_size=4 * loader.threads)
        self._batches = iter(grain.MapDataset.source(loader._source).to_iter_dataset(options))

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        """The place: a small dict that JSON can hold. Batches that were only read ahead do not count."""
        return {"next_batch": self._batches.get_state()["next_index"], **self._made_with()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a place that ``get_state`` told.

        Raises:
            ValueError: the place is in other batches: of other data, another batch size or another seed. The
                number of processes may differ.
        """
        saved = {name: value for name, value in state.items() if name != "next_batch"}
        if saved != self._made_with():
            raise ValueError(
                f"the saved state belongs to batches made with {saved}, but these are made with "
                f"{self._made_with()}; resume with the same data, batch size and seed, or start anew"
            )
        self._batches.set_state({"next_index": state["next_batch"]})

    def _made_with(self) -> dict[str, Any]:
        return {**self._settings, "fingerprint": self._rows.fingerprint}


class _Source:
    """The batches by index, as grain reads them."""

    def __init__(self, rows: Rows, batches: BatchSampler, rank: int, world: int):
        self.rows, self.batches, self.rank, self.world = rows, batches, rank, world

    def __len__(self) -> int:
        return self.batches.per_epoch if self.batches.seed is None else sys.maxsize

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        whole, shape = self.batches[i]
        indices = whole.reshape(self.world, -1)[self.rank]
        # The first row of a batch is a real one, and fits the shape: it stands in for those that fill up.
        batch = self.rows.take(np.where(indices < 0, whole[0], indices), shape)
        if (indices < 0).any():
            for array in batch.values():
                array[indices < 0] = 0
        if self.batches.seed is None:
            batch["index"] = indices.astype(np.int32)
        return batch
