"""Loading checkpoints of Hugging Face transformers, tensor by tensor, into our parameters."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import tokenizers
from flax import nnx

from tfm_jax import nn
from tfm_jax.nn import Pure
from tfm_jax.pretrained.checkpoint_files import CheckpointFiles
from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.extra_files import read_extra_files
from tfm_jax.pretrained.families import architecture_in, family_by_type, find_family
from tfm_jax.pretrained.family import CheckpointConfig, Family
from tfm_jax.pretrained.weights.files import Weights, read_json
from tfm_jax.pretrained.weights.match import drop_ignored, match_names, skipped_patterns
from tfm_jax.pretrained.weights.read import (
    Mismatches,
    Shardings,
    find_mismatches,
    flatten_with_paths,
    read_params,
    resolve_shardings,
)
from tfm_jax.pretrained.weights.tensor_map import CheckpointTensor, build_tensor_map
from tfm_jax.types import Params

__all__ = ["load", "load_files", "model_of", "shapes_of", "tensors_of"]

Dtype = Literal["float32", "bfloat16"]
M = TypeVar("M", bound=nnx.Module)
ANY_MODULE: Any = nnx.Module
"""To a type checker, the model of a file whose class nobody named has any method."""
Loaded = tuple[Pure[M], Params, CheckpointConfig, tokenizers.Tokenizer | None]


def load(
    path_or_repo_id: str | Path,
    dtype: Dtype | None = "float32",
    *,
    allow_pickle: bool = False,
    tokenizer: bool = True,
    sharding: Shardings | None = None,
    architecture: str | None = None,
    ignore: Sequence[str] = (),
    module: type[M] = ANY_MODULE,
) -> Loaded[M]:
    """Loads a checkpoint of transformers from a directory, the local cache of the hub, or the hub.

    Nothing in the checkpoint is executed, and torch is not needed. Peak memory on a CPU is that of the
    parameters and one tensor of the checkpoint. For another device the host holds one tensor, the parameters
    that it is a part of (each with all its layers), and transfers in flight.

    Args:
      path_or_repo_id: a directory with ``config.json`` and ``*.safetensors`` (or ``flax_model.msgpack``), or
        "owner/name" on the hub.
      dtype: of the parameters and the activations; None is bfloat16 where ``config.json`` says so, else
        float32.
      allow_pickle: read ``pytorch_model.bin`` where there is no safetensors file. This needs torch, which
        loads it with ``weights_only=True``.
      tokenizer: whether to load the tokenizer.
      sharding: of the parameters: a ``jax.sharding.Sharding`` for all of them, a tree of shardings like the
        parameters', or a function ``(path, shape) -> sharding`` of paths such as
        ``"stack/layers/attention/query/kernel"``; None is the default device. No device holds more than its
        shard.
      architecture: such as "BertModel": reads the tensors as this class, whatever class ``config.json``
        names. Where neither names one, the architecture whose tensor names fit is taken, or else the body.
      ignore: regular expressions that match the full names of tensors to leave out, such as those of a head:
        ``["classifier_a.*"]``.
      module: the class of the model, such as ``nn.Decoder``: a type checker then knows the model's methods,
        and a model of another class is an error.

    Returns:
      ``(model, params, config, tokenizer)``: the model as pure functions, its parameters, the
      ``CheckpointConfig`` that ``save`` takes, and a ``tokenizers.Tokenizer``, or None where there is none.

    Raises:
      FileNotFoundError: where the directory has no checkpoint.
      HubUnavailableError: within seconds, where the hub is unreachable and the cache lacks the checkpoint.
      ValueError: for an architecture, a setting or a file that is not supported; for a model of another class
        than ``module``; for tensors that are
        missing, unknown, of another shape, or duplicates that differ, by name; for a sharding that does not
        divide its parameter.

    Unknown settings have no effect. They are logged once by the logger ``tfm_jax.pretrained.config_keys``,
    and ``save`` writes them back.
    """
    files = CheckpointFiles.find(path_or_repo_id, allow_pickle=allow_pickle)
    return load_files(
        files,
        dtype,
        tokenizer=tokenizer,
        sharding=sharding,
        architecture=architecture,
        ignore=ignore,
        module=module,
    )


def load_files(
    files: CheckpointFiles,
    dtype: Dtype | None,
    *,
    tokenizer: bool = True,
    sharding: Shardings | None = None,
    architecture: str | None = None,
    ignore: Sequence[str] = (),
    module: type[M] = ANY_MODULE,
) -> Loaded[M]:
    """``load`` of an opened directory, for callers that read more of its files."""
    source = files / "config.json"
    _check_is_model(files)
    settings = files.config
    dtype = _saved_dtype(settings) if dtype is None else dtype
    name = architecture_in(settings, source) if architecture is None else architecture
    family = family_by_type(settings, source) if name is None else find_family(name)
    # Invalid settings are reported before the weights are opened.
    names = family.architectures if name is None else [name]
    found = [_config(files, {**settings, "architectures": [name]}, family, dtype) for name in names]
    configs, keys = [config for config, _ in found], {config.architecture: read for config, read in found}
    weights = drop_ignored(files.weights, ignore, files)
    config = configs[0] if len(configs) == 1 else _best_fit(configs, family, weights, files)
    family.warn_unknown(config, keys[config.architecture], source)
    config = dataclasses.replace(config, files=read_extra_files(files))
    config, weights = match_names(config, family, weights, files)
    model = model_of(config, family, module)
    shapes = shapes_of(model)
    tensors = tensors_of(shapes, config, family)
    if wrong := find_mismatches(weights, tensors, skipped_patterns(family)):
        raise ValueError(wrong.message(files) + _suggestion(wrong, config, family, weights, files))
    shardings = resolve_shardings(sharding, shapes)
    params = read_params(weights, tensors, shapes, jnp.dtype(dtype), shardings)
    return model, params, config, files.tokenizer if tokenizer else None


def _check_is_model(files: CheckpointFiles) -> None:
    """Raises for a sentence model whose encoder is in a folder of its directory."""
    modules = files / "modules.json"
    if (files / "config.json").is_file() or not modules.is_file():
        return
    first = next((step for step in read_json(modules, list) if isinstance(step, dict)), {})
    encoder = files.directory / str(first.get("path", ""))
    raise FileNotFoundError(
        f"load: got {files}, a sentence model without a config.json; wanted its encoder, {encoder}. Or load "
        "the sentence model by load_sentence_encoder (tfm embed)."
    )


def _config(
    files: CheckpointFiles, settings: Settings, family: Family, dtype: Dtype
) -> tuple[CheckpointConfig, set[str]]:
    """The config, and the keys of the file that it was read from."""
    model, read = family.read_tracked(settings, files / "config.json")
    model = dataclasses.replace(model, dtype=dtype, param_dtype=dtype)
    return CheckpointConfig(settings["architectures"][0], model, settings, files.generation_config), read


def _best_fit(
    configs: Sequence[CheckpointConfig], family: Family, weights: Weights, source: CheckpointFiles
) -> CheckpointConfig:
    """The config that reads most tensors and leaves none unknown; else the first, the body."""
    counts = [_count_read(config, family, weights, source) for config in configs]
    return configs[counts.index(max(counts))]


def _count_read(config: CheckpointConfig, family: Family, weights: Weights, source: CheckpointFiles) -> int:
    """How many tensors this architecture reads; 0 where one is missing or unknown."""
    try:
        config, weights = match_names(config, family, weights, source)
        tensors = tensors_of(shapes_of(model_of(config, family)), config, family)
    except ValueError:
        return 0
    wrong = find_mismatches(weights, tensors, skipped_patterns(family))
    return 0 if wrong.missing or wrong.unknown else len(tensors.keys() & weights.shapes.keys())


_IGNORE = "ignore=[...], regular expressions of full names"


def _suggestion(
    wrong: Mismatches, config: CheckpointConfig, family: Family, weights: Weights, files: CheckpointFiles
) -> str:
    """A fix for tensors that do not fit, or an empty text."""
    for name in family.architectures:
        if name != config.architecture:
            settings = {**config.settings, "architectures": [name]}
            other, _ = _config(files, settings, family, config.model.dtype)
            if _count_read(other, family, weights, files):
                head = f", or leave out its head by {_IGNORE}" if wrong.unknown and not wrong.missing else ""
                return (
                    f"\nTheir names are those of {name}: write it as architectures in config.json, or in "
                    f"Python pass architecture={name!r} to load{head}."
                )
    if wrong.unknown and not wrong.missing and not wrong.shapes:
        return f"\nTo leave out the tensors of another head, in Python pass {_IGNORE} to load."
    for prefix in sorted({name.split(".")[0] + "." for name in wrong.unknown}):
        others = rf"(?!{re.escape(prefix)}).*"
        below = {name: shape for name, shape in weights.shapes.items() if name.startswith(prefix)}
        subset = Weights(below, weights.read)
        if len(below) < len(weights.shapes) and _count_read(config, family, subset, files):
            return (
                f"\nThose that begin with {prefix!r} fit: to leave out the others, in Python pass "
                f"ignore=[{others!r}] to load."
            )
    return ""


def _saved_dtype(settings: Settings) -> Dtype:
    """The dtype of the saved tensors; float32 for float16, since bfloat16 would lose digits."""
    name = settings.get("dtype") or settings.get("torch_dtype")  # version 5, and before
    return "bfloat16" if name == "bfloat16" else "float32"


def model_of(config: CheckpointConfig, family: Family, module: type[M] = ANY_MODULE) -> Pure[M]:
    """The model of a config; a ValueError where it is not of this class."""
    architecture = family.architectures[config.architecture]
    if not issubclass(architecture.module, module):
        raise ValueError(
            f"load: got {config.architecture}, of class {architecture.module.__name__}; wanted class "
            f"{module.__name__}. Pass another module= or architecture=."
        )
    return nn.functionalize(architecture.module, config.model, **architecture.options(config))


def shapes_of(model: Pure[nnx.Module]) -> Params:
    """The shapes of a model's parameters."""
    # JAX remembers something of each traced function for as long as it lives: a model may live long.
    return jax.eval_shape(lambda key: model.init(key), jax.random.key(0))


def tensors_of(shapes: Params, config: CheckpointConfig, family: Family) -> dict[str, CheckpointTensor]:
    """The tensors in a checkpoint of a model with parameters of these shapes, by name."""
    names = family.architectures[config.architecture].names(config.model)
    return build_tensor_map(names, {path: leaf.shape for path, leaf in flatten_with_paths(shapes)})
