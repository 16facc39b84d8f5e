"""Reading checkpoints of Hugging Face transformers, tensor by tensor, straight into our parameters."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tokenizers

from tfm_jax import nn
from tfm_jax.nn import Pure
from tfm_jax.pretrained.beside import read_files
from tfm_jax.pretrained.config import Config, Family
from tfm_jax.pretrained.families import family_of
from tfm_jax.pretrained.files import Weights, open_weights, read_json
from tfm_jax.pretrained.fill import (
    Shardings,
    check_copies,
    check_tensors,
    flat,
    read_params,
    same,
    shardings_of,
)
from tfm_jax.pretrained.hub import directory_of
from tfm_jax.pretrained.names import Tensor, layout
from tfm_jax.pretrained.tokens import read_tokenizer
from tfm_jax.types import Params

__all__ = ["load", "model_of", "shapes_of", "tensors_of"]


def load(
    path_or_repo_id: str | Path,
    dtype: Literal["float32", "bfloat16"] | None = "float32",
    *,
    allow_pickle: bool = False,
    tokenizer: bool = True,
    sharding: Shardings | None = None,
) -> tuple[Pure, Params, Config, tokenizers.Tokenizer | None]:
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

    Returns:
      ``(model, params, config, tokenizer)``: the model as pure functions, its parameters, the ``Config`` that
      ``save`` takes, and the tokenizer of the ``tokenizers`` library; None where there is none.

    Raises:
      FileNotFoundError: where the directory has no checkpoint.
      HubUnavailableError: within seconds, where the hub cannot be reached and the cache lacks the checkpoint.
      ValueError: for an architecture, a setting or a file that cannot be read; for tensors that are missing,
        unknown or of another shape, or that are there twice and differ, all of them by name; for a sharding
        that does not divide its parameter.
    """
    directory = directory_of(path_or_repo_id, allow_pickle=allow_pickle)
    settings = read_json(directory / "config.json")
    architecture, family = family_of(settings, directory / "config.json")
    dtype = _saved_dtype(settings) if dtype is None else dtype
    model_config = dataclasses.replace(
        family.read_config(settings, directory / "config.json"), dtype=dtype, param_dtype=dtype
    )
    generation = directory / "generation_config.json"
    generation = read_json(generation) if generation.is_file() else {}
    config = Config(architecture, model_config, settings, generation, read_files(directory))
    weights = _renamed(open_weights(directory, allow_pickle=allow_pickle), family)
    check_copies(weights, family.copies, directory)
    config, weights = _untied(_without_absent(config, family, weights), family, weights, directory)
    model = model_of(config, family)
    shapes = shapes_of(model)
    tensors = tensors_of(shapes, config, family)
    skipped = (*family.skipped, *(pattern for pattern, _ in family.copies))
    check_tensors(weights, tensors, skipped, directory)
    shardings = shardings_of(sharding, shapes)
    found = read_tokenizer(directory) if tokenizer else None
    return model, read_params(weights, tensors, shapes, jnp.dtype(dtype), shardings), config, found


def _saved_dtype(settings: Mapping[str, Any]) -> Literal["float32", "bfloat16"]:
    """What the tensors were saved in; of float16, whose range is smaller, float32 loses nothing."""
    said = settings.get("dtype") or settings.get("torch_dtype")  # version 5, and before
    return "bfloat16" if said == "bfloat16" else "float32"


def model_of(config: Config, family: Family) -> Pure:
    """The model of a config."""
    architecture = family.architectures[config.architecture]
    return nn.functionalize(architecture.module, config.model, **architecture.options(config))


def shapes_of(model: Pure) -> Params:
    """The shapes of a model's parameters."""
    return jax.eval_shape(model.init, jax.random.key(0))


def tensors_of(shapes: Params, config: Config, family: Family) -> dict[str, Tensor]:
    """The tensors that a checkpoint of a model with parameters of these shapes has, by name."""
    names = family.architectures[config.architecture].names(config.model)
    return layout(names, {path: leaf.shape for path, leaf in flat(shapes)})


def _renamed(weights: Weights, family: Family) -> Weights:
    """The weights by the names of today, with the family's prefix."""
    names = {}
    bare = not any(name.startswith(family.prefix) for name in weights.shapes)
    for old in weights.shapes:
        new = old
        for pattern, replacement in family.renamed:
            new = re.sub(pattern, replacement, new)
        # Without any prefix the tensors are those of the body alone.
        new = family.prefix + new if bare else new
        if new in names:
            raise ValueError(f"two tensors are both {new}: {names[new]} and {old}; leave one out of the file")
        names[new] = old
    return Weights(
        {new: weights.shapes[old] for new, old in names.items()}, lambda name: weights.read(names[name])
    )


def _without_absent(config: Config, family: Family, weights: Weights) -> Config:
    """The config without those parts that a file may lack, and this one does."""
    architecture = family.architectures[config.architecture]
    entries = architecture.names(config.model)
    there = {entry.ours.split("/")[0] for entry in entries if entry.theirs in weights.shapes}
    absent = {field: None for field in architecture.by_file if field not in there}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **absent))


def _untied(config: Config, family: Family, weights: Weights, source: object) -> tuple[Config, Weights]:
    """Whether the output projection is the embedding: by the settings, with which the tensors must agree."""
    entries = family.architectures[config.architecture].names(config.model)
    names = {entry.ours: entry.theirs for entry in entries}
    head = names.get("head/projection/kernel")
    table = names.get("embedding/table", names.get("encoder/embedding/table"))
    tied = config.model.tie_embeddings
    if head is None or table not in weights.shapes:
        return config, weights
    if head not in weights.shapes:
        tied = tied or family.tied_by_file
    elif tied:
        tied = same(weights, head, table)
        if not tied and not family.tied_by_file:
            raise ValueError(
                f"{source}: by its config.json {head} is {table} (tie_word_embeddings), and the two differ: "
                "say tie_word_embeddings=false there if the model has two, or leave one out of the file"
            )
    if tied:
        weights = Weights({name: s for name, s in weights.shapes.items() if name != head}, weights.read)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, tie_embeddings=tied)), weights
