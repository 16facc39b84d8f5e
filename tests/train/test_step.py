import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from tests.programs import equations
from tests.train import problem
from tfm_jax import train
from tfm_jax.ops.projection import project
from tfm_jax.train.metrics import read, total

SGD = optax.sgd(0.5)


def initial(optimizer=SGD, ema=False, seed=0):
    return train.init_state(problem.init(jax.random.key(seed)), optimizer, jax.random.key(7), ema=ema)


@functools.cache
def jitted(accumulate, clip_norm):
    return jax.jit(train.make_train_step(problem.loss_fn, SGD, accumulate=accumulate, clip_norm=clip_norm))


@given(
    seed=st.integers(0, 1000),
    weights=st.lists(st.sampled_from([0.0, 0.25, 1.0, 7.0]), min_size=8, max_size=8),
    accumulate=st.sampled_from([2, 4, 8]),
    clip_norm=st.sampled_from([None, 0.1]),
)
def test_accumulated_microbatches_equal_the_large_batch(seed, weights, accumulate, clip_norm):
    batch = {**problem.make_batch(seed, 8), "weights": np.asarray(weights, np.float32)}
    large, large_metrics = jitted(1, clip_norm)(initial(), batch)
    small, small_metrics = jitted(accumulate, clip_norm)(initial(), batch)
    chex.assert_trees_all_close(small.params, large.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(small_metrics, large_metrics, rtol=1e-5, atol=1e-5)


def test_step_equals_the_plain_code():
    batch, state = problem.make_batch(1), initial()
    new, metrics = jitted(1, None)(state, batch)

    def mean(params):
        total, weight = problem.loss_fn(params, batch, None)[0]
        return total / weight

    loss, gradients = jax.value_and_grad(mean)(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, state.params, gradients)
    chex.assert_trees_all_close(new.params, expected, rtol=1e-5, atol=1e-6)
    assert int(new.step) == 1
    assert train.means(metrics)["loss"] == pytest.approx(float(loss), rel=1e-6)
    assert float(metrics["loss"][1]) == batch["weights"].sum()
    assert train.means(metrics)["grad_norm"] == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-6)
    assert metrics.keys() == {"loss", "near", "grad_norm"}


def test_step_sums_over_a_mapped_axis():
    # vmap, pmap and shard_map, with and without check_vma, equal the step on the whole batch
    batch, state = problem.make_batch(2), initial(optax.adam(1e-2))
    make = functools.partial(train.make_train_step, problem.loss_fn, optax.adam(1e-2), clip_norm=0.3)
    expected = jax.jit(make())(state, batch)
    step = make(axis_name="data")
    shards = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
    mesh = train.make_mesh(data=8)
    shard = functools.partial(jax.shard_map, step, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    found = {
        "vmap": jax.tree.map(lambda x: x[3], jax.vmap(step, (None, 0), axis_name="data")(state, shards)),
        "pmap": jax.pmap(step, "data", in_axes=(None, 0), out_axes=None)(state, shards),
        "shard_map": jax.jit(shard())(state, batch),
        "shard_map unchecked": jax.jit(shard(check_vma=False))(state, batch),
        "shard_map of microbatches": jax.jit(
            jax.shard_map(
                make(axis_name="data", accumulate=2), mesh=mesh, in_specs=(P(), P("data")), out_specs=P()
            )
        )(state, batch),
    }
    for name, (new, metrics) in found.items():
        chex.assert_trees_all_close(new.params, expected[0].params, rtol=2e-5, atol=1e-6, custom_message=name)
        chex.assert_trees_all_close(metrics, expected[1], rtol=1e-5, custom_message=name)


def test_vmap_over_seeds_equals_a_loop():
    optimizer = optax.adam(1e-2)
    step = train.make_train_step(problem.dropout_loss, optimizer, accumulate=2, ema_decay=0.9)

    def make(key):
        return train.init_state(problem.init(key), optimizer, key, ema=True)

    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(make)(keys)
    alone = [make(key) for key in keys]
    many, one = jax.jit(jax.vmap(step, (0, None))), jax.jit(step)
    for i in range(4):
        batch = problem.make_batch(i)
        together, metrics = many(together, batch)
        alone = [one(state, batch)[0] for state in alone]
    assert metrics["loss"][0].shape == (3,)
    for i, state in enumerate(alone):
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=i: x[i], together.params), state.params, rtol=1e-5
        )
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], together.ema), state.ema, rtol=1e-5)


