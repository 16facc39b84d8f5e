"""Reads checkpoint tensors into parameters: checks names and shapes, then reads, converts and shards each."""

import math
import mmap
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from tfm_jax.pretrained.weights.files import Weights
from tfm_jax.pretrained.weights.tensor_map import CheckpointTensor
from tfm_jax.types import Params

__all__ = [
    "Mismatches",
    "Shardings",
    "check_copies",
    "find_mismatches",
    "flatten_with_paths",
    "read_params",
    "resolve_shardings",
    "tensors_equal",
]

Shardings = Sharding | Mapping[str, Any] | Callable[[str, jax.ShapeDtypeStruct], Sharding]
"""One sharding for all parameters, a tree of them like the parameters', or a function of path and shape."""
_MAX_SHOWN = 4  # mismatches of each kind in a message


def flatten_with_paths(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields each leaf of a tree with its path, such as ``"stack/layers/attention/query/kernel"``."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


class Mismatches(NamedTuple):
    """Differences between a checkpoint's tensors and a model's, by tensor name; false if there are none.

    Args:
      shapes: tensors of another shape.
      missing: tensors that the checkpoint lacks.
      unknown: tensors that the model lacks.
    """

    shapes: Mapping[str, str]
    missing: Mapping[str, str]
    unknown: Mapping[str, str]

    def __bool__(self) -> bool:
        return any(map(len, self))

    def message(self, source: object) -> str:
        """Error message with the count and the first few of each kind."""
        counts = zip(map(len, self), ("of another shape", "missing", "unknown"), strict=True)
        summary = ", ".join(f"{n} {kind}" for n, kind in counts if n)
        lines = [f"{source}: got tensors that do not match the model; wanted the model's ({summary})."]
        for found in self:
            lines += [f"  {name}: {found[name]}" for name in sorted(found)[:_MAX_SHOWN]]
            lines += [f"  and {len(found) - _MAX_SHOWN} more"] if len(found) > _MAX_SHOWN else []
        return "\n".join(lines)


def find_mismatches(
    weights: Weights, tensors: Mapping[str, CheckpointTensor], skipped: Iterable[str]
) -> Mismatches:
    """Compares the names and shapes of a checkpoint's tensors with a model's.

    Args:
      weights: of the checkpoint.
      tensors: of the model.
      skipped: regular expressions of tensors that the checkpoint may have and that are not read.

    Returns:
      The Mismatches.
    """
    got, wanted = weights.shapes, {name: tensor.shape for name, tensor in tensors.items()}
    patterns = [re.compile(pattern) for pattern in skipped]
    unknown = [name for name in got.keys() - wanted.keys() if not any(x.fullmatch(name) for x in patterns)]
    return Mismatches(
        {n: f"wanted {wanted[n]}, got {got[n]}" for n in wanted.keys() & got.keys() if wanted[n] != got[n]},
        {n: f"missing, wanted {wanted[n]}" for n in wanted.keys() - got.keys() if not tensors[n].optional},
        {n: f"unknown, got {got[n]}" for n in unknown},
    )


def check_copies(weights: Weights, copies: Iterable[tuple[str, str]], source: object) -> None:
    """Checks that tensors that a checkpoint stores twice are equal.

    Args:
      weights: of the checkpoint.
      copies: regular expressions of names, each with the name of the original. A pair of which the checkpoint
        has only one is not compared.
      source: for the message.

    Raises:
      ValueError: copies that differ from their originals, by name.
    """
    pairs = [
        (name, original)
        for pattern, original in copies
        for name in weights.shapes
        if name != original and original in weights.shapes and re.fullmatch(pattern, name)
    ]
    different = sorted(
        f"{name} differs from {original}"
        for name, original in pairs
        if not tensors_equal(weights, name, original)
    )
    if different:
        raise ValueError(
            f"{source}: got copies that differ from their originals; wanted equal tensors. Leave the wrong "
            "one out of the file.\n  " + "\n  ".join(different)
        )


def tensors_equal(weights: Weights, first: str, second: str) -> bool:
    """Whether two tensors are equal, NaN included; reads them only if their shapes are."""
    return weights.shapes[first] == weights.shapes[second] and np.array_equal(
        weights.read(first), weights.read(second), equal_nan=True
    )


def resolve_shardings(sharding: Shardings | None, shapes: Params) -> dict[str, Sharding | None]:
    """Resolves the ``sharding`` argument to one sharding per parameter path; None is the default device.

    Raises:
      ValueError: a tree with other paths than the parameters', values that are not shardings, and shardings
        that cannot split their parameters, all of them by path.
    """
    leaves = dict(flatten_with_paths(shapes))
    resolved: dict[str, Sharding | None]
    if sharding is None or isinstance(sharding, Sharding):
        resolved = dict.fromkeys(leaves, sharding)
    elif isinstance(sharding, Mapping):
        resolved = dict(flatten_with_paths(sharding))
        if resolved.keys() != leaves.keys():
            missing, unknown = (
                sorted(leaves.keys() - resolved.keys()),
                sorted(resolved.keys() - leaves.keys()),
            )
            raise ValueError(
                f"load: got a tree of shardings with missing {missing}, unknown {unknown}; wanted a tree "
                "like the parameters'."
            )
    elif not callable(sharding):
        raise ValueError(
            f"load: got sharding={sharding!r}; wanted a jax.sharding.Sharding, such as NamedSharding(mesh, "
            "spec), a tree of them, or a function (path, shape) -> Sharding."
        )
    else:
        resolved = {path: sharding(path, leaf) for path, leaf in leaves.items()}
    wrong = [
        problem
        for path, leaf in leaves.items()
        if (problem := _problem(path, leaf, resolved[path], sharding))
    ]
    if wrong:
        raise ValueError(
            "load: got shardings that do not fit their parameters; wanted a jax.sharding.Sharding that "
            "divides each.\n  " + "\n  ".join(wrong)
        )
    return resolved


def _problem(path: str, leaf: jax.ShapeDtypeStruct, sharding: object, argument: object) -> str | None:
    """Why a parameter cannot have this sharding; None if it can."""
    if not isinstance(sharding, Sharding):
        return None if argument is None else f"{path}: wanted a jax.sharding.Sharding, got {sharding!r}"
    try:
        sharding.shard_shape(leaf.shape)
    except ValueError as error:
        return f"{path} {leaf.shape}: {error}"
    return None


def read_params(
    weights: Weights,
    tensors: Mapping[str, CheckpointTensor],
    shapes: Params,
    dtype: np.dtype,
    shardings: Mapping[str, Sharding | None],
) -> Params:
    """Reads the tensors one by one into parameters, and puts each on its devices once it is complete.

    Args:
      weights: of the checkpoint.
      tensors: of the model. Those that the checkpoint lacks leave zeros.
      shapes: of the parameters.
      dtype: of the parameters.
      shardings: by path; None is the default device.

    Returns:
      The parameters.
    """
    unread = Counter(part.path for tensor in tensors.values() for part in tensor.slices)
    leaves, buffers, params = dict(flatten_with_paths(shapes)), {}, {}
    for name, tensor in tensors.items():
        for path in {part.path for part in tensor.slices} - buffers.keys():
            buffers[path] = _page_aligned_zeros(leaves[path].shape, dtype)
        if name in weights.shapes:
            _write_parts(buffers, tensor, weights.read(name))
        unread.subtract(part.path for part in tensor.slices)
        # The buffer is dropped at once: an accelerator has its own copy, and a CPU device adopts the buffer.
        for path in [path for path in buffers if not unread[path]]:
            params[path] = jax.device_put(buffers.pop(path), shardings[path])
    return jax.tree.unflatten(jax.tree.structure(shapes), [params[path] for path in leaves])


def _write_parts(buffers: Mapping[str, np.ndarray], tensor: CheckpointTensor, array: np.ndarray) -> None:
    """Splits a tensor and writes each part to its destination."""
    for destination, part in zip(tensor.slices, tensor.split(array), strict=True):
        index = ... if destination.layer is None else destination.layer
        buffers[destination.path][index] = destination.conversion.load(part, destination.shape)


def _page_aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Page-aligned, mmap-backed zeros.

    JAX adopts the buffer on a CPU without a copy, and its pages return to the system when it is freed.
    """
    size = math.prod(shape)
    pages = mmap.mmap(-1, max(1, size * dtype.itemsize), access=mmap.ACCESS_COPY)
    return np.frombuffer(pages, dtype, size).reshape(shape)
