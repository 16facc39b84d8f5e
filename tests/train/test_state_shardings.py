"""A state under its shardings: what follows the parameters, what each device holds, and what stays pinned."""

import logging
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from tests.train import problem
from tfm_jax import train
from tfm_jax.sharding import ShardingRules

AXES = {"hidden": {"kernel": "D F", "bias": "F"}, "out": {"kernel": "F D"}}
SHAPES = {"hidden": {"kernel": (16, 24), "bias": (24,)}, "out": {"kernel": (24, 16)}}
SPECS = {
    "hidden": {"kernel": P("fsdp", "tensor"), "bias": P("tensor")},
    "out": {"kernel": P("tensor", "fsdp")},
}
MESHES = {"fsdp": {"fsdp": 8}, "tensor": {"tensor": 4, "data": 2}, "both": {"tensor": 2, "fsdp": 4}}


def init(key):
    shapes, structure = jax.tree.flatten(SHAPES, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(key, len(shapes))
    return structure.unflatten([jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)])


def make_state(key, optimizer=None):
    return train.init_state(init(key), optimizer or optax.adam(1e-2), key, ema=True)


def loss_fn(params, batch, key):
    x = jnp.tanh(batch["x"] @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    return (jnp.sum((x @ params["out"]["kernel"] - batch["x"]) ** 2), jnp.float32(batch["x"].shape[0])), {}


def batch_of(number):
    return {"x": np.random.default_rng(number).normal(size=(16, 16)).astype(np.float32)}


def specs(tree):
    return jax.tree.map(lambda x: getattr(x, "sharding", x).spec, tree)


def parallel_of(**sizes):
    return train.Jit(train.make_mesh(**sizes), AXES)


def live_bytes():
    """Bytes of all arrays on the first device."""
    device = jax.devices()[0]
    buffers = {
        shard.data.unsafe_buffer_pointer(): shard.data.nbytes
        for x in jax.live_arrays()
        for shard in x.addressable_shards
        if shard.device == device
    }
    return sum(buffers.values())


def test_optimizer_state_and_average_follow_their_parameters():
    state = parallel_of(tensor=2, fsdp=4).create(make_state, jax.random.key(0))
    for tree in (state.params, state.ema, state.opt_state[0].mu, state.opt_state[0].nu):
        assert specs(tree) == SPECS
    for x in (state.step, state.key, state.opt_state[0].count):
        assert x.sharding.spec == P()


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.clip(1.0), optax.masked(optax.adam(1e-2), {"hidden": True, "out": False})),
        optax.multi_transform(
            {"a": optax.adamw(1e-2), "b": optax.sgd(1e-2, momentum=0.9)}, {"hidden": "a", "out": "b"}
        ),
        optax.adafactor(1e-2, min_dim_size_to_factor=8),
    ],
)
def test_moments_of_any_optimizer_are_sharded_or_replicated(optimizer):
    parallel = parallel_of(tensor=2, fsdp=4)
    state = jax.eval_shape(lambda key: make_state(key, optimizer), jax.random.key(0))
    wanted = {(path[0].key, path[-1].key): spec for path, spec in jax.tree_util.tree_leaves_with_path(SPECS)}
    shapes = {("hidden", "kernel"): (16, 24), ("hidden", "bias"): (24,), ("out", "kernel"): (24, 16)}
    moments = 0
    for path, x in jax.tree_util.tree_leaves_with_path(parallel.abstract(state).opt_state):
        names = tuple(key.key for key in path[-2:] if hasattr(key, "key"))
        whole = shapes.get(names) == x.shape
        assert x.sharding.spec == (wanted[names] if whole else P()), path
        moments += whole
    assert moments


@pytest.mark.parametrize("name", MESHES)
def test_steps_keep_the_shardings_and_compile_once(name, caplog):
    parallel = parallel_of(**MESHES[name])
    step = parallel.compile(train.make_train_step(loss_fn, optax.adam(1e-2), ema_decay=0.9))
    state = parallel.create(make_state, jax.random.key(0))
    before = jax.tree.map(lambda x: x.sharding, state)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for i in range(4):
            state, _ = step(state, batch_of(i))
    assert jax.tree.map(lambda x: x.sharding, state) == before
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling jit(step)")]
    caplog.clear()
    assert len(compiled) == 1


def test_a_created_state_equals_a_placed_one_and_that_of_one_device():
    key = jax.random.key(3)
    state = make_state(key)
    for sizes in MESHES.values():
        parallel = parallel_of(**sizes)
        created, placed = parallel.create(make_state, key), parallel.place_state(state)
        chex.assert_trees_all_equal(jax.device_get(created.params), jax.device_get(state.params))
        chex.assert_trees_all_equal(jax.device_get(placed.opt_state), jax.device_get(state.opt_state))
        assert jax.tree.map(lambda x: x.sharding, created) == jax.tree.map(lambda x: x.sharding, placed)


def test_fsdp_8_holds_an_eighth_of_the_matrices_on_each_device():
    parallel, state = parallel_of(fsdp=8), make_state(jax.random.key(0))
    matrices, biases, others = 4 * 4 * 2 * 16 * 24, 4 * 4 * 24, 4 + 4 + 8  # step, count, key
    assert train.bytes_per_device(state) == matrices + biases + others
    for sharded in (parallel.abstract(state), parallel.create(make_state, jax.random.key(0))):
        assert train.bytes_per_device(sharded) == matrices // 8 + biases + others


