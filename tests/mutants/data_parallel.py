"""Mutants of data-parallel gradients."""

import functools

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.mutants._mutant import Mutant
from tests.mutants.gradient_accumulation import divide, gradient_of_sum, guarded_mean, unweighted

JIT = False  # each function is jitted below
DEVICES = 4


def all_reduced(w, *batch, gradient_of_shard=gradient_of_sum):
    """For maps in which the gradient of a replicated value is that of the device's own shard."""
    total, weight = jax.lax.psum(gradient_of_shard(w, *batch), "data")
    return divide(total, weight, 1)


def pcast_and_reduced(w, *batch):
    """For a checked shard_map, in which the gradient of a replicated value is already summed."""
    return all_reduced(jax.lax.pcast(w, "data", to="varying"), *batch)


def sharded(function, **options):
    mesh = jax.make_mesh((DEVICES,), ("data",), (AxisType.Auto,), devices=jax.devices()[:DEVICES])
    specs = (P(), P("data"), P("data"), P("data"))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(), **options))


def summed_over_two_axes(w, *batch):
    """Casts to varying along neither axis: a tuple of names is no name of a mapped axis."""
    total, weight = jax.lax.psum(gradient_of_sum(w, *batch), ("outer", "data"))
    return divide(total, weight, 1)


def cast_along_one_of_two_axes(w, *batch):
    total, weight = jax.lax.psum(gradient_of_sum(jax.lax.pcast(w, "data", to="varying"), *batch), "data")
    total = jax.lax.pcast(total, "outer", to="varying")  # psum takes no sum of equal values
    return divide(*jax.lax.psum((total, weight), "outer"), 1)


def sharded_over_two_axes(function):
    mesh = jax.make_mesh((2, 4), ("outer", "data"), (AxisType.Auto,) * 2)
    specs = (P(), *[P(("outer", "data"))] * 3)
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P()))


def pmapped(function):
    mapped = jax.pmap(function, "data", in_axes=(None, 0, 0, 0), devices=jax.devices()[:DEVICES])

    def split(x):
        return x.reshape(DEVICES, len(x) // DEVICES, *x.shape[1:])

    return lambda w, *batch: mapped(w, *map(split, batch))[0]


def mean_of_means(w, *batch):
    return jax.lax.pmean(guarded_mean(w, *batch)[0], "data")


def not_reduced(w, *batch):
    return divide(*gradient_of_sum(w, *batch), 1)


def weight_not_reduced(w, *batch):
    total, weight = gradient_of_sum(w, *batch)
    return divide(jax.lax.psum(total, "data"), weight * DEVICES, 1)


def unguarded(w, *batch):
    total, weight = jax.lax.psum(gradient_of_sum(w, *batch), "data")
    return total / weight


def divided_by_number_of_examples(w, x, *batch):
    total, _ = jax.lax.psum(gradient_of_sum(w, x, *batch), "data")
    return total / (len(x) * DEVICES)


RIGHT = sharded(pcast_and_reduced)
MUTANTS = {
    "summed twice in a checked shard_map": Mutant(
        sharded(all_reduced), ["matches_full_batch"], "jax-ml/jax#3970"
    ),
    "summed twice over two axes in a checked shard_map": Mutant(
        sharded_over_two_axes(summed_over_two_axes), ["matches_full_batch"]
    ),
    "summed twice over one of two axes in a checked shard_map": Mutant(
        sharded_over_two_axes(cast_along_one_of_two_axes), ["matches_full_batch"]
    ),
    "the mean of the gradients in a checked shard_map": Mutant(
        sharded(mean_of_means), ["matches_full_batch", "permutation_invariance"]
    ),
    "the mean of the devices' means": Mutant(
        pmapped(mean_of_means), ["matches_full_batch", "permutation_invariance"]
    ),
    "gradients are not reduced": Mutant(
        pmapped(not_reduced), ["matches_full_batch", "permutation_invariance"]
    ),
    "weights are not reduced": Mutant(
        pmapped(weight_not_reduced), ["matches_full_batch", "permutation_invariance"]
    ),
    "divided by the number of examples": Mutant(
        pmapped(divided_by_number_of_examples), ["matches_full_batch", "weight_scale_invariance"]
    ),
    "padding counts": Mutant(
        pmapped(functools.partial(all_reduced, gradient_of_shard=unweighted)),
        ["matches_full_batch", "zero_weight_examples_are_ignored"],
    ),
    "0 / 0 for a batch of padding": Mutant(pmapped(unguarded), ["zero_total_weight"]),
}
