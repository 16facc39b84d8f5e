"""The laws of dropout in a stack of layers: of any ``kept(key) -> [L, n]``."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tfm_jax.laws.law import Suite, Violation, law, same
from tfm_jax.laws.subject import Subject
from tfm_jax.laws.suites.cases.seeded import SEEDS

__all__ = ["KeyCase", "LayerDropoutSubject", "layer_dropout"]

SMALLEST = 256
"""Elements a layer: so many that two draws are never the same by chance."""


@dataclasses.dataclass(frozen=True)
class KeyCase:
    """The seed of a key."""

    seed: int

    @property
    def key(self) -> Any:
        """The key."""
        return jax.random.key(self.seed)

    def __str__(self) -> str:
        return f"key = jax.random.key({self.seed})"


cases = SEEDS.map(KeyCase)


class LayerDropoutSubject(Subject):
    """A stack with dropout, asked as its laws ask it.

    Args:
      function: takes a key; gives float [L, n], what the dropout of each of L layers leaves of n ones: 0
        where it dropped, n at least 256. Where a layer has several dropouts, each may count as one.
      rate: the probability of a 0.
    """

    def __init__(self, function: Callable[..., Any], *, rate: float = 0.1):
        super().__init__(function)
        self.rate = rate

    def __call__(self, case: KeyCase, key: Any = None) -> np.ndarray:
        """What is left, of a shape that says something; raises ``Refused`` for what the function raises."""
        out = super().__call__(case.key if key is None else key)
        if out.ndim != 2 or out.shape[1] < SMALLEST:
            raise Violation(f"shape: got {list(out.shape)}, wanted [L, n], n at least {SMALLEST}")
        return out


@law(cases)
def same_key_same_dropout(kept: LayerDropoutSubject, case: KeyCase) -> None:
    """The same key drops the same elements."""
    same(kept(case), kept(case), what="what is kept by the same key")


@law(cases)
def another_key_another_dropout(kept: LayerDropoutSubject, case: KeyCase) -> None:
    """Another key drops other elements, in every layer."""
    now, then = kept(case), kept(case, jax.random.fold_in(case.key, 1))
    alike = np.flatnonzero((now == then).all(1)).tolist()
    if alike:
        raise Violation(f"with another key, layers {alike} drop the same")


@law(cases)
def another_layer_another_dropout(kept: LayerDropoutSubject, case: KeyCase) -> None:
    """No two layers drop the same elements."""
    out = kept(case)
    for i in range(len(out)):
        for j in range(i):
            if (out[i] == out[j]).all():
                raise Violation(f"layers {j} and {i} drop the same elements")


@law(cases)
def rate(kept: LayerDropoutSubject, case: KeyCase) -> None:
    """The share of what is dropped is the rate."""
    out = kept(case)
    share, spread = (out == 0).mean(), np.sqrt(kept.rate * (1 - kept.rate) / out.size)
    if abs(share - kept.rate) > 6 * spread:
        raise Violation(
            f"dropped {share:.4f} of {out.size}, wanted {kept.rate}, give or take {6 * spread:.4f}"
        )


@law(cases)
def the_mean_stays(kept: LayerDropoutSubject, case: KeyCase) -> None:
    """What is kept is divided by the share that is kept, so that the mean stays."""
    out = kept(case)
    same(out, np.where(out == 0, 0, 1 / (1 - kept.rate)), atol=1e-5, what="what is kept")


layer_dropout = Suite(
    "layer_dropout",
    "kept(key) -> float [L, n], what the dropout of each of L layers leaves of n ones, n at least "
    f"{SMALLEST}",
    LayerDropoutSubject,
    (
        same_key_same_dropout,
        another_key_another_dropout,
        another_layer_another_dropout,
        rate,
        the_mean_stays,
    ),
)