def loss_that_records_keys(record):
    def loss(params, batch, key):
        record(jax.random.key_data(key))
        return problem.loss_fn(params, batch, key)

    return loss


def test_keys_differ_by_step_microbatch_and_device_only():
    def keys_of(state, **options):
        keys = []

        def record(key):
            return jax.debug.callback(lambda k: keys.append(tuple(np.ravel(k).tolist())), key)

        step = train.make_train_step(loss_that_records_keys(record), SGD, **options)
        if "axis_name" in options:
            pmapped = jax.pmap(step, "data", in_axes=(None, 0), out_axes=None)
            shards = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), problem.make_batch(0))
            state, _ = pmapped(state, shards)
        else:
            state, _ = jax.jit(step)(state, problem.make_batch(0))
        jax.block_until_ready(state)
        jax.effects_barrier()
        return state, keys

    state, first = keys_of(initial(), accumulate=4)
    _, again = keys_of(initial(), accumulate=4)
    _, second = keys_of(state, accumulate=4)
    assert len(set(first)) == len(set(second)) == 4
    assert set(first) == set(again)
    assert not set(first) & set(second)
    state, on_devices = keys_of(initial(), accumulate=2, axis_name="data")
    assert len(set(on_devices)) == 16
    assert (jax.random.key_data(state.key) == jax.random.key_data(initial().key)).all()


@given(norm=st.sampled_from([0.01, 0.5, 1e6]), seed=st.integers(0, 20))
def test_clipping_bounds_the_global_norm_and_keeps_the_direction(norm, seed):
    batch, state = problem.make_batch(seed), initial()
    plain, metrics = jitted(1, None)(state, batch)
    clipped, clipped_metrics = jitted(1, norm)(state, batch)

    def move(new):
        return jax.tree.map(lambda a, b: a - b, new.params, state.params)

    scale = min(1.0, norm / train.means(metrics)["grad_norm"])
    chex.assert_trees_all_close(
        move(clipped), jax.tree.map(lambda x: x * scale, move(plain)), rtol=1e-3, atol=1e-6
    )
    assert train.means(clipped_metrics)["grad_norm"] == train.means(metrics)["grad_norm"]


def test_ema_decay_ramps_up_and_ema_is_float32():
    step = jax.jit(train.make_train_step(problem.loss_fn, SGD, ema_decay=0.3))
    state = initial(ema=True)
    expected = jax.tree.map(np.float64, jax.device_get(state.params))
    for t in range(8):
        state, _ = step(state, problem.make_batch(t))
        d = min(0.3, (1 + t) / (10 + t))
        expected = jax.tree.map(lambda e, p, d=d: d * e + (1 - d) * np.float64(p), expected, state.params)
    chex.assert_trees_all_close(jax.tree.map(np.float64, state.ema), expected, rtol=1e-5)
    bf16 = jax.tree.map(lambda p: p.astype(jnp.bfloat16), problem.init(jax.random.key(0)))
    ema = train.init_state(bf16, SGD, jax.random.key(0), ema=True).ema
    assert {x.dtype for x in jax.tree.leaves(ema)} == {jnp.dtype("float32")}


def test_state_with_ema_can_be_donated():
    state, batch = initial(ema=True), problem.make_batch(0)
    step = train.make_train_step(problem.loss_fn, SGD, ema_decay=0.9)
    expected, _ = jax.jit(step)(state, batch)
    donated, _ = jax.jit(step, donate_argnums=0)(state, batch)
    chex.assert_trees_all_equal(donated.params, expected.params)


