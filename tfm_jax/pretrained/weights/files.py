"""The files of a checkpoint: what is in them, read tensor by tensor, and nothing of it believed unchecked."""

import contextlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  - NumPy then knows bfloat16, in which safetensors gives tensors
import numpy as np
import safetensors

from tfm_jax.pretrained.weights.flax_msgpack import FLAX, open_msgpack

__all__ = ["Weights", "open_weights", "read_json", "what_file", "whole"]

_FLOATS = {"F64", "F32", "F16", "BF16"}
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_TO_SAFETENSORS = (
    "load it into its model there, and save that by transformers' save_pretrained, or its state dict by "
    "safetensors.torch.save_model to model.safetensors beside a config.json"
)
# Files of weights that are read by no loader here: what they are, and the way out.
_OTHERS = {
    ".pt": ("a pickle of torch", _TO_SAFETENSORS),
    ".pth": ("a pickle of torch", _TO_SAFETENSORS),
    ".ckpt": ("a checkpoint of PyTorch Lightning or TensorFlow", _TO_SAFETENSORS),
    ".gguf": (
        "a file of llama.cpp",
        "transformers reads it (AutoModelForCausalLM.from_pretrained(directory, gguf_file=name)) and saves "
        "it by save_pretrained; or take the repository that it was made from",
    ),
    ".onnx": ("a program of ONNX", "take the checkpoint that it was exported from"),
    ".h5": (
        "weights of TensorFlow",
        "transformers before version 5 reads it by from_tf=True: " + _TO_SAFETENSORS,
    ),
    ".npz": ("arrays of NumPy", "save them by safetensors.numpy.save_file to model.safetensors"),
    ".bin": ("a pickle of torch", "pass its directory, with config.json beside it, and allow_pickle=True"),
    ".safetensors": ("a file of weights", "pass its directory, with config.json beside it"),
    ".msgpack": ("weights of Flax", "pass its directory, with config.json beside it"),
}


class Weights(NamedTuple):
    """The tensors of a checkpoint, none of them read yet.

    Args:
      shapes: by name.
      read: gives the tensor of a name, as an array of NumPy.
    """

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def what_file(path: Path | str) -> str | None:
    """What a file of weights is by its name, and how to go on; None for any other name."""
    path = Path(path)
    if path.suffix.lower() not in _OTHERS:
        return None
    what, advice = _OTHERS[path.suffix.lower()]
    return f"{path} is {what}; wanted the directory of a checkpoint: {advice}."


def read_json(path: Path, kind: type = dict) -> Any:
    """The object (or the list) in a JSON file; an error that names the file where there is none."""
    try:
        # A CheckpointFile keeps the parsed value.
        parse = getattr(path, "read_json", None)
        value = parse() if parse else json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path.name} in {path.parent}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, kind):
        wanted = {dict: "object", list: "list"}[kind]
        raise ValueError(f"{path} must hold a JSON {wanted}, got {type(value).__name__}")
    return value


def open_weights(directory: Path, *, allow_pickle: bool = False) -> Weights:
    """Opens the weights of a checkpoint: ``model.safetensors``, several files that an index names, or
    ``flax_model.msgpack``.

    Args:
      directory: that holds them.
      allow_pickle: read ``pytorch_model.bin`` where there is nothing else; it needs torch, which is asked to
        load weights only.

    Returns:
      The Weights.

    Raises:
      FileNotFoundError: where there are none, or a file that the index names is not there.
      ValueError: for a file that is no whole safetensors or msgpack file, an index that names files elsewhere
        or tensors that its files lack, a pickle that was not allowed.
    """
    if (directory / _SINGLE).is_file():  # an index beside it is of older files, as in transformers
        return _open_safetensors(directory / _SINGLE)
    if (directory / _INDEX).is_file():
        return _indexed(directory / _INDEX, _open_safetensors)
    if (directory / FLAX).is_file():
        return Weights(*open_msgpack(directory / FLAX))
    pickles = [directory / name for name in _PICKLES if (directory / name).is_file()]
    if not pickles:
        there = sorted(path.name for path in directory.iterdir())
        advice = [f" {text}" for name in there if (text := what_file(name))][:1]
        raise FileNotFoundError(
            f"there is no {_SINGLE}, {_INDEX} or {FLAX} in {directory}, only {there}.{''.join(advice)}"
        )
    if not allow_pickle:
        raise ValueError(
            f"the weights in {directory} are a pickle, which can run any code: save them as safetensors, as "
            "tfm convert --allow-pickle does, or pass allow_pickle=True (--allow-pickle where a command has "
            "it): torch reads them, with weights_only=True"
        )
    index = pickles[0].name == _PICKLES[1]
    return _indexed(pickles[0], _open_pickle) if index else _open_pickle(pickles[0])


def _open_safetensors(path: Path) -> Weights:
    with whole(path), safetensors.safe_open(path, "np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  - it is no dict
        dtypes = {name: part.get_dtype() for name, part in slices.items()}
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}

    def read(name: str) -> np.ndarray:
        # Opened for each: what was read before of a mapped file would stay in memory beside its copy.
        if dtypes[name] not in _FLOATS:
            raise ValueError(f"{name} in {path} is {dtypes[name]}, wanted one of {sorted(_FLOATS)}")
        with whole(path), safetensors.safe_open(path, "np") as file:
            return file.get_tensor(name)

    return Weights(shapes, read)


@contextlib.contextmanager
def whole(path: Path | str):
    """Raises a ValueError that names the file for one that is no whole safetensors file."""
    try:
        yield
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file (cut short, or written wrongly; fetch it again): {error}"
        ) from error


def _open_pickle(path: Path) -> Weights:
    try:
        import torch
    except ImportError as error:
        raise ValueError(f"to read the pickle {path} takes torch: pip install torch") from error
    try:
        # Files of before torch 1.6 are no zip files, and cannot be mapped.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # cut short, no pickle, or more than weights
        raise ValueError(f"{path} cannot be read as weights alone: {error}") from error
    if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        inner = next(
            (x for x in ("state_dict", "model", "module") if isinstance(tensors, dict) and x in tensors), None
        )
        advice = f": save its {inner!r} alone" if inner else ""
        others = (
            [x for x, y in tensors.items() if not torch.is_tensor(y)] if isinstance(tensors, dict) else []
        )
        named = f" ({', '.join(map(str, others[:3]))})" if others else ""
        raise ValueError(
            f"{path} must hold a dict of tensors, got a {type(tensors).__name__} "
            f"of other things{named}{advice}"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        if not tensor.is_floating_point():
            raise ValueError(f"{name} in {path} is {tensor.dtype}, wanted floating")
        wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # which NumPy knows nothing of
        return wide.detach().numpy()

    return Weights(shapes, read)


def _indexed(index: Path, open_file: Callable[[Path], Weights]) -> Weights:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise ValueError(f"{index} has no weight_map of tensors to files")
    files = sorted(set(names.values()))
    if elsewhere := [file for file in files if file in ("", "..") or Path(file).name != file or "\\" in file]:
        raise ValueError(f"{index} names files that are not in its directory: {elsewhere}")
    if missing := [file for file in files if not (index.parent / file).is_file()]:
        raise FileNotFoundError(f"{index} names files that are not there: {missing}")
    opened = {file: open_file(index.parent / file) for file in files}
    if lacking := [f"{name} in {file}" for name, file in names.items() if name not in opened[file].shapes]:
        raise ValueError(f"{index} names tensors that its files lack: {sorted(lacking)}")
    return Weights(
        {name: opened[file].shapes[name] for name, file in names.items()},
        lambda name: opened[names[name]].read(name),
    )
