"""The laws of beam search, ``search(log_probs, beams, alpha)``, over a table of log-probabilities."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws import strategies
from tfm_jax.laws.law import Suite, Violation, assert_close, law, show
from tfm_jax.laws.subject import Subject, unpack

__all__ = ["BeamCase", "BeamSubject", "beam_search"]

TOLERANCE = 1e-4
BOS, EOS, PAD = 0, 1, 0
SIZES = ((1, 3), (2, 3), (3, 3))  # T, V, the simplest first
ALPHAS = (0.0, 0.6, 2.0)


@dataclasses.dataclass(frozen=True)
class BeamCase:
    """A model, a beam width and a length penalty."""

    log_probs: np.ndarray  # float32 [T, V, V]: at step t, after the previous token, of each next token
    beams: int
    alpha: float

    def __str__(self) -> str:
        T, V, _ = self.log_probs.shape
        lines = [f"T = {T}, V = {V}, beams = {self.beams}, alpha = {self.alpha}; next-token probabilities:"]
        table = np.exp(self.log_probs.astype(np.float64))
        lines += [f"  first: {show(table[0, BOS])}"]
        lines += [f"  at step {t} after {y}: {show(table[t, y])}" for t in range(1, T) for y in range(V)]
        return "\n".join(lines)

    def score(self, output: tuple[int, ...]) -> float:
        """The log-probability of an output, EOS included, divided by its length penalty."""
        previous = (BOS, *output[:-1])
        total = self.log_probs[range(len(output)), previous, output].sum(dtype=np.float64)
        return float(total) / ((5 + len(output)) / 6) ** self.alpha

    def outputs(self) -> list[tuple[int, ...]]:
        """All possible outputs, the best first: each stops at EOS or at length T."""
        T, V, _ = self.log_probs.shape
        full = itertools.product(range(V), repeat=T)
        return sorted({cut_at_eos(y) for y in full}, key=self.score, reverse=True)


@st.composite
def cases(
    draw, widths: Callable[[int, int], tuple[int, ...]], alphas: tuple[float, ...] = ALPHAS
) -> BeamCase:
    """A random model of T steps over V tokens, with one of ``widths(T, V)`` as the beam width."""
    T, V = draw(st.sampled_from(SIZES))
    seed = draw(strategies.seeds())
    logits = 2 * np.random.default_rng(seed).standard_normal((T, V, V))
    log_probs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
    return BeamCase(log_probs, draw(st.sampled_from(widths(T, V))), draw(st.sampled_from(alphas)))


def cut_at_eos(tokens: Iterable[int]) -> tuple[int, ...]:
    """The tokens up to and including the first EOS."""
    ids = tuple(map(int, tokens))
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids


class BeamSubject(Subject):
    """A beam search, ``function(log_probs, beams, alpha)``.

    Args:
      function: takes float32 log_probs [T, V, V], an int and a float; returns int tokens [n, T] and float
        scores [n], the best first, n from 1 to ``beams``. An output with score -inf does not count.
    """

    def __call__(self, x: BeamCase) -> tuple[np.ndarray, np.ndarray]:
        """The outputs [n, T] and their scores [n], without those of score -inf."""
        T, V, _ = x.log_probs.shape
        out = self.run(lambda: self.function(jnp.asarray(x.log_probs), x.beams, x.alpha))
        tokens, scores = map(np.asarray, unpack(out, "tokens, scores"))
        if tokens.ndim != 2 or tokens.shape[1] != T or scores.shape != tokens.shape[:1]:
            got = f"{list(tokens.shape)} and {list(scores.shape)}"
            raise Violation(f"shapes: got {got}; wanted [n, T = {T}] and [n]")
        found = ~np.isneginf(scores)
        if not 1 <= found.sum() <= x.beams or not np.isin(tokens[found], range(V)).all():
            raise Violation(
                f"got {tokens.tolist()} with scores {show(scores)}; wanted 1 to {x.beams} outputs"
            )
        return tokens[found], scores[found]


def any_width(T: int, V: int) -> tuple[int, ...]:
    return 1, V, V**T


@law(cases(lambda T, V: (1,), alphas=(0.0,)))
def width_1_is_greedy(search: BeamSubject, x: BeamCase) -> None:
    """A beam of 1 without length penalty is greedy decoding."""
    greedy = [BOS]
    for table in x.log_probs:
        greedy.append(int(table[greedy[-1]].argmax()))
    got, wanted = cut_at_eos(search(x)[0][0]), cut_at_eos(greedy[1:])
    if got != wanted:
        raise Violation(f"output: got {list(got)}; wanted {list(wanted)}")


@law(cases(lambda T, V: (V ** (T - 1), V**T)))
def full_width_is_exhaustive(search: BeamSubject, x: BeamCase) -> None:
    """A beam that holds all prefixes finds the best of all outputs."""
    best = x.outputs()[0]
    got = cut_at_eos(search(x)[0][0])
    if x.score(got) < x.score(best) - TOLERANCE:  # of a near tie, either output is right
        texts = [f"{list(y)} of score {x.score(y):.4f}" for y in (got, best)]
        raise Violation(f"output: got {texts[0]}; wanted {texts[1]}")


@law(cases(lambda T, V: (V**T,)))
def n_best_in_order(search: BeamSubject, x: BeamCase) -> None:
    """A beam that holds all outputs returns the best ones, in order."""
    got = search(x)[1]
    wanted = [x.score(y) for y in x.outputs()][: len(got)]
    assert_close(got[: len(wanted)], wanted, atol=TOLERANCE, what="scores")


@law(cases(any_width))
def scores_match_outputs(search: BeamSubject, x: BeamCase) -> None:
    """A score is the log-probability of the whole output, divided once by the length penalty."""
    tokens, scores = search(x)
    outputs = [cut_at_eos(y) for y in tokens]
    wanted = np.array([x.score(y) for y in outputs])
    assert_close(scores, wanted, atol=TOLERANCE, what=f"scores of {[list(y) for y in outputs]}")


@law(cases(any_width))
def scores_are_sorted(search: BeamSubject, x: BeamCase) -> None:
    """Outputs are sorted by score, the best first."""
    scores = search(x)[1]
    if (np.diff(scores) > 0).any():
        raise Violation(f"scores: got {show(scores)}; wanted them in descending order")


@law(cases(any_width))
def outputs_are_distinct(search: BeamSubject, x: BeamCase) -> None:
    """No output is returned twice."""
    outputs = [cut_at_eos(y) for y in search(x)[0]]
    if len(set(outputs)) < len(outputs):
        raise Violation(f"outputs: got {[list(y) for y in outputs]}; wanted each once")


@law(cases(any_width), severity="contract")
def padding_after_eos(search: BeamSubject, x: BeamCase) -> None:
    """After EOS there is only padding."""
    for y in search(x)[0].tolist():
        if set(y[len(cut_at_eos(y)) :]) - {PAD}:
            raise Violation(f"output: got {y}; wanted {PAD} after the first {EOS}")


beam_search = Suite(
    "beam_search",
    "search(log_probs float32 [T, V, V], beams int, alpha float) -> (tokens int [n, T], scores [n]), the "
    f"best first; log_probs[t, y, z] is that of token z at step t after token y; BOS is {BOS}, EOS {EOS}, "
    f"padding after EOS {PAD}; the length is at most T; a score is the sum of log-probabilities, EOS "
    "included, divided by ((5 + length) / 6) ** alpha",
    BeamSubject,
    (
        width_1_is_greedy,
        full_width_is_exhaustive,
        n_best_in_order,
        scores_match_outputs,
        scores_are_sorted,
        outputs_are_distinct,
        padding_after_eos,
    ),
)