def test_bfloat16_params_keep_their_dtype():
    bf16 = jax.tree.map(lambda p: p.astype(jnp.bfloat16), problem.init(jax.random.key(0)))

    def cast(params, batch, key):
        return problem.loss_fn(jax.tree.map(lambda p: p.astype(jnp.float32), params), batch, key)

    optimizer = train.adamw(1e-2)
    state = train.init_state(bf16, optimizer, jax.random.key(0), ema=True)
    step = train.make_train_step(cast, optimizer, accumulate=2, clip_norm=1.0, ema_decay=0.99)
    new, metrics = jax.jit(step)(state, problem.make_batch(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
    assert metrics["loss"][0].dtype == metrics["grad_norm"][0].dtype == jnp.float32


@pytest.mark.parametrize("gradient_dtype", ["float32", "bfloat16"])
def test_the_dtype_in_which_devices_add_gradients(gradient_dtype):
    state, batch = initial(), problem.make_batch(0)
    make = functools.partial(train.make_train_step, problem.loss_fn, SGD, gradient_dtype=gradient_dtype)
    specs = {"in_specs": (P(), P("data")), "out_specs": P()}
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    mapped = jax.jit(jax.shard_map(make(axis_name="data"), mesh=mesh, **specs))
    sums = [e for e in equations(mapped.trace(state, batch).jaxpr.jaxpr) if "psum" in e.primitive.name]
    shapes = {x.shape for x in jax.tree.leaves(state.params)}
    dtypes = {x.aval.dtype.name for e in sums for x in e.invars if x.aval.shape in shapes}
    assert dtypes == {gradient_dtype}
    new, metrics = mapped(state, batch)
    wanted, expected = jitted(1, None)(state, batch)
    tolerance = 1e-5 if gradient_dtype == "float32" else 0.02
    chex.assert_trees_all_close(new.params, wanted.params, rtol=tolerance, atol=tolerance)
    chex.assert_trees_all_close(metrics["loss"], expected["loss"], rtol=1e-5)
    assert {x.dtype.name for x in jax.tree.leaves(new.params)} == {"float32"}


def test_gradient_dtype_reaches_the_products_of_the_loss():
    def loss(params, batch, key):
        hidden = project(batch["x"].astype(jnp.bfloat16), params["out"]["kernel"])
        return (jnp.sum(hidden.astype(jnp.float32)), jnp.float32(1)), {}

    params = {"out": {"kernel": jnp.ones((3, 2))}}
    state = train.init_state(params, SGD, jax.random.key(0))

    def products(**options):
        program = jax.make_jaxpr(train.make_train_step(loss, SGD, **options))(state, problem.make_batch(0))
        found = [e for e in equations(program.jaxpr) if "dot_general" in e.primitive.name]
        return {tuple(sorted(e.outvars[0].aval.shape)): e.outvars[0].aval.dtype.name for e in found}

    for accumulate in (1, 2):
        assert products(accumulate=accumulate)[(2, 3)] == "float32"
        assert products(accumulate=accumulate, gradient_dtype="bfloat16")[(2, 3)] == "bfloat16"


def test_batch_of_weight_0_has_gradient_0():
    batch = {**problem.make_batch(0, 8), "weights": np.zeros(8, np.float32)}
    for accumulate in (1, 4):
        new, metrics = jitted(accumulate, 0.1)(initial(), batch)
        chex.assert_trees_all_equal(new.params, initial().params)
        assert read(metrics["loss"]) == (0.0, 0.0)
        assert read(metrics["grad_norm"]) == (0.0, 1.0)


def test_eval_step_sums_over_batches_and_devices_without_a_key():
    keys = []

    def loss(params, batch, key):
        keys.append(key)
        return problem.loss_fn(params, batch, key)

    evaluate = jax.jit(train.make_eval_step(loss))
    params, batch = initial().params, problem.make_batch(3)
    expected = read(evaluate(params, batch))
    halves = [jax.tree.map(lambda x, s=s: x[s], batch) for s in (slice(0, 4), slice(4, None))]
    chex.assert_trees_all_close(total(evaluate(params, half) for half in halves), expected, rtol=1e-5)
    shards = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
    mapped = train.make_eval_step(loss, axis_name="data")
    found = jax.pmap(mapped, "data", in_axes=(None, 0), out_axes=None)(params, shards)
    chex.assert_trees_all_close(read(found), expected, rtol=1e-5)
    mapped = train.make_eval_step(loss, axis_name=("outer", "data"))
    mesh = jax.make_mesh((2, 4), ("outer", "data"), (jax.sharding.AxisType.Auto,) * 2)
    specs = {"in_specs": (P(), P(("outer", "data"))), "out_specs": P()}
    for checked in (True, False):
        found = jax.jit(jax.shard_map(mapped, mesh=mesh, check_vma=checked, **specs))(params, batch)
        chex.assert_trees_all_close(read(found), expected, rtol=1e-5)
    assert set(keys) == {None}
    assert expected.keys() == {"loss", "near"}


def test_bad_arguments_raise():
    make = functools.partial(train.make_train_step, problem.loss_fn, SGD)
    with pytest.raises(ValueError, match=r"got batch\['weights'\] of shape \(16,\); wanted .*accumulate=3"):
        make(accumulate=3)(initial(), problem.make_batch(0))
    with pytest.raises(ValueError, match=r"make_train_step: got accumulate=0; wanted an integer"):
        make(accumulate=0)
    with pytest.raises(ValueError, match=r"got clip_norm=-1\.0; wanted a finite number above 0"):
        make(clip_norm=-1.0)
    with pytest.raises(ValueError, match=r"got ema_decay=1\.0; wanted a number in \[0, 1\)"):
        make(ema_decay=1.0)
    with pytest.raises(ValueError, match=r"got gradient_dtype='float16'; wanted 'float32' or 'bfloat16'"):
        make(gradient_dtype="float16")
    for wrong in (3, "", ("data", 0), ("data", "data"), ["data"]):
        for function in (make, functools.partial(train.make_eval_step, problem.loss_fn)):
            with pytest.raises(
                ValueError, match=r"make_\w+_step: got axis_name=.*; wanted the name of a mapped"
            ):
                function(axis_name=wrong)
    with pytest.raises(ValueError, match=r"got ema_decay=0\.9 .*ema=False\); wanted"):
        make(ema_decay=0.9)(initial(), problem.make_batch(0))
    with pytest.raises(ValueError, match=r"got ema_decay=None .*ema=True\); wanted"):
        make()(initial(ema=True), problem.make_batch(0))

    def taken(*args):
        return (problem.loss_fn(*args)[0], {"grad_norm": (jnp.float32(0), jnp.float32(1))})

    with pytest.raises(ValueError, match=r"loss_fn: got metrics named \['grad_norm'\]; wanted other names"):
        train.make_train_step(taken, SGD)(initial(), problem.make_batch(0))


def test_loss_that_is_not_summed_raises_at_trace_time():
    def losses(params, batch, key):
        return (batch["y"][:, 0], jnp.float32(8)), {}

    def metrics(params, batch, key):
        return problem.loss_fn(params, batch, key)[0], {"error": (jnp.float32(0), batch["weights"])}

    params, batch = problem.init(jax.random.key(0)), problem.make_batch(0, 8)
    for loss_fn, name in ((losses, "loss[0]"), (metrics, "error[1]")):
        with pytest.raises(ValueError, match=rf"but {re.escape(name)} has rank 1, not 0. Sum over the batch"):
            train.make_eval_step(loss_fn)(params, batch)
