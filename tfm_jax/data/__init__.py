"""Data sets, tokenizers, packing, bucketing, and a deterministic, resumable loader.

From text to batches: `load` (or `load_splits`) a data set, read its columns (`texts`, `text_pairs`),
convert them to examples (`language_model_examples`, `translation_examples`, `text_classification_examples`;
for images `image_classification_examples`), choose the examples of each batch (`UniformBatchSampler`,
`BucketBatchSampler`), and iterate over a `Loader`.
"""

from tfm_jax.data.bucketing import BucketBatchSampler, batch_sizes, choose_buckets, padding_fraction
from tfm_jax.data.builtin import (
    CONTINENTS,
    DATE_LOCALES,
    DATE_STYLES,
    NAME_KINDS,
    dates,
    digits,
    names,
    places,
    stdlib,
)
from tfm_jax.data.columns import source_column, text_pairs, texts
from tfm_jax.data.image_classification import ImageClassificationExamples, image_classification_examples
from tfm_jax.data.labels import label_ids, label_names
from tfm_jax.data.loader import BatchSampler, Examples, Loader, LoaderIterator, UniformBatchSampler
from tfm_jax.data.packing import PackedSequences, best_fit
from tfm_jax.data.sequences import TranslationExamples, language_model_examples, translation_examples
from tfm_jax.data.sources import load, load_splits, load_unsplit
from tfm_jax.data.splitting import (
    SPLIT_SALT,
    content_digest,
    describe_splits,
    hold_out,
    input_hashes,
    split_at_random,
    split_by_hash,
    split_text,
    text_digest,
)
from tfm_jax.data.stream import StreamIterator, StreamLoader
from tfm_jax.data.text_classification import TextClassificationExamples, text_classification_examples
from tfm_jax.data.tokenizers import (
    ByteTokenizer,
    JsonTokenizer,
    Tokenizer,
    char_tokenizer,
    load_tokenizer,
    train_bpe,
)
from tfm_jax.hub import HubUnavailableError

__all__ = [
    "CONTINENTS",
    "DATE_LOCALES",
    "DATE_STYLES",
    "NAME_KINDS",
    "SPLIT_SALT",
    "BatchSampler",
    "BucketBatchSampler",
    "ByteTokenizer",
    "Examples",
    "HubUnavailableError",
    "ImageClassificationExamples",
    "JsonTokenizer",
    "Loader",
    "LoaderIterator",
    "PackedSequences",
    "StreamIterator",
    "StreamLoader",
    "TextClassificationExamples",
    "Tokenizer",
    "TranslationExamples",
    "UniformBatchSampler",
    "batch_sizes",
    "best_fit",
    "char_tokenizer",
    "choose_buckets",
    "content_digest",
    "dates",
    "describe_splits",
    "digits",
    "hold_out",
    "image_classification_examples",
    "input_hashes",
    "label_ids",
    "label_names",
    "language_model_examples",
    "load",
    "load_splits",
    "load_tokenizer",
    "load_unsplit",
    "names",
    "padding_fraction",
    "places",
    "source_column",
    "split_at_random",
    "split_by_hash",
    "split_text",
    "stdlib",
    "text_classification_examples",
    "text_digest",
    "text_pairs",
    "texts",
    "train_bpe",
    "translation_examples",
]
