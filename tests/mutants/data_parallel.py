"""Wrong sums of gradients over devices."""

import functools

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.mutants.gradient_accumulation import divide, guarded_mean, of_sum, unweighted
from tests.mutants.mutant import Mutant

JIT = False  # each is jitted here, for one shape at a time
DEVICES = 4


def added(w, *batch, of_part=of_sum):
    """For maps in which the gradient of what is replicated is that of the device's own part."""
    total, weight = jax.lax.psum(of_part(w, *batch), "data")
    return divide(total, weight, 1)


def varied(w, *batch):
    """For a checked shard_map: there, the gradient of what is replicated arrives added up."""
    return added(jax.lax.pcast(w, "data", to="varying"), *batch)


def sharded(function, **options):
    mesh = jax.make_mesh((DEVICES,), ("data",), (AxisType.Auto,), devices=jax.devices()[:DEVICES])
    specs = (P(), P("data"), P("data"), P("data"))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(), **options))


def pmapped(function):
    mapped = jax.pmap(function, "data", in_axes=(None, 0, 0, 0), devices=jax.devices()[:DEVICES])
    rows = lambda x: x.reshape(DEVICES, len(x) // DEVICES, *x.shape[1:])
    return lambda w, *batch: mapped(w, *map(rows, batch))[0]


def averaged(w, *batch):
    return jax.lax.pmean(guarded_mean(w, *batch)[0], "data")


def own(w, *batch):
    return divide(*of_sum(w, *batch), 1)


def own_weight(w, *batch):
    total, weight = of_sum(w, *batch)
    return divide(jax.lax.psum(total, "data"), weight * DEVICES, 1)


def unguarded(w, *batch):
    total, weight = jax.lax.psum(of_sum(w, *batch), "data")
    return total / weight


def by_number(w, x, *batch):
    total, _ = jax.lax.psum(of_sum(w, x, *batch), "data")
    return total / (len(x) * DEVICES)


RIGHT = sharded(varied)
MUTANTS = {
    "added once more in a checked shard_map": Mutant(sharded(added), ["large_batch"], "jax-ml/jax#3970"),
    "the mean after the gradient in a checked shard_map": (
        sharded(averaged),
        ["large_batch", "order_of_examples"],
    ),
    "the mean of the devices' means": (pmapped(averaged), ["large_batch", "order_of_examples"]),
    "each device keeps its own gradient": (pmapped(own), ["large_batch", "order_of_examples"]),
    "weights are not added over the devices": (pmapped(own_weight), ["large_batch", "order_of_examples"]),
    "divided by the number of examples": (pmapped(by_number), ["large_batch", "only_shares_of_weight"]),
    "padding counts": (
        pmapped(functools.partial(added, of_part=unweighted)),
        ["large_batch", "ignored_examples"],
    ),
    "0 / 0 where nothing counts": (pmapped(unguarded), ["nothing_counts"]),
}
