"""The law of checkpoints: of any ``saved_and_loaded(key, tokens) -> (before, after)``."""

import dataclasses

import jax
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import Suite, Violation, law, same
from tfm_jax.laws.subject import Subject, of_parts
from tfm_jax.laws.suites.cases.seeded import SEEDS
from tfm_jax.laws.suites.cases.tokens import IDS

__all__ = ["SavedCase", "SavedSubject", "checkpoint"]


@dataclasses.dataclass(frozen=True)
class SavedCase:
    """The seed of a model, and what it reads."""

    seed: int
    tokens: np.ndarray  # int32 [1, 3]

    def __str__(self) -> str:
        return f"key = jax.random.key({self.seed}), tokens = {self.tokens.tolist()}"


@st.composite
def cases(draw) -> SavedCase:
    """A seed, and three tokens."""
    seed = draw(SEEDS)
    return SavedCase(seed, np.random.default_rng(seed).integers(0, IDS, (1, 3)).astype(np.int32))


class SavedSubject(Subject):
    """What saves a model and loads it, asked as its laws ask it.

    Args:
      function: takes a key and int32 tokens [B, T]; makes a model of random parameters, saves it, loads it
        into a model made of another key, and gives the outputs of both.
    """

    def __call__(self, x: SavedCase, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The outputs before and after."""
        key = jax.random.key(x.seed if seed is None else seed)
        return of_parts(super().__call__(key, x.tokens), "outputs before, outputs after")


@law(cases())
def loaded_is_saved(round_trip: SavedSubject, x: SavedCase) -> None:
    """What is loaded gives what was saved, to the last bit."""
    before, after = round_trip(x)
    same(after, before, what="outputs of the loaded model")


@law(cases())
def another_is_another(round_trip: SavedSubject, x: SavedCase) -> None:
    """A model of other parameters, saved and loaded, is another one: nothing is left of the first."""
    (_, first), (_, second) = round_trip(x), round_trip(x, x.seed + 1)
    if np.abs(first.astype(np.float64) - second).max() < 1e-6:
        raise Violation("two models of different parameters give the same after loading")


checkpoint = Suite(
    "checkpoint",
    f"saved_and_loaded(key, tokens int [B, T], ids from 0 to {IDS - 1}) -> (outputs before saving, "
    "outputs after loading into a model made of another key)",
    SavedSubject,
    (loaded_is_saved, another_is_another),
)
