import dataclasses

import jax
import optax
import pytest

from tfm_jax import nn, train
from tfm_jax.train.plan.chips import CHIPS
from tfm_jax.train.plan.compiling import CompiledStep, Memory, check_mesh, compile_step
from tfm_jax.train.plan.flops import step_flops
from tfm_jax.train.plan.formulas import Setting, activation_bytes, estimate, state_bytes_of, traffic
from tfm_jax.train.plan.search import cheapest_fix, mesh_options, rank, settings
from tfm_jax.train.plan.task import Task

B, T = 32, 16
CONFIG = nn.Config(
    vocab_size=64,
    d_model=32,
    n_layers=2,
    n_heads=4,
    d_ff=96,
    dtype="bfloat16",
    positions=nn.Rope(),
    norm=nn.RMSNorm(),
)

ADAM = optax.adam(1e-3)


def make_task(config=CONFIG, mesh=None, accumulate=1, batch=B, optimizer=ADAM):
    model = nn.functionalize(nn.Decoder, config)

    def loss(params, batch, key):
        total = model.apply(params, batch["tokens"]).astype("float32").sum()
        return (total, jax.numpy.float32(1)), {}

    return Task(
        model=model,
        step=train.make_train_step(loss, optimizer, accumulate=accumulate),
        make_state=lambda key: train.init_state(model.init(key), optimizer, key),
        batch={"tokens": jax.ShapeDtypeStruct((batch, T), "int32")},
        flops=step_flops(model, examples=batch, length=T),
        tokens=batch * T,
        accumulate=accumulate,
        mesh=mesh or {},
    )


def weights(task):
    """The numbers that FSDP shards, by their letter D, and those of the hidden biases, which it does not."""
    shapes = jax.eval_shape(task.make_state, jax.random.key(0)).params
    sizes = {jax.tree_util.keystr(path): x.size for path, x in jax.tree_util.tree_leaves_with_path(shapes)}
    biases = sum(size for path, size in sizes.items() if "b_in" in path)
    return sum(sizes.values()) - biases, biases


def test_traffic_is_the_formula_of_fsdp():
    task = make_task()
    sharded, biases = weights(task)
    found = traffic(task, Setting({"data": 2, "fsdp": 4}, "full"))
    assert found.gathered == 2 * 2 * sharded  # bfloat16, for both passes
    assert found.scattered == 4 * sharded  # float32
    assert found.reduced == 4 * sharded / 4 + 4 * biases
    assert found.total == found.gathered + found.scattered + found.reduced
    in_bfloat16 = dataclasses.replace(task, gradient_dtype="bfloat16")
    again = traffic(in_bfloat16, Setting({"data": 2, "fsdp": 4}, "full", accumulate=3))
    assert (again.gathered, again.scattered) == (3 * 4 * sharded, 3 * 2 * sharded)


def test_traffic_of_data_parallelism_is_one_all_reduce_of_the_gradients():
    task = make_task()
    found = traffic(task, Setting({"data": 8}, None))
    assert (found.gathered, found.scattered, found.reduced) == (0, 0, 4 * sum(weights(task)))
    assert traffic(task, Setting({}, None)).total == 0


def test_traffic_of_tensor_parallelism_is_of_activations():
    task = make_task()
    base, recomputed = (traffic(task, Setting({"tensor": 4}, remat)).reduced for remat in (None, "full"))
    assert base == 4 * B * T * 32 * 2 * 2 and recomputed == 1.5 * base


def test_state_is_the_parameters_three_times_and_shared():
    task = make_task()
    params, state = state_bytes_of(task, Setting({"fsdp": 4}, None))
    sharded, biases = weights(task)
    assert params == sharded + 4 * biases
    assert 3 * params < state < 3 * params + 100
    with pytest.raises(ValueError, match="wanted a multiple of 5"):
        state_bytes_of(task, Setting({"fsdp": 5}, None))


def test_recomputation_saves_less_and_microbatches_too():
    task = make_task()
    by_remat = [activation_bytes(task, Setting({"fsdp": 4}, remat)) for remat in (None, "dots", "full")]
    assert by_remat[0] > by_remat[1] > by_remat[2]
    half = activation_bytes(task, Setting({"fsdp": 4}, "full", accumulate=2))
    assert half == pytest.approx(by_remat[2] / 2)


