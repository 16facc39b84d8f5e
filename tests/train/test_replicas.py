"""Replicas in one program are the models that are trained one by one."""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from tests.train import problem
from tfm_jax import nn, ops, train

N = 3
OPTIMIZER = optax.adam(1e-2)


def keys():
    """New ones for each use: a step that donates its state deletes them."""
    return jax.random.split(jax.random.key(0), N)


def make_state(key):
    return train.init_state(problem.init(key), OPTIMIZER, key, ema=True)


STEP = train.make_train_step(problem.dropout_loss, OPTIMIZER, accumulate=2, clip_norm=0.5, ema_decay=0.9)


def test_replicas_are_the_single_runs_with_their_own_dropout():
    states, step = train.replicas(make_state)(keys()), jax.jit(train.replicas(STEP), donate_argnums=0)
    alone = [make_state(key) for key in keys()]
    for i in range(4):
        batch = problem.make_batch(i)
        states, metrics = step(states, batch)
        results = [jax.jit(STEP)(state, batch) for state in alone]
        alone = [state for state, _ in results]
        assert metrics["loss"][0].shape == metrics["grad_norm"][1].shape == (N,)
        for index, (_, expected) in enumerate(results):
            chex.assert_trees_all_close(train.replica(metrics, index), expected, rtol=1e-5)
    for index, state in enumerate(alone):
        found = train.replica(states, index)
        chex.assert_trees_all_equal_shapes_and_dtypes(found, state)
        chex.assert_trees_all_close(
            (found.params, found.ema), (state.params, state.ema), rtol=1e-4, atol=1e-6
        )
        assert (found.key == state.key).all() and int(found.step) == 4
    losses = metrics["loss"][0]
    assert len(set(losses.tolist())) == N
    chex.assert_trees_all_equal(train.replica(metrics, -1), train.replica(metrics, N - 1))


def test_evaluation_of_replicas():
    evaluate = jax.jit(train.replicas(train.make_eval_step(problem.loss_fn)))
    states, batch = train.replicas(make_state)(keys()), problem.make_batch(0)
    found = evaluate(states.params, batch)
    for index in range(N):
        expected = train.make_eval_step(problem.loss_fn)(train.replica(states, index).params, batch)
        chex.assert_trees_all_close(train.replica(found, index), expected, rtol=1e-5)


def test_replicas_of_a_decoder_on_a_mesh_of_data():
    config = nn.Config(vocab_size=16, d_model=8, n_layers=1, n_heads=2, d_ff=8)
    model = nn.functionalize(nn.Decoder, config)

    def loss(params, tokens, key):
        decoder = model.bind(params)
        kernel, _ = decoder.output_projection()
        return ops.linear_cross_entropy(decoder.hidden(tokens), kernel, tokens, chunk_size=4), {}

    step = train.make_train_step(loss, optax.sgd(0.1))
    states = jax.jit(train.replicas(lambda key: train.init_state(model.init(key), optax.sgd(0.1), key)))(
        keys()
    )
    tokens = jax.random.randint(jax.random.key(1), (8, 6), 0, 16)
    expected = jax.jit(train.replicas(step))(states, tokens)
    mesh = train.make_mesh(data=4)
    with jax.set_mesh(mesh):
        shards = jax.device_put(tokens, jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
        found = jax.jit(train.replicas(step))(states, shards)
    chex.assert_trees_all_close(found[0].params, expected[0].params, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(found[1], expected[1], rtol=1e-4)


def test_bad_arguments_raise():
    states = train.replicas(make_state)(keys())
    with pytest.raises(ValueError, match=r"replica: got index=3; wanted one of 3 replicas, -3 to 2"):
        train.replica(states, 3)
    for call in (functools.partial(train.replica, index=0), train.replicas(lambda tree: tree)):
        with pytest.raises(
            ValueError, match=r"replicas?: got arrays of shapes \['a'\] \[2\], \['b'\] \[3\]; wanted"
        ):
            call({"a": jnp.zeros(2), "b": jnp.zeros(3)})
        with pytest.raises(ValueError, match=r"replicas?: got arrays of shapes  \[\]; wanted a first axis"):
            call(jax.random.key(0))
        with pytest.raises(ValueError, match=r"replicas?: got arrays of shapes none"):
            call({})
