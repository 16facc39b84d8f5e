"""The laws of dropout, ``drop(x, rate, key) -> [...]``.

Statistical laws have margins such that a correct function violates one of them, in 500 cases together, with a
probability below 1e-9.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import TOLERANCE, Suite, Violation, assert_close, law, show
from tfm_jax.laws.subject import AnyArray, Function, Subject, check_shape
from tfm_jax.laws.suites.cases.seeded import Seeded

__all__ = ["DropoutCase", "DropoutSubject", "dropout"]

# By (rate^2 + (1 - rate)^2)^n, two correct masks of n = 256 elements are equal with a probability of 1e-22.
SHAPES = ((16, 16), (2, 12, 16))
RATES = (0.5, 0.1, 0.3)
LARGE_SHAPE = (64, 64)


@dataclasses.dataclass(frozen=True)
class DropoutCase(Seeded):
    """An array without zeros, so that a 0 in the output is a dropped element; a rate, and a key's seed."""

    x: np.ndarray  # float32 [...]
    rate: float
    seed: int

    @property
    def cotangent(self) -> np.ndarray:
        """A random cotangent of the output, without zeros, for a gradient."""
        return self.rng.uniform(1, 2, self.x.shape).astype(np.float32)

    def __str__(self) -> str:
        return f"x of shape {list(self.x.shape)} = {show(self.x)}, rate = {self.rate}, key {self.seed}"


@st.composite
def cases(draw) -> DropoutCase:
    """A random array and rate."""
    shape, rate, seed = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(RATES)), draw(strategies.seeds())
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)
    return DropoutCase(x.astype(np.float32), rate, seed)


class DropoutSubject(Subject):
    """A dropout, ``function(x, rate, key)``.

    Args:
      function: takes a JAX array, the rate as a number, and a key; returns an array like x.
      key: makes the key that the function takes of an int.
    """

    def __init__(self, function: Function, *, key: Callable[[int], Any] = jax.random.key):
        super().__init__(function)
        self.key = key

    def __call__(self, x: AnyArray, rate: float, seed: int) -> np.ndarray:
        """The output for the key of a seed, its shape checked."""
        return check_shape(super().__call__(x, rate, self.key(seed)), np.shape(x), "the shape of x")

    def kept(self, x: AnyArray, rate: float, seed: int) -> np.ndarray:
        """Which elements are kept, bool [...]."""
        return self(x, rate, seed) != 0

    @functools.cached_property
    def compiled(self) -> Function:
        """(rate) -> ``raw`` as a function of x and a key, under jit."""
        return functools.cache(lambda rate: jax.jit(lambda x, key: self.raw(x, rate, key)))

    @functools.cached_property
    def vmapped(self) -> Function:
        """(rate) -> ``raw`` as a function of arrays and as many keys, under jit and vmap."""
        return functools.cache(lambda rate: jax.jit(jax.vmap(lambda x, key: self.raw(x, rate, key))))


@law(cases())
def kept_elements_are_scaled(drop: DropoutSubject, x: DropoutCase) -> None:
    """Each element is 0, or is divided by 1 - rate, which preserves the expectation."""
    got = drop(x.x, x.rate, x.seed)
    assert_close(got, np.where(got == 0, 0, x.x / (1 - x.rate)), atol=TOLERANCE)


@law(cases())
def rate_0_is_identity(drop: DropoutSubject, x: DropoutCase) -> None:
    """At rate 0 the output is the input."""
    assert_close(drop(x.x, 0.0, x.seed), x.x, what="output at rate 0")


@law(cases())
def dropped_fraction_is_the_rate(drop: DropoutSubject, x: DropoutCase) -> None:
    """The fraction of dropped elements is the rate."""
    got = 1 - drop.kept(np.ones(LARGE_SHAPE, np.float32), x.rate, x.seed).mean()
    # Hoeffding: 2 exp(-2 n bound^2) = 1e-12 for n independent elements.
    bound = np.sqrt(np.log(2e12) / 2 / np.prod(LARGE_SHAPE))
    if abs(got - x.rate) > bound:
        raise Violation(
            f"dropped fraction of {list(LARGE_SHAPE)}: got {got:.3f}; wanted {x.rate} +- {bound:.3f}"
        )


@law(cases())
def same_key_same_mask(drop: DropoutSubject, x: DropoutCase) -> None:
    """The same key drops the same elements."""
    first, second = (drop.kept(x.x, x.rate, x.seed) for _ in range(2))
    if (first != second).any():
        raise Violation(f"two calls with one key: got {(first != second).sum()} differences; wanted none")


