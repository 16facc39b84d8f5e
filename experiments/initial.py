"""``--init-from``: a run or a checkpoint of transformers to begin with, its model and tokenizer with it."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tokenizers
from flax import nnx

from experiments import common
from tfm_jax import data, nn, pretrained, train
from tfm_jax.pretrained.families import family_of, known
from tfm_jax.pretrained.files import read_json
from tfm_jax.pretrained.hub import directory_of
from tfm_jax.runs import load_run
from tfm_jax.train.files import replace_text
from tfm_jax.types import Params
from tfm_jax.values import from_dict

__all__ = ["InitialConfig", "Start", "begin", "parse", "read_initial"]

RUNNING = ("dtype", "attention_implementation", "remat", "unroll")
OF_TRAINING = (*RUNNING, "dropout_rate", "attention_dropout_rate", "feed_forward_dropout_rate")
OF_TOKENIZER = ("--data.tokenizer", "--data.vocab-size")
Branches = Mapping[type[nnx.Module], Callable[[Params], Params]]
"""The models that an experiment can begin with, and which of their parameters it takes, by its own names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitialConfig(common.RunConfig):
    """The config of an experiment that can begin with trained weights."""

    init_from: str | None = None
    """Begin with the weights, the model and the tokenizer of a run (its directory), or of a checkpoint of
    transformers (a directory, or its name on the hub). Of --model only the dtype, the dropout rates,
    attention-implementation, remat and unroll may then be set."""


C = TypeVar("C", bound=InitialConfig)


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run begins with.

    Args:
        params: that stand in place of random ones, by name; none where nothing was asked for.
        tokenizer: that they were trained with.
    """

    params: Params = dataclasses.field(default_factory=dict)
    tokenizer: data.Tokenizer | None = None

    def save_tokenizer(self, directory: Path) -> None:
        """Writes the tokenizer, if any, and what its special tokens are, for ``data.load_tokenizer``."""
        if self.tokenizer is None:
            return
        path = self.tokenizer.save(directory / "tokenizer.json")
        backend = tokenizers.Tokenizer.from_file(str(path))
        ids = {f"{role}_token": getattr(self.tokenizer, f"{role}_id") for role in ("pad", "bos", "eos")}
        names = {role: backend.id_to_token(i) for role, i in ids.items() if i is not None}
        text = json.dumps(names, indent=2, ensure_ascii=False)
        replace_text(directory / "special_tokens_map.json", text + "\n")


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
    """Opens the run of a config that may begin with trained weights, whose tokenizer is then saved in it.

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
        start.save_tokenizer(here.path)
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
        ValueError: it is another kind of model, ``config.model`` asks for another one than it is, or it has
            no tokenizer.
    """
    source = config.init_from
    if source is None or (config.resume and _has_checkpoint(config.out)):
        return config, Start()
    declared = _declared(source)
    if differ := _differences(config.model, declared):
        raise ValueError(
            f"--init-from {source}: the model is that of the weights, and only "
            f"{', '.join(_flag(name) for name in OF_TRAINING)} may be set:\n" + "\n".join(differ)
        )
    read = _read_run if _is_run(source) else _read_checkpoint
    module, model, params, tokenizer = read(source, wanted)
    if module not in wanted:
        names = " or ".join(sorted(f"nn.{kind.__name__}" for kind in wanted))
        raise ValueError(f"--init-from {source}: it is an nn.{module.__name__}, wanted an {names}")
    config = dataclasses.replace(config, model=_run_as(model, config.model, OF_TRAINING))
    return config, Start(wanted[module](params), tokenizer)


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
        model = _run_as(_declared(asked.init_from), default.model, RUNNING)
    except (OSError, ValueError) as error:
        sys.exit(f"error: --init-from: {error}")
    return dataclasses.replace(default, model=model)


def _hyphens(argument: str) -> str:
    """A name of an option as it is written in the help; underscores name the same one."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _declared(source: str) -> nn.Config:
    """The model of a run or a checkpoint, without its weights."""
    if _is_run(source):
        return _model_of_run(Path(source), data.load_tokenizer(source))
    path = directory_of(source) / "config.json"
    settings = read_json(path)
    return _without_pooler(family_of(settings, path)[1].read_config(settings, path))


def _without_pooler(model: nn.Config) -> nn.Config:
    """A pooler is of the task that it was trained for, and a new one begins without it."""
    return dataclasses.replace(model, pooler=None)


def _is_run(source: str) -> bool:
    path = Path(source) / "config.json"
    return path.is_file() and {"model", "train"} <= read_json(path).keys()


def _has_checkpoint(out: Path | None) -> bool:
    return out is not None and bool(train.unbroken_steps(out / "checkpoints"))


def _run_as(model: nn.Config, like: nn.Config, names: Sequence[str]) -> nn.Config:
    return dataclasses.replace(model, **{name: getattr(like, name) for name in names})


def _differences(asked: nn.Config, declared: nn.Config) -> list[str]:
    values = {f.name: (getattr(asked, f.name), getattr(declared, f.name)) for f in dataclasses.fields(asked)}
    return [
        f"  {_flag(name)}: asked for {ours}, it has {theirs}"
        for name, (ours, theirs) in values.items()
        if name not in OF_TRAINING and ours != theirs
    ]


def _flag(name: str) -> str:
    return f"--model.{name.replace('_', '-')}"


Read = tuple[type[nnx.Module], nn.Config, Params, data.Tokenizer]


def _model_of_run(directory: Path, tokenizer: data.Tokenizer) -> nn.Config:
    config = from_dict(nn.Config, read_json(directory / "config.json")["model"])
    return dataclasses.replace(config, vocab_size=config.vocab_size or tokenizer.vocab_size)


def _read_run(source: str, wanted: Branches) -> Read:
    directory = Path(source)
    if nn.Classifier in wanted:
        item = "ema" if any((directory / "checkpoints").glob("*/ema")) else "params"
        params = train.load_params(directory / "checkpoints", item=item)
    else:
        params = load_run(directory).params  # the mean of several, where that is what the run tests
    if params.keys() >= {"encoder", "decoder"}:  # asked first: an untied one has a head too
        module = nn.EncoderDecoder
    else:
        module = nn.Classifier if "encoder" in params else nn.Decoder
    tokenizer = data.load_tokenizer(directory)
    return module, _model_of_run(directory, tokenizer), params, tokenizer


def _read_checkpoint(source: str, wanted: Branches) -> Read:
    _, params, config, tokenizer = pretrained.load(source)
    if tokenizer is None:
        raise ValueError(f"--init-from {source}: there is no tokenizer in it")
    module = known(config.architecture).architectures[config.architecture].module
    return (
        module,
        _without_pooler(config.model),
        params,
        _named(tokenizer, {**config.settings, **config.generation}),
    )


def _named(tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> data.JsonTokenizer:
    """The tokenizer with the special tokens that the settings of its model name by their ids."""
    first = lambda value: next(iter(value), None) if isinstance(value, list) else value
    ids = {role: first(settings.get(f"{role}_token_id")) for role in ("pad", "bos", "eos", "decoder_start")}
    names = {role: None if i is None else tokenizer.id_to_token(i) for role, i in ids.items()}
    start = names.pop("decoder_start")
    return data.JsonTokenizer(tokenizer, **{**names, "bos": start or names["bos"]})
