"""Wrong beam searches."""

import functools

import numpy as np

from tests.mutants.mutant import Mutant

JIT = False
START, END, PAD = 0, 1, 0


def penalty(y, alpha):
    return ((5 + len(y)) / 6) ** alpha


def divided(total, y, alpha):
    return total / penalty(y, alpha)


def ended(y):
    return y[-1:] == (END,)


def add(total, log_prob):
    return total + log_prob


def best(grown, n):
    return sorted(grown, key=lambda item: item[1], reverse=True)[:n]


def search(
    log_probs,
    beams,
    alpha,
    *,
    add=add,
    score=divided,
    rank=divided,
    begin=lambda beams: [((), 0.0)],
    finish=lambda grown, beams: [item for item in best(grown, beams) if ended(item[0])],
    go_on=lambda y: not ended(y),
    enough=lambda finished, beams: False,
    cut=lambda live, finished: live,
    order=-1,
):
    log_probs = np.asarray(log_probs, np.float64)
    T, V, _ = log_probs.shape
    live, finished = begin(beams), []
    for step in log_probs:
        grown = [((*y, z), add(total, step[y[-1] if y else START, z])) for y, total in live for z in range(V)]
        finished += finish(grown, beams)
        live = best([item for item in grown if go_on(item[0])], beams)
        if enough(finished, beams):
            break
    found = finished + [item for item in cut(live, finished) if len(item[0]) == T]
    found = sorted(found, key=lambda item: order * rank(item[1], item[0], alpha))[:beams]
    tokens = [[*y, *[PAD] * (T - len(y))] for y, _ in found]
    return np.array(tokens, np.int32).reshape(len(found), T), np.array([score(p, y, alpha) for y, p in found])


def part(**parts):
    return functools.partial(search, **parts)


def normalised_in_between(total, log_prob):
    return (total + log_prob) / 1.1


RIGHT = search
SCORES = ["scores_are_of_the_outputs"]
MUTANTS = {
    "scores are divided by the penalty twice": (
        part(score=lambda p, y, alpha: p / penalty(y, alpha) ** 2),
        SCORES,
    ),
    "the penalty is of a length that is one too large": Mutant(
        part(score=lambda p, y, alpha: p / penalty((*y, PAD), alpha)), SCORES, "awslabs/sockeye#483"
    ),
    "the end token does not count in the length": (
        part(score=lambda p, y, alpha: p / penalty([z for z in y if z != END], alpha)),
        SCORES,
    ),
    "scores are normalised at every step": Mutant(
        part(add=normalised_in_between), [*SCORES, "all_in_order"], "OpenNMT/OpenNMT-tf#456"
    ),
    "the log-probability of the beginning is not added": (
        part(add=lambda total, log_prob: log_prob),
        [*SCORES, "full_width_is_exhaustive"],
    ),
    "outputs are ranked without the penalty": (
        part(rank=lambda p, y, alpha: p),
        ["falling_scores", "full_width_is_exhaustive"],
    ),
    "the worst comes first": (part(order=1), ["falling_scores", "full_width_is_exhaustive"]),
    "finished beams go on": (
        part(go_on=lambda y: True, finish=lambda grown, beams: []),
        ["finished_is_finished"],
    ),
    "it stops at the first end": Mutant(
        part(enough=lambda finished, beams: len(finished) > 0, cut=lambda live, finished: []),
        ["full_width_is_exhaustive"],
        "neulab/xnmt#572",
    ),
    "what has not ended is thrown away": (
        part(cut=lambda live, finished: [] if finished else live),
        ["all_in_order", "full_width_is_exhaustive"],
    ),
    "all beams begin alike": (part(begin=lambda beams: [((), 0.0)] * beams), ["no_output_twice"]),
    "only the best continuation may end": (
        part(finish=lambda grown, beams: [item for item in best(grown, 1) if ended(item[0])]),
        ["all_in_order"],
    ),
    "no end comes before the limit": (
        part(finish=lambda grown, beams: []),
        ["width_one_is_greedy"],
    ),
}
