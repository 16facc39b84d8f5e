"""The laws of rotary position embeddings, ``rotate(x [B, T, N, H], positions [B, T]) -> [B, T, N, H]``."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import TOLERANCE, Suite, Violation, assert_close, law, show
from tfm_jax.laws.subject import AnyArray, Function, Subject, check_shape
from tfm_jax.laws.suites.cases.positions import ANGLE_TOLERANCE, MAX_POSITION, angles, split_pairs
from tfm_jax.laws.suites.cases.seeded import Seeded

__all__ = ["RotaryCase", "RotarySubject", "rotary"]

SHAPES = ((1, 1, 1, 2), (1, 2, 1, 4), (2, 3, 2, 8))  # B, T, N, H, the simplest first


@dataclasses.dataclass(frozen=True)
class RotaryCase(Seeded):
    """Queries or keys, and their positions."""

    x: np.ndarray  # float32 [B, T, N, H]
    positions: np.ndarray  # int32 [B, T]
    seed: int

    @property
    def other(self) -> np.ndarray:
        """Another array like x, the same for the same case."""
        return self.rng.standard_normal(self.x.shape).astype(np.float32)

    def __str__(self) -> str:
        B, T, N, H = self.x.shape
        lines = [f"B = {B}, T = {T}, N = {N}, H = {H}", f"x = {show(self.x)}"]
        return "\n".join([*lines, f"positions = {self.positions.tolist()}"])


@st.composite
def cases(draw) -> RotaryCase:
    """Random vectors and positions."""
    B, T, N, H = draw(st.sampled_from(SHAPES))
    positions = draw(strategies.positions((B, T), largest=MAX_POSITION))
    seed = draw(strategies.seeds())
    x = draw(strategies.normal((B, T, N, H), shift=0.05, seed=seed))  # no element is 0
    return RotaryCase(x, positions, seed)


class RotarySubject(Subject):
    """A rotary position embedding, ``function(x, positions)``.

    Args:
      function: takes JAX arrays x [B, T, N, H] and positions, int [B, T]; returns an array like x.
      theta: the base of the wavelengths.
      pairing: the elements of pair i: "half", i and i + H/2, or "interleaved", 2i and 2i + 1.
    """

    def __init__(self, function: Function, *, theta: float = 10_000.0, pairing: str = "half"):
        super().__init__(function)
        self.theta, self.pairing = theta, pairing

    def __call__(self, x: AnyArray, positions: AnyArray) -> np.ndarray:
        """The output, its shape checked."""
        return check_shape(super().__call__(x, positions), x.shape, "[B, T, N, H]")

    def rotated_pairs(self, x: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
        """The first and the second elements of all pairs after the rotation, in float64."""
        theta = angles(positions, x.shape[-1], self.theta)[..., None, :]
        a, b = split_pairs(x.astype(np.float64), self.pairing)
        return [a * np.cos(theta) - b * np.sin(theta), b * np.cos(theta) + a * np.sin(theta)]

    def assert_pairs_close(self, out: np.ndarray, wanted: list[np.ndarray], atol: float, what: str) -> None:
        """Raises ``Violation`` where the pairs of an output are not the wanted ones."""
        for name, got, right in zip(("first", "second"), split_pairs(out, self.pairing), wanted, strict=True):
            assert_close(got, right, atol=atol, what=f"{name} elements of the pairs{what}")


@law(cases())
def definition(rotate: RotarySubject, x: RotaryCase) -> None:
    """Pair i of a vector rotates counter-clockwise by the angle position * theta^(-2 i / H)."""
    wanted = rotate.rotated_pairs(x.x, x.positions)
    rotate.assert_pairs_close(rotate(x.x, x.positions), wanted, 2 * ANGLE_TOLERANCE, "")


@law(cases())
def position_0_is_identity(rotate: RotarySubject, x: RotaryCase) -> None:
    """A vector at position 0 is unchanged."""
    assert_close(rotate(x.x, 0 * x.positions), x.x, atol=TOLERANCE, what="output at position 0")


@law(cases())
def norms_are_preserved(rotate: RotarySubject, x: RotaryCase) -> None:
    """A vector keeps its norm."""
    assert_close(norms(rotate(x.x, x.positions)), norms(x.x), atol=TOLERANCE, what="norms")


@law(cases())
def translation_invariance(rotate: RotarySubject, x: RotaryCase) -> None:
    """The inner product of a query and a key depends only on the difference of their positions."""
    shift = np.int32(x.rng.integers(1, 1000))
    keys = x.positions[:, ::-1]
    wanted = inner_products(rotate(x.x, x.positions), rotate(x.other, keys))
    got = inner_products(rotate(x.x, x.positions + shift), rotate(x.other, keys + shift))
    assert_close(got, wanted, atol=1e-2, what=f"inner products with {shift} added to the positions")


@law(cases())
def linearity(rotate: RotarySubject, x: RotaryCase) -> None:
    """The output of a sum is the sum of the outputs."""
    wanted = rotate(x.x, x.positions).astype(np.float64) + rotate(x.other, x.positions)
    assert_close(rotate(x.x + x.other, x.positions), wanted, atol=TOLERANCE, what="output of a sum")


@law(cases())
def tokens_are_independent(rotate: RotarySubject, x: RotaryCase) -> None:
    """The output for a token depends only on its vector and position, not on its index or on other tokens."""
    b, t = (int(i) for i in np.unravel_index(x.seed % x.positions.size, x.positions.shape))
    at = slice(b, b + 1), slice(t, t + 1)
    got, wanted = rotate(x.x[at], x.positions[at]), rotate(x.x, x.positions)[at]
    assert_close(got, wanted, atol=TOLERANCE, what=f"output of token {t} of example {b} alone")


@law(cases())
def heads_rotate_alike(rotate: RotarySubject, x: RotaryCase) -> None:
    """All heads of a token rotate by the same angles."""
    equal = np.repeat(x.x[:, :, :1], x.x.shape[2], axis=2)
    got = rotate(equal, x.positions)
    wanted = np.repeat(got[:, :, :1], x.x.shape[2], axis=2)
    assert_close(got, wanted, atol=TOLERANCE, what="output of equal heads")


@law(cases())
def adjacent_positions_differ(rotate: RotarySubject, x: RotaryCase) -> None:
    """The same vector gives different outputs at adjacent positions."""
    apart = np.abs(rotate(x.x, x.positions + 1) - rotate(x.x, x.positions)).max((-2, -1))
    if not (apart > 1e-3).all():
        raise Violation(f"output at the next positions: got changes of {show(apart)}; wanted more than 0")


@law(cases())
def large_positions(rotate: RotarySubject, x: RotaryCase) -> None:
    """Angles are computed in float32: position 100,000 is exact enough, and norms are preserved."""
    positions = x.positions + np.int32(100_000)
    got = rotate(x.x, positions)
    wanted = rotate.rotated_pairs(x.x, positions)
    rotate.assert_pairs_close(got, wanted, 0.05, " at positions + 100,000")
    assert_close(norms(got), norms(x.x), atol=TOLERANCE, what="norms at positions + 100,000")


@law(cases(), severity="contract")
def dtype_is_preserved(rotate: RotarySubject, x: RotaryCase) -> None:
    """bfloat16 inputs give a bfloat16 output, rotated by float32 angles."""
    half = x.x.astype(jnp.bfloat16)
    out = rotate(half, x.positions)
    if out.dtype != jnp.bfloat16:
        raise Violation(f"dtype: got {out.dtype}; wanted bfloat16")
    wanted = rotate.rotated_pairs(half.astype(np.float32), x.positions)
    rotate.assert_pairs_close(out, wanted, 2**-6, " in bfloat16")


@law(cases())
def compiled_matches_eager(rotate: RotarySubject, x: RotaryCase) -> None:
    """Under jit, and under vmap over the batch, the output is that of the plain call."""
    plain = rotate(x.x, x.positions)
    for name, call in {"jit": rotate.compiled, "vmap": rotate.per_example}.items():
        got = rotate.run(lambda call=call: np.asarray(call(x.x, x.positions)))
        assert_close(got, plain, atol=2 * ANGLE_TOLERANCE, what=f"output under {name}")


def inner_products(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    return (q.astype(np.float64) * k).sum(-1)


def norms(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x.astype(np.float64), axis=-1)


rotary = Suite(
    "rotary",
    "rotate(x [B, T, N, H], positions int [B, T]) -> [B, T, N, H]",
    RotarySubject,
    (
        definition,
        position_0_is_identity,
        norms_are_preserved,
        translation_invariance,
        linearity,
        tokens_are_independent,
        heads_rotate_alike,
        adjacent_positions_differ,
        large_positions,
        dtype_is_preserved,
        compiled_matches_eager,
    ),
)
