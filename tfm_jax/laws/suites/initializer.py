"""The laws of every initializer, ``initializer(key, shape, in_axes=, out_axes=) -> float32 array``."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import TOLERANCE, Suite, Violation, assert_close, law
from tfm_jax.laws.subject import Function, Subject, check_shape
from tfm_jax.types import Array, Key

__all__ = ["initializer"]


class Axes(NamedTuple):
    """The shape of a parameter, the axes that a product contracts, and those of its result."""

    shape: tuple[int, ...]
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]


# The simplest first: [D, F], [D, N, H], [N, H, D], [E, D, F].
PARAMETERS = (
    Axes((2, 3), (0,), (1,)),
    Axes((6, 2, 4), (0,), (1, 2)),
    Axes((2, 4, 6), (0, 1), (2,)),
    Axes((3, 6, 4), (1,), (2,)),
)
EXPERTS, SIZE = 16, 32
"""Of the parameters whose scale is measured: 16,384 numbers in all."""


@dataclasses.dataclass(frozen=True)
class ParameterCase:
    """The arguments of one call."""

    axes: Axes
    seed: int

    @property
    def key(self) -> Key:
        """The key."""
        return jax.random.key(self.seed)

    def __str__(self) -> str:
        shape, in_axes, out_axes = self.axes
        return (
            f"key = jax.random.key({self.seed}), shape = {shape}, in_axes = {in_axes}, out_axes = {out_axes}"
        )


cases = st.builds(ParameterCase, st.sampled_from(PARAMETERS), strategies.seeds())


class InitializerSubject(Subject):
    """An initializer.

    Args:
      function: an ``nn.Initializer``, its class where all fields have defaults, or a function that is called
        in the same way.
    """

    def __init__(self, function: Function | type):
        super().__init__(function() if isinstance(function, type) else function)

    def __call__(self, key: Key, axes: Axes) -> np.ndarray:
        """The parameter, its shape checked."""
        out = self.run(lambda: np.asarray(self.raw(key, axes)))
        return check_shape(out, axes.shape, "the shape")

    def raw(self, key: Key, axes: Axes) -> Array:
        """The initializer, called for a parameter."""
        return self.function(key, axes.shape, in_axes=axes.in_axes, out_axes=axes.out_axes)

    @functools.cached_property
    def compiled(self) -> Function:
        """``raw`` under jit."""
        return jax.jit(self.raw, static_argnums=1)

    @functools.cached_property
    def stacked(self) -> Function:
        """``raw`` under jit and vmap over keys, as for the layers of a stack."""
        return jax.jit(jax.vmap(self.raw, in_axes=(0, None)), static_argnums=1)


@law(cases)
def finite_float32(initialize: InitializerSubject, x: ParameterCase) -> None:
    """A parameter has the configured shape and finite float32 numbers, which are rounded later."""
    out = initialize(x.key, x.axes)
    if out.dtype != np.float32 or not np.isfinite(out).all():
        raise Violation(
            f"parameter: got {out.dtype}, finite: {np.isfinite(out).all()}; wanted finite float32"
        )


@law(cases)
def same_key_same_parameter(initialize: InitializerSubject, x: ParameterCase) -> None:
    """The same key gives the same parameter."""
    first = initialize(x.key, x.axes)
    assert_close(initialize(x.key, x.axes), first, what="parameter of the second call with the same key")


@law(cases)
def other_axes_do_not_change_the_scale(initialize: InitializerSubject, x: ParameterCase) -> None:
    """Axes that are neither of inputs nor of outputs, such as that of experts, leave the scale as it is."""
    one = [initialize(key, Axes((SIZE, SIZE), (0,), (1,))) for key in jax.random.split(x.key, EXPERTS)]
    many = initialize(x.key, Axes((EXPERTS, SIZE, SIZE), (1,), (2,)))
    got, wanted = (np.sqrt(np.square(np.stack(list(y), dtype=np.float64)).mean()) for y in (many, one))
    ratio = got / wanted if wanted > 0 else 1 + got
    what = f"root mean square of [{EXPERTS}, {SIZE}, {SIZE}], relative to that of [{SIZE}, {SIZE}]"
    assert_close(ratio, 1, atol=0.05, what=what)


@law(cases)
def compiled_matches_eager(initialize: InitializerSubject, x: ParameterCase) -> None:
    """Under jit, and under vmap over the keys of several layers, the parameters are those of plain calls."""
    keys = jax.random.split(x.key, 2)
    plain = np.stack([initialize(key, x.axes) for key in keys])
    jitted = initialize.run(lambda: np.asarray(initialize.compiled(keys[0], x.axes)))
    assert_close(jitted, plain[0], atol=TOLERANCE, what="parameter under jit")
    mapped = initialize.run(lambda: np.asarray(initialize.stacked(keys, x.axes)))
    assert_close(mapped, plain, atol=TOLERANCE, what="parameters under vmap over two keys")


initializer = Suite(
    "initializer",
    "initializer(key, shape, in_axes=, out_axes=) -> float32 array of this shape, such as nn.GlorotUniform()",
    InitializerSubject,
    (finite_float32, same_key_same_parameter, other_axes_do_not_change_the_scale, compiled_matches_eager),
)
