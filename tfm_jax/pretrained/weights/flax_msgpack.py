"""Weights that transformers wrote from Flax, ``flax_model.msgpack``, read by the names that torch has."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import msgpack
import numpy as np

__all__ = ["FLAX", "open_msgpack"]

FLAX = "flax_model.msgpack"
_ARRAY = 1  # the kind of extension in which an array stands: its shape, the name of its dtype, its bytes
_CHUNKED = "__msgpack_chunked_array__"  # of arrays beyond what the format holds
_DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
_DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
_DEEPEST = 32
# Of linear maps and of patches: theirs has the inputs first.
_KERNELS = {2: (1, 0), 4: (3, 2, 0, 1)}


class _Leaf(NamedTuple):
    start: int  # in the file
    axes: tuple[int, ...] | None  # in which order torch has them
    shape: tuple[int, ...]  # as torch has it


def open_msgpack(path: Path) -> tuple[dict[str, tuple[int, ...]], Any]:
    """The tensors in a file of Flax, by the names that torch's checkpoints have.

    Args:
      path: of the file, nested maps of names to arrays.

    Returns:
      ``(shapes, read)``: the shapes by name, and a function that gives the array of a name. None but the one
      that is read is in memory.

    Raises:
      ValueError: for a file that is cut short, holds anything but maps and arrays of floating numbers, or two
        arrays that have one name in torch.
    """
    leaves: dict[str, _Leaf] = {}
    with _whole(path), path.open("rb") as file, path.open("rb") as again:
        unpacker = _unpacker(file)
        for names, start, shape in _walk(unpacker, again, ()):
            name, axes = _torch_name(names, shape)
            if name in leaves:
                raise ValueError(f"{'.'.join(names)} and another array are both {name}; leave one out")
            leaves[name] = _Leaf(start, axes, shape if axes is None else tuple(shape[i] for i in axes))
        if file.read(1) or unpacker.tell() != path.stat().st_size:
            raise ValueError("something follows its end")

    def read(name: str) -> np.ndarray:
        leaf = leaves[name]
        with _whole(path), path.open("rb") as file:
            file.seek(leaf.start)
            array = _array(_unpacker(file).unpack())
        return array if leaf.axes is None else array.transpose(leaf.axes)

    return {name: leaf.shape for name, leaf in leaves.items()}, read


def _unpacker(file: BinaryIO) -> msgpack.Unpacker:
    return msgpack.Unpacker(file, ext_hook=_extension, raw=False, max_buffer_size=0)


def _walk(
    unpacker: msgpack.Unpacker, file: BinaryIO, names: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], int, tuple[int, ...]]]:
    """The arrays below: their names, where they stand, their shapes."""
    start = unpacker.tell()
    for i in range(count := unpacker.read_map_header()):
        name = unpacker.unpack()
        if name == _CHUNKED and i == 0:
            rest = [unpacker.unpack() for _ in range(2 * count - 1)]
            chunked = dict(zip([name, *rest[1::2]], rest[::2], strict=True))
            yield names, start, _array(chunked).shape
            return
        if not isinstance(name, str) or len(names) >= _DEEPEST:
            raise ValueError("it is no tree of parameters")
        at = unpacker.tell()
        file.seek(at)
        first = file.read(1)
        if first and (0x80 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF)):
            yield from _walk(unpacker, file, (*names, name))
        else:
            yield (*names, name), at, _array(unpacker.unpack()).shape


def _torch_name(names: tuple[str, ...], shape: tuple[int, ...]) -> tuple[str, tuple[int, ...] | None]:
    *path, last = names
    if last == "kernel":
        if len(shape) not in _KERNELS:
            raise ValueError(f"{'.'.join(names)} has {len(shape)} axes")
        return ".".join((*path, "weight")), _KERNELS[len(shape)]
    return ".".join((*path, "weight" if last in ("scale", "embedding") else last)), None


def _extension(kind: int, data: bytes) -> np.ndarray:
    if kind != _ARRAY:
        raise ValueError(f"it has an extension of kind {kind}, wanted arrays")
    shape, dtype, buffer = msgpack.unpackb(data, raw=False)
    if dtype not in _DTYPES:
        raise ValueError(f"it has an array of {dtype}, wanted one of {', '.join(_DTYPES)}")
    if not isinstance(buffer, bytes) or math.prod(shape) * _DTYPES[dtype].itemsize != len(buffer):
        raise ValueError(f"it has an array of shape {shape} in {len(buffer)} bytes of {dtype}")
    return np.frombuffer(buffer, _DTYPES[dtype]).reshape(shape)


def _array(value: Any) -> np.ndarray:
    """The array that a value is, or that its chunks are."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, dict) and value.get(_CHUNKED) is True:
        in_order = lambda parts: [parts[str(i)] for i in range(len(parts))]
        return np.concatenate(in_order(value["chunks"])).reshape(in_order(value["shape"]))
    raise ValueError(f"it holds a {type(value).__name__}, wanted maps and arrays")


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Says of which file it is what was found wrong."""
    try:
        yield
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"{path} is not a whole file of Flax's parameters: {error!r}") from error
