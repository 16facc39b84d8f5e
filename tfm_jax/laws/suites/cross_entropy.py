"""The laws of cross-entropy: of any ``f(logits, labels, weights, label smoothing) -> (sum, weight)``."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import TOLERANCE, Suite, Violation, law, same, show
from tfm_jax.laws.subject import Subject, of_parts, of_shape
from tfm_jax.laws.suites.cases.seeded import SEEDS, Seeded

__all__ = ["CrossEntropyCase", "CrossEntropySubject", "cross_entropy"]

SHAPES = ((1, 1, 2), (1, 2, 3), (2, 3, 5))  # B, T, V, the simplest first
SMOOTHING = 0.2  # one value: it is a number of the program


@dataclasses.dataclass(frozen=True)
class CrossEntropyCase(Seeded):
    """Tokens with their logits, the right classes, and how much each counts."""

    logits: np.ndarray  # float32 [B, T, V]
    labels: np.ndarray  # int32 [B, T]
    weights: np.ndarray  # float32 [B, T]
    seed: int

    @property
    def some(self) -> tuple[int, int]:
        """One of the tokens, the same for the same case."""
        b, t = np.unravel_index(self.seed % self.labels.size, self.labels.shape)
        return int(b), int(t)

    def __str__(self) -> str:
        B, T, V = self.logits.shape
        lines = [f"B = {B}, T = {T}, V = {V}", f"logits = {show(self.logits)}"]
        return "\n".join([*lines, f"labels = {self.labels.tolist()}, weights = {self.weights.tolist()}"])


@st.composite
def cases(draw) -> CrossEntropyCase:
    B, T, V = draw(st.sampled_from(SHAPES))
    of = lambda what: np.array(draw(st.lists(what, min_size=B * T, max_size=B * T))).reshape(B, T)
    labels, weights = of(st.integers(0, V - 1)), of(st.sampled_from([1.0, 0.0, 0.5, 2.0]))
    seed = draw(SEEDS)
    logits = 2 * np.random.default_rng(seed).standard_normal((B, T, V)).round(1)
    return CrossEntropyCase(
        logits.astype(np.float32), labels.astype(np.int32), weights.astype(np.float32), seed
    )


class CrossEntropySubject(Subject):
    """A cross-entropy as its laws ask it.

    Args:
      function: takes JAX arrays logits [B, T, V], labels, int [B, T], and weights, float [B, T] or None for 1
        each, and the label smoothing, a number; gives the sum of the losses and the sum of the weights.
      ignore_index: the label of tokens that do not count, such as -100, where the function knows one; None to
        ask by a weight of 0 alone.
    """

    def __init__(self, function: Callable[..., Any], *, ignore_index: int | None = None):
        super().__init__(function)
        self.ignore_index = ignore_index

    def __call__(
        self, logits: Any, labels: Any, weights: Any = None, smoothing: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """(sum, weight), two scalars; raises ``Refused`` for what the function raises."""
        out = super().__call__(logits, labels, weights, smoothing)
        total, weight = of_parts(out, "sum, weight")
        return of_shape(total, (), "the sum, a scalar"), of_shape(weight, (), "the weight, a scalar")

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        """``raw`` under jit, the smoothing a number."""
        return jax.jit(self.raw, static_argnums=3)

    @functools.cached_property
    def row_by_row(self) -> Callable[..., Any]:
        """(sums [B], weights [B]) of the rows of a batch, under jit and vmap, without smoothing."""
        return jax.jit(jax.vmap(lambda *row: self.raw(*(x[None] for x in row), 0.0)))

    @functools.cached_property
    def gradient(self) -> Callable[..., Any]:
        """(logits, labels, weights, smoothing) -> by logits the gradient of the sum, under jit."""
        return jax.jit(jax.grad(lambda *inputs: self.raw(*inputs)[0]), static_argnums=3)

    def ignoring(self, x: CrossEntropyCase) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """The ways to ignore one token: in words, the labels, the weights."""
        b, t = at = x.some
        weights, labels = x.weights.copy(), x.labels.copy()
        weights[at] = 0
        ways = [(f"weight 0 at [{b}, {t}]", labels, weights)]
        if self.ignore_index is not None:
            labels = labels.copy()
            labels[at] = self.ignore_index
            ways.append((f"label {self.ignore_index} at [{b}, {t}]", labels, x.weights))
        return ways


@law(cases())
def definition(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """The sum is that of -log softmax(logits)[label], each times its weight."""
    got, _ = loss(x.logits, x.labels, x.weights)
    same(got, total(x), atol=TOLERANCE, what="sum")


@law(cases())
def weight_is_what_counts(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """The weight is the sum of the weights, and the number of tokens where there are none."""
    same(loss(x.logits, x.labels, x.weights)[1], x.weights.sum(), atol=TOLERANCE, what="weight")
    same(loss(x.logits, x.labels)[1], x.labels.size, atol=TOLERANCE, what="weight without weights")


@law(cases())
def no_weights(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """Without weights every token counts 1."""
    got, wanted = loss(x.logits, x.labels), loss(x.logits, x.labels, np.ones_like(x.weights))
    for name, ours, right in zip(("sum", "weight"), got, wanted, strict=True):
        same(ours, right, atol=TOLERANCE, what=f"{name} without weights, beside that with weights of 1")


@law(cases())
def halves_add(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """The sums and the weights of two parts add to those of the whole."""
    cut = x.labels.shape[1] // 2
    parts = [
        loss(x.logits[:, part], x.labels[:, part], x.weights[:, part])
        for part in (slice(0, cut), slice(cut, None))
        if len(range(*part.indices(x.labels.shape[1])))
    ]
    whole = loss(x.logits, x.labels, x.weights)
    for name, ours, right in zip(("sum", "weight"), np.sum(parts, 0), whole, strict=True):
        same(ours, right, atol=TOLERANCE, what=f"{name} of the parts, cut at token {cut}")


@law(cases())
def smoothing(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """Smoothing spreads its share of the target evenly over all V classes, the right one among them."""
    got, _ = loss(x.logits, x.labels, x.weights, SMOOTHING)
    same(got, total(x, share=SMOOTHING), atol=TOLERANCE, what=f"sum with a smoothing of {SMOOTHING}")


@law(cases())
def equal_logits(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """Where all classes are as likely, a token's loss is log V."""
    got, _ = loss(np.ones_like(x.logits), x.labels, x.weights)
    wanted = np.log(x.logits.shape[-1]) * x.weights.sum(dtype=np.float64)
    same(got, wanted, atol=TOLERANCE, what="sum of equal logits")


