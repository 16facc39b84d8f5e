"""Tensors of a checkpoint into parameters: checked by name and shape, read one by one, placed where asked."""

import math
import mmap
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from tfm_jax.pretrained.weights.files import Weights
from tfm_jax.pretrained.weights.tensor_map import Tensor
from tfm_jax.types import Params

__all__ = [
    "Differences",
    "Shardings",
    "check_copies",
    "differences",
    "flat",
    "read_params",
    "same",
    "shardings_of",
]

Shardings = Sharding | Mapping[str, Any] | Callable[[str, jax.ShapeDtypeStruct], Sharding]
"""One for all parameters, a tree of them like the parameters', or a function of a path and a shape."""


def flat(tree: Params) -> Iterable[tuple[str, Any]]:
    """The leaves of a tree, each with its path, such as ``"stack/layers/attention/query/kernel"``."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


_SHOWN = 4  # of each kind of what is wrong


class Differences(NamedTuple):
    """Tensors of a file that are not those of a model, by name, each with what is wrong."""

    shapes: Mapping[str, str]
    missing: Mapping[str, str]
    unknown: Mapping[str, str]

    def __bool__(self) -> bool:
        return any(map(len, self))

    def text(self, source: object) -> str:
        """The message: the first few of each kind, and how many there are."""
        counts = zip(map(len, self), ("of another shape", "missing", "unknown"), strict=True)
        lines = [
            f"the tensors in {source} are not those of the model: "
            + ", ".join(f"{n} {kind}" for n, kind in counts if n)
        ]
        for found in self:
            lines += [f"  {name}: {found[name]}" for name in sorted(found)[:_SHOWN]]
            lines += [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        return "\n".join(lines)


def differences(weights: Weights, tensors: Mapping[str, Tensor], skipped: Iterable[str]) -> Differences:
    """The tensors that are missing, unknown, or of another shape.

    Args:
      weights: what there is.
      tensors: what is wanted.
      skipped: regular expressions of what may be there, and is not read.

    Returns:
      The Differences, false where there are none.
    """
    got, want = weights.shapes, {name: tensor.shape for name, tensor in tensors.items()}
    may_be = [re.compile(pattern) for pattern in skipped]
    unknown = [name for name in got.keys() - want.keys() if not any(x.fullmatch(name) for x in may_be)]
    return Differences(
        {n: f"wanted {want[n]}, got {got[n]}" for n in want.keys() & got.keys() if want[n] != got[n]},
        {n: f"missing, wanted {want[n]}" for n in want.keys() - got.keys() if not tensors[n].optional},
        {n: f"unknown, got {got[n]}" for n in unknown},
    )


def check_copies(weights: Weights, copies: Iterable[tuple[str, str]], source: object) -> None:
    """Raises a ValueError for tensors that must be copies of another, and are not, by name.

    Args:
      weights: what there is.
      copies: regular expressions of names, and the name of what they are copies of.
      source: for the message.

    Returns:
      None; where only one of the two is there, nothing is compared.
    """
    pairs = [
        (name, original)
        for pattern, original in copies
        for name in weights.shapes
        if name != original and original in weights.shapes and re.fullmatch(pattern, name)
    ]
    wrong = sorted(
        f"{name} is not {original}" for name, original in pairs if not same(weights, name, original)
    )
    if wrong:
        raise ValueError(
            f"{source} has tensors twice that must be equal, and differ, so that it is not known which are "
            "meant:\n  " + "\n  ".join(wrong)
        )


def same(weights: Weights, one: str, other: str) -> bool:
    """Whether two tensors are equal; they are read only where their shapes are."""
    return weights.shapes[one] == weights.shapes[other] and np.array_equal(
        weights.read(one), weights.read(other), equal_nan=True
    )


def shardings_of(asked: Shardings | None, shapes: Params) -> dict[str, Sharding | None]:
    """The sharding of each parameter by its path, None where none was asked for.

    Raises:
      ValueError: for a tree that is not like the parameters', what is no sharding, and one that cannot split
        its parameter, all of them by path.
    """
    leaves = dict(flat(shapes))
    if asked is None or isinstance(asked, Sharding):
        found = dict.fromkeys(leaves, asked)
    elif isinstance(asked, Mapping):
        found = dict(flat(asked))
        if found.keys() != leaves.keys():
            missing, unknown = sorted(leaves.keys() - found.keys()), sorted(found.keys() - leaves.keys())
            raise ValueError(
                f"a tree of shardings is like the parameters': missing {missing}, unknown {unknown}"
            )
    elif not callable(asked):
        raise ValueError(
            "sharding is a jax.sharding.Sharding, such as NamedSharding(mesh, spec), a tree of them, or a "
            f"function (path, shape) -> Sharding; got {asked!r}"
        )
    else:
        found = {path: asked(path, leaf) for path, leaf in leaves.items()}
    wrong = [text for path, leaf in leaves.items() if (text := _cannot_split(path, leaf, found[path], asked))]
    if wrong:
        raise ValueError("parameters cannot be placed as asked:\n  " + "\n  ".join(wrong))
    return found


def _cannot_split(path: str, leaf: jax.ShapeDtypeStruct, sharding: Any, asked: Any) -> str | None:
    if not isinstance(sharding, Sharding):
        return None if asked is None else f"{path}: wanted a jax.sharding.Sharding, got {sharding!r}"
    try:
        sharding.shard_shape(leaf.shape)
    except ValueError as error:
        return f"{path} {leaf.shape}: {error}"
    return None


def read_params(
    weights: Weights,
    tensors: Mapping[str, Tensor],
    shapes: Params,
    dtype: np.dtype,
    shardings: Mapping[str, Sharding | None],
) -> Params:
    """Fills the parameters, one tensor after the other, and places each when it is whole.

    Args:
      weights: what is read.
      tensors: where each goes; one that there is not leaves zeros.
      shapes: of the parameters.
      dtype: of them.
      shardings: by path; None is the default device.

    Returns:
      The parameters.
    """
    unread = Counter(place.path for tensor in tensors.values() for place in tensor.places)
    leaves, filling, placed = dict(flat(shapes)), {}, {}
    for name, tensor in tensors.items():
        for path in {place.path for place in tensor.places} - filling.keys():
            filling[path] = _empty(leaves[path].shape, dtype)
        if name in weights.shapes:
            _fill(filling, tensor, weights.read(name))
        unread.subtract(place.path for place in tensor.places)
        # Given up at once: an accelerator has its own copy, and a CPU takes these pages as they are.
        for path in [path for path in filling if not unread[path]]:
            placed[path] = jax.device_put(filling.pop(path), shardings[path])
    return jax.tree.unflatten(jax.tree.structure(shapes), [placed[path] for path in leaves])


def _fill(params: Mapping[str, np.ndarray], tensor: Tensor, whole: np.ndarray) -> None:
    """Writes the parts of a tensor where they go."""
    for place, part in zip(tensor.places, tensor.split(whole), strict=True):
        index = ... if place.layer is None else place.layer
        params[place.path][index] = place.form.read(part, place.shape)


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros in pages of their own, which no allocator keeps once they are given up.

    They begin where arrays of a CPU do: JAX takes them as they are, and makes no copy.
    """
    size = math.prod(shape)
    pages = mmap.mmap(-1, max(1, size * dtype.itemsize), access=mmap.ACCESS_COPY)
    return np.frombuffer(pages, dtype, size).reshape(shape)
