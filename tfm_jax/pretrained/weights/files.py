"""Checkpoint directories and their weight files, opened lazily and read tensor by tensor."""

import contextlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import ml_dtypes  # noqa: F401  - NumPy then knows bfloat16, in which safetensors returns tensors
import numpy as np
import safetensors

from tfm_jax import hub
from tfm_jax.pretrained.weights.flax_msgpack import FLAX_FILE, open_msgpack

__all__ = [
    "Directory",
    "File",
    "Weights",
    "checkpoint_directory",
    "describe_weight_file",
    "open_weights",
    "read_json",
    "safetensors_errors",
]

_Kind = TypeVar("_Kind", dict, list)
_FLOATS = {"F64", "F32", "F16", "BF16"}
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja", "*/config.json"]
_HUB_PATTERNS += [
    "[0-9]_*/pytorch_model.bin"
]  # layers of a sentence model, read only where pickles are allowed
_TO_SAFETENSORS = (
    "Load it into its PyTorch model and save that with transformers' save_pretrained, or its state dict with "
    "safetensors.torch.save_model to model.safetensors beside a config.json"
)
# Weight files that no loader here reads by themselves: the format, and how to convert or pass it.
_FILE_TYPES = {
    ".pt": ("a PyTorch pickle", _TO_SAFETENSORS),
    ".pth": ("a PyTorch pickle", _TO_SAFETENSORS),
    ".ckpt": ("a checkpoint of PyTorch Lightning or TensorFlow", _TO_SAFETENSORS),
    ".gguf": (
        "a llama.cpp file",
        "Load it with transformers (AutoModelForCausalLM.from_pretrained(directory, gguf_file=name)) and "
        "save that with save_pretrained; or take the repository that it was converted from",
    ),
    ".onnx": ("an ONNX program", "Take the checkpoint that it was exported from"),
    ".h5": (
        "TensorFlow weights",
        "Load it with from_tf=True in transformers before version 5, and save that with save_pretrained",
    ),
    ".npz": ("NumPy arrays", "Save them with safetensors.numpy.save_file to model.safetensors"),
    ".bin": ("a PyTorch pickle", "Pass its directory, with config.json beside it, and allow_pickle=True"),
    ".safetensors": ("a weight file", "Pass its directory, with config.json beside it"),
    ".msgpack": ("Flax weights", "Pass its directory, with config.json beside it"),
}


class File(Protocol):
    """A file of a checkpoint: a ``pathlib.Path``, or a ``CheckpointFile``, which is read once."""

    @property
    def name(self) -> str: ...

    @property
    def parent(self) -> "Directory": ...

    def __fspath__(self) -> str: ...

    def is_file(self) -> bool: ...

    def read_bytes(self) -> bytes: ...

    def read_text(self, encoding: str) -> str: ...

    def with_name(self, name: str, /) -> "File": ...


class Directory(Protocol):
    """A directory of a checkpoint: a ``pathlib.Path``, or ``CheckpointFiles``, whose files are read once."""

    def __fspath__(self) -> str: ...

    def __truediv__(self, name: str, /) -> File: ...


class Weights(NamedTuple):
    """Tensors of a checkpoint, read on demand.

    Args:
      shapes: by tensor name.
      read: ``read(name)`` reads one tensor as a NumPy array.
    """

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def checkpoint_directory(path_or_repo_id: str | Path, *, allow_pickle: bool = False) -> Path:
    """Resolves a checkpoint to a local directory: itself, or the snapshot of a hub repository.

    Args:
      path_or_repo_id: a directory, or "owner/name".
      allow_pickle: download ``*.bin`` too.

    Returns:
      The directory, which exists. A cached snapshot is used where the hub cannot be reached or refuses the
      repository.

    Raises:
      FileNotFoundError: neither a directory nor a valid repository name.
      ValueError: a file, with its format and what to do; or a repository that neither the hub nor the cache
        lets you read.
      HubUnavailableError: the hub cannot be reached, and the cache lacks the repository.
    """
    path = Path(path_or_repo_id)
    if path.is_dir():
        return path
    name = str(path_or_repo_id)
    if description := describe_weight_file(name):
        raise ValueError(description) if path.is_file() else FileNotFoundError(description)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or path.is_file():
        raise FileNotFoundError(
            f"checkpoint: got {name}; wanted an existing directory, or a hub repository as owner/name."
        )
    patterns = _HUB_PATTERNS + ["*.bin"] * allow_pickle
    return hub.download_model(name, patterns, legacy_patterns=["*.msgpack"])


def describe_weight_file(path: Path | str) -> str | None:
    """Error message for a weight file given as a checkpoint, by its suffix; None for any other name."""
    path = Path(path)
    absent = "" if path.is_file() else ", which does not exist"
    if path.suffix.lower() not in _FILE_TYPES:
        return None
    file_type, fix = _FILE_TYPES[path.suffix.lower()]
    return f"{path}: got {file_type}{absent}; wanted the directory of a checkpoint. {fix}."


def read_json(path: File, kind: type[_Kind] = dict) -> _Kind:
    """Reads a JSON object (or, with ``kind=list``, a list) from a file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not JSON, or holds another type.
    """
    wanted = "a JSON object" if kind is dict else "a JSON list"
    try:
        # A CheckpointFile keeps the parsed value.
        parse = getattr(path, "read_json", None)
        value = parse() if parse else json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent}: got no {path.name}; wanted one, {wanted}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: got invalid JSON ({error}); wanted {wanted}.") from error
    if not isinstance(value, kind):
        raise ValueError(f"{path}: got JSON of type {type(value).__name__}; wanted {wanted}.")
    return value


