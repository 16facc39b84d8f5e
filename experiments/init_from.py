"""A run of an experiment, or a checkpoint of transformers: its model, its weights, and how it reads."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import jax
import tokenizers
from flax import nnx

from experiments import runner
from tfm_jax import data, nn, pretrained, train
from tfm_jax.pretrained.families import family_of, known
from tfm_jax.pretrained.hub import directory_of
from tfm_jax.pretrained.weights.files import read_json
from tfm_jax.runs import load_run
from tfm_jax.train.run_directory import replace_text
from tfm_jax.types import Params
from tfm_jax.values import from_dict

__all__ = [
    "ENCODERS",
    "PROCESSOR",
    "Branches",
    "InitialConfig",
    "Start",
    "begin",
    "declared",
    "parse",
    "read_initial",
    "read_start",
]

PROCESSOR = "preprocessor_config.json"

Branches = Mapping[type[nnx.Module], Callable[[Params], Params]]
"""The models that an experiment can begin with, and which of their parameters it takes, by its own names."""


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run begins with.

    Args:
        params: that stand in place of random ones, by name; none where nothing was asked for.
        tokenizer: that they were trained with; images have none.
        image_processor: the text of the ``preprocessor_config.json`` by which they read images, if any.
    """

    params: Params = dataclasses.field(default_factory=dict)
    tokenizer: data.Tokenizer | None = None
    image_processor: str | None = None

    def save(self, directory: Path) -> None:
        """Writes what the run reads with: a tokenizer, a ``preprocessor_config.json``, or nothing."""
        if self.image_processor is not None:
            replace_text(directory / PROCESSOR, self.image_processor)
        if self.tokenizer is not None:
            self._save_tokenizer(directory)

    def _save_tokenizer(self, directory: Path) -> None:
        """The tokenizer, and what its special tokens are."""
        path = self.tokenizer.save(directory / "tokenizer.json")
        backend = tokenizers.Tokenizer.from_file(str(path))
        ids = {f"{role}_token": getattr(self.tokenizer, f"{role}_id") for role in ("pad", "bos", "eos")}
        names = {role: backend.id_to_token(i) for role, i in ids.items() if i is not None}
        text = json.dumps(names, indent=2, ensure_ascii=False)
        replace_text(directory / "special_tokens_map.json", text + "\n")


def declared(source: str, wanted: Literal["texts", "images"]) -> nn.Config:
    """The model of a run or a checkpoint, without its weights.

    Args:
        source: a directory, or a name on the hub.
        wanted: what it is to read.

    Returns:
        Its config; a pooler, which is of the task that it was trained for, is left out.

    Raises:
        FileNotFoundError, pretrained.HubUnavailableError: there is no such run or checkpoint.
        ValueError: it reads another thing, or cannot be read.
    """
    if _is_run(source):
        model = _model_of_run(Path(source))
    else:
        path = directory_of(source) / "config.json"
        settings = read_json(path)
        model = _without_pooler(family_of(settings, path)[1].read_config(settings, path))
    if wanted != (reads := "texts" if model.patches is None else "images"):
        raise ValueError(f"{source}: its model reads {reads}, wanted one that reads {wanted}")
    return model


def read_start(source: str, wanted: Branches) -> tuple[nn.Config, Start]:
    """Reads a run or a checkpoint.

    Args:
        source: a directory, or a name on the hub.
        wanted: which models will do.

    Returns:
        The model's config, as `declared` has it, and what to begin with.

    Raises:
        FileNotFoundError, pretrained.HubUnavailableError: there is no such run or checkpoint.
        ValueError: it is another kind of model, does not say how it reads, or cannot be read.
    """
    read = _read_run if _is_run(source) else _read_checkpoint
    module, model, start = read(source, wanted)
    if module not in wanted:
        names = " or ".join(sorted(f"nn.{kind.__name__}" for kind in wanted))
        raise ValueError(f"--init-from {source}: it is an nn.{module.__name__}, wanted an {names}")
    return model, dataclasses.replace(start, params=wanted[module](start.params))


def _without_pooler(model: nn.Config) -> nn.Config:
    """A pooler is of the task that it was trained for, and a new one begins without it."""
    return dataclasses.replace(model, pooler=None)


def _is_run(source: str) -> bool:
    path = Path(source) / "config.json"
    return path.is_file() and {"model", "train"} <= read_json(path).keys()


def _model_of_run(directory: Path) -> nn.Config:
    path = directory / runner.MODEL
    whole = path.is_file()
    path = path if whole else directory / "config.json"
    saved = read_json(path)
    try:
        config = from_dict(nn.Config, saved if whole else saved["model"])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: {error}. Wanted the file as the run wrote it: put a copy of it back"
        ) from error
    if whole:
        return config
    return dataclasses.replace(
        config, vocab_size=config.vocab_size or data.load_tokenizer(directory).vocab_size
    )


def _read_run(source: str, wanted: Branches) -> tuple[type[nnx.Module], nn.Config, Start]:
    """What it is, its config, and all of its parameters."""
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
    model, processor = _model_of_run(directory), directory / PROCESSOR
    if model.patches is None:
        return module, model, Start(params, data.load_tokenizer(directory))
    return module, model, Start(params, image_processor=_text_of(processor) if processor.is_file() else None)


def _read_checkpoint(source: str, wanted: Branches) -> tuple[type[nnx.Module], nn.Config, Start]:
    """What it is, its config, and all of its parameters."""
    _, params, config, tokenizer = pretrained.load(source)
    module = known(config.architecture).architectures[config.architecture].module
    model = _without_pooler(config.model)
    if model.patches is not None:
        pretrained.load_image_processor(source)  # can it be followed?
        return module, model, Start(params, image_processor=_text_of(directory_of(source) / PROCESSOR))
    if tokenizer is None:
        raise ValueError(f"--init-from {source}: there is no tokenizer in it")
    return module, model, Start(params, _named(tokenizer, {**config.settings, **config.generation}))


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _named(tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> data.JsonTokenizer:
    """The tokenizer with the special tokens that the settings of its model name by their ids."""
    first = lambda value: next(iter(value), None) if isinstance(value, list) else value
    ids = {role: first(settings.get(f"{role}_token_id")) for role in ("pad", "bos", "eos", "decoder_start")}
    names = {role: None if i is None else tokenizer.id_to_token(i) for role, i in ids.items()}
    start = names.pop("decoder_start")
    return data.JsonTokenizer(tokenizer, **{**names, "bos": start or names["bos"]})


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
class InitialConfig(runner.RunConfig):
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
        SystemExit: as `runner.parse`, and with one clear line where the model cannot be read.
    """
    argv = sys.argv[1:] if argv is None else argv
    return runner.parse(config, argv, default=_default(config, argv))


def begin(config: C, name: str, wanted: Branches) -> tuple[runner.Run, Params]:
    """Opens the run of a config that may begin with trained weights; what they read with is saved in it.

    Args:
        config: of the run.
        name: the experiment's.
        wanted: which models will do.

    Returns:
        The run, in whose config the model is that of the weights, and the weights: `Run.fit`'s ``given``.

    Raises:
        SystemExit: with one clear message, where they cannot be had, or as `runner.Run`.
    """
    with runner.exit_on_error(name):
        config, start = read_initial(config, wanted)
    here = runner.Run(config, name)
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
