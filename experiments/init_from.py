"""``--init-from``: initial weights from a run of an experiment or a checkpoint of transformers."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import jax
import tokenizers
from flax import nnx

from experiments.config import RunConfig, config_of
from experiments.runner import MODEL_FILE, PROCESSOR_FILE, Run
from tfm_jax import data, nn, pretrained, train
from tfm_jax.console import exit_on_error
from tfm_jax.pretrained.families import family_of, find_family
from tfm_jax.pretrained.weights.files import checkpoint_directory, read_json
from tfm_jax.runs import load_run
from tfm_jax.train.checkpoint import consecutive_steps
from tfm_jax.train.run_directory import read_config, replace_text
from tfm_jax.types import Params

__all__ = ["ENCODERS", "InitFromConfig", "load_initial_weights", "read_model_config", "start_run"]

Input = Literal["texts", "images"]
Accepted = Mapping[Callable[..., nnx.Module], Callable[[Params], Params]]
"""The modules that an experiment accepts; for each, the part of their parameters that it uses."""


def _encoder(params: Params) -> Params:
    return {"encoder": {name: x for name, x in params.items() if name != "pooler"}}


def _inner_encoder(params: Params) -> Params:
    return _encoder(params["encoder"])


ENCODERS: Accepted = {
    nn.Encoder: _encoder,
    nn.MaskedLanguageModel: _inner_encoder,
    nn.Classifier: _inner_encoder,
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

    if TYPE_CHECKING:
        model: nn.Config  # each experiment declares it, at its place in the options

    init_from: str | None = None
    """Initial weights, with their model and tokenizer: the directory of a run, or a checkpoint of
    transformers (a directory, or its name on the hub). Of --model only the dtypes, the dropout rates,
    attention-implementation, remat and unroll may then be set."""

    INPUT: ClassVar[Input] = "texts"
    """The input of the model."""


C = TypeVar("C", bound=InitFromConfig)


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """Trained weights by name, with the tokenizer or the text of the ``preprocessor_config.json``."""

    params: Params = dataclasses.field(default_factory=dict)
    tokenizer: data.JsonTokenizer | data.ByteTokenizer | None = None
    image_processor: str | None = None

    def save_preprocessing(self, directory: Path) -> None:
        """Writes the tokenizer or the ``preprocessor_config.json`` into a run's directory."""
        if self.image_processor is not None:
            replace_text(directory / PROCESSOR_FILE, self.image_processor)
        if self.tokenizer is not None:
            path = self.tokenizer.save(directory / "tokenizer.json")
            backend = tokenizers.Tokenizer.from_file(str(path))
            ids = {f"{role}_token": getattr(self.tokenizer, f"{role}_id") for role in ("pad", "bos", "eos")}
            tokens = {role: backend.id_to_token(i) for role, i in ids.items() if i is not None}
            text = json.dumps(tokens, indent=2, ensure_ascii=False)
            replace_text(directory / "special_tokens_map.json", text + "\n")


Loaded = tuple[Callable[..., nnx.Module], nn.Config, InitialWeights]


def start_run(config: C, name: str, accepted: Accepted) -> tuple[Run[C], Params]:
    """Opens a run, whose config has the model of its initial weights, and loads these; {} without any.

    Raises:
      SystemExit: with one message, when the weights cannot be loaded, or as `runner.Run`.
    """
    with exit_on_error(name):
        config, initial = load_initial_weights(config, accepted)
    run = Run(config, name)
    with run.setup():
        initial.save_preprocessing(run.path)
    return run, initial.params


def load_initial_weights(config: C, accepted: Accepted) -> tuple[C, InitialWeights]:
    """The config with the model of the weights of ``--init-from``, and these in its ``param_dtype``.

    A run that resumes from a checkpoint loads none.

    Raises:
      FileNotFoundError, pretrained.HubUnavailableError: there is no such run or checkpoint.
      ValueError: it is another kind of model, ``config.model`` differs from it, or a part is missing.
    """
    source = config.init_from
    resumes = config.resume and config.out is not None and consecutive_steps(config.out / "checkpoints")
    if source is None or resumes:
        return config, InitialWeights()
    found = read_model_config(source, config.INPUT)
    names = [field.name for field in dataclasses.fields(nn.Config) if field.name not in _FREE_FIELDS]
    pairs = {name: (getattr(config.model, name), getattr(found, name)) for name in names}
    differences = [
        f"\n  {_option(name)}: configured {ours}, the weights have {theirs}"
        for name, (ours, theirs) in pairs.items()
        if ours != theirs
    ]
    if differences:
        raise ValueError(
            f"--init-from {source}: got another --model than that of the weights; wanted changes of "
            f"{', '.join(map(_option, _FREE_FIELDS))} alone:" + "".join(differences)
        )
    module, model, initial = (_read_run if _is_run(source) else _read_checkpoint)(source, accepted)
    if module not in accepted:
        names = " or ".join(sorted(f"nn.{kind.__name__}" for kind in accepted))
        raise ValueError(f"--init-from {source}: got an nn.{module.__name__}; wanted an {names}.")
    model = _with_fields_of(config.model, _FREE_FIELDS, model)
    params = jax.tree.map(lambda x: x.astype(model.param_dtype), accepted[module](initial.params))
    return dataclasses.replace(config, model=model), dataclasses.replace(initial, params=params)


