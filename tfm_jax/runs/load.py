"""The trained model of a run, or of a checkpoint of transformers, from its directory."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import jax
import tokenizers
from flax import nnx

from tfm_jax import data, nn, train
from tfm_jax.registry import Variant, registered
from tfm_jax.runs.task import TASK_FILE, is_run, read_task
from tfm_jax.train.checkpoint_files import best_step, consecutive_steps
from tfm_jax.train.run_directory import BEST_METRIC, MODEL_FILE, config_errors, read_config, replace_text
from tfm_jax.types import Params
from tfm_jax.values import from_dict

__all__ = [
    "PROCESSOR_FILE",
    "Dtype",
    "TrainedModel",
    "check_dtype",
    "check_no_average",
    "load_model",
    "read_model_config",
    "read_run",
]

Dtype = Literal["float32", "bfloat16"]
PROCESSOR_FILE = "preprocessor_config.json"
"""The preprocessing of images, in the directory of a run or of a checkpoint."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model with what its input needs.

    Args:
      module: its class: ``nn.functionalize(module, config)`` is the model, where the class takes no more than
        a config; an ``nn.Classifier`` takes the number of classes too.
      config: of the model, or of the encoder of a classifier.
      params: nested dict of arrays.
      tokenizer: of a model of texts.
      image_processor: the text of the ``preprocessor_config.json``, if a model of images has one.
    """

    module: type[nnx.Module]
    config: nn.Config
    params: Params
    tokenizer: data.JsonTokenizer | None = None
    image_processor: str | None = None

    def save_preprocessing(self, directory: Path) -> None:
        """Writes the tokenizer or the ``preprocessor_config.json`` into a run's directory."""
        if self.image_processor is not None:
            replace_text(directory / PROCESSOR_FILE, self.image_processor)
        if self.tokenizer is not None:
            self.tokenizer.save(directory / "tokenizer.json")
            ids = {f"{role}_token": getattr(self.tokenizer, f"{role}_id") for role in ("pad", "bos", "eos")}
            tokens = {role: self.tokenizer.backend.id_to_token(i) for role, i in ids.items() if i is not None}
            text = json.dumps(tokens, indent=2, ensure_ascii=False)
            replace_text(directory / "special_tokens_map.json", text + "\n")


def load_model(
    source: str | Path,
    *,
    average: int | None = None,
    variants: Sequence[type] = (),
    dtype: Dtype | None = None,
) -> TrainedModel:
    """Loads the trained model of a run of any experiment, or of a checkpoint of transformers.

    Args:
      source: the directory of a run; or a checkpoint, a directory or its name on the hub.
      average: of a run, as for `load_run`; a checkpoint is one set of weights.
      variants: as for `load_run`; the config of a checkpoint names none.
      dtype: as for `load_run`; None is float32 for a checkpoint.

    Returns:
      The model.

    Raises:
      FileNotFoundError: there is no such run or checkpoint, or a file of it is missing.
      pretrained.HubUnavailableError: the hub cannot be reached.
      ValueError: as for `load_run` and ``pretrained.load``, or a checkpoint has no tokenizer, or ``average``
        is passed for one.
    """
    check_dtype("load_model", dtype)
    if is_run(source):
        return read_run(Path(source), average, variants, dtype)
    check_no_average("load_model", source, average)
    return _read_checkpoint(str(source), dtype or "float32")


def read_model_config(source: str | Path, variants: Sequence[type] = ()) -> nn.Config:
    """Reads the model's config of a run or a checkpoint, without the weights.

    Args:
      source: as for `load_model`.
      variants: as for `load_run`.

    Returns:
      The config. A vocabulary size that a run leaves to its tokenizer is that of the tokenizer.

    Raises:
      FileNotFoundError, pretrained.HubUnavailableError: there is no such run or checkpoint.
      ValueError: its config cannot be read.
    """
    if is_run(source):
        model = _model_of_run(Path(source), variants)
        is_open = model.patches is None and model.vocab_size == 0
        return _with_vocabulary(model, data.load_tokenizer(source)) if is_open else model
    from tfm_jax.pretrained.families import family_of  # slow: not before it is needed
    from tfm_jax.pretrained.weights.files import checkpoint_directory, read_json

    path = checkpoint_directory(source) / "config.json"
    settings = read_json(path)
    return family_of(settings, path)[1].read_config(settings, path)


def check_dtype(function: str, dtype: str | None) -> None:
    """Raises a ValueError for an unknown dtype of the function's argument."""
    if dtype is not None and dtype not in get_args(Dtype):
        raise ValueError(
            f"{function}: got dtype={dtype!r}; wanted None or one of {', '.join(get_args(Dtype))}."
        )


def check_no_average(function: str, source: str | Path, average: int | None) -> None:
    """Raises a ValueError for an ``average`` of a checkpoint."""
    if average is not None:
        raise ValueError(
            f"{function}: got average={average} for {source}, which is no run; wanted average=None. A "
            "checkpoint is one set of weights: leave average out."
        )


