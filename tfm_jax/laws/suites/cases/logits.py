"""Logits, and rows of tokens before them: cases of what is done to logits before a token is chosen."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import Violation, same, show
from tfm_jax.laws.subject import Subject, of_shape
from tfm_jax.laws.suites.cases.seeded import SEEDS, Seeded

__all__ = [
    "HistoryCase",
    "LogitsCase",
    "LogitsSubject",
    "cases",
    "dtype_stays",
    "histories",
    "probabilities",
]

SHAPES = ((1, 2), (2, 5))  # B, V, the simplest first
HOLE = -1


@dataclasses.dataclass(frozen=True)
class LogitsCase(Seeded):
    """Logits of multiples of an eighth, near 0, no two of a row the same, and a number such as p."""

    logits: np.ndarray  # float32 [B, V]
    number: Any
    seed: int

    @property
    def some_closed(self) -> np.ndarray:
        """The logits with some tokens closed (-inf), never the likeliest of a row."""
        closed = self.rng.random(self.logits.shape) < 0.4
        return np.where(closed & (self.logits < self.logits.max(-1, keepdims=True)), -np.inf, self.logits)

    @property
    def tied(self) -> np.ndarray:
        """The logits with two tokens of each row made equal."""
        tied = self.logits.copy()
        for row, logits in zip(tied, self.logits, strict=True):
            a, b = self.rng.permutation(len(row))[:2]
            row[a] = logits[b]
        return tied

    def __str__(self) -> str:
        B, V = self.logits.shape
        called = "" if self.number is None else f"; called with {self.number}"
        return f"B = {B}, V = {V}{called}\nlogits = {show(self.logits)}"


@dataclasses.dataclass(frozen=True)
class HistoryCase(LogitsCase):
    """Logits, and the tokens before them: holes, a row's own, and holes again where nothing stands yet."""

    tokens: np.ndarray  # int32 [B, M]
    length: int  # how many of M there are so far, the holes in front counted; at least 1
    step: int  # how many of these were generated

    @property
    def V(self) -> int:
        """The vocabulary's size."""
        return self.logits.shape[1]

    @property
    def rows(self) -> list[list[int]]:
        """The entries of each row so far, holes among them."""
        return self.tokens[:, : self.length].tolist()

    @property
    def counts(self) -> np.ndarray:
        """How often each token is there so far, int64 [B, V]."""
        return np.array([[row.count(v) for v in range(self.V)] for row in self.rows])

    def __str__(self) -> str:
        said = f"tokens = {self.tokens.tolist()}, length = {self.length}, step = {self.step}"
        return f"{super().__str__()}\n{said}"


def _logits(rng: np.random.Generator, B: int, V: int) -> np.ndarray:
    steps = rng.permuted(np.broadcast_to(np.arange(V) - V // 2, (B, V)), axis=-1)
    return (steps + rng.integers(-3, 4, (B, V)) / 8).astype(np.float32)


@st.composite
def cases(draw, numbers: Callable[[int], Sequence[Any]]) -> LogitsCase:
    """Logits, and one of the numbers of V."""
    B, V = draw(st.sampled_from(SHAPES))
    seed = draw(SEEDS)
    return LogitsCase(_logits(np.random.default_rng(seed), B, V), draw(st.sampled_from(numbers(V))), seed)


@st.composite
def histories(
    draw,
    numbers: Sequence[Any] = (None,),
    shapes: Sequence[tuple[int, int, int]] = ((1, 2, 4), (2, 3, 5)),
) -> HistoryCase:
    """Logits after tokens, and one of the numbers; shapes are B, V, M."""
    B, V, M = draw(st.sampled_from(shapes))
    length = draw(st.integers(1, M))
    step = draw(st.integers(0, length - 1))
    seed = draw(SEEDS)
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, V, (B, M)).astype(np.int32)
    tokens[np.arange(M) < rng.integers(0, length - step, (B, 1))] = HOLE
    tokens[:, length:] = HOLE
    return HistoryCase(_logits(rng, B, V), draw(st.sampled_from(numbers)), seed, tokens, length, step)


class LogitsSubject(Subject):
    """A function of logits that keeps their shape: JAX arrays in, float [B, V] first."""

    def __call__(self, logits: np.ndarray, *rest: Any) -> np.ndarray:
        """The output, of the shape that it must have; raises ``Refused`` for what the function raises."""
        return of_shape(super().__call__(logits, *rest), logits.shape, "[B, V]")


def dtype_stays(f: LogitsSubject, logits: np.ndarray, *rest: Any, atol: float = 0.0) -> None:
    """Raises ``Violation`` unless bfloat16 logits give bfloat16, with the values that float32 gives."""
    half = logits.astype(jnp.bfloat16)
    out = f(half, *rest)
    if out.dtype != jnp.bfloat16:
        raise Violation(f"dtype: got {out.dtype}, wanted bfloat16")
    same(out, f(half.astype(np.float32), *rest), atol=atol, what="output in bfloat16")


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Their softmax in float64."""
    mass = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return mass / mass.sum(-1, keepdims=True)
