"""Legacy Flax weights of transformers, ``flax_model.msgpack``, under the tensor names of PyTorch."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import ml_dtypes
import msgpack
import numpy as np

__all__ = ["FLAX_FILE", "open_msgpack"]

FLAX_FILE = "flax_model.msgpack"
_ARRAY = 1  # code of the msgpack extension for arrays: shape, dtype name, bytes
_CHUNKED = "__msgpack_chunked_array__"  # first key of an array over msgpack's size limit
_DTYPES: dict[str, np.dtype] = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
_DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
_Item = TypeVar("_Item")
_MAX_DEPTH = 32
# Axes of Linear and Conv2d kernels in PyTorch's order; Flax has the outputs last.
_KERNEL_AXES = {2: (1, 0), 4: (3, 2, 0, 1)}


class _Leaf(NamedTuple):
    """An array in the file.

    Args:
      start: its offset in bytes.
      axes: permutation to PyTorch's order; None for the identity.
      shape: in PyTorch's order.
    """

    start: int
    axes: tuple[int, ...] | None
    shape: tuple[int, ...]


def open_msgpack(path: Path) -> tuple[dict[str, tuple[int, ...]], Callable[[str], np.ndarray]]:
    """Opens a Flax weight file, to be read one tensor at a time.

    Args:
      path: of the file, nested maps from names to arrays.

    Returns:
      ``(shapes, read)``: shapes by PyTorch's tensor name, and a function that reads one tensor. Only that one
      is in memory.

    Raises:
      ValueError: a file that is truncated, holds anything but maps and floating-point arrays, or has two
        arrays for one PyTorch tensor.
    """
    leaves: dict[str, _Leaf] = {}
    with _file_errors(path), path.open("rb") as file, path.open("rb") as lookahead:
        unpacker = _unpacker(file)
        for names, start, shape in _walk(unpacker, lookahead, ()):
            name, axes = _torch_name(names, shape)
            if name in leaves:
                raise ValueError(f"{'.'.join(names)} and another array, which are both {name}")
            leaves[name] = _Leaf(start, axes, shape if axes is None else tuple(shape[i] for i in axes))
        if file.read(1) or unpacker.tell() != path.stat().st_size:
            raise ValueError("bytes after the end of the tree")

    def read(name: str) -> np.ndarray:
        leaf = leaves[name]
        with _file_errors(path), path.open("rb") as file:
            file.seek(leaf.start)
            array = _to_array(_unpacker(file).unpack())
        return array if leaf.axes is None else array.transpose(leaf.axes)

    return {name: leaf.shape for name, leaf in leaves.items()}, read


def _unpacker(file: BinaryIO) -> msgpack.Unpacker:
    return msgpack.Unpacker(file, ext_hook=_decode_extension, raw=False, max_buffer_size=0)


def _walk(
    unpacker: msgpack.Unpacker, lookahead: BinaryIO, names: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], int, tuple[int, ...]]]:
    """Yields (path of names, offset in bytes, shape) of each array below a map."""
    start = unpacker.tell()
    for i in range(count := unpacker.read_map_header()):
        name = unpacker.unpack()
        if name == _CHUNKED and i == 0:
            rest = [unpacker.unpack() for _ in range(2 * count - 1)]
            chunked = dict(zip([name, *rest[1::2]], rest[::2], strict=True))
            yield names, start, _to_array(chunked).shape
            return
        if not isinstance(name, str) or len(names) >= _MAX_DEPTH:
            raise ValueError(f"a map with other keys than strings, or deeper than {_MAX_DEPTH}")
        offset = unpacker.tell()
        lookahead.seek(offset)
        first = lookahead.read(1)
        is_map = first and (0x80 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF))
        if is_map:
            yield from _walk(unpacker, lookahead, (*names, name))
        else:
            yield (*names, name), offset, _to_array(unpacker.unpack()).shape


def _torch_name(names: tuple[str, ...], shape: tuple[int, ...]) -> tuple[str, tuple[int, ...] | None]:
    """PyTorch's name of an array, and the permutation of its axes."""
    *path, last = names
    if last == "kernel":
        if len(shape) not in _KERNEL_AXES:
            raise ValueError(f"{'.'.join(names)} with {len(shape)} axes, not 2 or 4")
        return ".".join((*path, "weight")), _KERNEL_AXES[len(shape)]
    return ".".join((*path, "weight" if last in ("scale", "embedding") else last)), None


def _decode_extension(code: int, data: bytes) -> np.ndarray:
    if code != _ARRAY:
        raise ValueError(f"an extension with code {code}, not an array")
    shape, dtype, buffer = msgpack.unpackb(data, raw=False)
    if dtype not in _DTYPES:
        raise ValueError(f"an array of {dtype}, not one of {', '.join(_DTYPES)}")
    if not isinstance(buffer, bytes) or math.prod(shape) * _DTYPES[dtype].itemsize != len(buffer):
        raise ValueError(f"an array of shape {shape} in {len(buffer)} bytes of {dtype}")
    return np.frombuffer(buffer, _DTYPES[dtype]).reshape(shape)


def _to_array(value: object) -> np.ndarray:
    """An array as it is, or a chunked one concatenated."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, dict) and value.get(_CHUNKED) is True:
        return np.concatenate(_in_order(value["chunks"])).reshape(_in_order(value["shape"]))
    raise ValueError(f"a value of type {type(value).__name__}, not a map or an array")


def _in_order(parts: Mapping[str, _Item]) -> list[_Item]:
    return [parts[str(i)] for i in range(len(parts))]


@contextlib.contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Re-raises parse errors with the file's name."""
    try:
        yield
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
        got = error if str(error) else type(error).__name__
        raise ValueError(f"{path}: got {got}; wanted a complete file of Flax parameters.") from error
