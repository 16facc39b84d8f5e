"""The laws of a Transformer block, ``block(x) -> x``, with its residual connections and norms."""

import dataclasses
from typing import Literal

import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import Suite, Violation, assert_close, law, show
from tfm_jax.laws.subject import AnyArray, Function, Subject, Unsupported, check_shape
from tfm_jax.laws.suites.cases.seeded import Seeded

__all__ = ["BlockCase", "BlockSubject", "block"]

TOLERANCE = 1e-4
D = 16
SHAPES = ((1, 1), (1, 2), (1, 3), (2, 3))  # B, T, the simplest first


@dataclasses.dataclass(frozen=True)
class BlockCase(Seeded):
    """The argument of one call."""

    x: np.ndarray  # float32 [B, T, 16]
    seed: int

    def __str__(self) -> str:
        return f"B = {self.x.shape[0]}, T = {self.x.shape[1]}, D = {D}\nx = {show(self.x)}"


@st.composite
def cases(draw, min_batch: int = 1, min_length: int = 1) -> BlockCase:
    """Random vectors near 1."""
    B, T = draw(st.sampled_from([(B, T) for B, T in SHAPES if min_batch <= B and min_length <= T]))
    seed = draw(strategies.seeds())
    return BlockCase(draw(strategies.normal((B, T, D), seed=seed)), seed)


class BlockSubject(Subject):
    """A Transformer block, ``function(x)``.

    Args:
      function: takes float32 x [B, T, 16] and returns an array like it; without masks, positions and dropout.
      norm: the placement of its norm: "pre", ``x + f(norm(x))``, also of parallel sublayers, or "post",
        ``norm(x + f(x))``, with scale 1. None leaves ``residual_and_norm`` out.

    Raises:
      ValueError: for another ``norm``.
    """

    def __init__(self, function: Function, *, norm: Literal["pre", "post"] | None = "pre"):
        if norm not in ("pre", "post", None):
            raise ValueError(f"laws.block: got norm={norm!r}; wanted 'pre', 'post' or None")
        super().__init__(function)
        self.norm = norm

    def __call__(self, x: AnyArray) -> np.ndarray:
        """The output, its shape checked."""
        return check_shape(super().__call__(x), np.shape(x), "[B, T, D]")


@law(cases())
def layers_compose(block: BlockSubject, case: BlockCase) -> None:
    """The output is finite float32 with the shape of the input, so the next block can take it."""
    out = case.x
    for times in ("once", "twice"):
        out = block(out)
        if out.dtype != np.float32 or not np.isfinite(out).all():
            raise Violation(f"applied {times}: got {out.dtype} {show(out)}; wanted finite float32")


@law(cases(min_length=2))
def context_matters(block: BlockSubject, case: BlockCase) -> None:
    """Changing one vector changes the outputs at the other positions."""
    moved = case.x.copy()
    moved[:, 0] = case.rng.standard_normal(D)
    apart = np.abs(block(moved)[:, 1:].astype(np.float64) - block(case.x)[:, 1:]).max(-1)
    if not (apart > 1e-6).all():
        raise Violation(
            f"outputs after position 0, with another vector there: got changes of {show(apart)}; "
            "wanted more than 0"
        )


@law(cases(min_length=2))
def permutation_equivariance(block: BlockSubject, case: BlockCase) -> None:
    """Without positions and masks, permuting the input vectors permutes the outputs."""
    order = case.rng.permutation(case.x.shape[1])
    got = block(case.x[:, order])
    what = f"outputs of the vectors in the order {order.tolist()}"
    assert_close(got, block(case.x)[:, order], atol=TOLERANCE, what=what)


@law(cases(min_batch=2))
def examples_are_independent(block: BlockSubject, case: BlockCase) -> None:
    """An example gives the same output in a batch as alone."""
    alone = [block(example[None]) for example in case.x]
    assert_close(block(case.x), np.concatenate(alone), atol=TOLERANCE)


@law(cases())
def large_inputs(block: BlockSubject, case: BlockCase) -> None:
    """Inputs of tens of thousands do not overflow."""
    out = block(case.x * np.float32(1e4))
    if not np.isfinite(out).all():
        raise Violation(f"output of x * 10,000: got {show(out)}; wanted finite numbers")


@law(cases())
def residual_and_norm(block: BlockSubject, case: BlockCase) -> None:
    """A pre-norm block adds to its input; the output of a post-norm block is normalized."""
    if block.norm is None:
        raise Unsupported("norm is None; pass norm='pre' or norm='post'")
    if block.norm == "pre":
        # The block adds a function of normalized vectors, which is small compared with large inputs.
        large = case.x * np.float32(1e4)
        assert_close(block(large) / 1e4, case.x, atol=0.01, what="output of x * 10,000, divided by 10,000")
    else:
        square = np.square(block(case.x).astype(np.float64)).mean(-1)
        assert_close(square, 1, atol=0.01, what="mean squares of the output")


@law(cases())
def compiled_matches_eager(block: BlockSubject, case: BlockCase) -> None:
    """Under jit the output is that of the plain call."""
    got = block.run(lambda: np.asarray(block.compiled(case.x)))
    assert_close(got, block(case.x), atol=TOLERANCE, what="output under jit")


block = Suite(
    "block",
    f"block(x float32 [B, T, {D}]) -> [B, T, {D}]",
    BlockSubject,
    (
        layers_compose,
        context_matters,
        permutation_equivariance,
        examples_are_independent,
        large_inputs,
        residual_and_norm,
        compiled_matches_eager,
    ),
)