def with_initial_model(default: C, source: str) -> C:
    """The defaults of a command line with ``--init-from``: with the model of the weights, run as the default.

    Raises:
      ValueError: when the model cannot be read.
    """
    try:
        found = read_model_config(source, default.INPUT)
    except (OSError, ValueError) as error:
        raise ValueError(f"--init-from: {error}") from error
    model = _with_fields_of(default.model, _EXECUTION_FIELDS, found)
    return dataclasses.replace(default, model=model, init_from=source)


def read_model_config(source: str, wanted: Input) -> nn.Config:
    """The model's config of a run or a checkpoint, without the pooler, which belongs to its task.

    Raises:
      FileNotFoundError, pretrained.HubUnavailableError: there is no such run or checkpoint.
      ValueError: the model has another input, or its config cannot be read.
    """
    if _is_run(source):
        model = _model_of_run(Path(source))
    else:
        path = checkpoint_directory(source) / "config.json"
        settings = read_json(path)
        model = dataclasses.replace(family_of(settings, path)[1].read_config(settings, path), pooler=None)
    if wanted != (got := "texts" if model.patches is None else "images"):
        raise ValueError(f"{source}: got a model of {got}; wanted one of {wanted}.")
    return model


def _is_run(source: str) -> bool:
    path = Path(source) / "config.json"
    return path.is_file() and {"model", "train"} <= read_json(path).keys()


def _model_of_run(directory: Path) -> nn.Config:
    path = directory / MODEL_FILE
    if path.is_file():
        return config_of(nn.Config, read_config(path), path)
    path = directory / "config.json"
    model = config_of(nn.Config, read_config(path)["model"], path)
    size = model.vocab_size or data.load_tokenizer(directory).vocab_size
    return dataclasses.replace(model, vocab_size=size)


def _read_run(source: str, accepted: Accepted) -> Loaded:
    """The module, its config and its weights."""
    directory, model = Path(source), _model_of_run(Path(source))
    if nn.Classifier not in accepted:
        found = load_run(directory)  # with the average that the run tests
        return found.model.module, model, InitialWeights(found.params, data.load_tokenizer(directory))
    item = "ema" if any((directory / "checkpoints").glob("*/ema")) else "params"
    params = train.load_params(directory / "checkpoints", item=item)
    if "encoder" not in params:
        module = nn.Decoder
    else:
        module = nn.EncoderDecoder if "decoder" in params else nn.Classifier
    if model.patches is None:
        return module, model, InitialWeights(params, data.load_tokenizer(directory))
    processor = directory / PROCESSOR_FILE
    text = processor.read_text(encoding="utf-8") if processor.is_file() else None
    return module, model, InitialWeights(params, image_processor=text)


def _read_checkpoint(source: str, accepted: Accepted) -> Loaded:
    """The module, its config and its weights."""
    _, params, config, tokenizer = pretrained.load(source)
    module = find_family(config.architecture).architectures[config.architecture].module
    model = dataclasses.replace(config.model, pooler=None)
    if model.patches is not None:
        pretrained.load_image_processor(source)  # raises for unsupported settings
        text = (checkpoint_directory(source) / PROCESSOR_FILE).read_text(encoding="utf-8")
        return module, model, InitialWeights(params, image_processor=text)
    if tokenizer is None:
        raise ValueError(f"--init-from {source}: got no tokenizer; wanted a checkpoint with one.")
    settings = {**config.settings, **config.generation}
    return module, model, InitialWeights(params, _with_special_tokens(tokenizer, settings))


def _with_special_tokens(
    tokenizer: tokenizers.Tokenizer, settings: Mapping[str, object]
) -> data.JsonTokenizer:
    """The tokenizer with the special tokens whose ids are in a checkpoint's settings."""
    ids = {role: settings.get(f"{role}_token_id") for role in ("pad", "bos", "eos", "decoder_start")}
    ids = {role: next(iter(i), None) if isinstance(i, list) else i for role, i in ids.items()}
    tokens = {role: tokenizer.id_to_token(i) if isinstance(i, int) else None for role, i in ids.items()}
    start = tokens.pop("decoder_start")
    return data.JsonTokenizer(tokenizer, **{**tokens, "bos": start or tokens["bos"]})


def _with_fields_of(source: nn.Config, names: Sequence[str], model: nn.Config) -> nn.Config:
    """The model with some fields of ``source``."""
    return dataclasses.replace(model, **{name: getattr(source, name) for name in names})


def _option(name: str) -> str:
    return f"--model.{name.replace('_', '-')}"
