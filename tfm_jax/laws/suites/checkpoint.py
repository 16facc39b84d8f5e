"""The laws of checkpoints, ``save_and_load(key, tokens) -> (before, after)``."""

import dataclasses

import jax
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import Suite, Violation, assert_close, law
from tfm_jax.laws.subject import Subject, unpack
from tfm_jax.laws.suites.cases.tokens import IDS

__all__ = ["SavedCase", "SavedSubject", "checkpoint"]


@dataclasses.dataclass(frozen=True)
class SavedCase:
    """The seed of a model, and its input."""

    seed: int
    tokens: np.ndarray  # int32 [1, 3]

    def __str__(self) -> str:
        return f"key = jax.random.key({self.seed}), tokens = {self.tokens.tolist()}"


@st.composite
def cases(draw) -> SavedCase:
    """A random seed and three random tokens."""
    seed = draw(strategies.seeds())
    return SavedCase(seed, draw(strategies.tokens(1, 3, vocab_size=IDS, seed=seed)))


class SavedSubject(Subject):
    """A save and load of a model, ``function(key, tokens)``.

    Args:
      function: takes a key and int32 tokens [B, T]; initializes a model with the key, saves it, loads it into
        a model initialized with another key, and returns the outputs of both models.
    """

    def __call__(self, x: SavedCase, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The outputs before saving and after loading."""
        key = jax.random.key(x.seed if seed is None else seed)
        return unpack(super().__call__(key, x.tokens), "outputs before, outputs after")


@law(cases())
def round_trip_is_exact(round_trip: SavedSubject, x: SavedCase) -> None:
    """A loaded model gives the outputs of the saved one, bit for bit."""
    before, after = round_trip(x)
    assert_close(after, before, what="outputs of the loaded model")


@law(cases())
def different_models_differ(round_trip: SavedSubject, x: SavedCase) -> None:
    """Models with different parameters give different outputs after loading."""
    (_, first), (_, second) = round_trip(x), round_trip(x, x.seed + 1)
    if np.abs(first.astype(np.float64) - second).max() < 1e-6:
        raise Violation("outputs of two loaded models: got the same; wanted others")


checkpoint = Suite(
    "checkpoint",
    f"save_and_load(key, tokens int [B, T], ids from 0 to {IDS - 1}) -> (outputs before saving, "
    "outputs after loading into a model initialized with another key)",
    SavedSubject,
    (round_trip_is_exact, different_models_differ),
)