def test_the_formula_of_memory_is_near_the_compilers():
    task = make_task(mesh={"data": 2, "fsdp": 4})
    step = compile_step(task, "cpu:8")
    formula = estimate(task, Setting({"data": 2, "fsdp": 4}, None), CHIPS["cpu"])
    assert step.memory.params == weights(task)[0] + 4 * weights(task)[1]
    assert 0.3 < formula.memory / step.memory.total < 3
    assert step.text is not None and "ENTRY" in step.text
    assert step.mesh == {"data": 2, "fsdp": 4}


def test_settings_are_the_meshes_that_fit():
    found = list(settings(make_task(), 8))
    meshes = {tuple(x.mesh.values()) for x in found}
    assert meshes == {  # four heads: tensor is at most 4
        (8, 1, 1), (4, 2, 1), (2, 4, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2), (1, 4, 2), (2, 1, 4), (1, 2, 4)
    }  # fmt: skip
    assert len(found) == 3 * len(meshes)
    assert {x.mesh["fsdp"] for x in settings(make_task(batch=12), 8)} == {1, 2, 4}  # data x fsdp divides 12


def test_the_ranking_has_the_fastest_that_fit_first():
    found = rank(make_task(), "cpu:8")
    assert [x.traffic.total for x in found] == sorted(x.traffic.total for x in found)
    with pytest.raises(ValueError, match=r"got a batch of 3 examples .* wanted one that some"):
        rank(make_task(config=dataclasses.replace(CONFIG, n_heads=3, head_dim=8), batch=3), "cpu:8")


def too_large(temporary, remat=None, exceeded=0):
    task = make_task(dataclasses.replace(CONFIG, remat=remat))
    return task, CompiledStep(None, Memory(10, 30, 5, temporary, exceeded), {"data": 8}, 0, 0)


def test_the_cheapest_change_is_recomputation_then_microbatches():
    memory = CHIPS["v5e"].memory
    task, step = too_large(1.05 * memory)
    assert "It would with --model.remat dots," in cheapest_fix(task, "v5e:2x4", step)
    task, step = too_large(1.05 * memory, remat="full")
    assert "It would with --train.accumulate 2," in cheapest_fix(task, "v5e:2x4", step)
    assert cheapest_fix(*with_topology(too_large(0.5 * memory))) is None
    task, step = too_large(1e6 * memory)
    assert cheapest_fix(task, "v5e:2x4", step) is None


def test_a_state_that_is_too_large_is_shared_by_more_devices_or_has_smaller_moments(monkeypatch):
    task = make_task()
    params, state = state_bytes_of(task, Setting({"data": 8}, None))
    step = CompiledStep(None, Memory(params, state, 0, 0, 0), {"data": 8}, 0, 0)
    chips = {**CHIPS, "v5e": dataclasses.replace(CHIPS["v5e"], memory=int(state * 0.95))}
    monkeypatch.setattr("tfm_jax.train.plan.topologies.CHIPS", chips)
    assert "It would with --mesh.data 4 --mesh.fsdp 2," in cheapest_fix(task, "v5e:2x4", step)
    step = dataclasses.replace(step, mesh={"tensor": 1})
    assert "It would with --train.optimizer.mu-dtype bfloat16," in cheapest_fix(task, "v5e:2x4", step)
    narrow = make_task(optimizer=train.adamw(1e-3, mu_dtype="bfloat16"))
    assert "mu-dtype" not in (cheapest_fix(narrow, "v5e:2x4", step) or "")


def with_topology(pair):
    return pair[0], "v5e:2x4", pair[1]


@pytest.mark.parametrize(
    "mesh, batch, message",
    [
        ({"data": 16}, 32, r"cpu:8: make_mesh: got data=16: 16 devices; wanted 1 to 8"),
        ({"data": 4}, 32, r"cpu:8: got a mesh of 4 devices; wanted all 8"),
        ({"data": 8}, 12, r"plan: got a batch of 12 examples \(tokens\); wanted a multiple of 8"),
        ({"tensor": 8}, 32, r"parameter_specs: .*got [NK] = 4 in"),
    ],
)
def test_what_does_not_fit_is_one_error_before_anything_is_compiled(mesh, batch, message):
    with pytest.raises(ValueError, match=message):
        check_mesh(make_task(mesh=mesh, batch=batch), "cpu:8")


def test_options_of_a_mesh():
    assert mesh_options({"data": 1, "fsdp": 4, "tensor": 2}) == "--mesh.fsdp 4 --mesh.tensor 2"
