"""Which tensor of a checkpoint is which of our parameters, as data: a list of ``Entry`` a family."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

__all__ = [
    "FLAT",
    "SAME",
    "Entry",
    "Form",
    "Place",
    "Tensor",
    "after",
    "attention",
    "conv1d",
    "dense",
    "fused_heads",
    "heads",
    "layout",
    "mlp",
    "norm",
    "transposed",
]

Shape = tuple[int, ...]


class Form(NamedTuple):
    """How a tensor of theirs becomes one of ours, and back; NumPy arrays, views of them where it can be.

    Args:
      read: ``read(theirs, shape of ours) -> ours``.
      write: ``write(ours) -> theirs``, its inverse.
    """

    read: Callable[[np.ndarray, Shape], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


def transposed(outputs: int) -> Form:
    """A torch ``Linear``: theirs [out, in], ours [*inputs, *outputs] with so many axes of outputs."""
    return Form(
        lambda x, shape: x.T.reshape(shape),
        lambda x: x.reshape(math.prod(x.shape[: x.ndim - outputs]), -1).T,
    )


def after(rows: int) -> Form:
    """A table whose first rows nobody reads: theirs [rows + n, D], ours [n, D]; written, they are zero."""
    return Form(
        lambda x, shape: x[rows:],
        lambda x: np.concatenate([np.zeros((rows, *x.shape[1:]), x.dtype), x]),
    )


def conv1d(outputs: int) -> Form:
    """GPT-2's linear map: theirs [in, out], ours [*inputs, *outputs] with so many axes of outputs."""
    return Form(
        lambda x, shape: x.reshape(shape),
        lambda x: x.reshape(math.prod(x.shape[: x.ndim - outputs]), -1),
    )


SAME = Form(lambda x, shape: x, lambda x: x)
FLAT = Form(lambda x, shape: x.reshape(shape), lambda x: x.reshape(-1))


class Entry(NamedTuple):
    """One parameter of ours and its name in the checkpoint.

    Args:
      ours: its path, such as ``"stack/layers/attention/query/kernel"``.
      theirs: its name; with ``{layer}`` in it there is one tensor a layer, and ours are stacked on [L, ...].
      form: how the one becomes the other.
      join: the axis of theirs along which several entries of one name stand side by side, in their order.
      merged: how many of the first axes, after the join, are one axis in the file.
      optional: a checkpoint may lack it, and means 0.
    """

    ours: str
    theirs: str
    form: Form = SAME
    join: int | None = None
    optional: bool = False
    merged: int = 1


class Place(NamedTuple):
    """Where a tensor, or a part of one, goes."""

    path: str
    layer: int | None
    form: Form
    shape: Shape  # of ours, without L
    size: int  # along the axis of the join


class Tensor(NamedTuple):
    """One tensor of a checkpoint: its shape, where its parts go, and its shape as they stand side by side."""

    shape: Shape
    places: tuple[Place, ...]
    join: int | None
    optional: bool
    joined: Shape

    def split(self, whole: np.ndarray) -> list[np.ndarray]:
        """The part of each place."""
        if self.join is None:
            return [whole]
        ends = np.cumsum([place.size for place in self.places])[:-1]
        return np.split(whole.reshape(self.joined), ends, axis=self.join)

    def whole(self, parts: list[np.ndarray]) -> np.ndarray:
        """The inverse of ``split``."""
        return parts[0] if self.join is None else np.concatenate(parts, axis=self.join).reshape(self.shape)


