"""The config of the language model; the defaults take five minutes on 2 CPU cores.

Measured with the defaults on 2 CPU cores: 1.66 bits per byte (xz -9: 1.46) in 4 min 21 s.
"""

import dataclasses
from typing import Annotated, Literal

from experiments.config import Classes, OptimizerConfig, RunConfig, SmallData, TrainConfig
from experiments.messages import check_options
from tfm_jax import generate, nn
from tfm_jax.data.splitting import SPLIT_SALT
from tfm_jax.ranges import Count, Positive, Rate, Share, Size, integer_range

__all__ = ["Config", "DataConfig", "SampleConfig"]

MODEL = nn.Config(
    d_model=192,
    n_layers=4,
    n_heads=3,
    d_ff=512,
    norm=nn.RMSNorm(),
    positions=nn.Rope(),
    feed_forward=nn.Glu(),
    unroll=True,
)
TRAIN = TrainConfig(
    steps=550,
    batch_size=8,
    optimizer=OptimizerConfig(learning_rate=5e-3, warmup=50, weight_decay=0.1),
    evaluate_every=275,
    checkpoint_every=275,
    keep=2,
)
SMALL = SmallData(
    "characters",
    {
        5_000: {
            "model.d_model": 64,
            "model.n_heads": 2,
            "model.d_ff": 128,
            "model.n_layers": 2,
            "data.vocab_size": 300,
            "data.length": 64,
            "data.overlap": 32,
            "train.batch_size": 4,
            "train.steps": 200,
            "train.optimizer.warmup": 20,
            "train.evaluate_every": 50,
            "train.checkpoint_every": 50,
        },
        100_000: {
            "model.d_model": 128,
            "model.n_heads": 2,
            "model.d_ff": 344,
            "model.n_layers": 2,
            "data.vocab_size": 600,
            "data.length": 128,
            "data.overlap": 64,
            "train.steps": 400,
            "train.optimizer.warmup": 40,
            "train.evaluate_every": 100,
            "train.checkpoint_every": 100,
        },
        1_000_000: {"model.n_layers": 3, "data.vocab_size": 2000},
    },
    column="column",
)
Length = Annotated[int, integer_range(1, 2**24)]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The texts and their batches.

    Args:
      source: "stdlib", the standard library of the running Python (without a network); or a file, a
        directory or a glob of files (txt, jsonl, csv, tsv, parquet; also compressed); or a data set of
        the Hugging Face hub, "owner/name" or "owner/name:configuration".
      splits: What decides the split of a file in a directory or a glob: directories named train, validation
        or test; the file names; or none, and all are split at random. None uses the rule in the README.
      column: The column of the texts.
      columns: The names of the columns of a csv or tsv file without a header line, in order. None reads the
        header.
      validation: A file for validation. None uses the source's split of that name or, without one, held_out
        of the training texts.
      held_out: Share of the training texts to hold out; of one text file, its end.
      held_out_salt: Hashed with a text to choose the held-out ones, so that a file may grow or be reordered
        and no training text becomes a validation text. Another salt holds out others; None is the choice
        of version 0.1, by a permutation of their number.
      separator: The field separator of a csv or tsv file, one character. None is a comma or a tab.
      encoding: The encoding of csv, tsv, json and text files.
      validation_bytes: Largest number of bytes to validate on, from texts drawn at random, always the same.
      tokenizer: A bpe is learned from the training texts and saved in the run's directory.
      vocab_size: Vocabulary size of a bpe tokenizer.
      length: Tokens per sequence, the context length of the model.
      overlap: Tokens that a sequence of a validation text repeats from the one before, so that every token
        is predicted once, from at least as many tokens. For the final metrics only; evaluations during
        training do not overlap.
    """

    source: str = "stdlib"
    splits: Literal["directories", "files", "none"] | None = None
    column: str = "text"
    columns: tuple[str, ...] | None = None
    validation: str | None = None
    held_out: Rate = 0.05
    separator: str | None = None
    encoding: str = "utf-8"
    held_out_salt: str | None = SPLIT_SALT
    validation_bytes: Size = 500_000
    tokenizer: Literal["bpe", "bytes"] = "bpe"
    vocab_size: Classes = 4096
    length: Length = 256
    overlap: Count = 128

    def __post_init__(self):
        check_options(self, "data")
        if self.overlap >= self.length:
            raise ValueError(
                f"--data.overlap: got {self.overlap}; wanted an integer from 0 to {self.length - 1}, less "
                f"than --data.length {self.length}."
            )


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """The sample of the trained model.

    Args:
      prompt: The prompt of the sample.
      tokens: Largest number of new tokens; prompt and sample together have at most data.length.
      temperature: The temperature, above 0; lower is less random.
      top_p: Nucleus sampling: samples from the most likely tokens with this total probability, in (0, 1].
    """

    prompt: str = ""
    tokens: Size = 250
    temperature: Positive = 0.8
    top_p: Share = 0.95

    def __post_init__(self):
        check_options(self, "sample")
        self.processors()

    def processors(self) -> tuple[generate.Temperature, generate.TopP]:
        """The logits processors."""
        return generate.Temperature(self.temperature), generate.TopP(self.top_p)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Language modelling with a decoder-only Transformer.

    Without arguments: the source of Python's standard library. Any texts: --data.source FILE. Prints bits per
    byte of the validation texts, those of xz -9, and a sample.
    """

    data: DataConfig = DataConfig()
    model: nn.Config = MODEL
    """The decoder. A vocab-size of 0 means that of the tokenizer."""
    train: TrainConfig = TRAIN
    sample: SampleConfig = SampleConfig()

    SMALL_DATA = SMALL
    MAY_CHANGE = (*RunConfig.MAY_CHANGE, "data.overlap", "sample")
