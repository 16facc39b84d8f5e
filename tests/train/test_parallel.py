import functools

import chex
import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.train import problem
from tests.train.test_meshes import Device
from tfm_jax import train
from tfm_jax.sharding import ShardingRules
from tfm_jax.train.metrics import read, total

OPTIMIZER = optax.adam(1e-2)
PARALLEL = {
    "jit": train.Jit(),
    "mesh": train.Jit(train.make_mesh(data=8)),
    "small mesh": train.Jit(train.make_mesh(data=2)),
    "pmap": train.Pmap(train.make_mesh(data=8)),
    "small pmap": train.Pmap(train.make_mesh(data=2)),
}


def initial():
    return train.init_state(problem.init(jax.random.key(0)), OPTIMIZER, jax.random.key(7), ema=True)


@functools.cache
def compiled(parallel, accumulate=1):
    return parallel.compile(
        train.make_train_step(
            problem.loss_fn,
            OPTIMIZER,
            accumulate=accumulate,
            clip_norm=1.0,
            ema_decay=0.9,
            axis_name=parallel.axis_name,
        )
    )


def run(parallel, state, first, last, accumulate=1):
    losses = []
    for i in range(first, last):
        state, metrics = compiled(parallel, accumulate)(state, problem.make_batch(i))
        losses.append(train.means(metrics)["loss"])
    return state, losses


@functools.cache
def twenty_losses():
    return run(train.Jit(), train.Jit().place_state(initial()), 0, 20)[1]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", PARALLEL)
def test_twenty_losses_are_the_same_under_each(name, accumulate):
    parallel = PARALLEL[name]
    state, losses = run(parallel, parallel.place_state(initial()), 0, 20, accumulate)
    np.testing.assert_allclose(losses, twenty_losses(), rtol=1e-5, atol=1e-5)
    assert losses[-1] < losses[0]
    assert len(state.params["out"]["kernel"].devices()) == parallel.mesh.size


@pytest.mark.parametrize(("first", "second"), [("jit", "pmap"), ("pmap", "mesh"), ("mesh", "jit")])
def test_checkpoint_of_one_resumes_under_another(first, second, tmp_path):
    before, after = PARALLEL[first], PARALLEL[second]
    state, losses = run(before, before.place_state(initial()), 0, 9)
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(9, state)
        restored, _ = checkpoints.restore(after.abstract(initial()))
    chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(state))
    assert len(restored.step.devices()) == after.mesh.size
    _, more = run(after, restored, 9, 20)
    np.testing.assert_allclose(losses + more, twenty_losses(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PARALLEL)
def test_placed_state_is_a_copy_that_the_step_donates(name):
    original, parallel = initial(), PARALLEL[name]
    placed = parallel.place_state(original)
    compiled(parallel)(placed, problem.make_batch(0))
    assert placed.params["out"]["kernel"].is_deleted()
    chex.assert_trees_all_equal(original, initial())


@pytest.mark.parametrize("name", PARALLEL)
def test_step_compiles_once(name):
    traces = []

    def loss(*args):
        traces.append(1)
        return problem.loss_fn(*args)

    parallel = PARALLEL[name]
    step = parallel.compile(
        train.make_train_step(loss, OPTIMIZER, ema_decay=0.9, axis_name=parallel.axis_name)
    )
    state = parallel.place_state(initial())
    for i in range(4):
        state, _ = step(state, problem.make_batch(i))
    assert len(traces) == 1


@pytest.mark.parametrize("name", ["mesh", "small pmap"])
def test_a_step_is_lowered_for_the_shapes_of_a_whole_batch(name):
    parallel, batch = PARALLEL[name], problem.make_batch(0)
    shapes = jax.eval_shape(lambda: batch)
    program = compiled(parallel).lower(jax.eval_shape(initial), shapes).compile()
    _, metrics = program(parallel.place_state(initial()), parallel.place_batch(batch))
    assert train.means(metrics)["loss"] == pytest.approx(twenty_losses()[0], rel=1e-5)


@pytest.mark.parametrize("name", PARALLEL)
def test_evaluation_is_the_same_under_each(name):
    parallel = PARALLEL[name]
    evaluate = parallel.compile_eval(train.make_eval_step(problem.loss_fn, axis_name=parallel.axis_name))
    params = parallel.place_state(initial()).params
    # more than 32 in flight would deadlock; total reads in between
    found = total(evaluate(params, problem.make_batch(i % 3)) for i in range(60))
    plain = train.make_eval_step(problem.loss_fn)
    expected = [read(plain(initial().params, problem.make_batch(i))) for i in range(3)]
    for key, (sum_, weight) in found.items():
        assert sum_ == pytest.approx(20 * sum(e[key][0] for e in expected), rel=1e-5)
        assert weight == 20 * sum(e[key][1] for e in expected)


def test_microbatches_of_a_sharded_batch_are_not_moved():
    parallel = train.Jit(train.make_mesh(data=4))
    step = train.make_train_step(problem.loss_fn, OPTIMIZER, accumulate=2, ema_decay=0.9)
    state, batch = parallel.place_state(initial()), parallel.place_batch(problem.make_batch(0))
    text = jax.jit(step, out_shardings=state.step.sharding).lower(state, batch).compile().as_text()
    assert "all-reduce" in text
    for movement in ("all-to-all", "all-gather", "collective-permute"):
        assert movement not in text


def test_training_with_dropout_works_under_each():
    for parallel in (train.Jit(), train.Jit(train.make_mesh(data=4)), train.Pmap(train.make_mesh(data=4))):
        step = parallel.compile(
            train.make_train_step(
                problem.dropout_loss, OPTIMIZER, ema_decay=0.9, axis_name=parallel.axis_name
            )
        )
        state, losses = parallel.place_state(initial()), []
        for i in range(60):
            state, metrics = step(state, problem.make_batch(i % 4))
            losses.append(train.means(metrics)["loss"])
        assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])


