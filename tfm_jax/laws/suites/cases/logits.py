"""Cases of functions of logits, with and without the tokens before them, and their subject."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import Violation, assert_close, show
from tfm_jax.laws.subject import Subject, check_shape
from tfm_jax.laws.suites.cases.seeded import Seeded

__all__ = [
    "PADDING",
    "HistoryCase",
    "LogitsCase",
    "LogitsSubject",
    "assert_dtype_preserved",
    "cases",
    "histories",
    "softmax",
]

SHAPES = ((1, 2), (2, 5))  # B, V, the simplest first
PADDING = -1
"""The id at a position without a token: left padding, or past the length."""


@dataclasses.dataclass(frozen=True)
class LogitsCase(Seeded):
    """Logits near 0, multiples of 1/8, all different within an example; and a number such as p."""

    logits: np.ndarray  # float32 [B, V]
    number: Any
    seed: int

    @property
    def some_masked(self) -> np.ndarray:
        """The logits with some tokens masked (-inf), never the most likely one of an example."""
        masked = self.rng.random(self.logits.shape) < 0.4
        return np.where(masked & (self.logits < self.logits.max(-1, keepdims=True)), -np.inf, self.logits)

    @property
    def tied(self) -> np.ndarray:
        """The logits with two equal tokens in each example."""
        tied = self.logits.copy()
        for row, logits in zip(tied, self.logits, strict=True):
            a, b = self.rng.permutation(len(row))[:2]
            row[a] = logits[b]
        return tied

    def __str__(self) -> str:
        B, V = self.logits.shape
        argument = "" if self.number is None else f"; called with {self.number}"
        return f"B = {B}, V = {V}{argument}\nlogits = {show(self.logits)}"


@dataclasses.dataclass(frozen=True)
class HistoryCase(LogitsCase):
    """Logits and the tokens before them: left padding, the tokens, and padding past the length."""

    tokens: np.ndarray  # int32 [B, M]
    length: int  # the number of positions so far, left padding included; at least 1
    step: int  # the number of generated tokens among them

    @property
    def V(self) -> int:
        """The size of the vocabulary."""
        return self.logits.shape[1]

    @property
    def sequences(self) -> list[list[int]]:
        """The tokens of each example so far, padding included."""
        return self.tokens[:, : self.length].tolist()

    @property
    def counts(self) -> np.ndarray:
        """The number of occurrences of each token so far, int64 [B, V]."""
        return np.array([[sequence.count(v) for v in range(self.V)] for sequence in self.sequences])

    def __str__(self) -> str:
        history = f"tokens = {self.tokens.tolist()}, length = {self.length}, step = {self.step}"
        return f"{super().__str__()}\n{history}"


@st.composite
def cases(draw, numbers: Callable[[int], Sequence[Any]]) -> LogitsCase:
    """Logits, and one of ``numbers(V)``."""
    B, V = draw(st.sampled_from(SHAPES))
    seed = draw(strategies.seeds())
    logits = draw(strategies.distinct((B, V), seed=seed))
    return LogitsCase(logits, draw(st.sampled_from(numbers(V))), seed)


@st.composite
def histories(
    draw,
    numbers: Sequence[Any] = (None,),
    shapes: Sequence[tuple[int, int, int]] = ((1, 2, 4), (2, 3, 5)),
) -> HistoryCase:
    """Logits, the tokens before them, and one of the numbers; ``shapes`` are (B, V, M)."""
    B, V, M = draw(st.sampled_from(shapes))
    length = draw(st.integers(1, M))
    step = draw(st.integers(0, length - 1))
    seed = draw(strategies.seeds())
    rng = np.random.default_rng(seed)
    tokens = draw(strategies.tokens(B, M, vocab_size=V, seed=rng))
    tokens[np.arange(M) < rng.integers(0, length - step, (B, 1))] = PADDING
    tokens[:, length:] = PADDING
    logits = draw(strategies.distinct((B, V), seed=rng))
    return HistoryCase(logits, draw(st.sampled_from(numbers)), seed, tokens, length, step)


class LogitsSubject(Subject):
    """A function of logits [B, V], and further arguments, that returns logits [B, V]."""

    def __call__(self, logits: np.ndarray, *rest: object) -> np.ndarray:
        """The output, its shape checked."""
        return check_shape(super().__call__(logits, *rest), logits.shape, "[B, V]")


def assert_dtype_preserved(f: LogitsSubject, logits: np.ndarray, *rest: object, atol: float = 0.0) -> None:
    """Raises ``Violation`` unless bfloat16 logits give bfloat16, close to what float32 logits give."""
    half = logits.astype(jnp.bfloat16)
    out = f(half, *rest)
    if out.dtype != jnp.bfloat16:
        raise Violation(f"dtype: got {out.dtype}; wanted bfloat16")
    assert_close(out, f(half.astype(np.float32), *rest), atol=atol, what="output in bfloat16")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax in float64."""
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
