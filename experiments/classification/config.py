"""The config of the text classification; the defaults take a few minutes on 2 CPU cores, from scratch.

Measured with the defaults: test accuracy 87.0 % (1,698 names); logistic regression on n-grams has 90.4 %.
"""

import dataclasses
from typing import Annotated, Literal

from experiments.config import Buckets, Classes, OptimizerConfig, RunConfig, SmallData, TrainConfig
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

SMALL = SmallData(
    "examples",
    {
        200: {
            "model.n_layers": 2,
            "data.vocab_size": 500,
            "train.batch_size": 16,
            "train.steps": 200,
            "train.optimizer.warmup": 20,
            "train.evaluate_every": 50,
            "train.checkpoint_every": 50,
        },
        2_000: {
            "data.vocab_size": 1000,
            "train.batch_size": 32,
            "train.steps": 600,
            "train.optimizer.warmup": 60,
            "train.evaluate_every": 100,
            "train.checkpoint_every": 100,
        },
        20_000: {"data.vocab_size": 4000},
    },
)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The labelled texts and their batches.

    Args:
      task: One label for each text; for each pair of texts; or for each token (word) of a sentence.
      source: "names" in twelve languages, or "places", English names of territories, cities and currencies
        (both without a network); or a file, a directory or a glob of files (jsonl, csv, tsv, parquet;
        also compressed); or a data set of the Hugging Face hub, "owner/name" or
        "owner/name:configuration". For tokens also files in the format of CoNLL (.conll or .txt): a word and
        its tag per line, a blank line between sentences.
      splits: What decides the split of a file in a directory or a glob: directories named train, validation
        or test; the file names; or none, and all are split at random. None uses the rule in the README.
      text_column: The column of the texts; for tokens, of lists of words or of texts with spaces between
        them. None is "text", for tokens "tokens".
      text_columns: The two columns of a pair. None is "sentence1" and "sentence2".
      label_column: The column of the labels: class labels, texts or integers; for tokens, of lists of these
        or of texts with spaces between them. None is "language" for names, "continent" for places, else
        "label", for tokens "tags".
      columns: The names of the columns of a csv or tsv file without a header line, in order. None reads the
        header.
      validation: A file for validation. None uses the source's split of that name or, without one, held_out
        of the training texts.
      test: A file for the test; None as for validation.
      held_out: Share of the training texts to hold out.
      held_out_salt: Hashed with a text to choose the held-out ones, so that a file may grow or be reordered
        and no training text becomes a test text. Another salt holds out others; None is the choice of
        version 0.1, by a permutation of their number.
      drop_missing_classes: Drop held-out examples of classes without a training example, and examples with a
        label that is no declared class, such as -1. Both are an error otherwise.
      separator: The field separator of a csv or tsv file, one character. None is a comma or a tab.
      encoding: The encoding of csv, tsv, json and text files.
      tokenizer: Learned from the training texts and saved in the run's directory.
      vocab_size: Vocabulary size of a bpe tokenizer.
      max_length: In tokens, BOS and EOS included. Longer texts are truncated; of a pair the longer one.
      buckets: Number of shapes that batches are padded to; each is compiled once.
    """

    task: Literal["text", "pair", "tokens"] = "text"
    source: str = "names"
    splits: Literal["directories", "files", "none"] | None = None
    text_column: str | None = None
    text_columns: tuple[str, str] | None = None
    label_column: str | None = None
    columns: tuple[str, ...] | None = None
    validation: str | None = None
    test: str | None = None
    held_out: Rate = 0.1
    separator: str | None = None
    encoding: str = "utf-8"
    held_out_salt: str | None = SPLIT_SALT
    drop_missing_classes: bool = False
    tokenizer: Literal["characters", "bpe"] = "characters"
    vocab_size: Classes = 8000
    max_length: Annotated[int, integer_range(3)] = 128
    buckets: Buckets = 3

    def __post_init__(self):
        check_options(self, "data")
        if self.task != "text" and self.source in LABELS:
            raise ValueError(
                f"--data.task: got {self.task} with the source {self.source!r}, which has texts alone; "
                "wanted other data. Name them with --data.source"
            )
        if self.task == "pair" and self.text_column is not None:
            raise ValueError(
                "--data.text-column: got one for pairs; wanted --data.text-columns with two names"
            )
        if self.task != "pair" and self.text_columns is not None:
            raise ValueError(
                f"--data.text-columns: got two names for the task {self.task}; wanted --data.text-column, or "
                "--data.task pair"
            )

    @property
    def label(self) -> str:
        """The column of the labels."""
        return self.label_column or LABELS.get(self.source, "tags" if self.task == "tokens" else "label")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Classification of texts, pairs of texts or tokens with a Transformer encoder and a dense head.

    Without arguments: the language of a name, one of twelve, trained from scratch. Fine-tuning of a trained
    encoder with a new head: --init-from DIR. Any texts: --data.source FILE. Pairs of texts: --data.task pair.
    Words of sentences, such as named entities: --data.task tokens. Prints the test accuracy, and that of a
    baseline.
    """

    data: DataConfig = DataConfig()
    model: nn.Config = MODEL
    """The encoder. A vocab-size of 0 means that of the tokenizer."""
    pooling: Literal["mean", "first"] | None = None
    """The input of the head: the mean over all tokens, or the first token. None is the mean; for --data.task
    tokens it is each token, without pooling."""
    head_dropout_rate: Rate = 0.1
    """Dropout rate of the input of the head."""
    label_smoothing: Rate = 0.1
    """Label smoothing in training: the share of the target that is uniform over the classes."""
    train: TrainConfig = TRAIN

    SMALL_DATA = SMALL

    def __post_init__(self):
        super().__post_init__()
        if self.data.task == "tokens" and self.pooling is not None:
            raise ValueError(
                f"--pooling: got {self.pooling} for --data.task tokens; wanted none. Leave it out"
            )

    @property
    def head_pooling(self) -> Literal["mean", "first"] | None:
        """The pooling of the head; None reads each token."""
        return None if self.data.task == "tokens" else self.pooling or "mean"
