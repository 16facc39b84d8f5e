"""What the cases of all suites have in common."""

import numpy as np
from hypothesis import strategies as st

__all__ = ["SEEDS", "Seeded"]

SEEDS = st.integers(0, 10**4)


class Seeded:
    """A case with a seed, by which a law draws what it needs beside the arguments."""

    seed: int

    @property
    def rng(self) -> np.random.Generator:
        """Draws what the law needs: the same for the same case."""
        return np.random.default_rng(self.seed + 1)
