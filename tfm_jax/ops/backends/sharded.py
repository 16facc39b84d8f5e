"""Attention on a mesh: every device runs a backend on its examples, heads and queries, inside ``shard_map``.

The sharding rules of B, T, S, N and K decide the parts. Keys are whole on each device, or travel around the
ring. Masks, biases and dropout see the indices of the full arrays.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from tfm_jax.ops.backends.capabilities import Request, Shard
from tfm_jax.ops.backends.common import Bias, all_examples
from tfm_jax.sharding import activation_spec, as_names, free_axes, reshard, ruled_axes
from tfm_jax.types import Array

__all__ = ["Layout", "find_layout", "local_request", "run_sharded"]

Names = tuple[str, ...]


class Layout(NamedTuple):
    """The mesh axes of a call of attention."""

    mesh: AbstractMesh
    batch: Names  # of the last leading axis
    queries: Names
    heads: Names
    ring: bool  # whether keys are sharded as queries are
    kv_heads: int  # K, repeated where that is what the mesh can shard

    def parts(self, names: Names) -> int:
        """The number of devices along some axes."""
        return math.prod(self.mesh.shape[name] for name in names)


def find_layout(q: Array, k: Array) -> Layout | None:
    """How the current mesh and rules shard a call of attention.

    Args:
      q: [..., T, N, H].
      k: [..., S, K, H].

    Returns:
      A Layout. None where attention is left as it is: without a mesh, with one device, inside ``shard_map``
      or ``pmap``, and on a mesh with an axis that no rule names.

    Raises:
      ValueError: B, T or N is not divisible by the mesh axes of its rule, or a rule names an axis that the
        mesh lacks.
    """
    mesh = jax.sharding.get_abstract_mesh()
    used = free_axes().keys()
    if not used or AxisType.Manual in mesh.axis_types or not used <= ruled_axes():
        return None
    if len({kind for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if name in used}) > 1:
        return None
    *batch, queries, heads = map(as_names, activation_spec("attention", "B T N", q.shape[:-1]))
    (S, K), T_parts = k.shape[-3:-1], math.prod(mesh.shape[name] for name in queries)
    # The keys of a KV cache, and of any other length that does not divide, are whole on each device.
    ring = bool(queries) and S % T_parts == 0
    ring = ring and as_names(activation_spec("attention", "S", (S,))[0]) == queries
    kv_heads = math.lcm(K, math.prod(mesh.shape[name] for name in heads))
    return Layout(mesh, batch[-1] if batch else (), queries, heads, ring, kv_heads)


def local_request(request: Request, layout: Layout) -> Request:
    """The request of one device, with shapes in place of arrays, to choose a backend for."""

    def local(x: Array, axes: tuple[int, ...]) -> Any:
        names = {-4: layout.batch, -3: layout.queries if axes[0] else (), -2: layout.heads}
        shape = [n // layout.parts(names.get(i - x.ndim, ())) for i, n in enumerate(x.shape)]
        shape[-2] = axes[1] // layout.parts(layout.heads)
        return jax.ShapeDtypeStruct(tuple(shape), x.dtype)

    q = local(request.q, (1, request.q.shape[-2]))
    k, v = (local(x, (layout.ring, layout.kv_heads)) for x in (request.k, request.v))
    mask, bias = request.mask, request.bias
    if mask is not None and layout.queries:
        # As in the program: the offset is not one int.
        mask = mask.separate().moved(np.zeros((), np.int32))
    if layout.ring and bias is not None and not callable(bias):
        bias = functools.partial(_lookup, bias, 0)
    none: Any = jax.ShapeDtypeStruct((), np.int32)
    shard = Shard(none, none, 0, request.q.shape[-2], _lengths(request))
    return dataclasses.replace(request, q=q, k=k, v=v, mask=mask, bias=bias, shard=shard)


def run_sharded(
    request: Request, layout: Layout, call: Callable[[Request], Array], letters: str, *, check_vma: bool
) -> Array:
    """Runs ``call`` on each device's part of a request, and joins the results.

    Args:
      request: of the full arrays.
      layout: from ``find_layout``.
      call: from a request of one device to an array.
      letters: of the array's last axes, such as "TNH".
      check_vma: as in ``jax.shard_map``; False for kernels that do not declare varying axes.

    Returns:
      The full array [..., *letters].
    """
    specs = _Specs(layout, request.q)
    repeats = layout.kv_heads // request.k.shape[-2]
    k, v = (_repeat_heads(x, repeats) for x in (request.k, request.v))
    key_axes = layout.queries if layout.ring else ()
    arguments = _Arguments()
    arguments.add("q", request.q, specs.of(request.q, "TNH"))
    for name, x in (("k", k), ("v", v)):
        arguments.add(name, x, P(*specs.lead(x.ndim - 3, x.shape[:-3]), key_axes, layout.heads, None))
    mask = None if request.mask is None else request.mask.separate()
    mask_letters = None if mask is None else mask.letters(request.q.ndim - 3)
    arguments.add("mask", mask, jax.tree.map(specs.of, mask, mask_letters))
    bias, is_closure = _as_tree(request.bias, request)
    arguments.add("bias", bias, _bias_specs(bias, specs))
    for name in ("scale", "soft_cap", "key"):
        x = getattr(request, name)
        arguments.add(name, x, jax.tree.map(lambda _: P(), x))

    def body(*arrays: Array) -> Array:
        values = arguments.join(arrays)
        first = _start(layout, layout.queries, request.q.shape[-3])
        if layout.queries and values["mask"] is not None:
            values["mask"] = values["mask"].moved(first)
        values["bias"] = _local_bias(values["bias"], layout, request, first)
        return call(dataclasses.replace(request, **values, shard=_shard(layout, request, first)))

    lead = specs.lead(request.q.ndim - 3, request.q.shape[:-3])
    names = {"T": layout.queries, "N": layout.heads}
    out_specs = P(*lead, *(names.get(letter) or None for letter in letters))
    return jax.shard_map(
        body,
        mesh=layout.mesh,
        in_specs=tuple(arguments.specs),
        out_specs=out_specs,
        check_vma=check_vma and not is_closure,
    )(*arguments.arrays)


class _Specs:
    """The PartitionSpecs of arrays with leading dims [...] of q, or none, and letters."""

    def __init__(self, layout: Layout, q: Array):
        *self.batch, self.T, self.N, _ = q.shape
        self.layout = layout

    def lead(self, rank: int, shape: tuple[int, ...]) -> list[Names | None]:
        if not rank:
            return []
        sharded = rank == len(self.batch) and shape[-1] == self.batch[-1] > 1 and self.layout.batch
        return [None] * (rank - 1) + [self.layout.batch if sharded else None]

    def of(self, x: Any, letters: str) -> P:
        shape, n = np.shape(x), len(letters)
        rank = len(shape) - n
        sizes = {
            "T": (self.T, self.layout.queries),
            "N": (self.N, self.layout.heads),
        }
        last: list[Names | None] = []
        for letter, size in zip(letters, shape[rank:], strict=True):
            full, names = sizes.get(letter, (0, ()))
            last.append(names if names and size == full > 1 else None)
        return P(*self.lead(rank, shape[:rank]), *last)


class _Arguments:
    """Trees of arrays, as the arguments of ``shard_map`` and their specs; what is static stays static."""

    def __init__(self):
        self.arrays: list[Array] = []
        self.specs: list[P] = []
        self.trees: dict[str, tuple[Any, list[Any]]] = {}

    def add(self, name: str, tree: Any, specs: Any) -> None:
        leaves, structure = jax.tree.flatten(tree)
        kept: list[Any] = []
        for x, spec in zip(leaves, jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, P)), strict=True):
            sharded = any(spec)
            if not isinstance(x, jax.Array) and not (sharded and isinstance(x, np.ndarray)):
                kept.append(x)
                continue
            kept.append(_Position(len(self.arrays)))
            self.arrays.append(reshard(jnp.asarray(x), spec))
            self.specs.append(spec)
        self.trees[name] = structure, kept

    def join(self, arrays: Sequence[Array]) -> dict[str, Any]:
        """The trees, with these arrays."""
        return {
            name: jax.tree.unflatten(
                structure, [arrays[x.index] if isinstance(x, _Position) else x for x in kept]
            )
            for name, (structure, kept) in self.trees.items()
        }


class _Position(NamedTuple):
    index: int


def _repeat_heads(x: Array, n: int) -> Array:
    """[..., S, K, H] as [..., S, K * n, H]: query heads then read the same keys."""
    if n == 1:
        return x
    *lead, K, H = x.shape
    return jnp.broadcast_to(x[..., None, :], (*lead, K, n, H)).reshape(*lead, K * n, H)


def _start(layout: Layout, names: Names, size: int) -> Array | int:
    """The first index of this device along an axis of that size."""
    return jax.lax.axis_index(names) * (size // layout.parts(names)) if names else 0


def _lengths(request: Request) -> tuple[int, int]:
    return request.q.shape[-3], request.k.shape[-3]


def _shard(layout: Layout, request: Request, first: Array | int) -> Shard:
    *batch, _, N, _ = request.q.shape
    examples, heads = all_examples(tuple(batch)), jnp.arange(N, dtype=jnp.int32)
    if layout.batch:
        examples = _part(examples, layout, layout.batch, -1)
    if layout.heads:
        heads = _part(heads, layout, layout.heads, 0)
    return Shard(examples, heads, first, N, _lengths(request))


def _part(x: Array, layout: Layout, names: Names, axis: int) -> Array:
    """This device's part of an axis."""
    size = x.shape[axis]
    start, n = _start(layout, names, size), size // layout.parts(names)
    return jax.lax.dynamic_slice_in_dim(x, start, n, axis)


