"""``train.make_train_step`` satisfies the laws of gradients over microbatches and over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import settings
from jax.sharding import AxisType
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


def shard_map(axis_name="data", accumulate=2, **options):
    """The step on 2 x 4 devices: one axis of 4 shards the batch, or both."""
    mesh = jax.make_mesh((2, 4), ("outer", "data"), (AxisType.Auto,) * 2)
    specs = {"mesh": mesh, "in_specs": (P(), P(axis_name)), "out_specs": P()}
    function = step(axis_name=axis_name, accumulate=accumulate)
    return jax.jit(jax.shard_map(function, **specs, **options))


def nested(**options):
    """A map over one axis inside a map over the other."""
    mesh = jax.make_mesh((2, 4), ("outer", "data"), (AxisType.Auto,) * 2)
    inner = jax.shard_map(
        step(axis_name=("outer", "data")),
        in_specs=(P(), P("data")),
        out_specs=P(),
        axis_names={"data"},
        **options,
    )
    return jax.jit(
        jax.shard_map(
            lambda state, batch: inner(state, batch),
            mesh=mesh,
            in_specs=(P(), P("outer")),
            out_specs=P(),
            axis_names={"outer"},
            **options,
        )
    )


def split(batch, *sizes):
    return jax.tree.map(lambda x: x.reshape(*sizes, x.shape[0] // np.prod(sizes), *x.shape[1:]), batch)


def first(tree):
    return jax.tree.map(lambda x: x[0], tree)


def vmap():
    mapped = jax.jit(jax.vmap(step(axis_name="data"), (None, 0), axis_name="data"))
    return lambda state, batch: first(mapped(state, split(batch, 4)))


def vmap_in_vmap():
    inner = jax.vmap(step(axis_name=("outer", "data")), (None, 0), axis_name="data")
    mapped = jax.jit(jax.vmap(inner, (None, 0), axis_name="outer"))
    return lambda state, batch: first(first(mapped(state, split(batch, 2, 4))))


def vmap_in_pmap():
    inner = jax.vmap(step(axis_name=("outer", "data")), (None, 0), axis_name="data")
    mapped = jax.pmap(
        lambda *args: first(inner(*args)),
        "outer",
        in_axes=(None, 0),
        out_axes=None,
        devices=jax.devices()[:2],
    )
    return lambda state, batch: mapped(state, split(batch, 2, 4))


def vmap_in_shard_map():
    # Inside a checked shard_map JAX has no sum over an axis of vmap.
    inner = jax.vmap(step(axis_name=("outer", "data")), (None, 0), axis_name="outer")
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])
    specs = {"in_specs": (P(), P(None, "data")), "out_specs": P()}
    mapped = jax.jit(jax.shard_map(inner, mesh=mesh, check_vma=False, **specs))
    return lambda state, batch: first(mapped(state, split(batch, 2)))


def batch_along_one_of_two_axes():
    """The devices of the other axis have the same examples: all sums double, and their ratio stays."""
    mesh = jax.make_mesh((2, 4), ("outer", "data"), (AxisType.Auto,) * 2)
    specs = {"in_specs": (P(), P("data")), "out_specs": P()}
    return jax.jit(jax.shard_map(step(axis_name=("outer", "data")), mesh=mesh, **specs))


BOTH = ("outer", "data")
STRATEGIES = {
    "mesh": (train.Jit(train.make_mesh(data=4)), mesh),
    "pmap": (train.Pmap(train.make_mesh(data=4)), pmap),
    "shard_map, in microbatches": (None, shard_map),
    "unchecked shard_map": (None, functools.partial(shard_map, check_vma=False)),
    "shard_map over two axes": (None, functools.partial(shard_map, BOTH, 1)),
    "shard_map over two axes, the inner one first": (None, functools.partial(shard_map, BOTH[::-1], 1)),
    "unchecked shard_map over two axes": (None, functools.partial(shard_map, BOTH, 1, check_vma=False)),
    "a tuple of one name": (None, functools.partial(shard_map, ("data",))),
    "nested shard_map": (None, nested),
    "unchecked nested shard_map": (None, functools.partial(nested, check_vma=False)),
    "vmap": (None, vmap),
    "vmap in vmap": (None, vmap_in_vmap),
    "vmap in pmap": (None, vmap_in_pmap),
    "vmap in unchecked shard_map": (None, vmap_in_shard_map),
    "batch along one of two axes": (None, batch_along_one_of_two_axes),
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
