"""The settings of the language model: sized for five minutes on 2 CPU cores, whatever the texts.

Measured with the defaults, on 2 CPU cores: 1.66 bits per byte (xz -9: 1.46) in 4 min 21 s.
"""

import dataclasses
from typing import Annotated, Literal

from experiments import runner
from experiments.config import Classes
from experiments.init_from import InitialConfig
from tfm_jax import data, generate, nn
from tfm_jax.fields import check_fields
from tfm_jax.ranges import Count, Positive, Rate, Share, Size, check_number, integer_range

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
TRAIN = runner.TrainConfig(
    steps=550,
    batch_size=8,
    optimizer=runner.OptimizerConfig(learning_rate=5e-3, warmup=50, weight_decay=0.1),
    evaluate_every=275,
    checkpoint_every=275,
    keep=2,
)
Length = Annotated[int, integer_range(1, 2**24)]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The texts, and how they become batches.

    Args:
        source: "stdlib", the source of the Python that is running, which needs no network; or a file, a
            directory or a glob of files (txt, jsonl, csv, tsv, parquet; also compressed); or a data set of
            the Hugging Face hub, "owner/name" or "owner/name:configuration".
        splits: What decides the split of each file of a directory or a glob: directories named train,
            validation or test; the names of the files; or none, and all is split at random. None goes by the
            rule in the README.
        column: The column that holds the texts.
        validation: A file of its own for validation. None takes the source's split of that name or, where it
            has none, held_out of the training texts.
        held_out: A share of the training texts; of one text file, its end.
        held_out_salt: What is hashed with a text to choose the held-out ones, so that a file may grow or be
            reordered and nothing that was trained on is tested on. Another salt holds out others; None is the
            choice of version 0.1, by a permutation of their number.
        separator: One character between the fields of a csv or tsv file. None: a comma or a tab.
        encoding: Of csv, tsv, json and text files.
        validation_bytes: At most so many bytes are validated on, of texts drawn at random, always the same.
        tokenizer: A bpe is learned from the training texts and saved beside the checkpoints.
        vocab_size: Entries of a bpe tokenizer.
        length: Tokens in a row of a batch; the model sees no further.
        overlap: Of two rows of one validation text, how many tokens the next repeats from the one before, so
            that every token is predicted, once, from at least so many before it. For the final figures alone;
            between the steps, rows do not overlap.
    """

    source: str = "stdlib"
    splits: Literal["directories", "files", "none"] | None = None
    column: str = "text"
    validation: str | None = None
    held_out: Rate = 0.05
    separator: str | None = None
    encoding: str = "utf-8"
    held_out_salt: str | None = data.SPLIT_SALT
    validation_bytes: Size = 500_000
    tokenizer: Literal["bpe", "bytes"] = "bpe"
    vocab_size: Classes = 4096
    length: Length = 256
    overlap: Count = 128

    def __post_init__(self):
        check_fields(self)
        check_number("DataConfig", "overlap", self.overlap, integer_range(0, self.length - 1))


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """What the trained model is asked to write.

    Args:
        prompt: How the text begins; it is not checked for making sense.
        tokens: To add, at most; prompt and sample together are no longer than data.length.
        temperature: Above 0; lower is more certain.
        top_p: In (0, 1]: draw from the likeliest tokens that together have this probability.
    """

    prompt: str = ""
    tokens: Size = 250
    temperature: Positive = 0.8
    top_p: Share = 0.95

    def __post_init__(self):
        check_fields(self)
        self.processors()

    def processors(self) -> tuple[generate.Temperature, generate.TopP]:
        """What is done to the logits of each token."""
        return generate.Temperature(self.temperature), generate.TopP(self.top_p)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(InitialConfig):
    """Predicts each next token of a text with a decoder-only Transformer, trained here.

    Without arguments: the source of Python's standard library. Any texts: --data.source FILE. Ends with the
    bits that a byte of the validation texts costs, those of xz -9, and a sample.
    """

    data: DataConfig = DataConfig()
    model: nn.Config = MODEL
    """The decoder. A vocab-size of 0 is the tokenizer's."""
    train: runner.TrainConfig = TRAIN
    sample: SampleConfig = SampleConfig()

    FREE = (*InitialConfig.FREE, "data.overlap", "sample")
