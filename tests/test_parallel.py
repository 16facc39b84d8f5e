"""A decoder trained under jit, on a mesh, by pmap and by vmap: the same numbers everywhere."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import nn, ops, train

CONFIG = nn.Config(vocab_size=13, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24)
MODEL = nn.functionalize(nn.Decoder, CONFIG)
OPTIMIZER = train.adamw(train.noam(16, 5), 0.1)
MESH = train.make_mesh(data=8)
PLACEMENTS = {"jit": train.Jit(), "mesh": train.Jit(MESH), "pmap": train.Pmap(MESH)}
STEPS = 20


def loss_fn(params, batch, key):
    logits = MODEL.apply(params, batch["tokens"], key=key)
    return ops.cross_entropy(logits, batch["labels"], ignore_index=0), {}


def batch_of(number):
    tokens = np.random.default_rng(number).integers(0, 13, (8, 8), dtype=np.int32)
    return {
        "tokens": tokens[:, :-1],
        "labels": tokens[:, 1:],
    }  # label 0 has weight 0, so weights differ between devices


def initial(seed=0):
    key = jax.random.key(seed)
    return train.init_state(MODEL.init(key), OPTIMIZER, jax.random.fold_in(key, 1), ema=True)


def plain_step(**options):
    return train.make_train_step(loss_fn, OPTIMIZER, clip_norm=1.0, ema_decay=0.9, **options)


@functools.cache
def compiled(name):
    return PLACEMENTS[name].compile(plain_step(axis_name=PLACEMENTS[name].axis_name))


def run(name, state, first=0, last=STEPS):
    losses = []
    for i in range(first, last):
        state, metrics = compiled(name)(state, batch_of(i))
        losses.append(train.means(metrics)["loss"])
    return state, losses


@functools.cache
def on_one_device():
    state, losses = run("jit", PLACEMENTS["jit"].place_state(initial()))
    return jax.device_get((state.params, state.ema)), losses


def assert_same(state, losses):
    weights, expected = on_one_device()
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(jax.device_get((state.params, state.ema)), weights, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mesh", "pmap"])
def test_20_steps_equal_those_on_one_device(name):
    assert_same(*run(name, PLACEMENTS[name].place_state(initial())))
    assert len(set(on_one_device()[1])) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("jit", "pmap"), ("pmap", "mesh"), ("mesh", "jit")])
def test_training_resumes_under_another_placement(first, second, tmp_path):
    state, losses = run(first, PLACEMENTS[first].place_state(initial()), last=9)
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(9, state)
        restored, _ = checkpoints.restore(PLACEMENTS[second].abstract(initial()))
    state, more = run(second, restored, first=9)
    assert_same(state, losses + more)


@pytest.mark.slow
def test_several_seeds_train_under_vmap():
    seeds = [0, 5, 6]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(initial, seeds))
    together = jax.jit(jax.vmap(plain_step(), in_axes=(0, None)))
    for i in range(4):
        states, metrics = together(states, batch_of(i))
    found = np.asarray(metrics["loss"][0] / metrics["loss"][1])
    alone = [run("jit", PLACEMENTS["jit"].place_state(initial(seed)), last=4) for seed in seeds]
    np.testing.assert_allclose(found, [losses[-1] for _, losses in alone], rtol=1e-5)
    for i, (state, _) in enumerate(alone):
        params = jax.tree.map(lambda x, i=i: x[i], states.params)
        chex.assert_trees_all_close(params, state.params, rtol=1e-4, atol=1e-5)