def _as_tree(bias: Bias | None, request: Request) -> tuple[Bias | None, bool]:
    """A bias function as a pytree of the arrays that it reads, and whether it closes over traced arrays.

    Their program, which was traced elsewhere, has no types of varying axes.
    """
    if not callable(bias) or not jax.tree_util.all_leaves([bias]):
        return bias, False
    queries, keys = (jax.ShapeDtypeStruct((n,), jnp.int32) for n in _lengths(request))
    consts = [x for x in jax.make_jaxpr(bias)(queries, keys).consts if isinstance(x, jax.core.Tracer)]
    if not consts:
        return jax.tree_util.Partial(bias), False
    return jax.tree_util.Partial(functools.partial(_with_consts, bias, consts), *consts), True


def _with_consts(bias: Callable, consts: list[Any], *arguments: Array) -> Array:
    """The bias at some indices, with other values of the traced arrays that the function closes over."""
    *values, queries, keys = arguments
    program = jax.make_jaxpr(bias)(queries, keys)
    replaced = dict(zip(map(id, consts), values, strict=True))
    program = jax.extend.core.ClosedJaxpr(program.jaxpr, [replaced.get(id(x), x) for x in program.consts])
    return jax.extend.core.jaxpr_as_fun(program)(queries, keys)[0]