@pytest.mark.parametrize("parallel", [train.Jit(train.make_mesh(data=8)), train.Pmap()])
def test_dropout_equals_that_of_one_device(parallel):
    def one_step(parallel):
        step = train.make_train_step(
            problem.dropout_loss, OPTIMIZER, ema_decay=0.9, axis_name=parallel.axis_name
        )
        _, metrics = parallel.compile(step)(parallel.place_state(initial()), problem.make_batch(0))
        return train.means(metrics)["loss"]

    assert one_step(parallel) == pytest.approx(one_step(train.Jit()), rel=1e-5)


@pytest.mark.parametrize(
    ("rule", "spec"),
    [
        (("data", "fsdp"), P(("data", "fsdp"))),
        ("tensor", P(("tensor",))),
        (("tensor?", "data"), P(("tensor", "data"))),
        ("sequence", P()),  # of size 1
        (None, P()),
    ],
)
def test_a_batch_is_sharded_by_the_rule_of_its_letter(rule, spec):
    mesh = train.make_mesh(data=2, fsdp=2, tensor=2)
    rules = ShardingRules(activations={**ShardingRules().activations, "B": rule})
    parallel = train.Jit(mesh, rules=rules)
    for x in parallel.place_batch(problem.make_batch(0)).values():
        assert x.sharding == NamedSharding(mesh, spec)
    step = parallel.compile(train.make_train_step(problem.loss_fn, OPTIMIZER, ema_decay=0.9))
    _, metrics = step(parallel.place_state(initial()), problem.make_batch(0))
    assert train.means(metrics)["loss"] == pytest.approx(twenty_losses()[0], rel=1e-5)


def test_a_process_reads_an_equal_share_of_each_batch_or_the_mesh_is_an_error():
    devices = [Device(i, slice_index=0, process_index=i // 4) for i in range(8)]
    three_each = devices[1:7]

    def share(devices, **sizes):
        return train.Jit(train.make_mesh(**sizes, devices=devices)).batch_share

    assert share(devices, data=8) == share(devices, data=2, tensor=4) == (0, 2)
    assert share(three_each, data=2, fsdp=3) == (0, 2)
    assert share(devices, tensor=8) == (0, 1)
    with pytest.raises(
        ValueError, match=r"Jit: got processes .* \(0, 1, 2, 3\), \(4, 5\) of the 6 .*\(data 3 x fsdp 2\); w"
    ):
        share(devices, data=3, fsdp=2)
    with pytest.raises(ValueError, match=r"hold the parts \(0, 1\), \(1, 2\) of the 3 .*equal shares"):
        share(three_each, data=3, tensor=2)  # each has a half of the second part


def test_bad_arguments_raise():
    data = train.make_mesh(data=8)
    for parallel in (train.Jit(data), train.Pmap(data)):
        with pytest.raises(ValueError, match=r"got batch\['weights'\] of shape \(12,\); wanted .*8 devices"):
            parallel.place_batch(problem.make_batch(0, size=12))
        with pytest.raises(ValueError, match=r"got batch\['n'\] of shape \(\)"):
            parallel.place_batch({"n": np.float32(3)})
    with pytest.raises(ValueError, match=r"of the 8 devices that share a batch \(data 2 x fsdp 4\)"):
        train.Jit(train.make_mesh(data=2, fsdp=4)).place_batch(problem.make_batch(0, size=12))
    train.Jit(train.make_mesh(data=2, tensor=4)).place_batch(problem.make_batch(0, size=6))
    with pytest.raises(ValueError, match=r"Pmap: got a mesh with fsdp=2, tensor=2; wanted data alone.*jit"):
        train.Pmap(train.make_mesh(data=2, fsdp=2, tensor=2))
    rules = ShardingRules(activations={"B": ("dta", "fsdp")})
    with pytest.raises(ValueError, match=r"got 'B': 'dta'; wanted one of the mesh axes data, fsdp"):
        train.Jit(data, rules=rules)