@law(cases())
def only_differences_of_logits(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """A number added to all logits of a token changes nothing."""
    number = x.rng.integers(-8, 9, (*x.labels.shape, 1)).astype(np.float32)
    got, wanted = (loss(y, x.labels, x.weights)[0] for y in (x.logits + number, x.logits))
    same(got, wanted, atol=5 * TOLERANCE, what="sum with a number added to a token's logits")


@law(cases())
def never_negative(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """Without smoothing the sum is never negative."""
    got, _ = loss(x.logits, x.labels, x.weights)
    if not got >= -TOLERANCE:
        raise Violation(f"sum: got {got:.6g}, wanted 0 or more")


@law(cases())
def classes_alike(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """No class is a special one: with other numbers for the classes, everything stays."""
    order = x.rng.permutation(x.logits.shape[-1])
    got, _ = loss(x.logits[..., order], np.argsort(order)[x.labels].astype(np.int32), x.weights)
    wanted, _ = loss(x.logits, x.labels, x.weights)
    same(got, wanted, atol=TOLERANCE, what=f"sum with the classes in the order {order.tolist()}")


@law(cases())
def large_logits(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """Logits of ten thousands overflow nothing."""
    large = dataclasses.replace(x, logits=x.logits * np.float32(1e4))
    same(loss(large.logits, x.labels, x.weights)[0], total(large), atol=1e-5, what="sum of logits * 10,000")


@law(cases())
def gradients(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """The gradient by the logits is softmax - target, times the weight."""
    got = loss.given(lambda: loss.gradient(x.logits, x.labels, x.weights, 0.0))
    same(got, slopes(x), atol=TOLERANCE, what="gradient")


@law(cases())
def gradients_of_smoothing(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """With smoothing the gradient is softmax - smoothed target, times the weight: of weight 0, nothing."""
    got = loss.given(lambda: loss.gradient(x.logits, x.labels, x.weights, SMOOTHING))
    same(got, slopes(x, SMOOTHING), atol=TOLERANCE, what=f"gradient with a smoothing of {SMOOTHING}")


@law(cases())
def ignored_tokens_change_nothing(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """A token that does not count changes neither sum nor weight; where none counts, both are 0, not nan."""
    weights, logits = x.weights.copy(), x.logits.copy()
    weights[x.some] = 0
    logits[x.some] = 1e4 * x.rng.standard_normal(logits.shape[-1])
    wanted = total(dataclasses.replace(x, weights=weights)), weights.sum()
    for words, labels, asked in loss.ignoring(x):
        got = loss(logits, labels, asked)
        for name, ours, right in zip(("sum", "weight"), got, wanted, strict=True):
            same(ours, right, atol=TOLERANCE, what=f"{name} with {words}, and large logits there")


@law(cases())
def ignored_tokens_have_no_gradient(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """A token that does not count has a gradient of exactly 0, whatever its logits."""
    logits = x.logits.copy()
    logits[x.some] = 1e4 * x.rng.standard_normal(logits.shape[-1])
    for words, labels, weights in loss.ignoring(x):
        inputs = logits, labels, weights, 0.0
        got = np.asarray(loss.given(lambda inputs=inputs: loss.gradient(*inputs)))
        same(got[x.some], 0, what=f"gradient with {words}")


@law(cases())
def computed_in_float32(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """bfloat16 logits are summed in float32, and so is what comes out."""
    half = x.logits.astype(jnp.bfloat16)
    got, _ = loss(half, x.labels, x.weights)
    if got.dtype != np.float32:
        raise Violation(f"dtype of the sum: got {got.dtype}, wanted float32")
    wanted = total(dataclasses.replace(x, logits=half.astype(np.float32)))
    same(got, wanted, atol=TOLERANCE, what="sum of logits in bfloat16")


@law(cases())
def compiled_is_eager(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """jit gives what the plain call gives; and vmap, over the rows of a batch, what adds to it."""
    plain = loss(x.logits, x.labels, x.weights)
    jitted = loss.given(lambda: loss.compiled(x.logits, x.labels, x.weights, 0.0))
    rows = loss.given(lambda: loss.row_by_row(x.logits, x.labels, x.weights))
    for i, name in enumerate(("sum", "weight")):
        same(jitted[i], plain[i], atol=TOLERANCE, what=f"{name} under jit")
        same(np.sum(rows[i]), plain[i], atol=TOLERANCE, what=f"{name} of the rows under vmap")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def targets(x: CrossEntropyCase, share: float) -> np.ndarray:
    V = x.logits.shape[-1]
    return (1 - share) * np.eye(V)[x.labels] + share / V


def slopes(x: CrossEntropyCase, share: float = 0.0) -> np.ndarray:
    """The gradient of the sum by the logits."""
    return (np.exp(log_softmax(x.logits)) - targets(x, share)) * x.weights[..., None]


def total(x: CrossEntropyCase, share: float = 0.0) -> float:
    """The sum of the losses in float64, by the plain formula."""
    losses = -(targets(x, share) * log_softmax(x.logits)).sum(-1)
    return float((losses * x.weights).sum())


cross_entropy = Suite(
    "cross_entropy",
    "loss(logits [B, T, V], labels int [B, T], weights [B, T] or None, label smoothing) -> (sum, weight)",
    CrossEntropySubject,
    (
        definition,
        weight_is_what_counts,
        no_weights,
        halves_add,
        smoothing,
        equal_logits,
        only_differences_of_logits,
        never_negative,
        classes_alike,
        large_logits,
        gradients,
        gradients_of_smoothing,
        ignored_tokens_change_nothing,
        ignored_tokens_have_no_gradient,
        computed_in_float32,
        compiled_is_eager,
    ),
)
