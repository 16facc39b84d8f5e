"""The laws of rotary positions: of any ``f(x [B, T, N, H], positions [B, T]) -> [B, T, N, H]``."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import TOLERANCE, Suite, Violation, law, same, show
from tfm_jax.laws.subject import Subject, of_shape
from tfm_jax.laws.suites.cases.seeded import SEEDS, Seeded
from tfm_jax.laws.suites.sinusoidal import ANGLE, angles_of, split

__all__ = ["RotaryCase", "RotarySubject", "rotary"]

SHAPES = ((1, 1, 1, 2), (1, 2, 1, 4), (2, 3, 2, 8))  # B, T, N, H, the simplest first


@dataclasses.dataclass(frozen=True)
class RotaryCase(Seeded):
    """Queries, or keys, and where each token stands."""

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
    B, T, N, H = draw(st.sampled_from(SHAPES))
    places = draw(st.lists(st.integers(0, 300), min_size=B * T, max_size=B * T))
    seed = draw(SEEDS)
    x = np.random.default_rng(seed).standard_normal((B, T, N, H)).round(1) + 0.05  # no element is 0
    return RotaryCase(x.astype(np.float32), np.asarray(places, np.int32).reshape(B, T), seed)


class RotarySubject(Subject):
    """A rotation by positions as its laws ask it.

    Args:
      function: takes JAX arrays x [B, T, N, H] and positions, int [B, T]; gives an array like x.
      theta: the base of the wavelengths.
      pairing: which elements turn together: "half", i and i + H/2, or "interleaved", 2i and 2i + 1.
    """

    def __init__(self, function: Callable[..., Any], *, theta: float = 10_000.0, pairing: str = "half"):
        super().__init__(function)
        self.theta, self.pairing = theta, pairing

    def __call__(self, x: Any, positions: Any) -> np.ndarray:
        """The output, of the shape that it must have; raises ``Refused`` for what the function raises."""
        return of_shape(super().__call__(x, positions), x.shape, "[B, T, N, H]")

    def turned(self, x: np.ndarray, positions: np.ndarray) -> list[np.ndarray]:
        """The first and the second elements of all pairs in float64, as the paper defines them."""
        angles = angles_of(positions, x.shape[-1], self.theta)[..., None, :]
        a, b = split(x.astype(np.float64), self.pairing)
        return [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)]


@law(cases())
def definition(rotate: RotarySubject, x: RotaryCase) -> None:
    """Pair i of a token turns by the angle position * theta^(-2 i / H), counter-clockwise."""
    pairs = split(rotate(x.x, x.positions), rotate.pairing)
    for name, got, wanted in zip(("first", "second"), pairs, rotate.turned(x.x, x.positions), strict=True):
        same(got, wanted, atol=2 * ANGLE, what=f"{name} elements of the pairs")


@law(cases())
def position_0(rotate: RotarySubject, x: RotaryCase) -> None:
    """A token at position 0 stays as it is."""
    same(rotate(x.x, 0 * x.positions), x.x, atol=TOLERANCE, what="output at position 0")


@law(cases())
def norms_stay(rotate: RotarySubject, x: RotaryCase) -> None:
    """A vector keeps its norm: it is turned, and not stretched."""
    norm = lambda y: np.linalg.norm(y.astype(np.float64), axis=-1)
    same(norm(rotate(x.x, x.positions)), norm(x.x), atol=TOLERANCE, what="norms")


@law(cases())
def only_differences(rotate: RotarySubject, x: RotaryCase) -> None:
    """The inner product of a query and a key depends on the difference of their positions alone."""
    far = np.int32(x.rng.integers(1, 1000))
    keys = x.positions[:, ::-1]
    near = product(rotate(x.x, x.positions), rotate(x.other, keys))
    got = product(rotate(x.x, x.positions + far), rotate(x.other, keys + far))
    same(got, near, atol=1e-2, what=f"inner products {far} positions further on")


@law(cases())
def linear(rotate: RotarySubject, x: RotaryCase) -> None:
    """The output of a sum is the sum of the outputs."""
    apart = rotate(x.x, x.positions).astype(np.float64) + rotate(x.other, x.positions)
    same(rotate(x.x + x.other, x.positions), apart, atol=TOLERANCE, what="output of a sum")


@law(cases())
def each_token_by_itself(rotate: RotarySubject, x: RotaryCase) -> None:
    """A token turns by its own position, in every row, and not by its place: alone it gives the same."""
    b, t = (int(i) for i in np.unravel_index(x.seed % x.positions.size, x.positions.shape))
    at = slice(b, b + 1), slice(t, t + 1)
    got, wanted = rotate(x.x[at], x.positions[at]), rotate(x.x, x.positions)[at]
    same(got, wanted, atol=TOLERANCE, what=f"output of token {t} of row {b} alone")


@law(cases())
def heads_alike(rotate: RotarySubject, x: RotaryCase) -> None:
    """All heads of a token turn alike."""
    alike = np.repeat(x.x[:, :, :1], x.x.shape[2], axis=2)
    got = rotate(alike, x.positions)
    same(got, np.repeat(got[:, :, :1], x.x.shape[2], axis=2), atol=TOLERANCE, what="output of equal heads")


@law(cases())
def told_apart(rotate: RotarySubject, x: RotaryCase) -> None:
    """The same vector at the next position is another vector."""
    apart = np.abs(rotate(x.x, x.positions + 1) - rotate(x.x, x.positions)).max((-2, -1))
    if not (apart > 1e-3).all():
        raise Violation(f"output at the next positions: got {show(apart)} apart, wanted more than 0")


@law(cases())
def large_positions(rotate: RotarySubject, x: RotaryCase) -> None:
    """Angles are computed in float32: a position of 100,000 is no other one, and norms stay."""
    positions = x.positions + np.int32(100_000)
    got, wanted = rotate(x.x, positions), rotate.turned(x.x, positions)
    for name, ours, right in zip(("first", "second"), split(got, rotate.pairing), wanted, strict=True):
        same(ours, right, atol=0.05, what=f"{name} elements of the pairs at positions + 100,000")
    norm = lambda y: np.linalg.norm(y.astype(np.float64), axis=-1)
    same(norm(got), norm(x.x), atol=TOLERANCE, what="norms at positions + 100,000")


@law(cases())
def dtype_is_kept(rotate: RotarySubject, x: RotaryCase) -> None:
    """bfloat16 in is bfloat16 out, and its angles are those of float32."""
    half = x.x.astype(jnp.bfloat16)
    out = rotate(half, x.positions)
    if out.dtype != jnp.bfloat16:
        raise Violation(f"dtype: got {out.dtype}, wanted bfloat16")
    wanted = rotate.turned(half.astype(np.float32), x.positions)
    for name, got, right in zip(("first", "second"), split(out, rotate.pairing), wanted, strict=True):
        same(got, right, atol=2**-6, what=f"{name} elements of the pairs in bfloat16")


@law(cases())
def compiled_is_eager(rotate: RotarySubject, x: RotaryCase) -> None:
    """jit, and vmap over the batch, give what the plain call gives."""
    plain = rotate(x.x, x.positions)
    for name, call in {"jit": rotate.compiled, "vmap": rotate.row_by_row}.items():
        got = rotate.given(lambda call=call: np.asarray(call(x.x, x.positions)))
        same(got, plain, atol=2 * ANGLE, what=f"output under {name}")


def product(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    return (q.astype(np.float64) * k).sum(-1)


rotary = Suite(
    "rotary",
    "rotate(x [B, T, N, H], positions int [B, T]) -> [B, T, N, H]",
    RotarySubject,
    (
        definition,
        position_0,
        norms_stay,
        only_differences,
        linear,
        each_token_by_itself,
        heads_alike,
        told_apart,
        large_positions,
        dtype_is_kept,
        compiled_is_eager,
    ),
)
