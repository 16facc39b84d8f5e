"""Wrong sums of gradients over microbatches."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants.mutant import Mutant

JIT = False


def loss(w, x, y, weights):
    """The sum over examples, and the weight to divide it by."""
    return jnp.sum(weights * jnp.square(x @ w - y)), jnp.sum(weights)


def of_sum(w, *batch):
    total = lambda w: loss(w, *batch)[0]
    return jax.grad(total)(w), loss(w, *batch)[1]


def divide(total, weight, pieces):
    return total / jnp.where(weight == 0, 1, weight)


def accumulated(
    w, x, y, weights, pieces, *, of_piece=of_sum, divide=divide, take=lambda pieces: range(pieces)
):
    n = len(x) // pieces
    total, weight = jnp.zeros_like(w), jnp.zeros(())
    for i in take(pieces):
        gradient, its_weight = of_piece(w, *(z[i * n : (i + 1) * n] for z in (x, y, weights)))
        total, weight = total + gradient, weight + its_weight
    return divide(total, weight, pieces)


def part(**parts):
    return functools.partial(accumulated, **parts)


def guarded_mean(w, *batch):
    gradient, weight = of_sum(w, *batch)
    return divide(gradient, weight, 1), weight


def unguarded_mean(w, *batch):
    mean = lambda w: loss(w, *batch)[0] / loss(w, *batch)[1]
    weight = loss(w, *batch)[1]
    return jax.grad(mean)(w) * weight, weight


def unweighted(w, x, y, weights):
    return of_sum(w, x, y, jnp.ones_like(weights))


RIGHT = accumulated
MUTANTS = {
    "the mean of the means": Mutant(
        part(of_piece=guarded_mean, divide=lambda total, weight, pieces: total / pieces),
        ["large_batch", "order_of_examples"],
        "huggingface/transformers#34191",
    ),
    "the last piece is dropped": (
        part(take=lambda pieces: range(max(pieces - 1, 1))),
        ["large_batch", "order_of_examples"],
    ),
    "gradients are summed and not divided": (
        part(divide=lambda total, weight, pieces: total),
        ["large_batch", "only_shares_of_weight"],
    ),
    "divided by the number of examples": (
        lambda w, x, y, weights, pieces: accumulated(
            w, x, y, weights, pieces, divide=lambda total, *_: total / len(x)
        ),
        ["large_batch", "only_shares_of_weight"],
    ),
    "divided by the pieces once more": (
        part(divide=lambda total, weight, pieces: divide(total, weight, pieces) / pieces),
        ["large_batch"],
    ),
    "padding counts": (part(of_piece=unweighted), ["large_batch", "ignored_examples"]),
    "padding counts in the denominator": (
        part(of_piece=lambda w, x, y, weights: (of_sum(w, x, y, weights)[0], 1.0 * len(x))),
        ["large_batch", "only_shares_of_weight"],
    ),
    "0 / 0 where nothing counts": (
        part(divide=lambda total, weight, pieces: total / weight),
        ["nothing_counts"],
    ),
    "a piece of padding is 0 / 0": (
        part(of_piece=unguarded_mean),
        ["large_batch", "nothing_counts"],
    ),
}
