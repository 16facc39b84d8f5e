"""Tensor maps: which checkpoint tensor holds which parameter, as one list of ``WeightMapping`` per family."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

__all__ = [
    "FLATTEN",
    "IDENTITY",
    "CheckpointTensor",
    "Conversion",
    "ParamSlice",
    "WeightMapping",
    "attention",
    "build_tensor_map",
    "conv1d",
    "dense",
    "fused_qkv",
    "head_projection",
    "mlp",
    "norm",
    "skip_rows",
    "transpose",
]

Shape = tuple[int, ...]


class Conversion(NamedTuple):
    """Layout change between a checkpoint tensor and a parameter, on NumPy arrays (views where possible).

    Args:
      load: ``load(tensor, shape of the parameter) -> parameter``.
      save: ``save(parameter) -> tensor``, the inverse.
    """

    load: Callable[[np.ndarray, Shape], np.ndarray]
    save: Callable[[np.ndarray], np.ndarray]


IDENTITY = Conversion(lambda x, shape: x, lambda x: x)
FLATTEN = Conversion(lambda x, shape: x.reshape(shape), lambda x: x.reshape(-1))
"""Tensor [N * H], parameter [N, H]."""


def transpose(output_axes: int) -> Conversion:
    """Weight of a torch ``Linear``: tensor [out, in], parameter [*inputs, *outputs].

    Args:
      output_axes: how many of the parameter's last axes are outputs.
    """
    return Conversion(
        lambda x, shape: x.T.reshape(shape),
        lambda x: x.reshape(math.prod(x.shape[: x.ndim - output_axes]), -1).T,
    )


def conv1d(output_axes: int) -> Conversion:
    """Weight of GPT-2's ``Conv1D``: tensor [in, out], parameter [*inputs, *outputs].

    Args:
      output_axes: how many of the parameter's last axes are outputs.
    """
    return Conversion(
        lambda x, shape: x.reshape(shape),
        lambda x: x.reshape(math.prod(x.shape[: x.ndim - output_axes]), -1),
    )


def skip_rows(rows: int) -> Conversion:
    """Table with unused first rows: tensor [rows + n, D], parameter [n, D]; the rows are saved as zeros."""
    return Conversion(
        lambda x, shape: x[rows:],
        lambda x: np.concatenate([np.zeros((rows, *x.shape[1:]), x.dtype), x]),
    )


class WeightMapping(NamedTuple):
    """One parameter and the checkpoint tensor that holds it.

    Args:
      param: path of the parameter, such as ``"stack/layers/attention/query/kernel"``.
      tensor: name of the tensor. With ``{layer}`` there is one tensor per layer, stacked as [L, ...] in the
        parameter.
      conversion: between the two layouts.
      concat_axis: axis of the tensor along which all mappings to the same tensor are concatenated, in order.
      optional: the checkpoint may lack the tensor; the parameter is then 0.
      merged_axes: how many of the first axes the file stores as one axis, after concatenation.
    """

    param: str
    tensor: str
    conversion: Conversion = IDENTITY
    concat_axis: int | None = None
    optional: bool = False
    merged_axes: int = 1


class ParamSlice(NamedTuple):
    """Destination of a tensor or of one part of it: a parameter, or one layer of a stacked parameter.

    Args:
      path: of the parameter.
      layer: index on its first axis; None for a parameter that is not stacked.
      conversion: from the tensor's layout.
      shape: of the destination, without L.
      size: of the part along the concatenation axis; 0 without one.
    """

    path: str
    layer: int | None
    conversion: Conversion
    shape: Shape
    size: int


class CheckpointTensor(NamedTuple):
    """One tensor of a checkpoint and its destinations.

    Args:
      shape: in the file.
      slices: destinations, in order of concatenation.
      concat_axis: None where the tensor has one destination.
      optional: the checkpoint may lack it.
      concat_shape: shape before the first axes are merged.
    """

    shape: Shape
    slices: tuple[ParamSlice, ...]
    concat_axis: int | None
    optional: bool
    concat_shape: Shape

    def split(self, array: np.ndarray) -> list[np.ndarray]:
        """Splits the tensor into one part per destination."""
        if self.concat_axis is None:
            return [array]
        offsets = np.cumsum([part.size for part in self.slices])[:-1]
        return np.split(array.reshape(self.concat_shape), offsets, axis=self.concat_axis)

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        """Concatenates the parts; the inverse of ``split``."""
        if self.concat_axis is None:
            return parts[0]
        return np.concatenate(parts, axis=self.concat_axis).reshape(self.shape)


def build_tensor_map(
    mappings: Iterable[WeightMapping], shapes: Mapping[str, Shape]
) -> dict[str, CheckpointTensor]:
    """Expands a family's mappings into the tensors of one model's checkpoint.

    Args:
      mappings: of the family. Those of parameters that this model lacks, such as biases, are ignored.
      shapes: of the model's parameters, by path.

    Returns:
      The tensors by name.

    Raises:
      ValueError: a parameter has no mapping, or has two.
    """
    mappings = [mapping for mapping in mappings if mapping.param in shapes]
    paths = [mapping.param for mapping in mappings]
    if sorted(paths) != sorted(shapes):
        duplicates = sorted({path for path in paths if paths.count(path) > 1})
        raise ValueError(
            f"build_tensor_map: got no mapping for {sorted(shapes.keys() - set(paths))}, two for "
            f"{duplicates}; wanted one for each parameter. Correct the family's list."
        )
    parts: dict[str, list[tuple[WeightMapping, ParamSlice, Shape]]] = {}
    for mapping in mappings:
        stacked = "{layer}" in mapping.tensor
        shape = shapes[mapping.param][stacked:]
        part_shape = mapping.conversion.save(np.empty(shape, np.float32)).shape
        size = 0 if mapping.concat_axis is None else part_shape[mapping.concat_axis]
        for layer in range(shapes[mapping.param][0]) if stacked else [None]:
            destination = ParamSlice(mapping.param, layer, mapping.conversion, shape, size)
            name = mapping.tensor.format(layer=layer)
            parts.setdefault(name, []).append((mapping, destination, part_shape))
    return {name: _concatenated(of_tensor) for name, of_tensor in parts.items()}


def _concatenated(parts: list[tuple[WeightMapping, ParamSlice, Shape]]) -> CheckpointTensor:
    (mapping, _, shape), slices = parts[0], tuple(part for _, part, _ in parts)
    concat_shape = list(shape)
    if mapping.concat_axis is not None:
        concat_shape[mapping.concat_axis] = sum(part.size for part in slices)
    merged = mapping.merged_axes
    shape = (math.prod(concat_shape[:merged]), *concat_shape[merged:]) if concat_shape else ()
    return CheckpointTensor(shape, slices, mapping.concat_axis, mapping.optional, tuple(concat_shape))


def head_projection(param: str, tensor: str) -> list[WeightMapping]:
    """Query, key or value projection [D, N, H] from a torch ``Linear``."""
    return [
        WeightMapping(f"{param}/kernel", f"{tensor}.weight", transpose(2)),
        WeightMapping(f"{param}/bias", f"{tensor}.bias", FLATTEN),
    ]


def dense(param: str, tensor: str) -> list[WeightMapping]:
    """Linear layer with one output axis from a torch ``Linear``."""
    return [
        WeightMapping(f"{param}/kernel", f"{tensor}.weight", transpose(1)),
        WeightMapping(f"{param}/bias", f"{tensor}.bias"),
    ]


def attention(param: str, query: str, key: str, value: str, output: str) -> list[WeightMapping]:
    """Attention from four torch ``Linear`` of these names."""
    return [
        *head_projection(f"{param}/query", query),
        *head_projection(f"{param}/key", key),
        *head_projection(f"{param}/value", value),
        *dense(f"{param}/output", output),
    ]


def fused_qkv(param: str, tensor: str) -> Iterator[WeightMapping]:
    """Query, key and value from one torch ``Linear`` that interleaves them by head: [N, 3, H, D]."""
    # Each of the three is the part [N, 1, H, D]; its parameter is [D, N, H].
    kernel = Conversion(lambda x, shape: x[:, 0].transpose(2, 0, 1), lambda x: x.transpose(1, 2, 0)[:, None])
    bias = Conversion(lambda x, shape: x[:, 0], lambda x: x[:, None])
    for name in ("query", "key", "value"):
        yield WeightMapping(
            f"{param}/{name}/kernel", f"{tensor}.weight", kernel, concat_axis=1, merged_axes=3
        )
        yield WeightMapping(f"{param}/{name}/bias", f"{tensor}.bias", bias, concat_axis=1, merged_axes=3)


def mlp(param: str, **tensors: str) -> list[WeightMapping]:
    """Feed-forward layer from torch ``Linear``: ``mlp(path, w_in="fc1", w_out="fc2")``."""
    return [
        mapping
        for name, tensor in tensors.items()
        for mapping in (
            WeightMapping(f"{param}/{name}", f"{tensor}.weight", transpose(1)),
            WeightMapping(f"{param}/{name.replace('w_', 'b_')}", f"{tensor}.bias"),
        )
    ]


def norm(param: str, tensor: str) -> list[WeightMapping]:
    """Layer norm or RMS norm."""
    return [
        WeightMapping(f"{param}/scale", f"{tensor}.weight"),
        WeightMapping(f"{param}/bias", f"{tensor}.bias"),
    ]
