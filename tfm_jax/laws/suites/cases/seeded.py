"""``Seeded``: a case with a random generator of its own."""

import numpy as np

__all__ = ["Seeded"]


class Seeded:
    """A case with a seed, for the random numbers that a law needs besides the arguments."""

    seed: int

    @property
    def rng(self) -> np.random.Generator:
        """A new generator, the same for the same case."""
        return np.random.default_rng(self.seed + 1)
