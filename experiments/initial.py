"""``--init-from``: an experiment that begins with a run or a checkpoint of transformers."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import jax

from experiments import common
from experiments.start import Branches, Start, declared, read_start
from tfm_jax import nn, train
from tfm_jax.types import Params

__all__ = ["ENCODERS", "InitialConfig", "begin", "parse", "read_initial"]

RUNNING = ("dtype", "param_dtype", "attention_implementation", "remat", "unroll")
OF_TRAINING = (*RUNNING, "dropout_rate", "attention_dropout_rate", "feed_forward_dropout_rate")
OF_TOKENIZER = ("--data.tokenizer", "--data.vocab-size")


def _body(encoder: Params) -> Params:
    """An encoder's parameters as a classifier's, which has a head of its own."""
    return {"encoder": {name: x for name, x in encoder.items() if name != "pooler"}}


ENCODERS: Branches = {
    nn.Encoder: _body,
    nn.MaskedLanguageModel: lambda params: _body(params["encoder"]),
    nn.Classifier: lambda params: _body(params["encoder"]),
}
"""For a classifier: its head is a new one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitialConfig(common.RunConfig):
    """The config of an experiment that can begin with trained weights."""

    init_from: str | None = None
    """Begin with the weights, the model and the tokenizer of a run (its directory), or of a checkpoint of
    transformers (a directory, or its name on the hub). Of --model only the dtypes, the dropout rates,
    attention-implementation, remat and unroll may then be set."""

    READS: ClassVar[Literal["texts", "images"]] = "texts"
    """What the model takes."""


C = TypeVar("C", bound=InitialConfig)


def parse(config: type[C], argv: Sequence[str] | None = None) -> C:
    """Reads a config off the command line; with ``--init-from``, the model is by default that of the weights.

    Args:
        config: of the experiment.
        argv: the arguments; None takes those of the process.

    Returns:
        The config.

    Raises:
        SystemExit: as `common.parse`, and with one clear line where the model cannot be read.
    """
    argv = sys.argv[1:] if argv is None else argv
    return common.parse(config, argv, default=_default(config, argv))


def begin(config: C, name: str, wanted: Branches) -> tuple[common.Run, Params]:
    """Opens the run of a config that may begin with trained weights; what they read with is saved in it.

    Args:
        config: of the run.
        name: the experiment's.
        wanted: which models will do.

    Returns:
        The run, in whose config the model is that of the weights, and the weights: `Run.fit`'s ``given``.

    Raises:
        SystemExit: with one clear message, where they cannot be had, or as `common.Run`.
    """
    with common.one_message(name):
        config, start = read_initial(config, wanted)
    here = common.Run(config, name)
    with here.preparing():
        start.save(here.path)
    return here, start.params


def read_initial(config: C, wanted: Branches) -> tuple[C, Start]:
    """Reads the weights that ``config.init_from`` names, once; none for a run that goes on from a checkpoint.

    Args:
        config: of the run.
        wanted: which models will do.

    Returns:
        The config with the model of the weights, and what to begin with.

    Raises:
        FileNotFoundError, pretrained.HubUnavailableError: there is no such run or checkpoint.
        ValueError: it is another kind of model, ``config.model`` asks for another one than it is, or it does
            not say how it reads.
    """
    source = config.init_from
    if source is None or (config.resume and _has_checkpoint(config.out)):
        return config, Start()
    if differ := _differences(config.model, declared(source, config.READS)):
        raise ValueError(
            f"--init-from {source}: the model is that of the weights, and only "
            f"{', '.join(_flag(name) for name in OF_TRAINING)} may be set:\n" + "\n".join(differ)
        )
    model, start = read_start(source, wanted)
    model = _run_as(model, config.model, OF_TRAINING)
    params = jax.tree.map(lambda x: x.astype(model.param_dtype), start.params)
    return dataclasses.replace(config, model=model), dataclasses.replace(start, params=params)


def _default(config: type[C], argv: Sequence[str]) -> C | None:
    """The defaults of a command line with ``--init-from``; None without, or where a run goes on."""
    argv = [_hyphens(arg) for arg in argv]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--init-from", nargs="?")
    parser.add_argument("--resume", action="store_true")
    asked = parser.parse_known_args(argv)[0]
    if asked.init_from is None or asked.resume:  # a run that goes on has its model in its own config
        return None
    if given := [name for name in OF_TOKENIZER if name in {arg.partition("=")[0] for arg in argv}]:
        sys.exit(
            f"error: with --init-from the tokenizer is that of the weights: leave out {', '.join(given)}"
        )
    default = config()
    try:
        model = _run_as(declared(asked.init_from, config.READS), default.model, RUNNING)
    except (OSError, ValueError) as error:
        sys.exit(f"error: --init-from: {error}")
    return dataclasses.replace(default, model=model, init_from=asked.init_from)


def _hyphens(argument: str) -> str:
    """A name of an option as it is written in the help; underscores name the same one."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _has_checkpoint(out: Path | None) -> bool:
    return out is not None and bool(train.unbroken_steps(out / "checkpoints"))


def _run_as(model: nn.Config, like: nn.Config, names: Sequence[str]) -> nn.Config:
    return dataclasses.replace(model, **{name: getattr(like, name) for name in names})


def _differences(asked: nn.Config, found: nn.Config) -> list[str]:
    values = {f.name: (getattr(asked, f.name), getattr(found, f.name)) for f in dataclasses.fields(asked)}
    return [
        f"  {_flag(name)}: asked for {ours}, it has {theirs}"
        for name, (ours, theirs) in values.items()
        if name not in OF_TRAINING and ours != theirs
    ]


def _flag(name: str) -> str:
    return f"--model.{name.replace('_', '-')}"
