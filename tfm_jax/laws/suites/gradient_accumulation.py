"""The laws of gradients added up: over microbatches, one after the other, and over devices, side by side."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import Suite, law, same, show
from tfm_jax.laws.subject import Subject, of_shape
from tfm_jax.laws.suites.cases.seeded import SEEDS, Seeded

__all__ = ["BatchCase", "BatchSubject", "data_parallel", "gradient_accumulation"]

TOLERANCE = 1e-4
# n examples, D features, pieces: the simplest first; n divides by 8, the devices that may share them.
SIZES = ((8, 1, 1), (8, 1, 2), (8, 1, 4), (8, 3, 8), (16, 3, 4))


@dataclasses.dataclass(frozen=True)
class BatchCase(Seeded):
    """Arguments of one call, and what a law wants beside them."""

    w: np.ndarray  # float32 [D]
    x: np.ndarray  # float32 [n, D]
    y: np.ndarray  # float32 [n]
    weights: np.ndarray  # float32 [n], 0 for an example that does not count
    pieces: int
    seed: int

    @property
    def gradient(self) -> np.ndarray:
        """By w, of sum(weights * (x @ w - y) ** 2) / sum(weights), in float64; 0 where nothing counts."""
        w, x, y, weights = (z.astype(np.float64) for z in (self.w, self.x, self.y, self.weights))
        return 2 * (weights * (x @ w - y)) @ x / (weights.sum() or 1)

    def __str__(self) -> str:
        lines = [f"n = {len(self.x)}, D = {len(self.w)}, pieces = {self.pieces}"]
        lines += [f"{name} = {show(getattr(self, name))}" for name in ("weights", "w", "x", "y")]
        return "\n".join(lines)


@st.composite
def cases(draw) -> BatchCase:
    """Examples of which some count for more and some for nothing, but at least one for something."""
    n, D, pieces = draw(st.sampled_from(SIZES))
    seed = draw(SEEDS)
    rng = np.random.default_rng(seed)
    w, x, y = (rng.standard_normal(shape).round(1).astype(np.float32) for shape in (D, (n, D), n))
    counts = st.lists(st.sampled_from([1.0, 0.0, 5.0]), min_size=n, max_size=n).filter(any)
    return BatchCase(w, x, y, np.array(draw(counts), np.float32), pieces, seed)


class BatchSubject(Subject):
    """A function that gives the gradient of a batch, asked as its laws ask it.

    Args:
      function: takes w [D], x [n, D], y [n], weights [n], and the number of pieces where it ``accumulates``;
        gives [D].
      accumulates: whether it is told how many pieces.
    """

    def __init__(self, function: Callable[..., Any], *, accumulates: bool = True):
        super().__init__(function)
        self.accumulates = accumulates

    def __call__(self, x: BatchCase) -> np.ndarray:
        """The gradient, of the shape that it must have; raises ``Refused`` for what the function raises."""
        return of_shape(super().__call__(x.w, x.x, x.y, x.weights, pieces=x.pieces), x.w.shape, "[D]")

    def raw(self, *batch: Any, pieces: Any) -> Any:
        """The function itself."""
        return self.function(*batch, *([int(pieces)] if self.accumulates else []))


@law(cases())
def large_batch(gradient: BatchSubject, x: BatchCase) -> None:
    """In pieces the gradient is that of the whole batch, however unevenly the weight is spread over them."""
    same(gradient(x), x.gradient, atol=TOLERANCE, what="gradient")


@law(cases())
def order_of_examples(gradient: BatchSubject, x: BatchCase) -> None:
    """The same examples in another order, so in other pieces, give the same gradient."""
    order = x.rng.permutation(len(x.x))
    other = dataclasses.replace(x, x=x.x[order], y=x.y[order], weights=x.weights[order])
    same(gradient(other), gradient(x), atol=TOLERANCE, what=f"gradient in the order {order.tolist()}")


@law(cases())
def ignored_examples(gradient: BatchSubject, x: BatchCase) -> None:
    """What an example of weight 0 says changes nothing."""
    ignored = x.weights == 0
    other = dataclasses.replace(x, y=np.where(ignored, x.y + 9, x.y), x=np.where(ignored[:, None], 1, x.x))
    same(
        gradient(other),
        gradient(x),
        atol=TOLERANCE,
        what="gradient with other examples where the weight is 0",
    )


@law(cases())
def only_shares_of_weight(gradient: BatchSubject, x: BatchCase) -> None:
    """All weights doubled change nothing: the sum is divided by their sum."""
    other = dataclasses.replace(x, weights=2 * x.weights)
    same(gradient(other), gradient(x), atol=TOLERANCE, what="gradient with all weights doubled")


@law(cases())
def nothing_counts(gradient: BatchSubject, x: BatchCase) -> None:
    """A batch in which nothing counts has the gradient 0."""
    same(gradient(dataclasses.replace(x, weights=0 * x.weights)), 0, what="gradient with all weights 0")


LAWS = (large_batch, order_of_examples, ignored_examples, only_shares_of_weight, nothing_counts)
LOSS = "by w of sum(weights * (x @ w - y) ** 2) / sum(weights)"

gradient_accumulation = Suite(
    "gradient_accumulation",
    "gradient(w float32 [D], x [n, D], y [n], weights [n], pieces int) -> [D], the gradient "
    f"{LOSS}, made of so many pieces of n / pieces examples",
    BatchSubject,
    LAWS,
)

data_parallel = Suite(
    "data_parallel",
    f"gradient(w float32 [D], x [n, D], y [n], weights [n]) -> [D], the gradient {LOSS}, made on several "
    "devices, n / devices examples on each; n is a multiple of 8",
    lambda function, **options: BatchSubject(function, accumulates=False, **options),
    LAWS,
)
"""The laws of gradients that are made on several devices."""
