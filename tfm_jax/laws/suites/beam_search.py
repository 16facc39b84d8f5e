"""The laws of beam search: of any ``search(log_probs, beams, alpha)`` over a model that is a table."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tfm_jax.laws.law import Suite, Violation, law, same, show
from tfm_jax.laws.subject import Subject, of_parts
from tfm_jax.laws.suites.cases.seeded import SEEDS

__all__ = ["BeamCase", "BeamSubject", "beam_search"]

TOLERANCE = 1e-4
START, END, PAD = 0, 1, 0
SIZES = ((1, 3), (2, 3), (3, 3))  # T, V, the simplest first
PENALTIES = (0.0, 0.6, 2.0)


@dataclasses.dataclass(frozen=True)
class BeamCase:
    """A model, and how it is searched."""

    log_probs: np.ndarray  # float32 [T, V, V]: at step t, after the token before, of each next token
    beams: int
    alpha: float

    def __str__(self) -> str:
        T, V, _ = self.log_probs.shape
        lines = [f"T = {T}, V = {V}, beams = {self.beams}, alpha = {self.alpha}; chances of the next token:"]
        table = np.exp(self.log_probs.astype(np.float64))
        lines += [f"  first: {show(table[0, START])}"]
        lines += [f"  at step {t} after {y}: {show(table[t, y])}" for t in range(1, T) for y in range(V)]
        return "\n".join(lines)

    def score(self, output: tuple[int, ...]) -> float:
        """The log-probability of an output, the end token's counted, divided by its length's penalty."""
        before = (START, *output[:-1])
        total = self.log_probs[range(len(output)), before, output].sum(dtype=np.float64)
        return float(total) / ((5 + len(output)) / 6) ** self.alpha

    def outputs(self) -> list[tuple[int, ...]]:
        """All that there are, the best first: they end with the end token, or are cut at T."""
        T, V, _ = self.log_probs.shape
        whole = itertools.product(range(V), repeat=T)
        return sorted({until_end(y) for y in whole}, key=self.score, reverse=True)


@st.composite
def cases(
    draw, width: Callable[[int, int], tuple[int, ...]], alphas: tuple[float, ...] = PENALTIES
) -> BeamCase:
    """A random model of T steps over V tokens, searched with one of the widths of (T, V)."""
    T, V = draw(st.sampled_from(SIZES))
    seed = draw(SEEDS)
    logits = 2 * np.random.default_rng(seed).standard_normal((T, V, V))
    log_probs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
    return BeamCase(log_probs, draw(st.sampled_from(width(T, V))), draw(st.sampled_from(alphas)))


def until_end(tokens: Any) -> tuple[int, ...]:
    """The tokens up to the first end token, itself counted."""
    tokens = tuple(map(int, tokens))
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


class BeamSubject(Subject):
    """A search, asked as the laws of beam search ask it.

    Args:
      function: takes float32 log_probs [T, V, V], an int and a float; gives int tokens [n, T] and float
        scores [n], the best first, n from 1 to ``beams``; -inf is the score of a place that stays empty.
    """

    def __call__(self, x: BeamCase) -> tuple[np.ndarray, np.ndarray]:
        """The outputs that there are, [n, T], and their scores [n]."""
        T, V, _ = x.log_probs.shape
        call = lambda: self.function(jnp.asarray(x.log_probs), x.beams, x.alpha)
        tokens, scores = map(np.asarray, of_parts(self.given(call), "tokens, scores"))
        if tokens.ndim != 2 or tokens.shape[1] != T or scores.shape != tokens.shape[:1]:
            got = f"{list(tokens.shape)} and {list(scores.shape)}"
            raise Violation(f"shapes: got {got}, wanted [n, T = {T}] and [n]")
        there = ~np.isneginf(scores)
        if not 1 <= there.sum() <= x.beams or not np.isin(tokens[there], range(V)).all():
            raise Violation(
                f"got {tokens.tolist()} with scores {show(scores)}, wanted 1 to {x.beams} outputs"
            )
        return tokens[there], scores[there]


some = lambda T, V: (1, V, V**T)


@law(cases(lambda T, V: (1,), alphas=(0.0,)))
def width_one_is_greedy(search: BeamSubject, x: BeamCase) -> None:
    """One beam, without a penalty, takes the likeliest token at every step."""
    greedy = [START]
    for table in x.log_probs:
        greedy.append(int(table[greedy[-1]].argmax()))
    got, wanted = until_end(search(x)[0][0]), until_end(greedy[1:])
    if got != wanted:
        raise Violation(f"got {list(got)}, wanted {list(wanted)}")


@law(cases(lambda T, V: (V ** (T - 1), V**T)))
def full_width_is_exhaustive(search: BeamSubject, x: BeamCase) -> None:
    """A beam of all beginnings finds the best of all outputs."""
    best = x.outputs()[0]
    got = until_end(search(x)[0][0])
    # Near a tie either may come.
    if x.score(got) < x.score(best) - TOLERANCE:
        said = [f"{list(y)} of score {x.score(y):.4f}" for y in (got, best)]
        raise Violation(f"got {said[0]}, wanted {said[1]}")


@law(cases(lambda T, V: (V**T,)))
def all_in_order(search: BeamSubject, x: BeamCase) -> None:
    """A beam as wide as there are outputs returns the best ones, one after the other."""
    got = search(x)[1]
    wanted = [x.score(y) for y in x.outputs()][: len(got)]
    same(got[: len(wanted)], wanted, atol=TOLERANCE, what="scores")


@law(cases(some))
def scores_are_of_the_outputs(search: BeamSubject, x: BeamCase) -> None:
    """A score is the log-probability of the whole output, divided by the penalty of its length, once."""
    tokens, scores = search(x)
    outputs = [until_end(y) for y in tokens]
    wanted = np.array([x.score(y) for y in outputs])
    same(scores, wanted, atol=TOLERANCE, what=f"scores of {[list(y) for y in outputs]}")


@law(cases(some))
def falling_scores(search: BeamSubject, x: BeamCase) -> None:
    """The best output comes first, and each of the others after a better one."""
    scores = search(x)[1]
    if (np.diff(scores) > 0).any():
        raise Violation(f"scores {show(scores)} do not fall")


@law(cases(some))
def no_output_twice(search: BeamSubject, x: BeamCase) -> None:
    """No output is returned twice."""
    outputs = [until_end(y) for y in search(x)[0]]
    if len(set(outputs)) < len(outputs):
        raise Violation(f"got {[list(y) for y in outputs]}")


@law(cases(some))
def finished_is_finished(search: BeamSubject, x: BeamCase) -> None:
    """After the end token there is nothing but padding."""
    for y in search(x)[0].tolist():
        if set(y[len(until_end(y)) :]) - {PAD}:
            raise Violation(f"got {y}, wanted {PAD} after the first {END}")


beam_search = Suite(
    "beam_search",
    "search(log_probs float32 [T, V, V], beams int, alpha float) -> (tokens int [n, T], scores [n]), the "
    f"best first: token z follows y at step t with log_probs[t, y, z], the first one follows {START}; {END} "
    f"ends an output and {PAD} stands after it, at T it is cut; a score is the sum over the output, the end "
    "counted, divided by ((5 + length) / 6) ** alpha",
    BeamSubject,
    (
        width_one_is_greedy,
        full_width_is_exhaustive,
        all_in_order,
        scores_are_of_the_outputs,
        falling_scores,
        no_output_twice,
        finished_is_finished,
    ),
)
