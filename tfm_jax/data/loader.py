"""Deterministic, resumable data loader: batch i is a function of the examples, the sampler and i alone.

grain prefetches in threads. The state of an iterator is the number of the next batch, so resuming replays
nothing.
"""

import functools
import sys
from collections.abc import Iterator, Mapping
from typing import Generic, Protocol, TypeVar, cast

import grain
import numpy as np

from tfm_jax.ranges import COUNT, SIZE, check_number, check_numbers
from tfm_jax.types import BatchT, Json

__all__ = ["BatchSampler", "Examples", "Loader", "LoaderIterator", "UniformBatchSampler"]


_BatchT_co = TypeVar("_BatchT_co", bound=Mapping[str, object], covariant=True)


class Examples(Protocol[_BatchT_co]):
    """Examples with random access, a batch at a time."""

    def __len__(self) -> int: ...

    @property
    def fingerprint(self) -> int:
        """A checksum of the content, saved with the loader's state.

        A type checker accepts a property or an attribute here, but no ``functools.cached_property``.
        """
        ...

    def take(self, indices: np.ndarray, shape: tuple[int, ...] | None = None) -> _BatchT_co:
        """A batch of the examples at these indices, padded to ``shape`` if their lengths differ.

        A new dict of new NumPy arrays: the loader changes them.
        """
        ...


class BatchSampler(Protocol):
    """The example indices of batch i; index -1 pads a batch, but is never its first.

    With a seed there is no last batch; with ``seed=None`` it raises IndexError from batch ``per_epoch`` on.
    """

    num_examples: int
    sizes: list[int]  # the batch size of each shape
    seed: int | None
    per_epoch: int

    @property
    def settings(self) -> dict[str, Json]: ...

    def __getitem__(self, i: int) -> tuple[np.ndarray, tuple[int, ...] | None]: ...


class UniformBatchSampler:
    """Batch sampler for examples of one shape: the indices of batch i, from i and the seed.

    Equivalent to::

        rngs = (np.random.default_rng([seed, epoch]) for epoch in itertools.count())
        stream = (index for rng in rngs for index in rng.permutation(num_examples))
        batches = itertools.batched(stream, batch_size)                  # with a seed
        batches = itertools.batched(range(num_examples), batch_size)     # without; the last padded with -1

    Args:
      num_examples: the number of examples.
      batch_size: the number of examples in a batch.
      seed: reshuffles in every epoch, without end; every batch is full (it may span two epochs). None:
        the examples in order, once (for evaluation).

    Attributes:
      per_epoch: the number of batches in an epoch, rounded up.

    Raises:
      ValueError: there are no examples, or ``batch_size`` is not positive.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int | None = None):
        if num_examples < 1:
            raise ValueError("UniformBatchSampler: got no examples; wanted at least one. Choose other data.")
        check_number("UniformBatchSampler", "batch_size", batch_size, SIZE)
        if seed is not None:
            check_number("UniformBatchSampler", "seed", seed, COUNT)
        self.num_examples, self.batch_size, self.seed = num_examples, batch_size, seed
        self.sizes = [batch_size]
        self.per_epoch = -(-num_examples // batch_size)
        self._order = functools.lru_cache(maxsize=2)(self._make_order)

    @property
    def settings(self) -> dict[str, Json]:
        """What decides the order of the examples; saved with the loader's state."""
        return {"rows": self.num_examples, "batch_size": self.batch_size, "seed": self.seed}

    def __getitem__(self, i: int) -> tuple[np.ndarray, None]:
        """The example indices of batch i (-1 is padding); no shape, since there is only one."""
        steps = np.arange(i * self.batch_size, (i + 1) * self.batch_size)
        if self.seed is None:
            if i >= self.per_epoch:
                raise IndexError(i)
            return np.where(steps < self.num_examples, steps, -1), None
        epochs = steps // self.num_examples
        parts = [self._order(int(n))[steps[epochs == n] % self.num_examples] for n in np.unique(epochs)]
        return np.concatenate(parts), None

    def _make_order(self, epoch: int) -> np.ndarray:
        assert self.seed is not None
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_examples)


