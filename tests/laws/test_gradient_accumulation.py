"""A training step of ours adds gradients up as its laws say: over microbatches, and over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import settings
from jax.sharding import PartitionSpec as P

from tfm_jax import laws, train

EXAMPLES = settings().max_examples


def loss(w, batch, key):
    weights = batch["weights"]
    return (jnp.sum(weights * jnp.square(batch["x"] @ w - batch["y"])), jnp.sum(weights)), {}


def step(**options):
    return train.make_train_step(loss, optax.sgd(1.0), **options)


def gradient(compiled, w, x, y, weights):
    """By how much one step of gradient descent, at the rate 1, changes the parameters."""
    state = train.init_state(w, optax.sgd(1.0), jax.random.key(0))
    after, _ = compiled(state, {"x": x, "y": y, "weights": weights})
    return np.asarray(w) - np.asarray(after.params)


@functools.cache
def accumulating(pieces):
    return jax.jit(step(accumulate=pieces))


@laws.holds(laws.gradient_accumulation, examples=EXAMPLES)
def test_microbatches():
    return lambda *batch_and_pieces: gradient(accumulating(batch_and_pieces[-1]), *batch_and_pieces[:-1])


def mesh():
    return train.Jit(data=4).compile(step())


def pmap():
    return train.Pmap(data=4).compile(step(axis_name="data"))


def shard_map(**options):
    specs = {"mesh": train.data_mesh(4), "in_specs": (P(), P("data")), "out_specs": P()}
    return jax.jit(jax.shard_map(step(axis_name="data", accumulate=2), **specs, **options))


PLACES = {
    "mesh": (train.Jit(data=4), mesh),
    "pmap": (train.Pmap(data=4), pmap),
    "shard_map, in microbatches": (None, shard_map),
    "unchecked shard_map": (None, functools.partial(shard_map, check_vma=False)),
}


@pytest.mark.parametrize("name", PLACES)
def test_devices(name):
    where, make = PLACES[name]
    compiled = make()
    # The first of these donate the state that they are given.
    place = lambda state: state if where is None else where.place_state(state)
    found = lambda *batch: gradient(lambda state, batch: compiled(place(state), batch), *batch)
    report = laws.check(found, laws.data_parallel, examples=EXAMPLES)
    assert report.ok, str(report)


def test_a_counter_example_shows_the_weights():
    mutant = lambda w, x, y, weights, pieces: w * 0
    (found,) = laws.check(mutant, laws.gradient_accumulation.only("matches_full_batch"), examples=20).findings
    lines = found.counter_example.splitlines()
    assert lines[0] == "n = 8, D = 1, pieces = 1" and lines[1].startswith("weights = [")
    assert [line.split(" = ")[0] for line in lines[2:5]] == ["w", "x", "y"]
