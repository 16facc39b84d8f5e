"""The config of text classification; the defaults take a few minutes on 2 CPU cores, from scratch.

Measured with the defaults: test accuracy 87.0 % (1,698 names); logistic regression on n-grams has 90.4 %.
"""

import dataclasses
from typing import Annotated, Literal

from experiments.config import Buckets, Classes, OptimizerConfig, RunConfig, TrainConfig
from experiments.messages import check_options
from tfm_jax import nn
from tfm_jax.data.splitting import SPLIT_SALT
from tfm_jax.ranges import Rate, integer_range

__all__ = ["Config", "DataConfig"]

LABELS = {"names": "language", "places": "continent"}
MODEL = nn.Config(
    d_model=128,
    n_layers=3,
    n_heads=4,
    d_ff=256,
    positions=nn.Rope(),
    dropout_rate=0.1,
    scale_embeddings=False,
    unroll=True,
)
TRAIN = TrainConfig(
    steps=1500,
    batch_size=64,
    optimizer=OptimizerConfig(learning_rate=2e-3, weight_decay=0.05),
    evaluate_every=250,
    checkpoint_every=250,
    keep=2,
    log_every=50,
)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The labelled texts and their batches.

    Args:
      source: "names" in twelve languages, or "places", English names of territories, cities and currencies
        (both without a network); or a file, a directory or a glob of files (jsonl, csv, tsv, parquet;
        also compressed); or a data set of the Hugging Face hub, "owner/name" or
        "owner/name:configuration".
      splits: What decides the split of a file in a directory or a glob: directories named train, validation
        or test; the file names; or none, and all are split at random. None uses the rule in the README.
      text_column: The column of the texts.
      label_column: The column of the labels: class labels, texts or integers. None is "language"
        for names, "continent" for places, else "label".
      validation: A file for validation. None uses the source's split of that name or, without one, held_out
        of the training texts.
      test: A file for the test; None as for validation.
      held_out: Share of the training texts to hold out.
      held_out_salt: Hashed with a text to choose the held-out ones, so that a file may grow or be reordered
        and no training text becomes a test text. Another salt holds out others; None is the choice of
        version 0.1, by a permutation of their number.
      separator: The field separator of a csv or tsv file, one character. None is a comma or a tab.
      encoding: The encoding of csv, tsv, json and text files.
      tokenizer: Learned from the training texts and saved in the run's directory.
      vocab_size: Vocabulary size of a bpe tokenizer.
      max_length: In tokens, BOS and EOS included. Longer texts are truncated.
      buckets: Number of shapes that batches are padded to; each is compiled once.
    """

    source: str = "names"
    splits: Literal["directories", "files", "none"] | None = None
    text_column: str = "text"
    label_column: str | None = None
    validation: str | None = None
    test: str | None = None
    held_out: Rate = 0.1
    separator: str | None = None
    encoding: str = "utf-8"
    held_out_salt: str | None = SPLIT_SALT
    tokenizer: Literal["characters", "bpe"] = "characters"
    vocab_size: Classes = 8000
    max_length: Annotated[int, integer_range(3)] = 128
    buckets: Buckets = 3

    def __post_init__(self):
        check_options(self, "data")

    @property
    def label(self) -> str:
        """The column of the labels."""
        return self.label_column or LABELS.get(self.source, "label")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Text classification with a Transformer encoder, pooling and a dense head.

    Without arguments: the language of a name, one of twelve, trained from scratch. Fine-tuning of a trained
    encoder with a new head: --init-from DIR. Any texts: --data.source FILE. Prints the test accuracy, and
    that of logistic regression on n-grams.
    """

    data: DataConfig = DataConfig()
    model: nn.Config = MODEL
    """The encoder. A vocab-size of 0 means that of the tokenizer."""
    pooling: Literal["mean", "first"] = "mean"
    """The input of the head: the mean over all tokens, or the first token."""
    head_dropout_rate: Rate = 0.1
    """Dropout rate of the input of the head."""
    label_smoothing: Rate = 0.1
    """Label smoothing in training: the share of the target that is uniform over the classes."""
    train: TrainConfig = TRAIN
