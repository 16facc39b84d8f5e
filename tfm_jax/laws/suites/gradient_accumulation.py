"""The laws of gradients that are summed over microbatches or over devices."""

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import Suite, assert_close, law, show
from tfm_jax.laws.subject import Function, Subject, check_shape
from tfm_jax.laws.suites.cases.seeded import Seeded

__all__ = ["BatchCase", "BatchSubject", "data_parallel", "gradient_accumulation"]

TOLERANCE = 1e-4
# n examples, D features, microbatches: the simplest first. n is a multiple of 8, for up to 8 devices.
SIZES = ((8, 1, 1), (8, 1, 2), (8, 1, 4), (8, 3, 8), (16, 3, 4))


@dataclasses.dataclass(frozen=True)
class BatchCase(Seeded):
    """A batch of weighted examples for linear regression."""

    w: np.ndarray  # float32 [D]
    x: np.ndarray  # float32 [n, D]
    y: np.ndarray  # float32 [n]
    weights: np.ndarray  # float32 [n], 0 for an ignored example
    microbatches: int
    seed: int

    @property
    def gradient(self) -> np.ndarray:
        """The gradient by w of the weighted mean of (x @ w - y) ** 2, in float64; 0 if all weights are 0."""
        w, x, y, weights = (z.astype(np.float64) for z in (self.w, self.x, self.y, self.weights))
        return 2 * (weights * (x @ w - y)) @ x / (weights.sum() or 1)

    def __str__(self) -> str:
        lines = [f"n = {len(self.x)}, D = {len(self.w)}, microbatches = {self.microbatches}"]
        lines += [f"{name} = {show(getattr(self, name))}" for name in ("weights", "w", "x", "y")]
        return "\n".join(lines)


@st.composite
def cases(draw) -> BatchCase:
    """Random examples with weights of 1, 0 and 5, not all 0."""
    n, D, microbatches = draw(st.sampled_from(SIZES))
    seed = draw(strategies.seeds())
    rng = np.random.default_rng(seed)
    w, x, y = (draw(strategies.normal(shape, seed=rng)) for shape in ((D,), (n, D), (n,)))
    weights = strategies.per_element(st.sampled_from([1.0, 0.0, 5.0]), (n,), np.float32).filter(np.any)
    return BatchCase(w, x, y, draw(weights), microbatches, seed)


class BatchSubject(Subject):
    """The gradient of a batch, ``function(w, x, y, weights, microbatches)``.

    Args:
      function: takes w [D], x [n, D], y [n], weights [n], and the number of microbatches if ``accumulates``;
        returns [D].
      accumulates: whether the function takes the number of microbatches.
    """

    def __init__(self, function: Function, *, accumulates: bool = True):
        super().__init__(function)
        self.accumulates = accumulates

    def __call__(self, x: BatchCase) -> np.ndarray:
        """The gradient, its shape checked."""
        out = super().__call__(x.w, x.x, x.y, x.weights, microbatches=x.microbatches)
        return check_shape(out, x.w.shape, "[D]")

    def raw(self, *batch: Any, microbatches: Any) -> Any:
        """The function, called with a Python int, or without the number of microbatches."""
        return self.function(*batch, *([int(microbatches)] if self.accumulates else []))


@law(cases())
def matches_full_batch(gradient: BatchSubject, x: BatchCase) -> None:
    """The gradient is that of the full batch, however unevenly the weights are distributed."""
    assert_close(gradient(x), x.gradient, atol=TOLERANCE, what="gradient")


@law(cases())
def permutation_invariance(gradient: BatchSubject, x: BatchCase) -> None:
    """Permuting the examples, also across microbatches, does not change the gradient."""
    order = x.rng.permutation(len(x.x))
    other = dataclasses.replace(x, x=x.x[order], y=x.y[order], weights=x.weights[order])
    assert_close(gradient(other), gradient(x), atol=TOLERANCE, what=f"gradient in the order {order.tolist()}")


@law(cases())
def zero_weight_examples_are_ignored(gradient: BatchSubject, x: BatchCase) -> None:
    """Examples of weight 0 do not change the gradient."""
    ignored = x.weights == 0
    other = dataclasses.replace(x, y=np.where(ignored, x.y + 9, x.y), x=np.where(ignored[:, None], 1, x.x))
    assert_close(
        gradient(other),
        gradient(x),
        atol=TOLERANCE,
        what="gradient with other examples where the weight is 0",
    )


@law(cases())
def weight_scale_invariance(gradient: BatchSubject, x: BatchCase) -> None:
    """Doubling all weights does not change the gradient: the sum is divided by their sum."""
    other = dataclasses.replace(x, weights=2 * x.weights)
    assert_close(gradient(other), gradient(x), atol=TOLERANCE, what="gradient with all weights doubled")


@law(cases(), severity="contract")
def zero_total_weight(gradient: BatchSubject, x: BatchCase) -> None:
    """A batch whose weights are all 0 has gradient 0, not NaN."""
    got = gradient(dataclasses.replace(x, weights=0 * x.weights))
    assert_close(got, 0, what="gradient with all weights 0")


LAWS = (
    matches_full_batch,
    permutation_invariance,
    zero_weight_examples_are_ignored,
    weight_scale_invariance,
    zero_total_weight,
)
LOSS = "by w of sum(weights * (x @ w - y) ** 2) / sum(weights)"

gradient_accumulation = Suite(
    "gradient_accumulation",
    "gradient(w float32 [D], x [n, D], y [n], weights [n], microbatches int) -> [D], the gradient "
    f"{LOSS}, accumulated over microbatches of n / microbatches examples",
    BatchSubject,
    LAWS,
)

data_parallel = Suite(
    "data_parallel",
    f"gradient(w float32 [D], x [n, D], y [n], weights [n]) -> [D], the gradient {LOSS}, computed on several "
    "devices, n / devices examples on each; n is a multiple of 8",
    lambda function, **options: BatchSubject(function, accumulates=False, **options),
    LAWS,
)
"""The laws of data-parallel gradients."""
