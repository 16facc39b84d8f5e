"""Sources, tokenizers, packing, bucketing, and one deterministic loader whose state is a few numbers.

From text to batches: `load` (or `load_splits`) a source, read its columns (`texts`, `text_pairs`), tokenize
them into rows (`language_model_rows`, `translation_rows`, `labelled_rows`; of images `classification_rows`),
choose which rows stand in which batch (`UniformBatches`, `BucketBatches`), and iterate over a `Loader`.
"""

from tfm_jax.data.bucketing import BucketBatches, batch_sizes, choose_buckets, padding_share
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
from tfm_jax.data.image_classification import ImageRows, classification_rows
from tfm_jax.data.loader import Batching, Loader, LoaderIterator, Rows, UniformBatches
from tfm_jax.data.packing import PackedRows, best_fit
from tfm_jax.data.sequences import TranslationRows, language_model_rows, translation_rows
from tfm_jax.data.sources import load, load_splits, load_whole
from tfm_jax.data.splitting import (
    SPLIT_SALT,
    content_digest,
    describe_splits,
    hold_out,
    input_places,
    permute_rows,
    split_rows,
    split_text,
    text_digest,
)
from tfm_jax.data.stream import StreamIterator, StreamLoader
from tfm_jax.data.text_classification import LabelledRows, label_names, label_numbers, labelled_rows
from tfm_jax.data.tokenizers import (
    ByteTokenizer,
    JsonTokenizer,
    Tokenizer,
    char_tokenizer,
    load_tokenizer,
    train_bpe,
)
from tfm_jax.data.validate import check_range
from tfm_jax.hub import HubUnavailableError

__all__ = [
    "CONTINENTS",
    "DATE_LOCALES",
    "DATE_STYLES",
    "NAME_KINDS",
    "SPLIT_SALT",
    "Batching",
    "BucketBatches",
    "ByteTokenizer",
    "HubUnavailableError",
    "ImageRows",
    "JsonTokenizer",
    "LabelledRows",
    "Loader",
    "LoaderIterator",
    "PackedRows",
    "Rows",
    "StreamIterator",
    "StreamLoader",
    "Tokenizer",
    "TranslationRows",
    "UniformBatches",
    "batch_sizes",
    "best_fit",
    "char_tokenizer",
    "check_range",
    "choose_buckets",
    "classification_rows",
    "content_digest",
    "dates",
    "describe_splits",
    "digits",
    "hold_out",
    "input_places",
    "label_names",
    "label_numbers",
    "labelled_rows",
    "language_model_rows",
    "load",
    "load_splits",
    "load_tokenizer",
    "load_whole",
    "names",
    "padding_share",
    "permute_rows",
    "places",
    "source_column",
    "split_rows",
    "split_text",
    "stdlib",
    "text_digest",
    "text_pairs",
    "texts",
    "train_bpe",
    "translation_rows",
]
