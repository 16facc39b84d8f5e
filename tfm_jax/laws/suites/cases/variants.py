"""A variant's module as a model, its subject, and the laws that norms and feed-forward layers share."""

import functools
from collections.abc import Callable
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tfm_jax import nn
from tfm_jax.laws.law import TOLERANCE, Violation, assert_close, law
from tfm_jax.laws.subject import Function, check_shape
from tfm_jax.laws.suites.cases.vectors import VectorsCase, VectorsSubject, cases
from tfm_jax.types import Array, Params

__all__ = [
    "LARGE",
    "Built",
    "Model",
    "ModuleSubject",
    "assert_finite",
    "assert_parameters",
    "gradients_are_finite",
    "instance_of",
    "large_vectors",
    "leading_dims",
    "module_of",
    "zero_vectors",
]

LARGE = 1e6  # the squares of such numbers are far below the largest float32
V = TypeVar("V")
M = TypeVar("M", bound=nnx.Module)
Build = Callable[..., Function | None]
"""Makes a module, given ``rngs``."""


class Built(nnx.Module):
    """The module of a variant, as a model for ``nn.functionalize``."""

    def __init__(self, build: Build, *, rngs: nnx.Rngs):
        self.built = build(rngs=rngs)

    def __call__(self, *inputs: Array) -> object:
        """Calls the module."""
        assert self.built is not None
        return self.built(*inputs)


class Model(Generic[M]):
    """A model with its initial parameters.

    Args:
      pure: from ``nn.functionalize``.
    """

    def __init__(self, pure: nn.Pure[M]):
        self.pure = pure
        with jax.ensure_compile_time_eval():  # a law may make the model while it traces
            self.params: Params = jax.jit(pure.init)(jax.random.key(0))


def module_of(build: Build) -> nn.Pure[Built]:
    """The module that ``build(rngs=...)`` makes, as pure functions."""
    return nn.functionalize(Built, build)


def instance_of(kind: type[V], variant: object) -> V:
    """A variant of this kind; of a class, the variant with default fields.

    Raises:
      ValueError: it is of another kind.
    """
    made = variant() if isinstance(variant, type) else variant
    if not isinstance(made, kind):
        raise ValueError(f"laws: got {made!r}; wanted a variant, an instance of nn.{kind.__name__}.")
    return made


def assert_finite(tree: object, what: str) -> None:
    """Raises ``Violation`` for an array with NaN or Inf."""
    for leaf in jax.tree.leaves(tree):
        if n := int(np.sum(~np.isfinite(np.asarray(leaf, np.float32)))):
            raise Violation(f"{what}: got {n} numbers that are not finite; wanted none")


def assert_parameters(pure: nn.Pure[nnx.Module], *, dtype: str, sizes: dict[int, str]) -> None:
    """Raises ``Violation`` unless all parameters have this dtype and the letters of their axes are declared.

    ``sizes`` are letters by size: an axis of this size must have this letter.
    """
    try:
        axes = pure.axes()
    except ValueError as error:
        raise Violation(str(error)) from None

    def check(path: tuple[object, ...], leaf: jax.ShapeDtypeStruct, letters: str) -> None:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if leaf.dtype != jnp.dtype(dtype):
            raise Violation(f"{name}: got {leaf.dtype}; wanted {dtype}, as configured")
        wanted = [sizes.get(n, letter) for n, letter in zip(leaf.shape, letters.split(), strict=True)]
        if "?" in letters:
            raise Violation(f"{name}: got no axes of {list(leaf.shape)}; wanted their letters, from axes()")
        if letters.split() != wanted:
            got = f"axes {letters!r} of {list(leaf.shape)}"
            raise Violation(f"{name}: got {got}; wanted {' '.join(wanted)!r}")

    jax.tree_util.tree_map_with_path(check, jax.eval_shape(pure.init, jax.random.key(0)), axes)


class ModuleSubject(VectorsSubject):
    """A variant whose module maps vectors [..., D] to vectors [..., D]."""

    def model(self, size: int) -> Model[Built]:
        """The module for vectors of this size, the same in every call."""
        raise NotImplementedError

    def fit(self, x: Array) -> Array:
        """Vectors of a size that the module takes, made of those of a case."""
        return x

    def output(self, out: object) -> Array:
        """The vectors in what the module returns."""
        return jnp.asarray(out)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The output, its shape checked."""
        shape = self.fit(jnp.asarray(x)).shape
        return check_shape(super(VectorsSubject, self).__call__(x), shape, "[..., D]")

    def raw(self, x: np.ndarray | Array) -> Array:
        """The vectors that the module makes of those of a case."""
        vectors = self.fit(jnp.asarray(x))
        model = self.model(vectors.shape[-1])
        return self.output(model.pure.apply(model.params, vectors))

    def gradients(self, x: np.ndarray, cotangent: np.ndarray) -> tuple[Params, Array]:
        """The gradients of sum(output * cotangent) by the parameters and by x."""
        vectors, factors = self.fit(jnp.asarray(x)), self.fit(jnp.asarray(cotangent))
        params = self.model(vectors.shape[-1]).params
        return self.run(lambda: self._parameter_gradient(params, vectors, factors))

    @functools.cached_property
    def _parameter_gradient(self) -> Callable[..., tuple[Params, Array]]:
        def total(params: Params, vectors: Array, factors: Array) -> Array:
            model = self.model(vectors.shape[-1])
            return jnp.sum(self.output(model.pure.apply(params, vectors)).astype(jnp.float32) * factors)

        return jax.jit(jax.grad(total, argnums=(0, 1)))


@law(cases(), severity="contract")
def leading_dims(f: ModuleSubject, x: VectorsCase) -> None:
    """One vector alone, and vectors with other leading dims, give what they give as [B, T, D]."""
    wanted = f(x.x)
    assert_close(f(x.x[0, 0]), wanted[0, 0], atol=TOLERANCE, what="output of x[0, 0] [D]")
    got = f(x.x[:, None, :, None])
    assert_close(got[:, 0, :, 0], wanted, atol=TOLERANCE, what="output of x [B, 1, T, 1, D]")


@law(cases())
def zero_vectors(f: ModuleSubject, x: VectorsCase) -> None:
    """Vectors of zeros give a finite output and finite gradients."""
    zeros = np.zeros_like(x.x)
    assert_finite(f(zeros), "output of vectors of 0")
    assert_finite(f.gradients(zeros, x.cotangent), "gradients at vectors of 0")


@law(cases())
def large_vectors(f: ModuleSubject, x: VectorsCase) -> None:
    """Large vectors give a finite output, in float32 and in bfloat16."""
    large = x.x * np.float32(LARGE)
    for dtype in (jnp.float32, jnp.bfloat16):
        assert_finite(f(large.astype(dtype)), f"output of {LARGE:g} x in {jnp.dtype(dtype)}")


@law(cases())
def gradients_are_finite(f: ModuleSubject, x: VectorsCase) -> None:
    """The gradients by the vectors and by the parameters are finite."""
    assert_finite(f.gradients(x.x, x.cotangent), "gradients")
