"""Steps of a decoder on meshes: microbatches stay where they are, and the state stays sharded."""

import functools
import math

import chex
import jax
import numpy as np
import optax
import pytest

from tfm_jax import nn, ops, train
from tfm_jax.train.plan import programs

L, D, F, V, B, T = 2, 16, 24, 32, 32, 6
SIZES = {"vocab_size": V, "d_model": D, "n_layers": L, "n_heads": 2, "d_ff": F}
OPTIMIZER = optax.sgd(0.5)  # no clipping and no Adam, which would hide a factor
MESHES = {
    "data 8": {"data": 8},
    "fsdp 8": {"fsdp": 8},
    "data 2, fsdp 2, tensor 2": {"data": 2, "fsdp": 2, "tensor": 2},
}


def model_of(dtype="float32"):
    return nn.functionalize(
        nn.Decoder, nn.Config(**SIZES, dtype=dtype, positions=nn.Rope(), feed_forward=nn.Glu())
    )


def make_step(model, **options):
    def loss(params, batch, key):
        decoder = model.bind(params)
        kernel, _ = decoder.output_projection()
        hidden = decoder.hidden(batch["tokens"])
        pair = ops.linear_cross_entropy(
            hidden, kernel, batch["labels"], weights=batch["weights"], chunk_size=4
        )
        return pair, {}

    return train.make_train_step(loss, OPTIMIZER, **options)


def make_state(model):
    return train.init_state(model.init(jax.random.key(0)), OPTIMIZER, jax.random.key(1))


def make_batch():
    rng = np.random.default_rng(0)
    tokens, labels = rng.integers(0, V, (2, B, T), np.int32)
    return {"tokens": tokens, "labels": labels, "weights": rng.integers(0, 3, (B, T)).astype(np.float32)}


@functools.cache
def on_one_device():
    model = model_of()
    return jax.jit(make_step(model))(make_state(model), make_batch())


@functools.cache
def compiled(name, accumulate):
    """The shardings of the state, the step's results, and its program."""
    model = model_of()
    parallel = train.Jit(train.make_mesh(**MESHES[name]), axes=model.axes())
    state = parallel.place_state(make_state(model))
    step = parallel.compile(make_step(model, accumulate=accumulate)).lower(state, make_batch()).compile()
    before = jax.tree.map(lambda x: x.sharding, state.params)
    return before, step(state, parallel.place_batch(make_batch())), step.as_text()


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("name", MESHES)
def test_the_step_is_that_of_one_device(name, accumulate):
    shardings, (found, metrics), text = compiled(name, accumulate)
    wanted, expected = on_one_device()
    chex.assert_trees_all_close(found.params, wanted.params, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(metrics, expected, rtol=1e-4)
    assert jax.tree.map(lambda x: x.sharding, found.params) == shardings
    # What is outside the loop over microbatches would be the batch's way to other devices.
    outside = [c for c in programs.collectives(text) if accumulate > 1 and "while/body" not in c.name]
    assert not [c for c in outside if c.kind in ("all-to-all", "collective-permute") or c.dtype == "s32"]


@pytest.mark.parametrize("name", ["fsdp 8", "data 2, fsdp 2, tensor 2"])
def test_accumulated_gradients_stay_sharded(name):
    _, (state, _), text = compiled(name, 4)
    stack = state.params["stack"]["layers"]["feed_forward"]["w_in"]
    whole, part = stack.shape, stack.sharding.shard_shape(stack.shape)
    assert math.prod(part) < math.prod(whole)
    shapes = {x.shape for x in programs.temporaries(text) if x.dtype == "f32"}
    assert part in shapes and whole not in shapes
