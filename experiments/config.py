"""What the experiments share of their configs: dataclasses, and how the command line takes them.

A field that takes one of several dataclasses, such as the positions of a model, is one value on the command
line and in the JSON: ``--model.positions Alibi``, ``--model.positions 'Rope(theta=1e6)'``.
"""

import argparse
import dataclasses
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import optax
import tyro

from tfm_jax import train
from tfm_jax.console import parse_options
from tfm_jax.fields import check_fields
from tfm_jax.ranges import Count, NotNegative, Positive, Rate, Seed, Share, Size, integer_range
from tfm_jax.values import from_dict, from_text, to_dict, to_text, variants

__all__ = [
    "Buckets",
    "Classes",
    "MeshConfig",
    "OptimizerConfig",
    "RunConfig",
    "TrainConfig",
    "defaults_of",
    "from_dict",
    "load_config",
    "parse",
    "to_dict",
]

C = TypeVar("C")
Buckets = Annotated[int, integer_range(1, 256)]
"""Shapes of batches: each is compiled once."""
Classes = Annotated[int, integer_range(1, 2**20)]
"""Entries of a vocabulary, or classes: tables are made of them."""
Examples = Annotated[int, integer_range(1, 2**20)]
"""Of one update."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW under a schedule; Adam, where there is no weight decay."""

    schedule: Literal["noam", "cosine", "inverse_sqrt"] = "cosine"
    """How the rate goes on after the warm-up; noam is the paper's, a function of the model's width."""
    learning_rate: Positive = 1e-3
    """The peak of cosine and inverse_sqrt. That of noam follows from the width and the warm-up."""
    noam_factor: Positive = 1.0
    """In front of noam's formula; 1 in the paper."""
    warmup: Size = 100
    """Steps to the peak."""
    weight_decay: NotNegative = 0.0
    """Taken off the weights, but not off biases, norms and positions."""
    b1: Rate = 0.9
    """Decay of the mean of the gradient."""
    b2: Rate = 0.98
    """Decay of the mean of its square."""
    eps: Positive = 1e-9
    """Added to the root of that mean."""
    clip_norm: Positive | None = 1.0
    """The gradient's largest norm; None does not clip."""
    frozen_layers: Count = 0
    """The first layers that stay as they are, and with them the embedding; 0 trains all."""
    layer_decay: Share = 1.0
    """What the rate of each layer is of that above it, from the head down to the embedding; 1 is one rate."""

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, d_model: int, steps: int) -> tuple[optax.GradientTransformation, train.Schedule]:
        """The optimizer, and the schedule in it."""
        schedule = {
            "noam": lambda: train.noam(d_model, self.warmup, self.noam_factor),
            "cosine": lambda: train.warmup_cosine(self.learning_rate, self.warmup, steps),
            "inverse_sqrt": lambda: train.inverse_sqrt(self.learning_rate, self.warmup),
        }[self.schedule]()
        adamw = train.adamw(schedule, self.weight_decay, b1=self.b1, b2=self.b2, eps=self.eps)
        if self.frozen_layers == 0 and self.layer_decay == 1:
            return adamw, schedule
        return optax.chain(adamw, train.scale_by_layer(self.layer_decay, self.frozen_layers)), schedule


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, how often to look."""

    steps: Size = 1000
    """Updates in all."""
    batch_size: Examples = 64
    """Examples in an update, on all devices together."""
    accumulate: Examples = 1
    """Microbatches that an update is made of, one after the other; for batches too large for the memory."""
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: Rate | None = None
    """Decay of the moving average of the weights, which is then what is evaluated; None for none."""
    evaluate_every: Size = 100
    """Steps between two looks at the validation data."""
    checkpoint_every: Size = 100
    """Steps between two checkpoints; a multiple of evaluate_every."""
    keep: Size = 5
    """How many of the last checkpoints stay, beside the best."""
    patience: Size | None = None
    """Stop after so many evaluations without a new best; None goes on to the end."""
    log_every: Size = 10
    """Steps between two lines of metrics.jsonl."""
    seed: Seed = 0
    """Of the weights, the dropout and the order of the data."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.checkpoint_every % self.evaluate_every:
            raise ValueError(
                f"TrainConfig: got checkpoint_every={self.checkpoint_every}; wanted a multiple of "
                f"evaluate_every={self.evaluate_every}, so that each checkpoint has its figures"
            )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The devices."""

    data: Size = 1
    """Devices that a batch is split among. On a CPU, JAX_NUM_CPU_DEVICES=8 makes eight."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every experiment's config has; each adds its model and its data."""

    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()
    parallel: Literal["jit", "pmap"] = "jit"
    """How a step runs on the devices. A run of the one can be resumed under the other; on several devices
    they draw different dropout."""
    out: Path | None = None
    """Directory of the run; None makes a new one in runs/."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint, with its settings. How it logs, evaluates, keeps
    checkpoints and uses the trained model may be set anew; what changes the model or its training may not."""
    resume_step: Size | None = None
    """With --resume: go on from the checkpoint of this step. Later ones are moved to set_aside, in --out."""

    FREE: typing.ClassVar[tuple[str, ...]] = (
        "mesh",
        "parallel",
        "out",
        "resume",
        "resume_step",
        "train.evaluate_every",
        "train.checkpoint_every",
        "train.keep",
        "train.patience",
        "train.log_every",
    )
    """Fields that may differ on a resume."""
    PLACES: typing.ClassVar[tuple[str, ...]] = ("init_from", "data.source", "data.validation", "data.test")
    """Fields that say where something was read from: a resume knows it again by its content."""
    BEFORE: typing.ClassVar[typing.Mapping[str, Any]] = {"data.held_out_salt": None}
    """The values of fields that the config of an older run lacks, where they are not the defaults."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.resume_step is not None and not self.resume:
            raise ValueError(
                f"{type(self).__name__}: got resume_step={self.resume_step} without --resume; wanted both, "
                "or neither of them"
            )


def parse(
    config: type[C],
    argv: Sequence[str] | None = None,
    *,
    description: str | None = None,
    default: C | None = None,
) -> C:
    """Reads a config off the command line. With ``--resume``, what is left out is as in the run in ``--out``.

    Args:
        config: a dataclass with defaults; a field's docstring is its help.
        argv: the arguments; None takes those of the process.
        description: what ``--help`` begins with; None takes the class's docstring.
        default: what is left out is as in this one, unless a run is resumed; None takes ``config()``.

    Returns:
        The config.

    Raises:
        SystemExit: on ``--help``, and on an argument that does not fit, after saying which.
    """
    argv = sys.argv[1:] if argv is None else argv
    defaults = {} if default is None else {"default": default}
    try:
        defaults |= _resumed(config, argv)
        return parse_options(config, argv, _variant_rule, description=description, **defaults)
    except ValueError as error:
        sys.exit(f"error: {error}")


def _resumed(config: type[C], argv: Sequence[str]) -> dict[str, C]:
    """``{"default": the config of the run that is to be resumed}``, if there is one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", type=Path, nargs="?")
    asked = parser.parse_known_args(argv)[0]
    if not asked.resume or asked.out is None or not (asked.out / "config.json").is_file():
        return {}
    return {"default": load_config(config, asked.out)}