@law(cases())
def different_keys_differ(drop: DropoutSubject, x: DropoutCase) -> None:
    """Different keys drop different elements."""
    if (drop.kept(x.x, x.rate, x.seed) == drop.kept(x.x, x.rate, x.seed + 1)).all():
        raise Violation("dropped elements: got the same ones for two keys; wanted others")


@law(cases())
def elements_are_independent(drop: DropoutSubject, x: DropoutCase) -> None:
    """No mask is shared along an axis."""
    kept = drop.kept(x.x, x.rate, x.seed)
    for axis in range(kept.ndim):
        if (kept == np.take(kept, [0], axis)).all():
            raise Violation(f"mask along axis {axis}: got the same {kept.shape[axis]} times; wanted others")
    # At rate 0.5, two of 64 rows of 64 elements are equal with a probability below 1e-15.
    kept = drop.kept(np.ones(LARGE_SHAPE, np.float32), 0.5, x.seed)
    for axis in range(kept.ndim):
        if np.unique(kept, axis=axis).shape[axis] < kept.shape[axis]:
            raise Violation(f"mask of {list(LARGE_SHAPE)} along axis {axis}: got one twice; wanted others")


@law(cases())
def mask_does_not_depend_on_values(drop: DropoutSubject, x: DropoutCase) -> None:
    """The dropped elements do not depend on the values."""
    other = x.rng.permutation(x.x.ravel()).reshape(x.x.shape)
    if (drop.kept(x.x, x.rate, x.seed) != drop.kept(other, x.rate, x.seed)).any():
        raise Violation("dropped elements: got others for permuted values and the same key; wanted the same")


@law(cases())
def gradient_is_the_mask(drop: DropoutSubject, x: DropoutCase) -> None:
    """The gradient is 0 at a dropped element, and 1 / (1 - rate) at a kept one."""
    kept = drop.kept(x.x, x.rate, x.seed)

    def loss(y: Any) -> Any:
        return jnp.sum(drop.raw(y, x.rate, drop.key(x.seed)) * x.cotangent)

    got = drop.run(lambda: np.asarray(jax.grad(loss)(jnp.asarray(x.x))))
    assert_close(got, np.where(kept, x.cotangent / (1 - x.rate), 0), atol=TOLERANCE, what="gradient")


@law(cases(), severity="contract")
def dtype_is_preserved(drop: DropoutSubject, x: DropoutCase) -> None:
    """A bfloat16 input gives a bfloat16 output, correct to its precision."""
    half = x.x.astype(jnp.bfloat16)
    got = drop(half, x.rate, x.seed)
    if got.dtype != jnp.bfloat16:
        raise Violation(f"dtype: got {got.dtype}; wanted bfloat16")
    wanted = half.astype(np.float32) / (1 - x.rate)
    assert_close(got, np.where(got == 0, 0, wanted), atol=2**-7, what="output in bfloat16")


@law(cases())
def compiled_matches_eager(drop: DropoutSubject, x: DropoutCase) -> None:
    """Under jit, and under vmap over arrays and keys, the output is that of the plain calls."""
    seeds = (x.seed, x.seed + 1)
    plain = np.stack([drop(x.x, x.rate, seed) for seed in seeds])
    keys = drop.run(lambda: jax.tree.map(lambda *keys: jnp.stack(keys), *map(drop.key, seeds)))
    jitted = drop.run(lambda: np.asarray(drop.compiled(x.rate)(x.x, drop.key(x.seed))))
    assert_close(jitted, plain[0], atol=TOLERANCE, what="output under jit")
    mapped = drop.run(lambda: np.asarray(drop.vmapped(x.rate)(np.stack([x.x, x.x]), keys)))
    assert_close(mapped, plain, atol=TOLERANCE, what="output under vmap over two keys")


dropout = Suite(
    "dropout",
    "drop(x [...], rate, key) -> [...]",
    DropoutSubject,
    (
        kept_elements_are_scaled,
        rate_0_is_identity,
        dropped_fraction_is_the_rate,
        same_key_same_mask,
        different_keys_differ,
        elements_are_independent,
        mask_does_not_depend_on_values,
        gradient_is_the_mask,
        dtype_is_preserved,
        compiled_matches_eager,
    ),
)
