"""Mutants of beam search."""

import functools

import numpy as np

from tests.mutants._mutant import Mutant

JIT = False
BOS, EOS, PAD = 0, 1, 0


def length_penalty(y, alpha):
    return ((5 + len(y)) / 6) ** alpha


def normalized_score(total, y, alpha):
    return total / length_penalty(y, alpha)


def ended(y):
    return y[-1:] == (EOS,)


def add(total, log_prob):
    return total + log_prob


def best(extended, n):
    return sorted(extended, key=lambda item: item[1], reverse=True)[:n]


def search(
    log_probs,
    beams,
    alpha,
    *,
    add=add,
    score=normalized_score,
    rank=normalized_score,
    initial=lambda beams: [((), 0.0)],
    finish=lambda extended, beams: [item for item in best(extended, beams) if ended(item[0])],
    stays_live=lambda y: not ended(y),
    stop=lambda finished, beams: False,
    unfinished=lambda live, finished: live,
    order=-1,
):
    log_probs = np.asarray(log_probs, np.float64)
    T, V, _ = log_probs.shape
    live, finished = initial(beams), []
    for step in log_probs:
        extended = [
            ((*y, z), add(total, step[y[-1] if y else BOS, z])) for y, total in live for z in range(V)
        ]
        finished += finish(extended, beams)
        live = best([item for item in extended if stays_live(item[0])], beams)
        if stop(finished, beams):
            break
    found = finished + [item for item in unfinished(live, finished) if len(item[0]) == T]
    found = sorted(found, key=lambda item: order * rank(item[1], item[0], alpha))[:beams]
    tokens = [[*y, *[PAD] * (T - len(y))] for y, _ in found]
    return np.array(tokens, np.int32).reshape(len(found), T), np.array([score(p, y, alpha) for y, p in found])


def variant(**parts):
    return functools.partial(search, **parts)


RIGHT = search
MUTANTS = {
    "scores are divided by the penalty twice": Mutant(
        variant(score=lambda p, y, alpha: p / length_penalty(y, alpha) ** 2), ["scores_match_outputs"]
    ),
    "the penalty is of a length one too large": Mutant(
        variant(score=lambda p, y, alpha: p / length_penalty((*y, PAD), alpha)),
        ["scores_match_outputs"],
        "awslabs/sockeye#483",
    ),
    "EOS does not count in the length": Mutant(
        variant(score=lambda p, y, alpha: p / length_penalty([z for z in y if z != EOS], alpha)),
        ["scores_match_outputs"],
    ),
    "scores are normalized at every step": Mutant(
        variant(add=lambda total, log_prob: (total + log_prob) / 1.1),
        ["scores_match_outputs", "n_best_in_order"],
        "OpenNMT/OpenNMT-tf#456",
    ),
    "only the last log-probability counts": Mutant(
        variant(add=lambda total, log_prob: log_prob),
        ["scores_match_outputs", "full_width_is_exhaustive"],
    ),
    "outputs are ranked without the penalty": Mutant(
        variant(rank=lambda p, y, alpha: p),
        ["scores_are_sorted", "full_width_is_exhaustive"],
    ),
    "the worst output comes first": Mutant(
        variant(order=1), ["scores_are_sorted", "full_width_is_exhaustive"]
    ),
    "finished beams continue": Mutant(
        variant(stays_live=lambda y: True, finish=lambda extended, beams: []),
        ["padding_after_eos"],
    ),
    "the search stops at the first EOS": Mutant(
        variant(stop=lambda finished, beams: len(finished) > 0, unfinished=lambda live, finished: []),
        ["full_width_is_exhaustive"],
        "neulab/xnmt#572",
    ),
    "unfinished beams are discarded": Mutant(
        variant(unfinished=lambda live, finished: [] if finished else live),
        ["n_best_in_order", "full_width_is_exhaustive"],
    ),
    "all initial beams are equal": Mutant(
        variant(initial=lambda beams: [((), 0.0)] * beams), ["outputs_are_distinct"]
    ),
    "only the best continuation may end": Mutant(
        variant(finish=lambda extended, beams: [item for item in best(extended, 1) if ended(item[0])]),
        ["n_best_in_order"],
    ),
    "no beam ends before the limit": Mutant(
        variant(finish=lambda extended, beams: []), ["width_1_is_greedy"]
    ),
}
