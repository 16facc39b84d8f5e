"""Saving checkpoints that Hugging Face transformers loads."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tokenizers
from safetensors.numpy import save_file

from tfm_jax.nn.functional import check_params
from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.extra_files import is_tokenizer_file, write_files
from tfm_jax.pretrained.families import find_family
from tfm_jax.pretrained.family import CheckpointConfig
from tfm_jax.pretrained.load import model_of, shapes_of, tensors_of
from tfm_jax.pretrained.tokenizers.save import tokenizer_files
from tfm_jax.pretrained.weights.read import flatten_with_paths
from tfm_jax.pretrained.weights.tensor_map import CheckpointTensor
from tfm_jax.types import Array, Params

__all__ = ["save"]


def save(
    directory: str | Path,
    params: Params,
    config: CheckpointConfig,
    tokenizer: tokenizers.Tokenizer | None = None,
    *,
    max_file_bytes: int = 4 * 2**30,
) -> None:
    """Saves a checkpoint to a directory that transformers and ``load`` read.

    Args:
      directory: is made, or must be empty.
      params: of the model, float32 or bfloat16; they keep their dtypes.
      config: from ``load``, or ``CheckpointConfig("LlamaForCausalLM", nn.Config(...))`` for a new model. Its
        ``files`` are saved too; tokenizer files only if they still describe ``tokenizer``.
      tokenizer: is saved such that transformers encodes texts with the same ids; None saves none.
      max_file_bytes: the limit of one file; larger weights are sharded. Peak memory is that of the parameters
        and one file.

    Returns:
      None.

    Raises:
      FileExistsError: for a directory that is not empty.
      ValueError: for an unknown architecture, a model that it cannot express, parameters of another model,
        and a tokenizer that transformers would read differently beside that model. A variant that the format
        lacks, such as an ``nn.Norm`` of your own, is named.

    Fields of ``nn.Config`` that change no output of these parameters are not saved: ``initializers``,
    ``attention_implementation``, ``dtype``, ``param_dtype``, ``remat`` and ``unroll``. An
    ``initializer_range`` in ``config.settings`` is kept: transformers draws new heads with it.
    """
    family = find_family(config.architecture)
    settings = family.write_config(config)
    shapes = shapes_of(model_of(config, family))
    check_params(params, shapes)
    files = {name: data for name, data in config.files.items() if not is_tokenizer_file(name)}
    files |= {} if tokenizer is None else tokenizer_files(tokenizer, config, settings)
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"save: got {directory}, which is not empty; wanted a new directory.")
    directory.mkdir(parents=True, exist_ok=True)
    leaves = dict(flatten_with_paths(params))
    dtypes = {str(leaf.dtype) for leaf in leaves.values()}
    prefix = family.prefix if family.architectures[config.architecture].bare else ""
    tensors = {
        name.removeprefix(prefix): tensor for name, tensor in tensors_of(shapes, config, family).items()
    }
    dtype = next(iter(leaves.values())).dtype
    tables = {name: table.astype(dtype) for name, table in family.tables(settings).items()}
    _write_tensors(directory, leaves, tensors, tables, max_file_bytes)
    settings["dtype"] = dtypes.pop() if len(dtypes) == 1 else "float32"
    _write_json(directory / "config.json", settings)
    if config.generation:
        _write_json(directory / "generation_config.json", dict(config.generation))
    write_files(directory, files)


def _write_tensors(
    directory: Path,
    leaves: Mapping[str, Array],
    tensors: dict[str, CheckpointTensor],
    tables: Mapping[str, np.ndarray],
    max_file_bytes: int,
) -> None:
    """Writes the tensors, and tables that are no parameters, to one file, or to several and an index."""
    files: list[list[str]] = [[]]
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    counts = {name: int(np.prod(shape, dtype=np.int64)) for name, shape in shapes.items()}
    counts |= {name: table.size for name, table in tables.items()}
    sizes, filled = {}, 0
    for name, count in counts.items():
        leaf = tables[name] if name in tables else leaves[tensors[name].slices[0].path]
        sizes[name] = leaf.dtype.itemsize * count
        if files[-1] and filled + sizes[name] > max_file_bytes:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += sizes[name]
    file_names = (
        ["model.safetensors"]
        if len(files) == 1
        else [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    )
    for file, names in zip(file_names, files, strict=True):
        # safetensors writes the memory of an array and ignores its strides.
        found = {name: tables[name] if name in tables else _tensor(leaves, tensors[name]) for name in names}
        arrays = {name: np.ascontiguousarray(array) for name, array in found.items()}
        save_file(arrays, directory / file, metadata={"format": "pt"})
    if len(files) > 1:
        weight_map = {name: file for file, names in zip(file_names, files, strict=True) for name in names}
        totals = {"total_parameters": sum(counts.values()), "total_size": sum(sizes.values())}
        index = {"metadata": totals, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index)


def _tensor(leaves: Mapping[str, Array], tensor: CheckpointTensor) -> np.ndarray:
    """The checkpoint tensor of the parameters, or slices of them, that it holds."""
    parts = []
    for part in tensor.slices:
        leaf = leaves[part.path]
        parts.append(part.conversion.save(np.asarray(leaf if part.layer is None else leaf[part.layer])))
    return tensor.join(parts)


def _write_json(path: Path, value: Settings) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