@pytest.mark.parametrize("kind", ["numpy", "jax"])
def test_placing_a_state_takes_its_shards_only(kind):
    size = 8 * 64 * 1024 * 4
    make = {"numpy": np, "jax": jnp}[kind]
    params = {name: make.ones((8, 64 * 1024), make.float32) for name in "abc"}
    state = train.TrainState(make.zeros((), make.int32), params, (), None, jax.random.key(0))
    before = live_bytes()
    placed = train.Jit(train.make_mesh(fsdp=8), dict.fromkeys("abc", "D F")).place_state(state)
    jax.block_until_ready(placed)
    assert live_bytes() - before < 3 * size / 7  # the original is not copied whole


def test_a_created_state_is_on_no_device_whole():
    parallel = train.Jit(train.make_mesh(fsdp=8), dict.fromkeys("abc", "D F"))

    def make(key):
        keys = zip("abc", jax.random.split(key, 3), strict=True)
        params = {name: jax.random.normal(key, (8, 64 * 1024)) for name, key in keys}
        return train.init_state(params, optax.adam(0.1), key)

    shardings = parallel.state_shardings(jax.eval_shape(make, jax.random.key(0)))
    memory = jax.jit(make, out_shardings=shardings).lower(jax.random.key(0)).compile().memory_analysis()
    whole = 3 * 3 * 8 * 64 * 1024 * 4
    assert memory.output_size_in_bytes <= whole / 7
    assert memory.temp_size_in_bytes <= whole / 7


def test_initial_weights_are_placed_first_and_stay_the_callers():
    parallel = parallel_of(fsdp=8)
    given = {"out": {"kernel": np.full((24, 16), 3, np.float32)}}

    def make(key, given):
        return train.init_state({**init(key), **given}, optax.adam(1e-2), key)

    placed = parallel.place_params(given)
    assert placed["out"]["kernel"].sharding.spec == P(None, "fsdp")
    state = parallel.create(make, jax.random.key(0), placed)
    step = parallel.compile(train.make_train_step(loss_fn, optax.adam(1e-2)))
    step(state, batch_of(0))
    assert (np.asarray(placed["out"]["kernel"]) == 3).all()
    assert (given["out"]["kernel"] == 3).all()


def test_a_state_moves_from_mesh_to_mesh():
    key = jax.random.key(1)
    expected = jax.device_get(make_state(key).params)
    state = parallel_of(fsdp=8).create(make_state, key)
    for sizes in ({"tensor": 2, "fsdp": 2}, {}, {"tensor": 4, "data": 2}):
        parallel = parallel_of(**sizes)
        state = parallel.place_state(state)
        chex.assert_trees_all_equal(jax.device_get(state.params), expected)
        assert specs(state) == specs(parallel.abstract(state))


@pytest.mark.parametrize("sizes", MESHES.values())
def test_a_tree_comes_back_to_one_device(sizes):
    params = parallel_of(**sizes).create(make_state, jax.random.key(0)).params
    found = train.to_one_device(params)
    assert {device for x in jax.tree.leaves(found) for device in x.devices()} == {jax.devices()[0]}
    chex.assert_trees_all_equal(jax.device_get(found), jax.device_get(params))


def test_checkpoints_move_between_meshes(tmp_path):
    key = jax.random.key(5)
    state = parallel_of(fsdp=8).create(make_state, key)
    expected = jax.device_get(state)
    for i, sizes in enumerate([{"tensor": 2, "fsdp": 4}, {"fsdp": 2}, {}, {"data": 8}]):
        parallel = parallel_of(**sizes)
        with train.Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(i, state)
            abstract = parallel.abstract(jax.eval_shape(make_state, key))
            state, _ = checkpoints.restore(abstract)
        assert specs(state) == specs(abstract)
        chex.assert_trees_all_equal(jax.device_get(state), expected)
    parallel = parallel_of(tensor=2, fsdp=4)
    params = train.load_params(tmp_path, shardings=parallel.params_shardings)
    assert specs(params) == SPECS
    chex.assert_trees_all_equal(jax.device_get(params), expected.params)
    replicated = jax.sharding.NamedSharding(parallel.mesh, P())
    params = train.load_params(tmp_path, shardings=replicated)
    assert {x.sharding for x in jax.tree.leaves(params)} == {replicated}


def test_what_does_not_fit_the_mesh_names_the_parameter():
    with pytest.raises(
        ValueError, match=r"hidden/bias: got F = 24 .*wanted a multiple of 5.*tensor.*'tensor\?'"
    ):
        parallel_of(tensor=5).create(make_state, jax.random.key(0))
    rules = ShardingRules(parameters={"D": "fsdp", "F": "tensor?"})
    parallel = train.Jit(train.make_mesh(tensor=5), AXES, rules)
    assert specs(parallel.create(make_state, jax.random.key(0)).params["hidden"]["kernel"]) == P(None, None)
    without = train.Jit(train.make_mesh(fsdp=8), {"hidden": AXES["hidden"]})
    with pytest.raises(ValueError, match=r"parameter out/kernel \[24, 16\] without letters .*model.axes\(\)"):
        without.place_state(make_state(jax.random.key(0)))


def test_axes_of_none_replicate_the_state():
    state = train.Jit(train.make_mesh(fsdp=8)).place_state(
        train.init_state(problem.init(jax.random.key(0)), optax.adam(1e-2), jax.random.key(1))
    )
    assert {x.sharding.spec for x in jax.tree.leaves(state)} == {P()}


def test_a_step_is_lowered_for_shapes():
    parallel = parallel_of(fsdp=8)
    step = parallel.compile(train.make_train_step(loss_fn, optax.adam(1e-2), ema_decay=0.9))
    state = jax.eval_shape(make_state, jax.random.key(0))
    text = step.lower(state, jax.eval_shape(lambda: batch_of(0))).compile().as_text()
    assert re.search("all-gather|all-reduce", text)