def _bias_specs(bias: Bias | None, specs: _Specs) -> Any:
    if not callable(bias):
        return jax.tree.map(lambda x: specs.of(x, "NTS"), bias)
    leaves = jax.tree.leaves(bias)
    axes = getattr(bias, "axes", None)
    if axes is None:
        return [P()] * len(leaves)
    return [
        specs.of(x, "".join(c if c == "N" else "_" for c in letters.replace("...", "").split()))
        for x, letters in zip(leaves, axes, strict=True)
    ]


def _local_bias(bias: Bias | None, layout: Layout, request: Request, first: Array | int) -> Bias | None:
    """The bias of this device: of its examples and heads, for the indices that its backend passes.

    These are global under the ring; of this device's queries, and of all keys, otherwise.
    """
    if bias is None:
        return None
    if not callable(bias):
        return jax.tree_util.Partial(_lookup, bias, first) if layout.ring else bias
    if getattr(bias, "axes", None) is None:
        *batch, _, N, _ = request.q.shape
        sizes = {-4: (layout, layout.batch, batch[-1] if batch else 0), -3: (layout, layout.heads, N)}
        bias = jax.tree_util.Partial(functools.partial(_slice, sizes, request.q.ndim), bias)
    if layout.queries and not layout.ring:
        bias = jax.tree_util.Partial(_from, bias, first)
    return bias


def _lookup(table: Array, first: Array | int, i: Array, j: Array) -> Array:
    """A bias array [..., 1|T, 1|S] of this device's queries as a function of global indices."""
    T, S = table.shape[-2:]
    rows = jnp.zeros_like(i) if T == 1 else i - first
    cols = jnp.zeros_like(j) if S == 1 else j
    return jnp.take(jnp.take(table, rows, axis=-2, mode="clip"), cols, axis=-1, mode="clip")


def _slice(sizes: dict, rank: int, bias: Callable, i: Array, j: Array) -> Array:
    table = bias(i, j)
    for axis, (layout, names, size) in sizes.items():
        full_rank = axis == -3 or table.ndim == rank
        if names and table.ndim >= -axis and full_rank and table.shape[axis] == size > 1:
            table = _part(table, layout, names, table.ndim + axis)
    return table


def _from(bias: Callable, first: Array | int, i: Array, j: Array) -> Array:
    return bias(i + first, j)