def load_config(config: type[C], directory: str | Path) -> C:
    """The config of a run.

    Args:
        config: the dataclass that it was made from.
        directory: of the run.

    Returns:
        What ``config.json`` holds, as ``config``; fields that it lacks have their defaults.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it cannot be read, or has a field or a value that ``config`` has not; the message
            names the file.
    """
    path = Path(directory) / "config.json"
    saved = train.read_object(path)
    for name, value in getattr(config, "BEFORE", {}).items():
        section, _, field = name.partition(".")
        if isinstance(saved.get(section), dict):
            saved[section].setdefault(field, value)
    try:
        return from_dict(config, saved)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: {error}. Wanted the file as the run wrote it: put a copy of it back, or begin a new "
            "run in another --out"
        ) from error


def defaults_of(config: type) -> dict[str, Any]:
    """What the config of a run of this or an older version has where it lacks a field, as JSON can hold it.

    Args:
        config: the dataclass.

    Returns:
        Nested dicts, as `to_dict`.
    """
    defaults = to_dict(config())
    for name, value in config.BEFORE.items():
        section, _, field = name.partition(".")
        if field in defaults.get(section, {}):
            defaults[section][field] = value
    return defaults


def _variant_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """How the command line takes such a field: as one value, not as subcommands."""
    kinds = variants(info.type)
    if not kinds:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join(kinds),
        instance_from_str=lambda words: from_text(kinds, words[0]),
        is_instance=lambda value: isinstance(value, tuple(kinds.values())),
        str_from_instance=lambda value: [to_text(value)],
    )
