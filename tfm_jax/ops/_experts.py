"""The experts of ``mixture_of_experts``, on one device and sharded over a mesh."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tfm_jax import sharding
from tfm_jax.ops._grouped import Dropout, Weights, buffered, vary_with_all
from tfm_jax.types import Array

__all__ = ["Tokens", "apply_experts"]


class Tokens(NamedTuple):
    """What each token brings."""

    x: Array  # [..., T, D]
    experts: Array  # int32 [..., T, k]; E is none
    gates: Array  # [..., T, k]
    ranks: Array | None  # int32 [..., T, k], among the choices of one expert in a sequence; with a capacity
    keep: Array | None  # bool [..., T, k, F], of dropout


def apply_experts(
    tokens: Tokens,
    weights: Weights,
    *,
    activation: Callable[[Array], Array],
    capacity: int | None,
    dropout_rate: float,
    grouped: Callable[..., Array],
) -> Array:
    """The outputs of each token's experts, added by its gates: [..., T, D].

    Args:
      tokens: a token's choice of the expert E is none, and gives 0.
      weights: of x's dtype.
      activation: an elementwise function.
      capacity: rows of an expert for each sequence; ranks are below it. None is the exact path.
      dropout_rate: of ``tokens.keep``.
      grouped: the products of the exact path, ``ragged`` or ``tiled``.
    """
    run = functools.partial(_apply, activation=activation, dropout_rate=dropout_rate, grouped=grouped)
    if sharding.free_axes() or AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        return _on_mesh(run, tokens, weights, capacity)
    return run(tokens, weights, capacity)


def _apply(
    tokens: Tokens,
    weights: Weights,
    capacity: int | None,
    *,
    activation: Callable[[Array], Array],
    dropout_rate: float,
    grouped: Callable[..., Array],
) -> Array:
    """``apply_experts`` on one device."""
    tokens, weights = vary_with_all((tokens, weights), (tokens, weights))
    *lead, T, D = tokens.x.shape
    E, k, n_sequences = weights.w_in.shape[0], tokens.experts.shape[-1], math.prod(lead)
    x = tokens.x.reshape(n_sequences * T, D)
    experts, gates = (part.reshape(n_sequences * T, k) for part in (tokens.experts, tokens.gates))
    dropout = None
    if tokens.keep is not None:
        dropout = Dropout(tokens.keep.reshape(n_sequences * T, k, tokens.keep.shape[-1]), dropout_rate)
    if capacity is None or tokens.ranks is None:
        y = grouped(x, experts, weights, activation, dropout)
    else:
        n_rows = n_sequences * capacity
        sequences = jnp.arange(n_sequences * T, dtype=jnp.int32)[:, None] // max(1, T)
        slots = experts * n_rows + sequences * capacity + tokens.ranks.reshape(n_sequences * T, k)
        slots = jnp.where(experts < E, slots, E * n_rows)
        y = buffered(x, slots, n_rows, weights, activation, dropout)
    wide = np.promote_types(x.dtype, np.float32)
    y = jnp.einsum("nkD,nk->nD", y.astype(wide), gates.astype(wide))
    return y.astype(x.dtype).reshape(tokens.x.shape)


def _on_mesh(
    run: Callable[[Tokens, Weights, int | None], Array],
    tokens: Tokens,
    weights: Weights,
    capacity: int | None,
) -> Array:
    """``run`` in ``shard_map``: each device applies its experts to its share of the tokens."""
    source = "mixture_of_experts"
    lead = tuple(sharding.activation_spec(f"{source}: x", "B T", tokens.x.shape[:-1]))
    w_in = sharding.parameter_spec(f"{source}: w_in", "E D F", weights.w_in.shape)
    experts, inputs, hidden = map(_names, w_in)
    token_axes = [name for axes in lead for name in _names(axes)]
    # What tokens and weights are both sharded over: there, the tokens are gathered.
    shared = [(i, name) for i, axes in enumerate(lead) for name in _names(axes) if name in experts + hidden]
    summed = tuple(name for name in experts + hidden if name not in token_axes)
    names = {name for _, name in shared}
    # Tokens that are gathered over an outer mesh axis are not consecutive.
    is_strided = [
        any(a in names and b not in names for a, b in itertools.pairwise(_names(axes))) for axes in lead
    ]
    strided = [(i, _names(axes)) for i, axes in enumerate(lead) if is_strided[i]]
    if lead[-1] is not None:  # parts of sequences, whose ranks are those in whole ones
        tokens, capacity = tokens._replace(ranks=None), None

    def share(tokens: Tokens, weights: Weights) -> Array:
        keep = tokens.keep
        tokens = tokens._replace(keep=None)
        for i, name in reversed(shared):
            gather = functools.partial(jax.lax.all_gather, axis_name=name, axis=i, tiled=True)
            tokens = jax.tree.map(gather, tokens)
        weights = _gather_inputs(weights, inputs, token_axes, (*token_axes, *experts, *hidden))
        n = weights.w_in.shape[0]
        local = tokens.experts - (jax.lax.axis_index(tuple(experts)) * n if experts else 0)
        local = jnp.where((local >= 0) & (local < n), local, n)
        for i, axes in strided:
            keep = None if keep is None else _gathered_rows(keep, i, axes, names)
        y = run(tokens._replace(experts=local, keep=keep), weights, capacity)
        y = jax.lax.psum(y, summed) if summed else y
        for i, name in shared:
            y = jax.lax.psum_scatter(y, name, scatter_dimension=i, tiled=True)
        return y

    whole: list[tuple[str, ...] | None] = [
        tuple(n for n in _names(axes) if n not in names) or None for axes in lead
    ]
    for i, _ in strided:
        whole[i] = None
    token_specs: Any = jax.tree.map(lambda _: P(*lead, None), tokens)
    if tokens.keep is not None:
        token_specs = token_specs._replace(keep=P(*whole, None, w_in[2]))
    weight_specs: Any = jax.tree.map(lambda _: w_in, weights)
    weight_specs = weight_specs._replace(w_out=P(w_in[0], w_in[2], w_in[1]))
    tokens, weights = jax.tree.map(sharding.reshard, (tokens, weights), (token_specs, weight_specs))
    # The backward pass gathers again: with the layers scanned, it would keep the gathered weights of all.
    return jax.shard_map(
        jax.checkpoint(share, policy=_is_not_gathered, prevent_cse=False),
        in_specs=(token_specs, weight_specs),
        out_specs=P(*lead, None),
        axis_names=_unmapped_axes(),
    )(tokens, weights)


def _gathered_rows(x: Array, axis: int, mesh_axes: tuple[str, ...], gathered: set[str]) -> Array:
    """Of all rows on an axis that is sharded over ``mesh_axes``: a device's, gathered over some of these."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    x = x.reshape(*before, *map(jax.lax.axis_size, mesh_axes), -1, *after)
    for i, name in reversed(list(enumerate(mesh_axes, axis))):
        if name not in gathered:
            x = jax.lax.dynamic_index_in_dim(x, jax.lax.axis_index(name), i, keepdims=False)
    return x.reshape(*before, -1, *after)


def _unmapped_axes() -> set[str]:
    mesh = jax.sharding.get_abstract_mesh()
    return {n for n, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual}


def _names(axes: sharding.Axes) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else axes or ()


def _is_not_gathered(primitive: Any, *_: object, **__: object) -> bool:
    return "all_gather" not in primitive.name


def _gather_inputs(
    weights: Weights, inputs: tuple[str, ...], token_axes: list[str], varying: tuple[str, ...]
) -> Weights:
    """The weights of a device's experts, gathered over the mesh axes of D."""

    def gather(w: Array | None, axis: int) -> Array | None:
        if w is None:
            return None
        missing = tuple(n for n in varying if n not in jax.typeof(w).manual_axis_type.varying)
        # Before it is gathered, so that its gradient is added up after it was scattered.
        w = jax.lax.pcast(w, missing, to="varying") if missing else w
        for name in reversed(inputs):
            to = "varying" if name in token_axes else "invarying"
            w = jax.lax.all_gather(w, name, axis=axis, tiled=True, to=to)
        return w

    w_in = gather(weights.w_in, 1)
    w_out = gather(weights.w_out, 2)
    assert w_in is not None and w_out is not None
    return Weights(w_in, w_out, gather(weights.w_gate, 1))