def open_weights(directory: Path, *, allow_pickle: bool = False) -> Weights:
    """Opens the weights of a checkpoint without reading them.

    Args:
      directory: with ``model.safetensors``, safetensors files and an index, or ``flax_model.msgpack``.
      allow_pickle: read ``pytorch_model.bin`` where there is nothing else, with torch's
        ``weights_only=True``.

    Returns:
      The Weights.

    Raises:
      FileNotFoundError: there are no weights, or a file that the index names is missing.
      ValueError: a damaged file, an index that names files elsewhere or tensors that its files lack, or a
        pickle that is not allowed.
    """
    # A single file takes precedence over an index beside it, which transformers takes for an older one.
    if (directory / _SINGLE).is_file():
        return _open_safetensors(directory / _SINGLE)
    if (directory / _INDEX).is_file():
        return _open_indexed(directory / _INDEX, _open_safetensors)
    if (directory / FLAX_FILE).is_file():
        return Weights(*open_msgpack(directory / FLAX_FILE))
    pickles = [directory / name for name in _PICKLES if (directory / name).is_file()]
    if not pickles:
        found = sorted(path.name for path in directory.iterdir())
        descriptions = [f" {text}" for name in found if (text := describe_weight_file(name))][:1]
        raise FileNotFoundError(
            f"{directory}: got only {found}; wanted {_SINGLE}, {_INDEX} or {FLAX_FILE}."
            + "".join(descriptions)
        )
    if not allow_pickle:
        raise ValueError(
            f"{directory}: got a pickle, which can run any code; wanted safetensors. Convert it with "
            "tfm convert --allow-pickle, or pass allow_pickle=True (--allow-pickle where a command has it): "
            "torch then reads it with weights_only=True."
        )
    is_index = pickles[0].name == _PICKLES[1]
    return _open_indexed(pickles[0], _open_pickle) if is_index else _open_pickle(pickles[0])


def _open_safetensors(path: Path) -> Weights:
    with safetensors_errors(path), safetensors.safe_open(path, "np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  - not a dict
        dtypes = {name: part.get_dtype() for name, part in slices.items()}
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}

    def read(name: str) -> np.ndarray:
        if dtypes[name] not in _FLOATS:
            raise ValueError(
                f"{path}: got tensor {name} of dtype {dtypes[name]}; wanted one of {sorted(_FLOATS)}."
            )
        # Opened for each tensor: pages of a mapping that stays open would stay in memory beside the copy.
        with safetensors_errors(path), safetensors.safe_open(path, "np") as file:
            return file.get_tensor(name)

    return Weights(shapes, read)


@contextlib.contextmanager
def safetensors_errors(path: Path | str) -> Iterator[None]:
    """Re-raises safetensors errors as ValueError with the file's name."""
    try:
        yield
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: got a damaged or truncated file ({error}); wanted safetensors. Download it again."
        ) from error


def _open_pickle(path: Path) -> Weights:
    try:
        import torch
    except ImportError as error:
        raise ValueError(f"{path}: got a pickle; wanted torch, which reads it. pip install torch.") from error
    try:
        # Files from before torch 1.6 are not zip files and cannot be mapped.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # truncated, not a pickle, or more than weights
        raise ValueError(
            f"{path}: got a file that torch cannot load; wanted a pickle of weights only. {error}"
        ) from error
    if not isinstance(tensors, dict):
        raise ValueError(f"{path}: got a {type(tensors).__name__}; wanted a dict of tensors.")
    if others := [str(name) for name, value in tensors.items() if not torch.is_tensor(value)]:
        inner = next((name for name in ("state_dict", "model", "module") if name in tensors), None)
        fix = f" Save its {inner!r} alone." if inner else ""
        raise ValueError(
            f"{path}: got a dict with other values ({', '.join(others[:3])}); wanted a dict of tensors.{fix}"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        if not tensor.is_floating_point():
            raise ValueError(f"{path}: got tensor {name} of dtype {tensor.dtype}; wanted floating point.")
        tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # NumPy has no bfloat16
        return tensor.detach().numpy()

    return Weights(shapes, read)


def _open_indexed(index: Path, open_file: Callable[[Path], Weights]) -> Weights:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError(f"{index}: got no weight_map; wanted an object from tensor names to file names.")
    files = sorted(set(weight_map.values()))
    if elsewhere := [file for file in files if file in ("", "..") or Path(file).name != file or "\\" in file]:
        raise ValueError(f"{index}: got files {elsewhere}; wanted names of files in the same directory.")
    if missing := [file for file in files if not (index.parent / file).is_file()]:
        raise FileNotFoundError(f"{index}: got files {missing}, which do not exist; wanted existing ones.")
    opened = {file: open_file(index.parent / file) for file in files}
    if missing := [
        f"{name} in {file}" for name, file in weight_map.items() if name not in opened[file].shapes
    ]:
        raise ValueError(
            f"{index}: got tensors {sorted(missing)}, which the files lack; wanted existing ones."
        )
    return Weights(
        {name: opened[file].shapes[name] for name, file in weight_map.items()},
        lambda name: opened[weight_map[name]].read(name),
    )
