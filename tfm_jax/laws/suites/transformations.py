"""The laws of pure functions: under every transformation of JAX's, any ``f(*arrays)`` gives the same."""

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

from tfm_jax.laws.law import Suite, Violation, law, same, show
from tfm_jax.laws.subject import Subject
from tfm_jax.laws.suites.cases.seeded import SEEDS

__all__ = ["ArraysCase", "PureSubject", "transformations"]

TOLERANCE = 1e-4
ROWS = 2
Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class ArraysCase:
    """Arguments of two calls: arrays with one more first axis, of 2, over which f is mapped."""

    arrays: tuple[np.ndarray, ...]  # each [2, ...]

    @property
    def first(self) -> tuple[np.ndarray, ...]:
        """The arguments of the first call."""
        return tuple(x[0] for x in self.arrays)

    def __str__(self) -> str:
        return "\n".join(f"argument {i} [2, ...] = {show(x)}" for i, x in enumerate(self.arrays))


class PureSubject(Subject):
    """A function of arrays, asked for its values and its slopes, plain and transformed.

    Args:
      function: takes arrays, gives an array or a pytree of arrays. Slopes are by those of its arguments that
        are float, of a sum of its float outputs in which each number has a weight by its place in the last
        two axes.
    """

    def __init__(self, function: Function):
        super().__init__(lambda *arrays: function(*arrays))  # what JAX transforms must have a hash

    @functools.cached_property
    def under(self) -> Callable[[Callable[[Function], Function]], dict[str, Function]]:
        """(transformation) -> the values under it, and the slopes through and within it; made once."""
        return functools.cache(functools.partial(_under, self.function))


def _under(function: Function, transform: Callable[[Function], Function]) -> dict[str, Function]:
    outside = slopes(transform(function))
    return {
        "values": transform(function),
        "slopes, taken outside of it,": outside if transform is plain else jax.jit(outside),
        "slopes, taken inside of it,": transform(slopes(function)),
    }


def slopes(function: Function) -> Function:
    """Makes of a function of arrays the one that gives its slopes, one a float argument."""

    def total(floats: list[Any], others: list[Any], is_float: list[bool]) -> Any:
        floats, others = iter(floats), iter(others)
        outputs = jax.tree.leaves(function(*(next(floats if each else others) for each in is_float)))
        outputs = [y.astype(jnp.float32) for y in outputs if jnp.issubdtype(y.dtype, jnp.floating)]
        return sum((jnp.sum(y * _weights(y)) for y in outputs), start=jnp.float32(0))

    def of(*arrays: Any) -> list[Any]:
        is_float = [bool(jnp.issubdtype(x.dtype, jnp.floating)) for x in arrays]
        of_kind = lambda kind: [x for x, f in zip(arrays, is_float, strict=True) if f is kind]
        return jax.grad(total)(of_kind(True), of_kind(False), is_float)

    return of


def _weights(y: Any) -> Any:
    # Of the last two axes alone: a row of a batch gets those that it gets alone.
    shape = y.shape[-2:]
    weights = np.cos(1 + np.arange(np.prod(shape, dtype=int))).astype(np.float32)
    return weights.reshape((1,) * (y.ndim - len(shape)) + shape)


def plain(function: Function) -> Function:
    return function


def loop(function: Function) -> Function:
    """Over the first axis, by Python: written out, where it is compiled."""
    stack = lambda *results: jnp.stack(results)
    rows = lambda arrays: [function(*(x[i] for x in arrays)) for i in range(ROWS)]
    return jax.jit(lambda *arrays: jax.tree.map(stack, *rows(arrays)))


def rematerialised(function: Function) -> Function:
    return jax.jit(jax.checkpoint(function))


def vmapped(function: Function) -> Function:
    return jax.jit(jax.vmap(function))


def scanned(function: Function) -> Function:
    return jax.jit(lambda *arrays: jax.lax.scan(lambda _, row: (_, function(*row)), None, arrays)[1])


def pmapped(function: Function) -> Function:
    if jax.device_count() >= ROWS:
        return jax.pmap(function)
    on_one = jax.pmap(jax.vmap(function))
    return lambda *arrays: jax.tree.map(lambda y: y[0], on_one(*(x[None] for x in arrays)))


