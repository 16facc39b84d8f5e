"""``train.make_train_step`` satisfies the laws of gradients over microbatches and over devices."""

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
    """The gradient, from one step of gradient descent with learning rate 1."""
    state = train.init_state(w, optax.sgd(1.0), jax.random.key(0))
    after, _ = compiled(state, {"x": x, "y": y, "weights": weights})
    return np.asarray(w) - np.asarray(after.params)


@functools.cache
def accumulating(microbatches):
    return jax.jit(step(accumulate=microbatches))


@laws.holds(laws.gradient_accumulation, examples=EXAMPLES)
def test_microbatches():
    return lambda w, x, y, weights, microbatches: gradient(accumulating(microbatches), w, x, y, weights)


def mesh():
    return train.Jit(train.make_mesh(data=4)).compile(step())


def pmap():
    return train.Pmap(train.make_mesh(data=4)).compile(step(axis_name="data"))


def shard_map(**options):
    specs = {"mesh": train.make_mesh(data=4), "in_specs": (P(), P("data")), "out_specs": P()}
    return jax.jit(jax.shard_map(step(axis_name="data", accumulate=2), **specs, **options))


STRATEGIES = {
    "mesh": (train.Jit(train.make_mesh(data=4)), mesh),
    "pmap": (train.Pmap(train.make_mesh(data=4)), pmap),
    "shard_map, in microbatches": (None, shard_map),
    "unchecked shard_map": (None, functools.partial(shard_map, check_vma=False)),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_devices(name):
    parallel, make = STRATEGIES[name]
    compiled = make()

    def run_step(state, batch):
        # ``Jit`` and ``Pmap`` donate the state, so each call places a new one.
        return compiled(state if parallel is None else parallel.place_state(state), batch)

    report = laws.check(functools.partial(gradient, run_step), laws.data_parallel, examples=EXAMPLES)
    assert report.ok, str(report)


def test_counterexample_shows_the_weights():
    suite = laws.gradient_accumulation.only("matches_full_batch")
    (found,) = laws.check(lambda w, *batch: w * 0, suite, examples=20).findings
    lines = found.counterexample.splitlines()
    assert lines[0] == "n = 8, D = 1, microbatches = 1" and lines[1].startswith("weights = [")
    assert [line.split(" = ")[0] for line in lines[2:5]] == ["w", "x", "y"]
