"""Reading checkpoints of Hugging Face transformers, tensor by tensor, straight into our parameters."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tokenizers

from tfm_jax import nn
from tfm_jax.nn import Pure
from tfm_jax.pretrained.extra_files import read_files
from tfm_jax.pretrained.families import architecture_in, family_by_type, known
from tfm_jax.pretrained.family import CheckpointConfig, Family
from tfm_jax.pretrained.hub import directory_of
from tfm_jax.pretrained.tokenizers.read import read_tokenizer
from tfm_jax.pretrained.weights.files import Weights, open_weights, read_json
from tfm_jax.pretrained.weights.match import matched, skipped_of, without
from tfm_jax.pretrained.weights.read import (
    Differences,
    Shardings,
    differences,
    flat,
    read_params,
    shardings_of,
)
from tfm_jax.pretrained.weights.tensor_map import Tensor, layout
from tfm_jax.types import Params

__all__ = ["load", "model_of", "shapes_of", "tensors_of"]


def load(
    path_or_repo_id: str | Path,
    dtype: Literal["float32", "bfloat16"] | None = "float32",
    *,
    allow_pickle: bool = False,
    tokenizer: bool = True,
    sharding: Shardings | None = None,
    architecture: str | None = None,
    ignore: Sequence[str] = (),
) -> tuple[Pure, Params, CheckpointConfig, tokenizers.Tokenizer | None]:
    """Loads a checkpoint of transformers: from a directory, the local cache of the hub, or the hub.

    Nothing in it is executed, and torch is not needed. On a CPU at most the weights and one tensor of theirs
    are in memory; for another device, one tensor of theirs, the parameters of ours that it is a part of (each
    of every layer), and what is on its way to the device.

    Args:
      path_or_repo_id: a directory with ``config.json`` and ``*.safetensors`` (or ``flax_model.msgpack``), or
        "owner/name" on the hub.
      dtype: of the parameters and the activations; None is the checkpoint's own, bfloat16 where its
        ``config.json`` says so, else float32.
      allow_pickle: read ``pytorch_model.bin`` where there is no safetensors file; this needs torch, which is
        asked to load weights only.
      tokenizer: load the tokenizer too.
      sharding: where the parameters go: a ``jax.sharding.Sharding`` for all of them, a tree of shardings like
        the parameters', or a function ``(path, shape) -> sharding`` of paths such as
        ``"stack/layers/attention/query/kernel"``; None is the default device. Each goes straight there: no
        device holds more than its share.
      architecture: such as "BertModel": which the tensors are read as, in the place of what ``config.json``
        names, such as an unknown class. Where neither names one, it is the one that fits the names of the
        tensors, and else the body.
      ignore: regular expressions of whole names of tensors that are left out, such as those of a head:
        ``["classifier_a.*"]``.

    Returns:
      ``(model, params, config, tokenizer)``: the model as pure functions, its parameters, the ``CheckpointConfig`` that
      ``save`` takes, and the tokenizer of the ``tokenizers`` library; None where there is none.

    Raises:
      FileNotFoundError: where the directory has no checkpoint.
      HubUnavailableError: within seconds, where the hub cannot be reached and the cache lacks the checkpoint.
      ValueError: for an architecture, a setting or a file that cannot be read; for tensors that are missing,
        unknown or of another shape, or that are there twice and differ, by name; for a sharding that does not
        divide its parameter.

    Settings that nothing here reads are named once, as a warning of the logger
    ``tfm_jax.pretrained.config_keys``; ``save`` writes them back.
    """
    directory = directory_of(path_or_repo_id, allow_pickle=allow_pickle)
    path = directory / "config.json"
    _check_is_model(path)
    settings = read_json(path)
    dtype = _saved_dtype(settings) if dtype is None else dtype
    found = architecture_in(settings, path) if architecture is None else architecture
    family = family_by_type(settings, path) if found is None else known(found)
    # Wrong settings are reported before the weights are opened.
    configs = [
        _config(settings | {"architectures": [name]}, family, path, dtype)
        for name in (family.architectures if found is None else [found])
    ]
    weights = without(open_weights(directory, allow_pickle=allow_pickle), ignore, directory)
    config = configs[0] if len(configs) == 1 else _fitting(configs, family, weights, directory)
    family.warn_unknown(config.settings, path)
    config = dataclasses.replace(config, files=read_files(directory))
    config, weights = matched(config, family, weights, directory)
    model = model_of(config, family)
    shapes = shapes_of(model)
    tensors = tensors_of(shapes, config, family)
    if wrong := differences(weights, tensors, skipped_of(family)):
        raise ValueError(wrong.text(directory) + _hint(wrong, config, family, weights, directory))
    shardings = shardings_of(sharding, shapes)
    text = read_tokenizer(directory) if tokenizer else None
    return model, read_params(weights, tensors, shapes, jnp.dtype(dtype), shardings), config, text


def _check_is_model(path: Path) -> None:
    """Raises for a sentence model whose encoder has a folder of its own."""
    modules = path.with_name("modules.json")
    if path.is_file() or not modules.is_file():
        return
    first = next((step for step in read_json(modules, list) if isinstance(step, dict)), {})
    raise FileNotFoundError(
        f"there is no config.json in {path.parent}, a sentence model: load its encoder, "
        f"{path.parent / str(first.get('path', ''))}, or the whole by load_sentence_encoder (tfm embed)"
    )


def _config(settings: dict[str, Any], family: Family, path: Path, dtype: Any) -> CheckpointConfig:
    model = dataclasses.replace(family.read_config(settings, path), dtype=dtype, param_dtype=dtype)
    generation = path.with_name("generation_config.json")
    named = settings["architectures"][0]
    return CheckpointConfig(named, model, settings, read_json(generation) if generation.is_file() else {})


def _fitting(
    configs: Sequence[CheckpointConfig], family: Family, weights: Weights, source: object
) -> CheckpointConfig:
    """The config by whose names most tensors are read, and none is unknown; else the first, the body's."""
    read = {i: _count_read(config, family, weights, source) for i, config in enumerate(configs)}
    return configs[max(read, key=lambda i: (read[i], -i))]


