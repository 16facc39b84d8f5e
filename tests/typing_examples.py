"""What a type checker accepts and what it rejects: the library's own classes fit its interfaces.

Nothing runs this file. The checker reads it, and an ``ignore`` that hides no error is an error.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import Iterator, Mapping

import datasets
import jax
import numpy as np

from tfm_jax import data, train
from tfm_jax.data.loader import BatchSampler, Examples
from tfm_jax.types import (
    Array,
    Batch,
    ImageClassificationBatch,
    Json,
    Key,
    LanguageModelBatch,
    Params,
    SumWeight,
    TextClassificationBatch,
    Tokenizer,
    TranslationBatch,
)


def tokenizers_fit(tokenizer: data.JsonTokenizer) -> tuple[Tokenizer, ...]:
    _: Tokenizer = "ab"  # pyright: ignore[reportAssignmentType]
    return data.ByteTokenizer(), data.char_tokenizer(["ab"]), tokenizer


def examples_fit(
    documents: data.PackedSequences,
    pairs: data.TranslationExamples,
    texts: data.TextClassificationExamples,
    images: data.ImageClassificationExamples,
) -> None:
    _0: Examples[LanguageModelBatch[np.ndarray]] = documents
    _1: Examples[TranslationBatch[np.ndarray]] = pairs
    _2: Examples[TextClassificationBatch[np.ndarray]] = texts
    _3: Examples[ImageClassificationBatch[np.ndarray]] = images
    _4: Examples[LanguageModelBatch[np.ndarray]] = pairs  # pyright: ignore[reportAssignmentType]


def samplers_fit(uniform: data.UniformBatchSampler, buckets: data.BucketBatchSampler) -> list[BatchSampler]:
    return [uniform, buckets]


def rows_fit(table: datasets.Dataset, stream: datasets.IterableDataset) -> list[list[str]]:
    return [data.texts(table), data.texts(stream)]


def a_loader_yields_the_batches_of_its_examples(
    documents: data.PackedSequences, sampler: data.BucketBatchSampler
) -> Iterator[LanguageModelBatch[np.ndarray]]:
    for batch in data.Loader(documents, sampler):
        _ = batch["weights"].sum(), batch["segment_ids"].max()
        _ = batch["label"]  # pyright: ignore[reportGeneralTypeIssues]
        _ = batch["index"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        if "index" in batch:
            _ = batch["index"]
        yield batch


def iterators_fit(
    loader: data.Loader[LanguageModelBatch[np.ndarray]], stream: data.StreamLoader
) -> list[train.Batches]:
    state: dict[str, Json] = iter(loader).get_state()
    iter(loader).set_state(state)
    _0: train.Batches[LanguageModelBatch[np.ndarray]] = iter(loader)
    _1: train.Batches[TranslationBatch[np.ndarray]] = iter(loader)  # pyright: ignore[reportAssignmentType]
    _2: train.Batches = iter([{"x": np.zeros(3)}])  # pyright: ignore[reportAssignmentType]
    return [iter(loader), iter(stream)]


def a_loss(params: Params, batch: LanguageModelBatch[Array], key: Key | None) -> tuple[SumWeight, dict]:
    weights: jax.Array = batch["weights"]
    return (weights.sum(), weights.sum()), {}


def a_loss_of_any_batch(params: Params, batch: Batch, key: Key | None) -> tuple[SumWeight, dict]:
    return (batch["weights"].sum(), batch["weights"].sum()), {}


def losses_fit() -> list[train.LossFn]:
    _0: train.LossFn[LanguageModelBatch[Array]] = a_loss
    _1: train.LossFn[TranslationBatch[Array]] = a_loss  # pyright: ignore[reportAssignmentType]
    return [a_loss, a_loss_of_any_batch]


class Numbers:
    """Examples of a user, whose batch is a plain dict."""

    fingerprint = 1

    def __len__(self) -> int:
        return 3

    def take(self, indices: np.ndarray, shape: tuple[int, ...] | None = None) -> dict[str, np.ndarray]:
        return {"x": indices}


def own_examples_fit(sampler: data.UniformBatchSampler) -> list[Mapping[str, np.ndarray]]:
    return list(data.Loader(Numbers(), sampler))
