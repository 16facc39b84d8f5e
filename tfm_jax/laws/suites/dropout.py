"""The laws of dropout: of any ``f(x [...], rate, key) -> [...]``.

What is random is asked with room: a right function breaks a law of these with a probability below 1e-9, in
500 cases together.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import TOLERANCE, Suite, Violation, law, same, show
from tfm_jax.laws.subject import Subject, of_shape
from tfm_jax.laws.suites.cases.seeded import SEEDS, Seeded

__all__ = ["DropoutCase", "DropoutSubject", "dropout"]

# By (rate^2 + (1 - rate)^2)^n, two right masks of n = 256 elements are equal with a probability of 1e-22.
SHAPES = ((16, 16), (2, 12, 16))
RATES = (0.5, 0.1, 0.3)
MANY = (64, 64)


@dataclasses.dataclass(frozen=True)
class DropoutCase(Seeded):
    """Elements of which none is 0, so that a 0 is a dropped one."""

    x: np.ndarray  # float32 [...]
    rate: float
    seed: int

    @property
    def slope(self) -> np.ndarray:
        """Factors of the outputs, for a gradient; none is 0."""
        return self.rng.uniform(1, 2, self.x.shape).astype(np.float32)

    def __str__(self) -> str:
        return f"x of shape {list(self.x.shape)} = {show(self.x)}, rate = {self.rate}, key {self.seed}"


@st.composite
def cases(draw) -> DropoutCase:
    shape, rate, seed = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(RATES)), draw(SEEDS)
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)
    return DropoutCase(x.astype(np.float32), rate, seed)


class DropoutSubject(Subject):
    """A dropout as its laws ask it.

    Args:
      function: takes a JAX array, the rate as a number, and a key; gives an array like the first.
      key: makes of an integer the key that the function takes.
    """

    def __init__(self, function: Callable[..., Any], *, key: Callable[[int], Any] = jax.random.key):
        super().__init__(function)
        self.key = key

    def __call__(self, x: Any, rate: float, seed: int) -> np.ndarray:
        """The output, like x, with the key of a seed; raises ``Refused`` for what the function raises."""
        return of_shape(super().__call__(x, rate, self.key(seed)), np.shape(x), "x's")

    def kept(self, x: Any, rate: float, seed: int) -> np.ndarray:
        """Which elements are not set to 0."""
        return self(x, rate, seed) != 0

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        """(rate) -> ``raw`` of x and a key at this rate under jit, compiled once a shape."""
        return functools.cache(lambda rate: jax.jit(lambda x, key: self.raw(x, rate, key)))

    @functools.cached_property
    def mapped(self) -> Callable[..., Any]:
        """(rate) -> the same under vmap: as many arrays as keys."""
        return functools.cache(lambda rate: jax.jit(jax.vmap(lambda x, key: self.raw(x, rate, key))))


@law(cases())
def kept_is_scaled(drop: DropoutSubject, x: DropoutCase) -> None:
    """An element is set to 0, or is kept and divided by 1 - rate, so that the mean stays."""
    got = drop(x.x, x.rate, x.seed)
    same(got, np.where(got == 0, 0, x.x / (1 - x.rate)), atol=TOLERANCE)


@law(cases())
def rate_0(drop: DropoutSubject, x: DropoutCase) -> None:
    """At rate 0 everything stays as it is."""
    same(drop(x.x, 0.0, x.seed), x.x, what="output at rate 0")


@law(cases())
def share(drop: DropoutSubject, x: DropoutCase) -> None:
    """The share of elements that are set to 0 is about the rate."""
    got = 1 - drop.kept(np.ones(MANY, np.float32), x.rate, x.seed).mean()
    # Hoeffding: 2 exp(-2 n bound^2) = 1e-12 for n independent elements.
    bound = np.sqrt(np.log(2e12) / 2 / np.prod(MANY))
    if abs(got - x.rate) > bound:
        raise Violation(f"share of 0 in {list(MANY)}: got {got:.3f}, wanted {x.rate} within {bound:.3f}")


@law(cases())
def same_key_same_mask(drop: DropoutSubject, x: DropoutCase) -> None:
    """The same key drops the same elements."""
    first, again = (drop.kept(x.x, x.rate, x.seed) for _ in range(2))
    if (first != again).any():
        raise Violation(f"got {(first != again).sum()} elements kept by one call and dropped by the other")


@law(cases())
def another_key_another_mask(drop: DropoutSubject, x: DropoutCase) -> None:
    """Another key, as of another layer, drops other elements."""
    if (drop.kept(x.x, x.rate, x.seed) == drop.kept(x.x, x.rate, x.seed + 1)).all():
        raise Violation("got the same elements dropped by two keys")


@law(cases())
def every_element_has_its_own(drop: DropoutSubject, x: DropoutCase) -> None:
    """No two rows, no two columns, no two tables of a batch share one mask by necessity."""
    kept = drop.kept(x.x, x.rate, x.seed)
    for axis in range(kept.ndim):
        if (kept == np.take(kept, [0], axis)).all():
            raise Violation(f"got one mask for all {kept.shape[axis]} along axis {axis}")
    # At rate 0.5 two rows of 64 are the same with a probability of 5e-20.
    kept = drop.kept(np.ones(MANY, np.float32), 0.5, x.seed)
    for axis in range(kept.ndim):
        if np.unique(kept, axis=axis).shape[axis] < kept.shape[axis]:
            raise Violation(f"got one mask for two along axis {axis} of {list(MANY)}")


@law(cases())
def blind(drop: DropoutSubject, x: DropoutCase) -> None:
    """Which elements are dropped does not depend on what they are."""
    other = x.rng.permutation(x.x.ravel()).reshape(x.x.shape)
    if (drop.kept(x.x, x.rate, x.seed) != drop.kept(other, x.rate, x.seed)).any():
        raise Violation("got other elements dropped by the same key, with the elements in another order")


@law(cases())
def gradient_is_the_mask(drop: DropoutSubject, x: DropoutCase) -> None:
    """The gradient is 0 where an element is dropped, and 1 / (1 - rate) where it is kept."""
    kept = drop.kept(x.x, x.rate, x.seed)
    loss = lambda y: jnp.sum(drop.raw(y, x.rate, drop.key(x.seed)) * x.slope)
    got = drop.given(lambda: np.asarray(jax.grad(loss)(jnp.asarray(x.x))))
    same(got, np.where(kept, x.slope / (1 - x.rate), 0), atol=TOLERANCE, what="gradient")


@law(cases())
def dtype_is_kept(drop: DropoutSubject, x: DropoutCase) -> None:
    """bfloat16 in is bfloat16 out, and as exact as that."""
    half = x.x.astype(jnp.bfloat16)
    got = drop(half, x.rate, x.seed)
    if got.dtype != jnp.bfloat16:
        raise Violation(f"dtype: got {got.dtype}, wanted bfloat16")
    wanted = half.astype(np.float32) / (1 - x.rate)
    same(got, np.where(got == 0, 0, wanted), atol=2**-7, what="output in bfloat16")


@law(cases())
def compiled_is_eager(drop: DropoutSubject, x: DropoutCase) -> None:
    """jit, and vmap over arrays each with its key, give what the plain calls give."""
    seeds = (x.seed, x.seed + 1)
    plain = np.stack([drop(x.x, x.rate, seed) for seed in seeds])
    keys = drop.given(lambda: jax.tree.map(lambda *keys: jnp.stack(keys), *map(drop.key, seeds)))
    jitted = drop.given(lambda: np.asarray(drop.compiled(x.rate)(x.x, drop.key(x.seed))))
    same(jitted, plain[0], atol=TOLERANCE, what="output under jit")
    mapped = drop.given(lambda: np.asarray(drop.mapped(x.rate)(np.stack([x.x, x.x]), keys)))
    same(mapped, plain, atol=TOLERANCE, what="output under vmap over two keys")


dropout = Suite(
    "dropout",
    "drop(x [...], rate, key) -> [...]",
    DropoutSubject,
    (
        kept_is_scaled,
        rate_0,
        share,
        same_key_same_mask,
        another_key_another_mask,
        every_element_has_its_own,
        blind,
        gradient_is_the_mask,
        dtype_is_kept,
        compiled_is_eager,
    ),
)
