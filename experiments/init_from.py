"""``--init-from``: initial weights from a run of an experiment or a checkpoint of transformers."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import jax
import tokenizers
from flax import nnx

from experiments.config import RunConfig, config_of
from experiments.runner import MODEL_FILE, Run
from tfm_jax import data, nn, pretrained, train
from tfm_jax.console import exit_on_error
from tfm_jax.pretrained.families import family_of, find_family
from tfm_jax.pretrained.weights.files import checkpoint_directory, read_json
from tfm_jax.runs import load_run
from tfm_jax.train.run_directory import replace_text
from tfm_jax.types import Params

__all__ = [
    "ENCODERS",
    "PROCESSOR_FILE",
    "InitFromConfig",
    "InitialWeights",
    "ParamsByModel",
    "load_initial_weights",
    "read_model_config",
    "read_weights",
    "start_run",
    "with_initial_model",
]

PROCESSOR_FILE = "preprocessor_config.json"

ParamsByModel = Mapping[type[nnx.Module], Callable[[Params], Params]]
"""The kinds of models that an experiment accepts; for each, a function from its parameters to those that the
experiment uses."""


def _encoder_params(params: Params) -> Params:
    return {"encoder": {name: x for name, x in params.items() if name != "pooler"}}


def _inner_encoder_params(params: Params) -> Params:
    return _encoder_params(params["encoder"])


ENCODERS: ParamsByModel = {
    nn.Encoder: _encoder_params,
    nn.MaskedLanguageModel: _inner_encoder_params,
    nn.Classifier: _inner_encoder_params,
}
"""For a classifier: takes the encoder of any of these, without its pooler and head."""

_EXECUTION_FIELDS = ("dtype", "param_dtype", "attention_implementation", "remat", "unroll")
"""Fields of a model's config that change how it runs, not what it computes."""
_RATES = ("dropout_rate", "attention_dropout_rate", "feed_forward_dropout_rate")
_FREE_FIELDS = (*_EXECUTION_FIELDS, "initializers", *_RATES)
"""Fields of a model's config that may differ from those of the initial weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitFromConfig(RunConfig):
    """The config of an experiment that can start from trained weights."""

    init_from: str | None = None
    """Initial weights, with their model and tokenizer: the directory of a run, or a checkpoint of
    transformers (a directory, or its name on the hub). Of --model only the dtypes, the dropout rates,
    attention-implementation, remat and unroll may then be set."""

    INPUT: ClassVar[Literal["texts", "images"]] = "texts"
    """The input of the model."""


C = TypeVar("C", bound=InitFromConfig)


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """Trained weights to start from, with the preprocessing of their input.

    Args:
      params: by name, in place of random ones; {} without ``--init-from``.
      tokenizer: of a model of texts.
      image_processor: the text of the ``preprocessor_config.json`` of a model of images, if there is one.
    """

    params: Params = dataclasses.field(default_factory=dict)
    tokenizer: data.Tokenizer | None = None
    image_processor: str | None = None

    def save_preprocessing(self, directory: Path) -> None:
        """Writes the tokenizer or the ``preprocessor_config.json`` into a run's directory."""
        if self.image_processor is not None:
            replace_text(directory / PROCESSOR_FILE, self.image_processor)
        if self.tokenizer is not None:
            self._save_tokenizer(directory)

    def _save_tokenizer(self, directory: Path) -> None:
        path = self.tokenizer.save(directory / "tokenizer.json")
        backend = tokenizers.Tokenizer.from_file(str(path))
        ids = {f"{role}_token": getattr(self.tokenizer, f"{role}_id") for role in ("pad", "bos", "eos")}
        tokens = {role: backend.id_to_token(i) for role, i in ids.items() if i is not None}
        text = json.dumps(tokens, indent=2, ensure_ascii=False)
        replace_text(directory / "special_tokens_map.json", text + "\n")


