"""The laws of dropout in a stack of layers, ``kept(key) -> [L, n]``."""

import dataclasses
from typing import Any

import jax
import numpy as np

from tfm_jax.laws import strategies
from tfm_jax.laws.law import Suite, Violation, assert_close, law
from tfm_jax.laws.subject import Function, Subject

__all__ = ["KeyCase", "LayerDropoutSubject", "layer_dropout"]

MIN_ELEMENTS = 256
"""Elements per layer, so many that two independent draws always differ."""


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


cases = strategies.seeds().map(KeyCase)


class LayerDropoutSubject(Subject):
    """The dropout of a stack of layers, ``function(key)``.

    Args:
      function: takes a key; returns float [L, n], the dropout of each of L layers applied to n ones, n at
        least 256. Each dropout of a layer may count as one.
      rate: the dropout rate.
    """

    def __init__(self, function: Function, *, rate: float = 0.1):
        super().__init__(function)
        self.rate = rate

    def __call__(self, case: KeyCase, key: Any = None) -> np.ndarray:
        """The output, its shape checked."""
        out = super().__call__(case.key if key is None else key)
        if out.ndim != 2 or out.shape[1] < MIN_ELEMENTS:
            raise Violation(f"shape: got {list(out.shape)}; wanted [L, n], n at least {MIN_ELEMENTS}")
        return out


@law(cases)
def same_key_same_mask(kept: LayerDropoutSubject, case: KeyCase) -> None:
    """The same key drops the same elements."""
    assert_close(kept(case), kept(case), what="output of the second call with the same key")


@law(cases)
def different_keys_differ(kept: LayerDropoutSubject, case: KeyCase) -> None:
    """Different keys drop different elements in every layer."""
    first, second = kept(case), kept(case, jax.random.fold_in(case.key, 1))
    equal = np.flatnonzero((first == second).all(1)).tolist()
    if equal:
        raise Violation(f"dropped elements: got the same in layers {equal} for two keys; wanted others")


@law(cases)
def layers_differ(kept: LayerDropoutSubject, case: KeyCase) -> None:
    """No two layers drop the same elements."""
    out = kept(case)
    for i in range(len(out)):
        for j in range(i):
            if (out[i] == out[j]).all():
                raise Violation(f"dropped elements: got the same in layers {j} and {i}; wanted others")


@law(cases)
def dropped_fraction_is_the_rate(kept: LayerDropoutSubject, case: KeyCase) -> None:
    """The fraction of dropped elements is the rate."""
    out = kept(case)
    fraction, error = (out == 0).mean(), 6 * np.sqrt(kept.rate * (1 - kept.rate) / out.size)
    if abs(fraction - kept.rate) > error:
        raise Violation(f"dropped: got {fraction:.4f} of {out.size}; wanted {kept.rate} +- {error:.4f}")


@law(cases)
def kept_elements_are_scaled(kept: LayerDropoutSubject, case: KeyCase) -> None:
    """Kept elements are divided by 1 - rate, which preserves the expectation."""
    out = kept(case)
    assert_close(out, np.where(out == 0, 0, 1 / (1 - kept.rate)), atol=1e-5, what="kept elements")


layer_dropout = Suite(
    "layer_dropout",
    "kept(key) -> float [L, n], the dropout of each of L layers applied to n ones, n at least "
    f"{MIN_ELEMENTS}",
    LayerDropoutSubject,
    (
        same_key_same_mask,
        different_keys_differ,
        layers_differ,
        dropped_fraction_is_the_rate,
        kept_elements_are_scaled,
    ),
)