class Loader(Generic[BatchT]):
    """Batches as dicts of NumPy arrays, prefetched in threads; deterministic wherever it resumes.

    Equivalent to::

        for i in itertools.count():
            indices, shape = sampler[i]
            yield examples.take(indices, shape)       # all zeros (weight 0, not valid) where an index is -1

    Args:
      examples: the examples, such as `image_classification_examples`, `translation_examples` or
        `language_model_examples` return.
      sampler: the indices of each batch (`UniformBatchSampler`, `BucketBatchSampler`). Without a seed the
        iteration ends after one epoch in order, and each batch has one more entry, ``"index"``: the index of
        each example, to restore their order; -1 for padding (of weight 0).
      rank: this process, 0 to ``world - 1``. It reads the ``rank``-th part of every batch, so that the
        concatenated parts are the batch of a single process.
      world: the number of processes; divides every batch size.
      threads: the number of prefetching threads; 0 does not prefetch. It never changes the batches.

    Raises:
      ValueError: the sampler is for another number of examples, or a batch size does not divide by
        ``world``.
    """

    def __init__(
        self,
        examples: Examples[BatchT],
        sampler: BatchSampler,
        *,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
    ):
        check_number("Loader", "world", world, SIZE)
        check_numbers("Loader", COUNT, rank=rank, threads=threads)
        if rank >= world:
            raise ValueError(f"Loader: got rank={rank}; wanted 0 to {world - 1}, since world={world}.")
        self.sampler = sampler
        self.threads = threads
        if sampler.num_examples != len(examples):
            raise ValueError(
                f"Loader: got {len(examples)} examples and a sampler for {sampler.num_examples}; wanted the "
                "same number. Make the sampler from these examples."
            )
        for size in sampler.sizes:
            if size % world:
                raise ValueError(
                    f"Loader: got batch size {size} and world={world}; wanted a size that divides by it. "
                    "Change the batch size."
                )
        self._source = _BatchSource(examples, sampler, rank, world)

    @property
    def per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return self.sampler.per_epoch

    def __iter__(self) -> "LoaderIterator[BatchT]":
        return LoaderIterator(self)


class LoaderIterator(Iterator[BatchT]):
    """Iterator over the batches of a `Loader`, with ``get_state`` and ``set_state``."""

    def __init__(self, loader: Loader[BatchT]):
        self._examples, self._settings = loader._source.examples, loader.sampler.settings
        options = grain.ReadOptions(num_threads=loader.threads, prefetch_buffer_size=4 * loader.threads)
        self._batches = iter(grain.MapDataset.source(loader._source).to_iter_dataset(options))

    def __next__(self) -> BatchT:
        return next(self._batches)

    def get_state(self) -> dict[str, Json]:
        """The number of the next batch, and what it was made with, as a small dict for JSON.

        Prefetched batches do not count.
        """
        return {"next_batch": self._batches.get_state()["next_index"], **self._made_with()}

    def set_state(self, state: Mapping[str, object]) -> None:
        """Moves to a position that ``get_state`` returned.

        Raises:
          ValueError: the state is of other data, another batch size or another seed. The number of processes
            may differ.
        """
        saved = {name: value for name, value in state.items() if name != "next_batch"}
        if saved != self._made_with():
            raise ValueError(
                f"Loader: got a saved state of batches made with {saved}; wanted {self._made_with()}. Resume "
                "with the same data, batch size and seed, or start a new run."
            )
        self._batches.set_state({"next_index": state["next_batch"]})

    def _made_with(self) -> dict[str, Json]:
        return {**self._settings, "fingerprint": self._examples.fingerprint}


class _BatchSource(Generic[BatchT]):
    """Random access to the batches, for grain."""

    def __init__(self, examples: Examples[BatchT], sampler: BatchSampler, rank: int, world: int):
        self.examples, self.sampler, self.rank, self.world = examples, sampler, rank, world

    def __len__(self) -> int:
        return self.sampler.per_epoch if self.sampler.seed is None else sys.maxsize

    def __getitem__(self, index: int) -> BatchT:
        batch_indices, shape = self.sampler[index]
        indices = batch_indices.reshape(self.world, -1)[self.rank]
        # The first index of a batch is never padding, and fits the shape: take it, then zero the padding.
        batch = self.examples.take(np.where(indices < 0, batch_indices[0], indices), shape)
        if (indices < 0).any():
            for name, array in batch.items():
                if not isinstance(array, np.ndarray):
                    raise ValueError(
                        f"Loader: got batch[{name!r}] of {type(array).__name__} from the examples; wanted a "
                        "NumPy array, to set its padding to 0. Convert it in take."
                    )
                array[indices < 0] = 0
        if self.sampler.seed is not None:
            return batch
        return cast(BatchT, {**batch, "index": indices.astype(np.int32)})  # no type can add a key to a batch