def _in_dtype(model: TrainedModel, dtype: Dtype | None) -> TrainedModel:
    """The model with its parameters and activations in a dtype; None keeps those of its config."""
    if dtype is None:
        return model
    config = dataclasses.replace(model.config, dtype=dtype, param_dtype=dtype)
    return dataclasses.replace(
        model, config=config, params=jax.tree.map(lambda x: x.astype(dtype), model.params)
    )


def _model_of_run(directory: Path, variants: Sequence[type]) -> nn.Config:
    registered(Variant, variants)  # raises for a class that is no variant
    path = directory / (MODEL_FILE if (directory / MODEL_FILE).is_file() else "config.json")
    saved = read_config(path)
    with config_errors(path, "model config"):
        return from_dict(nn.Config, saved if path.name == MODEL_FILE else saved.get("model"), variants)


def _with_vocabulary(model: nn.Config, tokenizer: data.JsonTokenizer) -> nn.Config:
    """The model's config, which may leave the vocabulary size to the tokenizer."""
    return dataclasses.replace(model, vocab_size=model.vocab_size or tokenizer.vocab_size)


def read_run(
    directory: Path, average: int | None, variants: Sequence[type], dtype: Dtype | None
) -> TrainedModel:
    """The model of a run; arguments and errors as for `load_run`."""
    model, path = _model_of_run(directory, variants), directory / "config.json"
    settings = read_config(path)
    with config_errors(path):
        every = int(settings.get("train", {}).get("checkpoint_every", 0)) or None
        n_averaged = int(settings.get("average", 1))
        stops_early = settings.get("train", {}).get("patience") is not None
    tests_best = stops_early and (directory / TASK_FILE).is_file() and bool(read_task(directory).labels)
    params = _load_params(directory / "checkpoints", every, n_averaged, average, tests_best)
    module = nn.Classifier if "encoder" in params else nn.Decoder
    module = nn.EncoderDecoder if params.keys() >= {"encoder", "decoder"} else module
    if model.patches is None:
        tokenizer = data.load_tokenizer(directory)
        found = TrainedModel(module, _with_vocabulary(model, tokenizer), params, tokenizer)
    else:
        processor = directory / PROCESSOR_FILE
        text = processor.read_text(encoding="utf-8") if processor.is_file() else None
        found = TrainedModel(module, model, params, image_processor=text)
    return _in_dtype(found, dtype)


def _load_params(
    checkpoints: Path, checkpoint_every: int | None, n_averaged: int, average: int | None, tests_best: bool
) -> Params:
    """The weights that the run tested, or an average; ``tests_best``: it tested its best checkpoint."""
    steps = consecutive_steps(checkpoints, checkpoint_every)
    if not steps:
        raise FileNotFoundError(f"load_run: got no checkpoint in {checkpoints}; wanted at least one.")
    if average is not None and not 1 <= average <= len(steps):
        raise ValueError(
            f"load_run: got average={average}; wanted 1 to {len(steps)}, the last checkpoints in "
            f"{checkpoints}, as far apart as the run's checkpoint_every: steps {steps}."
        )
    if average is None and tests_best:
        return train.load_params(checkpoints, best_step(checkpoints, BEST_METRIC), item=None)
    average = min(n_averaged, len(steps)) if average is None else average
    if average != 1:
        return train.average_params(checkpoints, average, every=checkpoint_every)
    return train.load_params(checkpoints, item=None)


def _read_checkpoint(source: str, dtype: Dtype) -> TrainedModel:
    from tfm_jax import pretrained
    from tfm_jax.pretrained.families import find_family
    from tfm_jax.pretrained.weights.files import checkpoint_directory

    _, params, config, tokenizer = pretrained.load(source, dtype=dtype)
    module = find_family(config.architecture).architectures[config.architecture].module
    if config.model.patches is not None:
        pretrained.load_image_processor(source)  # raises for unsupported settings
        text = (checkpoint_directory(source) / PROCESSOR_FILE).read_text(encoding="utf-8")
        return TrainedModel(module, config.model, params, image_processor=text)
    if tokenizer is None:
        raise ValueError(f"{source}: got no tokenizer; wanted a checkpoint with one.")
    settings = {**config.settings, **config.generation}
    return TrainedModel(module, config.model, params, _with_special_tokens(tokenizer, settings))


def _with_special_tokens(
    tokenizer: tokenizers.Tokenizer, settings: Mapping[str, object]
) -> data.JsonTokenizer:
    """The tokenizer with the special tokens whose ids are in a checkpoint's settings."""
    ids = {role: settings.get(f"{role}_token_id") for role in ("pad", "bos", "eos", "decoder_start")}
    ids = {role: next(iter(i), None) if isinstance(i, list) else i for role, i in ids.items()}
    tokens = {role: tokenizer.id_to_token(i) if isinstance(i, int) else None for role, i in ids.items()}
    start = tokens.pop("decoder_start")
    return data.JsonTokenizer(tokenizer, **{**tokens, "bos": start or tokens["bos"]})