def sharded(function: Function) -> Function:
    devices = jax.devices()[:ROWS]
    mesh = jax.make_mesh((len(devices),), ("rows",), (AxisType.Auto,), devices=devices)
    return jax.jit(jax.shard_map(jax.vmap(function), mesh=mesh, in_specs=P("rows"), out_specs=P("rows")))


def _equal(got: Any, wanted: Any, what: str, atol: float = TOLERANCE) -> None:
    said = [jax.tree.map(lambda x: f"{x.dtype}{list(np.shape(x))}", tree) for tree in (got, wanted)]
    if said[0] != said[1]:
        raise Violation(f"{what}: got {said[0]}, wanted {said[1]}")
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        same(one, other, atol=atol, what=what)


def _alike(f: PureSubject, arrays: tuple[Any, ...], transform: Function, plainly: Function) -> None:
    """Raises ``Violation`` where values or gradients under a transformation differ from those without."""
    arrays = tuple(map(jnp.asarray, arrays))
    call = lambda function: f.given(lambda: jax.tree.map(np.asarray, function(*arrays)))
    wanted = f.under(plainly)
    for name, function in f.under(transform).items():
        _equal(call(function), call(wanted[name]), f"{name} under {transform.__name__}")


def default_arguments() -> st.SearchStrategy[tuple[np.ndarray, ...]]:
    """One float32 array [2, 3, 4]."""
    draw = lambda seed: np.random.default_rng(seed).standard_normal((ROWS, 3, 4)).round(1).astype(np.float32)
    return SEEDS.map(lambda seed: (draw(seed),))


def transformations(arguments: st.SearchStrategy[tuple[Any, ...]] | None = None) -> Suite:
    """The laws of a pure function of these arguments.

    Args:
      arguments: a hypothesis strategy of tuples of arrays: the arguments of two calls, each array with one
        more first axis, of 2. None is one float32 array [2, 3, 4], for a function of x [3, 4].

    Returns:
      The Suite. Its laws compare values and gradients with those of the plain function, or of a Python loop
      over the two calls.
    """
    cases = (default_arguments() if arguments is None else arguments).map(ArraysCase)

    @law(cases)
    def same_twice(f: PureSubject, x: ArraysCase) -> None:
        """The same arguments give the same values, to the last bit."""
        _equal(f(*x.first), f(*x.first), "values of the second call", atol=0)

    @law(cases)
    def compiled_is_eager(f: PureSubject, x: ArraysCase) -> None:
        """Compiled by jit, a function gives the values and gradients that it gives step by step."""
        _alike(f, x.first, jax.jit, plain)

    @law(cases)
    def remat_is_plain(f: PureSubject, x: ArraysCase) -> None:
        """Computed anew for the backward pass, gradients are the same."""
        _alike(f, x.first, rematerialised, jax.jit)

    @law(cases)
    def vmap_is_a_loop(f: PureSubject, x: ArraysCase) -> None:
        """Over all rows at once, by vmap, it gives what a Python loop over them gives."""
        _alike(f, x.arrays, vmapped, loop)

    @law(cases)
    def scan_is_a_loop(f: PureSubject, x: ArraysCase) -> None:
        """Over the rows in a compiled loop it gives what a Python loop over them gives."""
        _alike(f, x.arrays, scanned, loop)

    @law(cases)
    def pmap_is_a_loop(f: PureSubject, x: ArraysCase) -> None:
        """With a device a row it gives what a Python loop over the rows gives."""
        _alike(f, x.arrays, pmapped, loop)

    @law(cases)
    def sharded_is_a_loop(f: PureSubject, x: ArraysCase) -> None:
        """With the rows sharded over a mesh it gives what a Python loop over them gives."""
        _alike(f, x.arrays, sharded, loop)

    of_one_call = (same_twice, compiled_is_eager, remat_is_plain)
    of_rows = (vmap_is_a_loop, scan_is_a_loop, pmap_is_a_loop, sharded_is_a_loop)
    signature = "f(*arrays) -> arrays; where nothing is said of its arguments, f(x float32 [3, 4])"
    return Suite("transformations", signature, PureSubject, of_one_call + of_rows)
