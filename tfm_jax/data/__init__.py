"""Data sets, tokenizers, packing, bucketing, and a deterministic, resumable loader.

From text to batches: `load` (or `load_splits`) a data set, read its columns (`texts`, `text_pairs`),
convert them to examples (`language_model_examples`, `translation_examples`, `text_classification_examples`,
`text_pair_classification_examples`, `token_classification_examples`; for images
`image_classification_examples`), choose the examples of each batch (`UniformBatchSampler`,
`BucketBatchSampler`), and iterate over a `Loader`.

More is in the modules: the built-in data sets as functions in ``builtin``, splits by hash, by position or at
random in ``splitting``, the interfaces of examples and samplers in ``loader``.
"""

from tfm_jax.data.bucketing import BucketBatchSampler, choose_buckets
from tfm_jax.data.columns import text_pairs, texts
from tfm_jax.data.image_classification import ImageClassificationExamples, image_classification_examples
from tfm_jax.data.labels import label_ids, label_names, tag_ids, tag_names
from tfm_jax.data.loader import Loader, UniformBatchSampler
from tfm_jax.data.packing import PackedSequences
from tfm_jax.data.sequences import TranslationExamples, language_model_examples, translation_examples
from tfm_jax.data.sources import load, load_splits
from tfm_jax.data.stream import StreamLoader
from tfm_jax.data.text_classification import (
    TextClassificationExamples,
    text_classification_examples,
    text_pair_classification_examples,
)
from tfm_jax.data.token_classification import (
    TokenClassificationExamples,
    sentences,
    token_classification_examples,
)
from tfm_jax.data.tokenizers import ByteTokenizer, JsonTokenizer, char_tokenizer, load_tokenizer, train_bpe
from tfm_jax.types import Tokenizer

__all__ = [
    "BucketBatchSampler",
    "ByteTokenizer",
    "ImageClassificationExamples",
    "JsonTokenizer",
    "Loader",
    "PackedSequences",
    "StreamLoader",
    "TextClassificationExamples",
    "TokenClassificationExamples",
    "Tokenizer",
    "TranslationExamples",
    "UniformBatchSampler",
    "char_tokenizer",
    "choose_buckets",
    "image_classification_examples",
    "label_ids",
    "label_names",
    "language_model_examples",
    "load",
    "load_splits",
    "load_tokenizer",
    "sentences",
    "tag_ids",
    "tag_names",
    "text_classification_examples",
    "text_pair_classification_examples",
    "text_pairs",
    "texts",
    "token_classification_examples",
    "train_bpe",
    "translation_examples",
]