def start_run(config: C, name: str, accepted: ParamsByModel) -> tuple[Run, Params]:
    """Opens a run and loads its initial weights.

    Args:
      config: of the run.
      name: of the experiment.
      accepted: the models that the experiment can start from.

    Returns:
      The run, whose config has the model of the weights, and the ``initial_params`` for ``Run.fit``.

    Raises:
      SystemExit: with one message, when the weights cannot be loaded, or as `runner.Run`.
    """
    with exit_on_error(name):
        config, initial = load_initial_weights(config, accepted)
    run = Run(config, name)
    with run.setup():
        initial.save_preprocessing(run.path)
    return run, initial.params


def load_initial_weights(config: C, accepted: ParamsByModel) -> tuple[C, InitialWeights]:
    """Loads the weights of ``--init-from``; none if the run resumes from a checkpoint.

    Args:
      config: of the run.
      accepted: the models that the experiment can start from.

    Returns:
      The config with the model of the weights, and the weights in its ``param_dtype``.

    Raises:
      FileNotFoundError, pretrained.HubUnavailableError: there is no such run or checkpoint.
      ValueError: it is another kind of model, ``config.model`` differs from it, or a part is missing.
    """
    source = config.init_from
    resumes = config.resume and config.out is not None and train.consecutive_steps(config.out / "checkpoints")
    if source is None or resumes:
        return config, InitialWeights()
    if differences := _differences(config.model, read_model_config(source, config.INPUT)):
        raise ValueError(
            f"--init-from {source}: got another --model than that of the weights; wanted changes of "
            f"{', '.join(_option(name) for name in _FREE_FIELDS)} alone:\n" + "\n".join(differences)
        )
    model, initial = read_weights(source, accepted)
    model = _with_fields_of(config.model, _FREE_FIELDS, model)
    params = jax.tree.map(lambda x: x.astype(model.param_dtype), initial.params)
    return dataclasses.replace(config, model=model), dataclasses.replace(initial, params=params)


def with_initial_model(default: C, source: str) -> C:
    """The defaults of a command line with ``--init-from``.

    Args:
      default: the defaults without it.
      source: a directory, or a name on the hub.

    Returns:
      The defaults with the model of the weights, run as the default model is.

    Raises:
      ValueError: when the model cannot be read.
    """
    try:
        model = read_model_config(source, default.INPUT)
    except (OSError, ValueError) as error:
        raise ValueError(f"--init-from: {error}") from error
    model = _with_fields_of(default.model, _EXECUTION_FIELDS, model)
    return dataclasses.replace(default, model=model, init_from=source)


def read_model_config(source: str, wanted: Literal["texts", "images"]) -> nn.Config:
    """Reads the model's config of a run or a checkpoint, without the weights.

    Args:
      source: a directory, or a name on the hub.
      wanted: the input of the model.

    Returns:
      The config, without the pooler, which belongs to the task of its training.

    Raises:
      FileNotFoundError, pretrained.HubUnavailableError: there is no such run or checkpoint.
      ValueError: the model has another input, or its config cannot be read.
    """
    if _is_run(source):
        model = _model_of_run(Path(source))
    else:
        path = checkpoint_directory(source) / "config.json"
        settings = read_json(path)
        model = _without_pooler(family_of(settings, path)[1].read_config(settings, path))
    if wanted != (got := "texts" if model.patches is None else "images"):
        raise ValueError(f"{source}: got a model of {got}; wanted one of {wanted}.")
    return model


def read_weights(source: str, accepted: ParamsByModel) -> tuple[nn.Config, InitialWeights]:
    """Reads the model's config and the weights of a run or a checkpoint.

    Args:
      source: a directory, or a name on the hub.
      accepted: the models that the experiment can start from.

    Returns:
      The config as `read_model_config` returns it, and the weights that the experiment uses.

    Raises:
      FileNotFoundError, pretrained.HubUnavailableError: there is no such run or checkpoint.
      ValueError: it is another kind of model, has no tokenizer, or cannot be read.
    """
    module, model, initial = _read_run(source, accepted) if _is_run(source) else _read_checkpoint(source)
    if module not in accepted:
        names = " or ".join(sorted(f"nn.{kind.__name__}" for kind in accepted))
        raise ValueError(f"--init-from {source}: got an nn.{module.__name__}; wanted an {names}.")
    return model, dataclasses.replace(initial, params=accepted[module](initial.params))


