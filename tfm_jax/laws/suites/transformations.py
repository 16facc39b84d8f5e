"""The laws of pure functions: ``f(*arrays)`` gives the same under every JAX transformation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tfm_jax.laws import strategies
from tfm_jax.laws.law import Suite, Violation, assert_close, law, show
from tfm_jax.laws.subject import Function, Subject
from tfm_jax.types import Array

__all__ = ["ArraysCase", "PureSubject", "transformations"]

TOLERANCE = 1e-4
BATCH = 2


@dataclasses.dataclass(frozen=True)
class ArraysCase:
    """The arguments of two calls: arrays with an additional first axis of size 2, to map over."""

    arrays: tuple[np.ndarray, ...]  # each [2, ...]

    @property
    def first(self) -> tuple[np.ndarray, ...]:
        """The arguments of the first call."""
        return tuple(x[0] for x in self.arrays)

    def __str__(self) -> str:
        return "\n".join(f"argument {i} [2, ...] = {show(x)}" for i, x in enumerate(self.arrays))


class PureSubject(Subject):
    """A pure function of arrays, with its gradients.

    Args:
      function: takes arrays, returns an array or a pytree of arrays. Gradients are with respect to the float
        arguments, of a weighted sum of the float outputs.
    """

    def __init__(self, function: Function):
        super().__init__(lambda *arrays: function(*arrays))  # jax transforms hashable functions only

    @functools.cached_property
    def under(self) -> Callable[[Callable[[Function], Function]], dict[str, Function]]:
        """(transformation) -> the transformed function and its gradients, by description; cached."""
        return functools.cache(functools.partial(_under, self.function))


def _under(function: Function, transform: Callable[[Function], Function]) -> dict[str, Function]:
    gradients_outside = gradients_of(transform(function))
    return {
        "values": transform(function),
        "gradients, taken outside,": gradients_outside if transform is eager else jax.jit(gradients_outside),
        "gradients, taken inside,": transform(gradients_of(function)),
    }


def gradients_of(function: Function) -> Function:
    """The function that gives the gradients of a weighted sum of the outputs, one per float argument."""

    def total(floats: list[Any], others: list[Any], is_float: list[bool]) -> Any:
        float_arguments, other_arguments = iter(floats), iter(others)
        arguments = (next(float_arguments if each else other_arguments) for each in is_float)
        outputs = jax.tree.leaves(function(*arguments))
        outputs = [y.astype(jnp.float32) for y in outputs if jnp.issubdtype(y.dtype, jnp.floating)]
        return sum((jnp.sum(y * _weights(y)) for y in outputs), start=jnp.float32(0))

    def gradients(*arrays: Array) -> list[Any]:
        is_float = [bool(jnp.issubdtype(x.dtype, jnp.floating)) for x in arrays]
        floats = [x for x, flag in zip(arrays, is_float, strict=True) if flag]
        others = [x for x, flag in zip(arrays, is_float, strict=True) if not flag]
        return jax.grad(total)(floats, others, is_float)

    return gradients


def _weights(y: Any) -> Any:
    # Weights depend on the last two axes only, so that an example has the same weights in a batch and alone.
    shape = y.shape[-2:]
    weights = np.cos(1 + np.arange(np.prod(shape, dtype=int))).astype(np.float32)
    return weights.reshape((1,) * (y.ndim - len(shape)) + shape)


def eager(function: Function) -> Function:
    return function


def loop(function: Function) -> Function:
    """A Python loop over the first axis, unrolled under jit."""

    def stacked(*arrays: Array) -> Any:
        results = [function(*(x[i] for x in arrays)) for i in range(BATCH)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    return jax.jit(stacked)


def remat(function: Function) -> Function:
    return jax.jit(jax.checkpoint(function))


def vmap(function: Function) -> Function:
    return jax.jit(jax.vmap(function))


def scan(function: Function) -> Function:
    return jax.jit(lambda *arrays: jax.lax.scan(lambda _, x: (_, function(*x)), None, arrays)[1])


def pmap(function: Function) -> Function:
    """pmap with one call per device; with too few devices, pmap over one device and vmap on it."""
    if jax.device_count() >= BATCH:
        return jax.pmap(function)
    on_one = jax.pmap(jax.vmap(function))
    return lambda *arrays: jax.tree.map(lambda y: y[0], on_one(*(x[None] for x in arrays)))


def shard_map(function: Function) -> Function:
    devices = jax.devices()[:BATCH]
    mesh = jax.make_mesh((len(devices),), ("batch",), (AxisType.Auto,), devices=devices)
    return jax.jit(jax.shard_map(jax.vmap(function), mesh=mesh, in_specs=P("batch"), out_specs=P("batch")))


def _assert_trees_close(got: Any, wanted: Any, what: str, atol: float = TOLERANCE) -> None:
    shapes = [jax.tree.map(lambda x: f"{x.dtype}{list(np.shape(x))}", tree) for tree in (got, wanted)]
    if shapes[0] != shapes[1]:
        raise Violation(f"{what}: got {shapes[0]}; wanted {shapes[1]}")
    for ours, right in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert_close(ours, right, atol=atol, what=what)


def _compare(f: PureSubject, arrays: tuple[Any, ...], transform: Function, reference: Function) -> None:
    """Raises ``Violation`` where values or gradients under two transformations differ."""
    arrays = tuple(map(jnp.asarray, arrays))

    def call(function: Function) -> Any:
        return f.run(lambda: jax.tree.map(np.asarray, function(*arrays)))

    wanted = f.under(reference)
    for name, function in f.under(transform).items():
        _assert_trees_close(call(function), call(wanted[name]), f"{name} under {transform.__name__}")


def default_arguments() -> st.SearchStrategy[tuple[np.ndarray, ...]]:
    """One float32 array [2, 3, 4]."""
    return st.tuples(strategies.normal((BATCH, 3, 4)))


def transformations(arguments: st.SearchStrategy[tuple[Any, ...]] | None = None) -> Suite:
    """The laws of a pure function of these arguments.

    Args:
      arguments: a hypothesis strategy of tuples of arrays, the arguments of two calls stacked on a first axis
        of size 2. None is one float32 array [2, 3, 4], for a function of x [3, 4].

    Returns:
      The Suite. Its laws compare values and gradients with those of the plain function, or of a Python loop
      over the two calls.
    """
    cases = (default_arguments() if arguments is None else arguments).map(ArraysCase)

    @law(cases)
    def deterministic(f: PureSubject, x: ArraysCase) -> None:
        """The same arguments give the same values, bit for bit."""
        _assert_trees_close(f(*x.first), f(*x.first), "values of the second call", atol=0)

    @law(cases)
    def jit_matches_eager(f: PureSubject, x: ArraysCase) -> None:
        """Under jit the values and gradients are those of eager execution."""
        _compare(f, x.first, jax.jit, eager)

    @law(cases)
    def remat_changes_nothing(f: PureSubject, x: ArraysCase) -> None:
        """Under jax.checkpoint the values and gradients are the same."""
        _compare(f, x.first, remat, jax.jit)

    @law(cases)
    def vmap_matches_loop(f: PureSubject, x: ArraysCase) -> None:
        """Under vmap the values and gradients are those of a Python loop."""
        _compare(f, x.arrays, vmap, loop)

    @law(cases)
    def scan_matches_loop(f: PureSubject, x: ArraysCase) -> None:
        """Under lax.scan the values and gradients are those of a Python loop."""
        _compare(f, x.arrays, scan, loop)

    @law(cases)
    def pmap_matches_loop(f: PureSubject, x: ArraysCase) -> None:
        """Under pmap the values and gradients are those of a Python loop."""
        _compare(f, x.arrays, pmap, loop)

    @law(cases)
    def shard_map_matches_loop(f: PureSubject, x: ArraysCase) -> None:
        """Under shard_map over a mesh the values and gradients are those of a Python loop."""
        _compare(f, x.arrays, shard_map, loop)

    signature = "f(*arrays) -> arrays; by default, f(x float32 [3, 4])"
    return Suite(
        "transformations",
        signature,
        PureSubject,
        (
            deterministic,
            jit_matches_eager,
            remat_changes_nothing,
            vmap_matches_loop,
            scan_matches_loop,
            pmap_matches_loop,
            shard_map_matches_loop,
        ),
    )
