"""Mutants of gradient accumulation over microbatches."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants._mutant import Mutant

JIT = False


def loss(w, x, y, weights):
    """(sum, weight) over the examples."""
    return jnp.sum(weights * jnp.square(x @ w - y)), jnp.sum(weights)


def gradient_of_sum(w, *batch):
    return jax.grad(lambda w: loss(w, *batch)[0])(w), loss(w, *batch)[1]


def divide(total, weight, microbatches):
    return total / jnp.where(weight == 0, 1, weight)


def accumulate(
    w,
    x,
    y,
    weights,
    microbatches,
    *,
    gradient_of_microbatch=gradient_of_sum,
    divide=divide,
    indices=lambda microbatches: range(microbatches),
):
    n = len(x) // microbatches
    total, weight = jnp.zeros_like(w), jnp.zeros(())
    for i in indices(microbatches):
        batch = (z[i * n : (i + 1) * n] for z in (x, y, weights))
        gradient, microbatch_weight = gradient_of_microbatch(w, *batch)
        total, weight = total + gradient, weight + microbatch_weight
    return divide(total, weight, microbatches)


def variant(**parts):
    return functools.partial(accumulate, **parts)


def guarded_mean(w, *batch):
    gradient, weight = gradient_of_sum(w, *batch)
    return divide(gradient, weight, 1), weight


def unguarded_mean(w, *batch):
    weight = loss(w, *batch)[1]
    return jax.grad(lambda w: loss(w, *batch)[0] / loss(w, *batch)[1])(w) * weight, weight


def unweighted(w, x, y, weights):
    return gradient_of_sum(w, x, y, jnp.ones_like(weights))


def divided_by_number_of_examples(w, x, y, weights, microbatches):
    return accumulate(w, x, y, weights, microbatches, divide=lambda total, *_: total / len(x))


RIGHT = accumulate
MUTANTS = {
    "the mean of the means": Mutant(
        variant(
            gradient_of_microbatch=guarded_mean,
            divide=lambda total, weight, microbatches: total / microbatches,
        ),
        ["matches_full_batch", "permutation_invariance"],
        "huggingface/transformers#34191",
    ),
    "the last microbatch is dropped": Mutant(
        variant(indices=lambda microbatches: range(max(microbatches - 1, 1))),
        ["matches_full_batch", "permutation_invariance"],
    ),
    "gradients are summed and not divided": Mutant(
        variant(divide=lambda total, weight, microbatches: total),
        ["matches_full_batch", "weight_scale_invariance"],
    ),
    "divided by the number of examples": Mutant(
        divided_by_number_of_examples, ["matches_full_batch", "weight_scale_invariance"]
    ),
    "divided by the number of microbatches too": Mutant(
        variant(
            divide=lambda total, weight, microbatches: divide(total, weight, microbatches) / microbatches
        ),
        ["matches_full_batch"],
    ),
    "padding counts": Mutant(
        variant(gradient_of_microbatch=unweighted),
        ["matches_full_batch", "zero_weight_examples_are_ignored"],
    ),
    "padding counts in the denominator": Mutant(
        variant(
            gradient_of_microbatch=lambda w, x, y, weights: (
                gradient_of_sum(w, x, y, weights)[0],
                1.0 * len(x),
            )
        ),
        ["matches_full_batch", "weight_scale_invariance"],
    ),
    "0 / 0 for a batch of padding": Mutant(
        variant(divide=lambda total, weight, microbatches: total / weight), ["zero_total_weight"]
    ),
    "0 / 0 for a microbatch of padding": Mutant(
        variant(gradient_of_microbatch=unguarded_mean),
        ["matches_full_batch", "zero_total_weight"],
    ),
}
