"""Equivalent models: the same outputs from other fields of ``nn.Config`` and other parameters.

A format may lack a field that a model has, and hold the model all the same: one without biases is one whose
biases are zeros, embeddings that are scaled are a scaled table.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from tfm_jax import nn, ops
from tfm_jax.nn import Pure
from tfm_jax.pretrained.field_map import expect
from tfm_jax.pretrained.load import shapes_of
from tfm_jax.pretrained.weights.read import flatten_with_paths
from tfm_jax.types import Params

__all__ = ["Equivalent", "equivalents"]

_Arrays = dict[str, np.ndarray]
"""The parameters by path."""
_ZEROS = ("attention_bias", "attention_output_bias", "logits_bias")
_RATES = ("dropout_rate", "embedding_dropout_rate", "attention_dropout_rate", "feed_forward_dropout_rate")


class Equivalent(NamedTuple):
    """A config of a model with the same outputs, and its parameters.

    Args:
      model: the other config.
      params: ``params(before, after, arrays)``, the parameters of the other model by path, from those of the
        first; what it leaves out is zeros.
      changes_params: whether the parameters differ.
    """

    model: nn.Config
    params: Callable[[Pure[nnx.Module], Pure[nnx.Module], _Arrays], _Arrays]
    changes_params: bool = True

    def convert(self, before: Pure[nnx.Module], after: Pure[nnx.Module], params: Params) -> Params:
        """The parameters of ``after``, from those of ``before``.

        Args:
          before, after: the two models.
          params: of the first.

        Returns:
          A nested dict of arrays, of the dtypes of the first.
        """
        arrays = {path: np.asarray(leaf) for path, leaf in flatten_with_paths(params)}
        dtype = next(iter(arrays.values())).dtype
        found, result = self.params(before, after, arrays), {}
        for path, shape in flatten_with_paths(shapes_of(after)):
            *parents, name = path.split("/")
            node = result
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = found[path] if path in found else np.zeros(shape.shape, dtype)
        return result


def equivalents(model: nn.Config, field: str, wanted: Any) -> Iterator[Equivalent]:
    """Models with the same outputs whose ``field`` is, or is closer to, a wanted value.

    Args:
      model: the config of a model.
      field: that differs.
      wanted: the other value of it.

    Returns:
      None, one or more, the closest to the model first. Dropout rates change no output of given parameters.
      That ``count_padding`` is False changes none of a decoder whose positions are passed, as in generation,
      or whose padding is on the right.
    """
    value = getattr(model, field, None)
    if field in _RATES or (field == "count_padding" and wanted is False):
        yield _replaced(model, _same, False, **{field: wanted})
    elif field in _ZEROS and wanted is True:
        fixed = {"attention_output_bias": model.attention_bias} if model.attention_output_bias is None else {}
        yield _replaced(model, _same, **{**fixed, field: True})
    elif field == "token_types" and value == 0:
        yield _replaced(model, _same, token_types=wanted)
    elif field == "scale_embeddings" and value:
        yield _replaced(model, _with_scaled_table, scale_embeddings=False, tie_embeddings=False)
    elif field == "attention_scale" and not model.qk_norm:
        yield _replaced(model, _with_scaled_queries, attention_scale=wanted)
    elif field in ("feed_forward", "pooler", "positions"):
        yield from _of_variants(model, field, wanted)


def _replaced(model: nn.Config, params: Any, changes_params: bool = True, **fields: Any) -> Equivalent:
    return Equivalent(dataclasses.replace(model, **fields), params, changes_params)


def _of_variants(model: nn.Config, field: str, wanted: Any) -> Iterator[Equivalent]:
    value, kind = typing.cast(Any, getattr(model, field)), type(getattr(model, field))
    if kind is type(wanted) is nn.Mlp and wanted.bias and not value.bias:
        yield _replaced(model, _same, feed_forward=dataclasses.replace(value, bias=True))
    if kind is type(wanted) is nn.Pooler and value.activation == wanted.activation:
        yield _replaced(model, _same, False, pooler=wanted)
    if kind in _PAIRED and type(wanted) is kind and value.pairing != wanted.pairing == "half":
        yield _replaced(model, _PAIRED[kind], positions=dataclasses.replace(value, pairing="half"))
    of_images = kind is type(wanted) is nn.Learned and model.patches is not None
    if of_images and value.max_length > wanted.max_length:  # all images have as many patches
        yield _replaced(model, _with_used_positions, positions=wanted)
    if kind is nn.Sinusoidal and type(wanted) is nn.Learned and wanted.padding_id is None:
        yield _replaced(model, _with_table_of_positions, positions=wanted)


def _same(before: Pure, after: Pure, arrays: _Arrays) -> _Arrays:
    return arrays


def _with_scaled_table(before: Pure, after: Pure, arrays: _Arrays) -> _Arrays:
    """The factor sqrt(D) of the embeddings in their tables; a tied output projection gets its own kernel."""
    tables = [path for path in arrays if path.split("/")[-2:] in _TABLES]
    scaled = {path: _scaled(arrays[path], math.sqrt(before.config.d_model)) for path in tables}
    head = {}
    if before.config.tie_embeddings and "embedding/table" in arrays:  # no encoder's
        head = {"head/projection/kernel": arrays["embedding/table"].T}
    return {**arrays, **head, **scaled}


_TABLES = (["embedding", "table"], ["source_embedding", "table"])


def _scaled(array: np.ndarray, factor: float) -> np.ndarray:
    return (array.astype(np.float32) * np.float32(factor)).astype(array.dtype)


def _with_scaled_queries(before: Pure, after: Pure, arrays: _Arrays) -> _Arrays:
    """The factor of the attention logits in the query projections."""
    scales = [model.config.attention_scale or model.config.H**-0.5 for model in (before, after)]
    return {
        path: _scaled(x, scales[0] / scales[1]) if "query" in path.split("/") else x
        for path, x in arrays.items()
    }


def _halves(width: int, size: int) -> np.ndarray:
    """The indices by which elements 2 i, 2 i + 1 of the first ``width`` become i, i + width / 2."""
    return np.concatenate([np.arange(0, width, 2), np.arange(1, width, 2), np.arange(width, size)])


def _with_halves_of_heads(before: Pure, after: Pure, arrays: _Arrays) -> _Arrays:
    """Queries and keys whose rotated elements are paired by halves."""
    model = before.config
    indices = _halves(expect(model.positions, nn.Rope).width(model.H), model.H)
    names = {"query", "key", "query_norm", "key_norm"}
    return {
        path: x if names.isdisjoint(path.split("/")) else _permuted(x, axes, "H", indices)
        for path, x, axes in _with_axes(before, arrays)
    }


def _with_halves_of_vectors(before: Pure, after: Pure, arrays: _Arrays) -> _Arrays:
    """All vectors of D elements in the order in which sines precede cosines."""
    D = before.config.d_model
    return {path: _permuted(x, axes, "D", _halves(D, D)) for path, x, axes in _with_axes(before, arrays)}


_PAIRED = {nn.Rope: _with_halves_of_heads, nn.Sinusoidal: _with_halves_of_vectors}


def _with_table_of_positions(before: Pure, after: Pure, arrays: _Arrays) -> _Arrays:
    """The sinusoidal vectors as tables of learned ones."""
    scheme, D = expect(before.config.positions, nn.Sinusoidal), before.config.d_model
    rows = expect(after.config.positions, nn.Learned).rows
    dtype = next(iter(arrays.values())).dtype
    table = ops.sinusoidal(jnp.arange(rows), D, theta=scheme.theta, pairing=scheme.pairing)
    paths = [path for path, _ in flatten_with_paths(shapes_of(after))]
    tables = [path for path in paths if path.endswith("position_embedding/table")]
    return arrays | dict.fromkeys(tables, np.asarray(table).astype(dtype))


def _with_used_positions(before: Pure, after: Pure, arrays: _Arrays) -> _Arrays:
    """The vectors of the first positions."""
    rows = expect(after.config.positions, nn.Learned).rows
    return {path: x[:rows] if path.endswith("position_embedding/table") else x for path, x in arrays.items()}


def _with_axes(model: Pure, arrays: _Arrays) -> Iterator[tuple[str, np.ndarray, str]]:
    """The parameters with the letters of their axes."""
    letters = dict(flatten_with_paths(model.axes()))
    return ((path, x, letters[path]) for path, x in arrays.items())


def _permuted(x: np.ndarray, axes: str, letter: str, indices: np.ndarray) -> np.ndarray:
    """The elements in another order along each axis of a letter."""
    for axis, name in enumerate(axes.split()):
        x = np.take(x, indices, axis) if name == letter else x
    return x
