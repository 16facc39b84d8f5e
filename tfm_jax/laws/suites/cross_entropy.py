"""The laws of cross-entropy, ``loss(logits, labels, weights, label smoothing) -> (sum, weight)``."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import TOLERANCE, Suite, Violation, assert_close, law, show
from tfm_jax.laws.subject import AnyArray, Function, Subject, check_shape, unpack
from tfm_jax.laws.suites.cases.seeded import Seeded

__all__ = ["CrossEntropyCase", "CrossEntropySubject", "cross_entropy"]

SHAPES = ((1, 1, 2), (1, 2, 3), (2, 3, 5))  # B, T, V, the simplest first
SMOOTHING = 0.2  # one value, because it is a static argument


@dataclasses.dataclass(frozen=True)
class CrossEntropyCase(Seeded):
    """Logits, labels and weights of tokens."""

    logits: np.ndarray  # float32 [B, T, V]
    labels: np.ndarray  # int32 [B, T]
    weights: np.ndarray  # float32 [B, T]
    seed: int

    @property
    def some_token(self) -> tuple[int, int]:
        """The indices (b, t) of one token, the same for the same case."""
        b, t = np.unravel_index(self.seed % self.labels.size, self.labels.shape)
        return int(b), int(t)

    def __str__(self) -> str:
        B, T, V = self.logits.shape
        lines = [f"B = {B}, T = {T}, V = {V}", f"logits = {show(self.logits)}"]
        return "\n".join([*lines, f"labels = {self.labels.tolist()}, weights = {self.weights.tolist()}"])


@st.composite
def cases(draw) -> CrossEntropyCase:
    """Random logits and labels, with weights of 1, 0, 0.5 and 2."""
    B, T, V = draw(st.sampled_from(SHAPES))
    labels = draw(strategies.per_element(st.integers(0, V - 1), (B, T), np.int32))
    weights = draw(strategies.per_element(st.sampled_from([1.0, 0.0, 0.5, 2.0]), (B, T), np.float32))
    seed = draw(strategies.seeds())
    return CrossEntropyCase(draw(strategies.normal((B, T, V), scale=2.0, seed=seed)), labels, weights, seed)


class CrossEntropySubject(Subject):
    """A cross-entropy, ``function(logits, labels, weights, label_smoothing)``.

    Args:
      function: takes JAX arrays logits [B, T, V], labels int [B, T], weights float [B, T] or None for all 1,
        and the label smoothing, a number; returns the sum of the losses and the sum of the weights.
      ignore_index: the label of ignored tokens, such as -100, if the function has one; None tests ignored
        tokens by weight 0 only.
    """

    def __init__(self, function: Function, *, ignore_index: int | None = None):
        super().__init__(function)
        self.ignore_index = ignore_index

    def __call__(
        self, logits: AnyArray, labels: AnyArray, weights: AnyArray | None = None, smoothing: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """(sum, weight), their shapes checked."""
        out = super().__call__(logits, labels, weights, smoothing)
        total, weight = unpack(out, "sum, weight")
        return check_shape(total, (), "the sum, a scalar"), check_shape(weight, (), "the weight, a scalar")

    @functools.cached_property
    def compiled(self) -> Function:
        """``raw`` under jit, the smoothing static."""
        return jax.jit(self.raw, static_argnums=3)

    @functools.cached_property
    def per_example(self) -> Function:
        """(sums [B], weights [B]), under jit and vmap over the batch, without smoothing."""
        return jax.jit(jax.vmap(lambda *example: self.raw(*(x[None] for x in example), 0.0)))

    @functools.cached_property
    def gradient(self) -> Function:
        """(logits, labels, weights, smoothing) -> the gradient of the sum by the logits, under jit."""
        return jax.jit(jax.grad(lambda *inputs: self.raw(*inputs)[0]), static_argnums=3)

    def ignoring(self, x: CrossEntropyCase) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """The ways to ignore one token: (description, labels, weights)."""
        b, t = at = x.some_token
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
    """The sum is the weighted sum of -log softmax(logits)[label]."""
    got, _ = loss(x.logits, x.labels, x.weights)
    assert_close(got, sum_of_losses(x), atol=TOLERANCE, what="sum")


@law(cases())
def weight_is_the_sum_of_weights(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """The weight is the sum of the weights, or the number of tokens without weights."""
    assert_close(loss(x.logits, x.labels, x.weights)[1], x.weights.sum(), atol=TOLERANCE, what="weight")
    weight = loss(x.logits, x.labels)[1]
    assert_close(weight, x.labels.size, atol=TOLERANCE, what="weight without weights")


@law(cases())
def default_weights_are_1(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """Without weights every token has weight 1."""
    got, wanted = loss(x.logits, x.labels), loss(x.logits, x.labels, np.ones_like(x.weights))
    for name, ours, right in zip(("sum", "weight"), got, wanted, strict=True):
        assert_close(ours, right, atol=TOLERANCE, what=f"{name} without weights, compared with weights of 1")


@law(cases())
def chunks_add(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """The sums and weights of two chunks add up to those of the whole."""
    cut = x.labels.shape[1] // 2
    chunks = [
        loss(x.logits[:, chunk], x.labels[:, chunk], x.weights[:, chunk])
        for chunk in (slice(0, cut), slice(cut, None))
        if len(range(*chunk.indices(x.labels.shape[1])))
    ]
    wanted = loss(x.logits, x.labels, x.weights)
    for name, ours, right in zip(("sum", "weight"), np.sum(chunks, 0), wanted, strict=True):
        assert_close(ours, right, atol=TOLERANCE, what=f"{name} of the chunks, cut at token {cut}")


@law(cases())
def label_smoothing(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """Label smoothing distributes its share of the target evenly over all V classes, the label included."""
    got, _ = loss(x.logits, x.labels, x.weights, SMOOTHING)
    wanted = sum_of_losses(x, SMOOTHING)
    assert_close(got, wanted, atol=TOLERANCE, what=f"sum with a smoothing of {SMOOTHING}")


@law(cases())
def uniform_logits(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """With equal logits, the loss of a token is log V."""
    got, _ = loss(np.ones_like(x.logits), x.labels, x.weights)
    wanted = np.log(x.logits.shape[-1]) * x.weights.sum(dtype=np.float64)
    assert_close(got, wanted, atol=TOLERANCE, what="sum of equal logits")


@law(cases())
def shift_invariance(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """Adding a number to all logits of a token changes nothing."""
    number = x.rng.integers(-8, 9, (*x.labels.shape, 1)).astype(np.float32)
    got, wanted = (loss(y, x.labels, x.weights)[0] for y in (x.logits + number, x.logits))
    assert_close(got, wanted, atol=5 * TOLERANCE, what="sum with a number added to a token's logits")


@law(cases())
def never_negative(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """Without smoothing the sum is never negative."""
    got, _ = loss(x.logits, x.labels, x.weights)
    if not got >= -TOLERANCE:
        raise Violation(f"sum: got {got:.6g}; wanted 0 or more")


@law(cases())
def class_permutation_invariance(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """Renumbering the classes changes nothing."""
    order = x.rng.permutation(x.logits.shape[-1])
    got, _ = loss(x.logits[..., order], np.argsort(order)[x.labels].astype(np.int32), x.weights)
    wanted, _ = loss(x.logits, x.labels, x.weights)
    what = f"sum with the classes in the order {order.tolist()}"
    assert_close(got, wanted, atol=TOLERANCE, what=what)


@law(cases())
def large_logits(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """Logits of tens of thousands do not overflow."""
    large = dataclasses.replace(x, logits=x.logits * np.float32(1e4))
    got, _ = loss(large.logits, x.labels, x.weights)
    assert_close(got, sum_of_losses(large), atol=1e-5, what="sum of logits * 10,000")


@law(cases())
def gradients(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """The gradient by the logits is (softmax - target) * weight."""
    got = loss.run(lambda: loss.gradient(x.logits, x.labels, x.weights, 0.0))
    assert_close(got, gradient_of_sum(x), atol=TOLERANCE, what="gradient")


@law(cases())
def gradients_with_label_smoothing(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """With smoothing the gradient is (softmax - smoothed target) * weight, so 0 for weight 0."""
    got = loss.run(lambda: loss.gradient(x.logits, x.labels, x.weights, SMOOTHING))
    what = f"gradient with a smoothing of {SMOOTHING}"
    assert_close(got, gradient_of_sum(x, SMOOTHING), atol=TOLERANCE, what=what)


@law(cases())
def ignored_tokens_change_nothing(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """An ignored token changes neither sum nor weight; if all are ignored, both are 0, not NaN."""
    weights, logits = x.weights.copy(), x.logits.copy()
    weights[x.some_token] = 0
    logits[x.some_token] = 1e4 * x.rng.standard_normal(logits.shape[-1])
    wanted = sum_of_losses(dataclasses.replace(x, weights=weights)), weights.sum()
    for way, labels, passed_weights in loss.ignoring(x):
        got = loss(logits, labels, passed_weights)
        for name, ours, right in zip(("sum", "weight"), got, wanted, strict=True):
            assert_close(ours, right, atol=TOLERANCE, what=f"{name} with {way}, and large logits there")


@law(cases())
def ignored_tokens_have_no_gradient(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """The gradient of an ignored token is exactly 0, whatever its logits."""
    logits = x.logits.copy()
    logits[x.some_token] = 1e4 * x.rng.standard_normal(logits.shape[-1])
    for way, labels, weights in loss.ignoring(x):
        inputs = logits, labels, weights, 0.0
        got = np.asarray(loss.run(lambda inputs=inputs: loss.gradient(*inputs)))
        assert_close(got[x.some_token], 0, what=f"gradient with {way}")


@law(cases(), severity="contract")
def computed_in_float32(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """The loss of bfloat16 logits is computed and returned in float32."""
    half = x.logits.astype(jnp.bfloat16)
    got, _ = loss(half, x.labels, x.weights)
    if got.dtype != np.float32:
        raise Violation(f"dtype of the sum: got {got.dtype}; wanted float32")
    wanted = sum_of_losses(dataclasses.replace(x, logits=half.astype(np.float32)))
    assert_close(got, wanted, atol=TOLERANCE, what="sum of logits in bfloat16")


@law(cases())
def compiled_matches_eager(loss: CrossEntropySubject, x: CrossEntropyCase) -> None:
    """Under jit the result is that of the plain call; under vmap over the batch the results add up to it."""
    plain = loss(x.logits, x.labels, x.weights)
    jitted = loss.run(lambda: loss.compiled(x.logits, x.labels, x.weights, 0.0))
    examples = loss.run(lambda: loss.per_example(x.logits, x.labels, x.weights))
    for i, name in enumerate(("sum", "weight")):
        assert_close(jitted[i], plain[i], atol=TOLERANCE, what=f"{name} under jit")
        assert_close(np.sum(examples[i]), plain[i], atol=TOLERANCE, what=f"{name} of the examples under vmap")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def targets(x: CrossEntropyCase, smoothing: float) -> np.ndarray:
    V = x.logits.shape[-1]
    return (1 - smoothing) * np.eye(V)[x.labels] + smoothing / V


def gradient_of_sum(x: CrossEntropyCase, smoothing: float = 0.0) -> np.ndarray:
    """The gradient of the sum by the logits, in float64."""
    return (np.exp(log_softmax(x.logits)) - targets(x, smoothing)) * x.weights[..., None]


def sum_of_losses(x: CrossEntropyCase, smoothing: float = 0.0) -> float:
    """The weighted sum of the losses, in float64."""
    losses = -(targets(x, smoothing) * log_softmax(x.logits)).sum(-1)
    return float((losses * x.weights).sum())


cross_entropy = Suite(
    "cross_entropy",
    "loss(logits [B, T, V], labels int [B, T], weights [B, T] or None, label smoothing) -> (sum, weight)",
    CrossEntropySubject,
    (
        definition,
        weight_is_the_sum_of_weights,
        default_weights_are_1,
        chunks_add,
        label_smoothing,
        uniform_logits,
        shift_invariance,
        never_negative,
        class_permutation_invariance,
        large_logits,
        gradients,
        gradients_with_label_smoothing,
        ignored_tokens_change_nothing,
        ignored_tokens_have_no_gradient,
        computed_in_float32,
        compiled_matches_eager,
    ),
)