def _count_read(config: CheckpointConfig, family: Family, weights: Weights, source: object) -> int:
    """How many of the tensors are read as this architecture's; 0 where one is missing or unknown."""
    try:
        config, weights = matched(config, family, weights, source)
        tensors = tensors_of(shapes_of(model_of(config, family)), config, family)
    except ValueError:
        return 0
    wrong = differences(weights, tensors, skipped_of(family))
    return 0 if wrong.missing or wrong.unknown else len(tensors.keys() & weights.shapes.keys())


def _hint(
    wrong: Differences, config: CheckpointConfig, family: Family, weights: Weights, source: Path
) -> str:
    """What to do about tensors that do not fit."""
    for name in family.architectures:
        if name != config.architecture:
            settings = {**config.settings, "architectures": [name]}
            other = _config(settings, family, source / "config.json", config.model.dtype)
            if _count_read(other, family, weights, source):
                return f"\nTheir names are those of {name}: pass architecture={name!r}" + (
                    f", or leave out its head by {_IGNORE}." if wrong.unknown and not wrong.missing else "."
                )
    if wrong.unknown and not wrong.missing and not wrong.shapes:
        return f"\nLeave out what is of another head by {_IGNORE}."
    for prefix in sorted({name.split(".")[0] + "." for name in wrong.unknown}):
        others = rf"(?!{re.escape(prefix)}).*"
        below = {name: shape for name, shape in weights.shapes.items() if name.startswith(prefix)}
        if len(below) < len(weights.shapes) and _count_read(
            config, family, Weights(below, weights.read), source
        ):
            return f"\nThose that begin with {prefix!r} are: leave out the others by ignore=[{others!r}]."
    return ""


_IGNORE = "ignore=[...], regular expressions of whole names"


def _saved_dtype(settings: Mapping[str, Any]) -> Literal["float32", "bfloat16"]:
    """What the tensors were saved in; of float16, whose range is smaller, float32 loses nothing."""
    said = settings.get("dtype") or settings.get("torch_dtype")  # version 5, and before
    return "bfloat16" if said == "bfloat16" else "float32"


def model_of(config: CheckpointConfig, family: Family) -> Pure:
    """The model of a config."""
    architecture = family.architectures[config.architecture]
    return nn.functionalize(architecture.module, config.model, **architecture.options(config))


def shapes_of(model: Pure) -> Params:
    """The shapes of a model's parameters."""
    return jax.eval_shape(model.init, jax.random.key(0))


def tensors_of(shapes: Params, config: CheckpointConfig, family: Family) -> dict[str, Tensor]:
    """The tensors that a checkpoint of a model with parameters of these shapes has, by name."""
    names = family.architectures[config.architecture].names(config.model)
    return layout(names, {path: leaf.shape for path, leaf in flat(shapes)})