def layout(entries: Iterable[Entry], shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """The tensors that a checkpoint of a model has, by name.

    Args:
      entries: of the family. Those of parameters that this model has not, such as biases, count for nothing.
      shapes: of the model's parameters, by path.

    Returns:
      What the names stand for.

    Raises:
      ValueError: where the entries leave a parameter without a name, or name one twice.
    """
    entries = [entry for entry in entries if entry.ours in shapes]
    paths = [entry.ours for entry in entries]
    if sorted(paths) != sorted(shapes):
        twice = sorted({path for path in paths if paths.count(path) > 1})
        raise ValueError(f"no names for {sorted(shapes.keys() - set(paths))}, two for {twice}")
    found: dict[str, list[tuple[Entry, Place, Shape]]] = {}
    for entry in entries:
        stacked = "{layer}" in entry.theirs
        shape = shapes[entry.ours][stacked:]
        theirs = entry.form.write(np.empty(shape, np.float32)).shape
        size = 0 if entry.join is None else theirs[entry.join]
        for layer in range(shapes[entry.ours][0]) if stacked else [None]:
            place = Place(entry.ours, layer, entry.form, shape, size)
            found.setdefault(entry.theirs.format(layer=layer), []).append((entry, place, theirs))
    return {name: _joined(parts) for name, parts in found.items()}


def _joined(parts: list[tuple[Entry, Place, Shape]]) -> Tensor:
    (entry, _, shape), places = parts[0], tuple(place for _, place, _ in parts)
    joined = list(shape)
    if entry.join is not None:
        joined[entry.join] = sum(place.size for place in places)
    shape = (math.prod(joined[: entry.merged]), *joined[entry.merged :]) if joined else ()
    return Tensor(shape, places, entry.join, entry.optional, tuple(joined))


def heads(ours: str, theirs: str) -> list[Entry]:
    """The projection of queries, keys or values by a torch ``Linear``."""
    return [
        Entry(f"{ours}/kernel", f"{theirs}.weight", transposed(2)),
        Entry(f"{ours}/bias", f"{theirs}.bias", FLAT),
    ]


def dense(ours: str, theirs: str) -> list[Entry]:
    """A ``Linear`` of ours with one axis of outputs by a torch ``Linear``."""
    return [
        Entry(f"{ours}/kernel", f"{theirs}.weight", transposed(1)),
        Entry(f"{ours}/bias", f"{theirs}.bias"),
    ]


def attention(ours: str, query: str, key: str, value: str, output: str) -> list[Entry]:
    """Attention by four torch ``Linear`` of these names."""
    return [
        *heads(f"{ours}/query", query),
        *heads(f"{ours}/key", key),
        *heads(f"{ours}/value", value),
        *dense(f"{ours}/output", output),
    ]


def fused_heads(ours: str, theirs: str) -> Iterator[Entry]:
    """Query, key and value by one torch ``Linear``, in which they stand side by side in each head."""
    # Of one head theirs are [3, H, D] of [N, 3, H, D], of which each of ours is [N, 1, H, D].
    kernel = Form(lambda x, shape: x[:, 0].transpose(2, 0, 1), lambda x: x.transpose(1, 2, 0)[:, None])
    bias = Form(lambda x, shape: x[:, 0], lambda x: x[:, None])
    for name in ("query", "key", "value"):
        yield Entry(f"{ours}/{name}/kernel", f"{theirs}.weight", kernel, join=1, merged=3)
        yield Entry(f"{ours}/{name}/bias", f"{theirs}.bias", bias, join=1, merged=3)


def mlp(ours: str, **theirs: str) -> list[Entry]:
    """A feed-forward layer by torch ``Linear``: ``mlp(ours, w_in="fc1", w_out="fc2")``."""
    return [
        entry
        for name, of_theirs in theirs.items()
        for entry in (
            Entry(f"{ours}/{name}", f"{of_theirs}.weight", transposed(1)),
            Entry(f"{ours}/{name.replace('w_', 'b_')}", f"{of_theirs}.bias"),
        )
    ]


def norm(ours: str, theirs: str) -> list[Entry]:
    """Layer norm or RMS norm."""
    return [Entry(f"{ours}/scale", f"{theirs}.weight"), Entry(f"{ours}/bias", f"{theirs}.bias")]