def _is_run(source: str) -> bool:
    path = Path(source) / "config.json"
    return path.is_file() and {"model", "train"} <= read_json(path).keys()


def _model_of_run(directory: Path) -> nn.Config:
    path = directory / MODEL_FILE
    if path.is_file():
        return config_of(nn.Config, train.read_config(path), path)
    path = directory / "config.json"
    model = config_of(nn.Config, train.read_config(path)["model"], path)
    return dataclasses.replace(
        model, vocab_size=model.vocab_size or data.load_tokenizer(directory).vocab_size
    )


def _read_run(source: str, accepted: ParamsByModel) -> tuple[type[nnx.Module], nn.Config, InitialWeights]:
    """The kind of the model, its config and all of its weights."""
    directory = Path(source)
    if nn.Classifier in accepted:
        item = "ema" if any((directory / "checkpoints").glob("*/ema")) else "params"
        params = train.load_params(directory / "checkpoints", item=item)
    else:
        params = load_run(directory).params  # the average that the run tests
    if params.keys() >= {"encoder", "decoder"}:  # first, as an untied one has a head too
        module = nn.EncoderDecoder
    else:
        module = nn.Classifier if "encoder" in params else nn.Decoder
    model, processor = _model_of_run(directory), directory / PROCESSOR_FILE
    if model.patches is None:
        return module, model, InitialWeights(params, data.load_tokenizer(directory))
    text = processor.read_text(encoding="utf-8") if processor.is_file() else None
    return module, model, InitialWeights(params, image_processor=text)


def _read_checkpoint(source: str) -> tuple[type[nnx.Module], nn.Config, InitialWeights]:
    """The kind of the model, its config and all of its weights."""
    _, params, config, tokenizer = pretrained.load(source)
    module = find_family(config.architecture).architectures[config.architecture].module
    model = _without_pooler(config.model)
    if model.patches is not None:
        pretrained.load_image_processor(source)  # raises for unsupported settings
        text = (checkpoint_directory(source) / PROCESSOR_FILE).read_text(encoding="utf-8")
        return module, model, InitialWeights(params, image_processor=text)
    if tokenizer is None:
        raise ValueError(f"--init-from {source}: got no tokenizer; wanted a checkpoint with one.")
    settings = {**config.settings, **config.generation}
    return module, model, InitialWeights(params, _with_special_tokens(tokenizer, settings))


def _with_special_tokens(tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> data.JsonTokenizer:
    """The tokenizer with the special tokens whose ids are in a checkpoint's settings."""
    ids = {role: settings.get(f"{role}_token_id") for role in ("pad", "bos", "eos", "decoder_start")}
    ids = {role: next(iter(i), None) if isinstance(i, list) else i for role, i in ids.items()}
    tokens = {role: None if i is None else tokenizer.id_to_token(i) for role, i in ids.items()}
    start = tokens.pop("decoder_start")
    return data.JsonTokenizer(tokenizer, **{**tokens, "bos": start or tokens["bos"]})


def _without_pooler(model: nn.Config) -> nn.Config:
    return dataclasses.replace(model, pooler=None)


def _with_fields_of(source: nn.Config, names: Sequence[str], model: nn.Config) -> nn.Config:
    """The model with some fields of ``source``."""
    return dataclasses.replace(model, **{name: getattr(source, name) for name in names})


def _differences(configured: nn.Config, initial: nn.Config) -> list[str]:
    values = {
        field.name: (getattr(configured, field.name), getattr(initial, field.name))
        for field in dataclasses.fields(configured)
        if field.name not in _FREE_FIELDS
    }
    return [
        f"  {_option(name)}: configured {ours}, the weights have {theirs}"
        for name, (ours, theirs) in values.items()
        if ours != theirs
    ]


def _option(name: str) -> str:
    return f"--model.{name.replace('_', '-')}"
