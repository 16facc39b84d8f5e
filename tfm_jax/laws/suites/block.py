"""The laws of one layer of the Transformer: of any ``block(x) -> x``, Add & Norm included."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import Suite, Violation, law, same, show
from tfm_jax.laws.subject import Refused, Subject, of_shape
from tfm_jax.laws.suites.cases.seeded import SEEDS, Seeded

__all__ = ["BlockCase", "BlockSubject", "block"]

TOLERANCE = 1e-4
D = 16
SHAPES = ((1, 1), (1, 2), (1, 3), (2, 3))  # B, T, the simplest first


@dataclasses.dataclass(frozen=True)
class BlockCase(Seeded):
    """Arguments of one call, and what a law wants beside them."""

    x: np.ndarray  # float32 [B, T, 16]
    seed: int

    def __str__(self) -> str:
        return f"B = {self.x.shape[0]}, T = {self.x.shape[1]}, D = {D}\nx = {show(self.x)}"


@st.composite
def cases(draw, rows: int = 1, tokens: int = 1) -> BlockCase:
    """Vectors near 1, in at least so many rows of at least so many tokens."""
    B, T = draw(st.sampled_from([(B, T) for B, T in SHAPES if rows <= B and tokens <= T]))
    seed = draw(SEEDS)
    x = np.random.default_rng(seed).standard_normal((B, T, D)).round(1)
    return BlockCase(x.astype(np.float32), seed)


class BlockSubject(Subject):
    """A function of x [B, T, D], asked as the laws of a layer ask it.

    Args:
      function: takes float32 x [B, T, 16] and gives as much; without masks, positions and dropout.
      norm: where its norm stands: "pre", ``x + f(norm(x))``, also of sublayers side by side, or "post",
        ``norm(x + f(x))``, the scale at 1; None leaves the law of it unasked.
    """

    def __init__(self, function: Callable[..., Any], *, norm: Literal["pre", "post"] | None = "pre"):
        if norm not in ("pre", "post", None):
            raise ValueError(f"norm must be 'pre', 'post' or None, got {norm!r}")
        super().__init__(function)
        self.norm = norm

    def __call__(self, x: Any) -> np.ndarray:
        """The output, of the shape that it must have; raises ``Refused`` for what the function raises."""
        return of_shape(super().__call__(x), np.shape(x), "[B, T, D]")


@law(cases())
def layers_stack(block: BlockSubject, case: BlockCase) -> None:
    """What comes out is shaped like what went in, and float32: the next layer can read it."""
    out = case.x
    for times in ("once", "twice"):
        out = block(out)
        if out.dtype != np.float32 or not np.isfinite(out).all():
            raise Violation(f"run {times}: got {out.dtype} {show(out)}, wanted finite float32")


@law(cases(tokens=2))
def context(block: BlockSubject, case: BlockCase) -> None:
    """The same vector in another context becomes another vector."""
    moved = case.x.copy()
    moved[:, 0] = case.rng.standard_normal(D)
    apart = np.abs(block(moved)[:, 1:].astype(np.float64) - block(case.x)[:, 1:]).max(-1)
    if not (apart > 1e-6).all():
        raise Violation(
            f"with another vector at 0, those after it changed by {show(apart)}, wanted more than 0"
        )


@law(cases(tokens=2))
def order_of_tokens(block: BlockSubject, case: BlockCase) -> None:
    """Without positions and masks, vectors in another order come out in that order."""
    order = case.rng.permutation(case.x.shape[1])
    got = block(case.x[:, order])
    same(got, block(case.x)[:, order], atol=TOLERANCE, what=f"vectors in the order {order.tolist()}")


@law(cases(rows=2))
def rows_of_a_batch(block: BlockSubject, case: BlockCase) -> None:
    """A row of a batch gives what it gives alone."""
    alone = [block(row[None]) for row in case.x]
    same(block(case.x), np.concatenate(alone), atol=TOLERANCE)


@law(cases())
def large_inputs(block: BlockSubject, case: BlockCase) -> None:
    """Vectors of ten thousands overflow nothing."""
    out = block(case.x * np.float32(1e4))
    if not np.isfinite(out).all():
        raise Violation(f"of x * 10,000: got {show(out)}, wanted finite numbers")


@law(cases())
def add_and_norm(block: BlockSubject, case: BlockCase) -> None:
    """Pre-norm, a vector passes on beside what is added to it; post-norm, what comes out is normalised."""
    if block.norm is None:
        raise Refused("say norm='pre' or norm='post'")
    if block.norm == "pre":
        # What is added is of normalised vectors: small beside these.
        far = case.x * np.float32(1e4)
        same(block(far) / 1e4, case.x, atol=0.01, what="output of x * 10,000, divided by 10,000")
    else:
        square = np.square(block(case.x).astype(np.float64)).mean(-1)
        same(square, 1, atol=0.01, what="mean squares of the output")


@law(cases())
def compiled_is_eager(block: BlockSubject, case: BlockCase) -> None:
    """jit gives what the plain call gives."""
    got = block.given(lambda: np.asarray(block.compiled(case.x)))
    same(got, block(case.x), atol=TOLERANCE, what="output under jit")


block = Suite(
    "block",
    f"block(x float32 [B, T, {D}]) -> [B, T, {D}]",
    BlockSubject,
    (layers_stack, context, order_of_tokens, rows_of_a_batch, large_inputs, add_and_norm, compiled_is_eager),
)
