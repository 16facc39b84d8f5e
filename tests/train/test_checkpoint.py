import functools
import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train import problem
from tfm_jax import train
from tfm_jax.train.checkpoint_files import best_step, consecutive_steps

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), train.adamw(train.noam(8, 10)))


def make_state(seed=0, ema=True, scale=1.0):
    params = jax.tree.map(lambda p: p * scale, problem.init(jax.random.key(seed)))
    params["half"] = jnp.arange(3, dtype=jnp.bfloat16)
    state = train.init_state(params, OPTIMIZER, jax.random.key(seed, impl="rbg"), ema=ema)
    return train.Jit().place_state(state)


def abstract(**options):
    return train.Jit().abstract(make_state(**options))


def test_restore_returns_the_saved_state_exactly(tmp_path):
    state = make_state(3)
    extra = {"data": {"next": 12, "settings": {"seed": None}}}
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state, extra)
    with train.Checkpoints(tmp_path) as checkpoints:
        restored, found = checkpoints.restore(abstract())
    assert found == extra
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert restored.key.dtype == state.key.dtype  # a typed key of the same implementation
    without = make_state(ema=False)
    with train.Checkpoints(tmp_path / "without") as checkpoints:
        checkpoints.save(1, without)
        restored, found = checkpoints.restore(abstract(ema=False))
    assert restored.ema is None and found == {}


def test_saved_state_may_be_donated_at_once(tmp_path):
    step = jax.jit(lambda s: jax.tree.map(lambda p: p * 2, s), donate_argnums=0)
    params = {"kernel": jnp.arange(300_000.0)}
    with train.Checkpoints(tmp_path) as checkpoints:
        for i in range(3):
            checkpoints.save(i, train.init_state(params, optax.sgd(0.1), jax.random.key(0)))
            params = step(params)
    for i in range(3):
        chex.assert_trees_all_equal(train.load_params(tmp_path, i), {"kernel": jnp.arange(300_000.0) * 2**i})


def test_the_best_step_of_a_directory_is_that_of_its_checkpoints(tmp_path):
    assert best_step(tmp_path, "loss") is None
    losses = {1: 0.5, 2: 0.1, 3: 0.1, 4: float("nan"), 5: 0.3}
    with train.Checkpoints(tmp_path, best="loss") as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, make_state(step), metrics={"loss": loss})
        checkpoints.save(6, make_state(6))
        checkpoints.wait()
        assert best_step(tmp_path, "loss") == checkpoints.best() == 3
    assert best_step(tmp_path, "accuracy") is None
    shutil.rmtree(tmp_path / "3" / "meta")  # damaged
    assert best_step(tmp_path, "loss") == 2


@pytest.mark.parametrize(("mode", "best"), [("max", 20), ("min", 30)])
def test_last_and_best_are_kept_also_after_a_resume(tmp_path, mode, best):
    options = {"keep": 2, "best": "accuracy", "mode": mode}
    accuracies = {10: 0.5, 20: 0.9, 30: 0.1, 40: float("nan")}
    with train.Checkpoints(tmp_path, **options) as checkpoints:
        assert checkpoints.latest() is None and checkpoints.best() is None
        for step, accuracy in accuracies.items():
            checkpoints.save(step, make_state(step), metrics={"accuracy": accuracy, "loss": 1.0})
        assert checkpoints.steps() == sorted({best, 30, 40})
        assert checkpoints.best() == best
    with train.Checkpoints(tmp_path, **options) as checkpoints:
        assert (checkpoints.best(), checkpoints.latest()) == (best, 40)
        checkpoints.save(50, make_state(50))  # without the metric it cannot be the best
        checkpoints.save(60, make_state(60), metrics={"accuracy": 0.5})
        assert checkpoints.steps() == [best, 50, 60]
        restored, _ = checkpoints.restore(abstract(), "best")
        chex.assert_trees_all_equal(restored.params, make_state(best).params)
        restored, _ = checkpoints.restore(abstract(), 50)
        chex.assert_trees_all_equal(restored.params, make_state(50).params)
    assert {p.name for p in tmp_path.iterdir()} == {str(best), "50", "60"}


def test_checkpoints_saved_under_another_interval_are_judged_by_that(tmp_path):
    """A resume may change the interval: the best one stays, one that a signal caused is deleted."""
    options = {"keep": 2, "best": "loss"}
    with train.Checkpoints(tmp_path, every=2, **options) as checkpoints:
        for step, loss in ((2, 0.1), (4, 0.9), (6, 0.8), (7, 0.05)):  # a signal caused the last
            checkpoints.save(step, make_state(step), metrics={"loss": loss})
        assert checkpoints.steps() == [2, 4, 6, 7]
    with train.Checkpoints(tmp_path, every=3, **options) as checkpoints:
        for step, kept in ((9, [2, 6, 9]), (12, [2, 9, 12]), (13, [2, 9, 12, 13]), (15, [2, 12, 15])):
            checkpoints.save(step, make_state(step), metrics={"loss": 0.5})
            assert (checkpoints.steps(), checkpoints.best()) == (kept, 2)


def test_restore_lists_the_arrays_that_differ(tmp_path, caplog, capfd):
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, make_state())
        wanted = abstract()
        wanted.params["out"]["kernel"] = jax.ShapeDtypeStruct((5, 4), jnp.float32)
        wanted.params["half"] = jax.ShapeDtypeStruct((3,), jnp.float32)
        del wanted.params["hidden"]["bias"]
        wanted.params["more"] = jax.ShapeDtypeStruct((1,), jnp.float32)
        with pytest.raises(ValueError) as error:
            checkpoints.restore(wanted)
        with pytest.raises(ValueError, match=r"ema/half: saved float32.*wanted nothing"):
            checkpoints.restore(abstract(ema=False))
    lines = str(error.value).splitlines()
    assert f"{tmp_path}/5: got a checkpoint of another model or optimizer; 4 of" in lines[0]
    assert lines[1:] == [
        "  params/half: saved bfloat16[3], wanted float32[3]",
        "  params/hidden/bias: saved float32[5], wanted nothing",
        "  params/more: saved nothing, wanted float32[1]",
        "  params/out/kernel: saved float32[5, 2], wanted float32[5, 4]",
    ]
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_restore_of_a_missing_checkpoint_names_the_saved_ones(tmp_path):
    with train.Checkpoints(tmp_path, best="loss") as checkpoints:
        with pytest.raises(FileNotFoundError, match=r"with steps \[\]; wanted the latest checkpoint"):
            checkpoints.restore(abstract())
        checkpoints.save(5, make_state())
        with pytest.raises(FileNotFoundError, match=r"with steps \[5\]; wanted the checkpoint of step 7"):
            checkpoints.restore(abstract(), 7)
        with pytest.raises(FileNotFoundError, match=r"with steps \[5\]; wanted the best checkpoint"):
            checkpoints.restore(abstract(), "best")
    with pytest.raises(ValueError, match="Checkpoints: got keep=0; wanted"):
        train.Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="Checkpoints: got mode='most'; wanted"):
        train.Checkpoints(tmp_path, mode="most")


def test_invalid_save_raises_and_changes_nothing(tmp_path):
    with train.Checkpoints(tmp_path, best="loss") as checkpoints:
        checkpoints.save(5, make_state(5), metrics={"loss": np.float32(0.5)})
        for step in (4, 5):
            with pytest.raises(ValueError, match=rf"got step {step}; wanted one above 5"):
                checkpoints.save(step, make_state(), metrics={"loss": 0.1})
        with pytest.raises(ValueError, match=r"got metrics \['accuracy'\]; wanted 'loss' among them"):
            checkpoints.save(6, make_state(), metrics={"accuracy": 0.1})
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpoints.save(6, make_state(), extra={"data": object()})
        assert (checkpoints.steps(), checkpoints.best()) == ([5], 5)
        checkpoints.save(7, make_state(), metrics={"loss": jnp.float32(0.7)})
        assert (checkpoints.steps(), checkpoints.best()) == ([5, 7], 5)


def test_leftovers_of_a_kill_are_ignored(tmp_path):
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, make_state())
    for left in ("6.orbax-checkpoint-tmp", "deleted/4", "\u00b2"):  # a digit that is no number
        (tmp_path / left).mkdir(parents=True)
    with train.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 5
        checkpoints.save(6, make_state(6))
    assert {p.name for p in tmp_path.iterdir()} == {"5", "6", "\u00b2"}


def test_deleted_checkpoint_is_moved_first(tmp_path):
    # a kill during the deletion leaves no partial checkpoint with the name of a step
    with train.Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state())
        assert checkpoints.steps() == [2]
        assert (tmp_path / "deleted" / "1" / "params").is_dir()
    assert [p.name for p in tmp_path.iterdir()] == ["2"]


def ways_to_damage(path):
    """Functions that damage a checkpoint, by name."""
    return {
        "no meta": lambda: shutil.rmtree(path / "meta"),
        "junk in meta": lambda: (path / "meta" / "metadata").write_text("{"),
        "meta of another kind": lambda: (path / "meta" / "metadata").write_text("[]"),
        "no params": lambda: shutil.rmtree(path / "params"),
        "a cut manifest": lambda: (path / "params" / "manifest.ocdbt").write_bytes(b"x"),
        "nothing": lambda: [shutil.rmtree(p) if p.is_dir() else p.unlink() for p in path.iterdir()],
    }


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a pending read of orbax
@pytest.mark.parametrize("how", list(ways_to_damage(Path())))
def test_damaged_checkpoint_raises_and_names_the_last_intact_one(tmp_path, how, caplog):
    with train.Checkpoints(tmp_path, best="loss") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), metrics={"loss": 1.0})
    for step in (2, 3):
        ways_to_damage(tmp_path / str(step))[how]()
    with train.Checkpoints(tmp_path, best="loss") as checkpoints:
        with pytest.raises(ValueError, match=r"/3: got a damaged .*last intact one is of step 1: .*-step 1$"):
            checkpoints.restore(abstract())
        restored, _ = checkpoints.restore(abstract(), 1)
        chex.assert_trees_all_equal(restored, make_state(1))
        ways_to_damage(tmp_path / "1")[how]()
        with pytest.raises(ValueError, match=r"/1: got a damaged .*No other one can be read"):
            checkpoints.restore(abstract(), 1)
    if how == "no params":
        with pytest.raises(FileNotFoundError, match="got no params in the checkpoint"):
            train.load_params(tmp_path)
    elif "meta" not in how and how != "nothing":
        with pytest.raises(ValueError, match=rf"{tmp_path}/3: got a damaged .*move it out of {tmp_path}$"):
            train.load_params(tmp_path)
    caplog.clear()  # its records refer to the errors
    gc.collect()  # warnings of pending reads are raised here, where they are ignored


def test_later_checkpoints_are_set_aside_and_saved_again(tmp_path):
    with train.Checkpoints(tmp_path / "checkpoints", best="loss") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), metrics={"loss": step - 9.0 * (step == 3)})
        assert checkpoints.set_aside(3) is None and checkpoints.best() == 3
        assert checkpoints.set_aside(1) == tmp_path / "set_aside"
        assert (checkpoints.steps(), checkpoints.best()) == ([1], 1)
        checkpoints.save(2, make_state(7), metrics={"loss": 0.0})
        assert checkpoints.set_aside(1) == tmp_path / "set_aside-1"
    found = train.load_params(tmp_path / "set_aside", 3)
    chex.assert_trees_all_equal(found, make_state(3).params)


@pytest.mark.parametrize("name", ["7", "07", "deleted", ""])
def test_stray_entry_with_the_name_of_a_checkpoint_raises(tmp_path, name):
    path = tmp_path / "checkpoints"
    if name == "07":
        (path / name).mkdir(parents=True)
    else:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    with pytest.raises(ValueError, match=rf"{path / name}: got .*Move it away"):
        train.Checkpoints(path)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints")
    pmap = train.Pmap(train.make_mesh(data=8))
    with train.Checkpoints(path, keep=9) as checkpoints:
        for step in range(1, 8):
            params = {"a": {"w": jnp.full((3, 2), step**2.0)}, "b": jnp.full(4, step, jnp.bfloat16)}
            state = train.init_state(params, optax.adam(0.1), jax.random.key(0), ema=True)
            checkpoints.save(step, pmap.place_state(state))
    return path


def test_load_params_reads_onto_one_device(directory):
    params = train.load_params(directory)
    chex.assert_trees_all_equal(
        params, {"a": {"w": jnp.full((3, 2), 49.0)}, "b": jnp.full(4, 7, jnp.bfloat16)}
    )
    assert len(params["b"].devices()) == 1
    chex.assert_trees_all_equal(train.load_params(directory, 2)["b"], jnp.full(4, 2, jnp.bfloat16))
    assert train.load_params(directory, 2, item="ema")["b"].dtype == jnp.float32


def test_average_params_is_the_mean_of_the_last(directory):
    chex.assert_trees_all_close(
        train.average_params(directory, last=5),
        {"a": {"w": jnp.full((3, 2), (9 + 16 + 25 + 36 + 49) / 5)}, "b": jnp.full(4, 5, jnp.bfloat16)},
    )
    chex.assert_trees_all_equal(train.average_params(directory, last=1), train.load_params(directory))


def test_average_params_leaves_out_an_old_best_one_and_irregular_ones(tmp_path):
    with train.Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in (2, 5, 6, 8, 9):
            params = {"w": jnp.full(3, float(step))}
            checkpoints.save(step, train.init_state(params, optax.sgd(0.1), jax.random.key(0)))
    assert consecutive_steps(tmp_path, 2) == [6, 8, 9]
    assert consecutive_steps(tmp_path) == [2, 5, 6, 8, 9]
    chex.assert_trees_all_close(
        train.average_params(tmp_path, last=3, every=2), {"w": jnp.full(3, 23 / 3)}, rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"got last=4; wanted 1 to 3, .*, 2 steps apart: steps \[6, 8, 9"):
        train.average_params(tmp_path, last=4, every=2)


def test_missing_weights_raise(directory, tmp_path):
    with pytest.raises(ValueError, match=r"average_params: got last=8; wanted 1 to 7, .*: steps \[1, 2"):
        train.average_params(directory, last=8)
    with pytest.raises(ValueError, match=r"wanted 1 to 0, .*: steps \[\]"):
        train.average_params(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"load_params: .*wanted the checkpoint of step 9"):
        train.load_params(directory, 9)
    with pytest.raises(FileNotFoundError, match="wanted the latest checkpoint"):
        train.load_params(tmp_path)
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, train.init_state({"w": jnp.ones(2)}, optax.sgd(0.1), jax.random.key(0)))
    with pytest.raises(FileNotFoundError, match=r"load_params: got no ema in the checkpoint .*/1;"):
        train.load_params(tmp_path, item="ema")


# orbax drops what was reading the other arrays, when Python collects it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_array_above_the_bound_of_a_restore_is_an_error(tmp_path):
    with train.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state())
    with (
        train.Checkpoints(tmp_path, restore_concurrent_gb=1e-8) as checkpoints,
        pytest.raises(ValueError, match=r"Checkpoints: got restore_concurrent_gb=1e-08; wanted more than"),
    ):
        checkpoints.restore(abstract())
    read = train.load_params, functools.partial(train.average_params, last=1)
    error = "load_params: got restore_concurrent_gb=1e-08; wanted more than"
    for load in read:
        with pytest.raises(ValueError, match=error):
            load(tmp_path, restore_concurrent_gb=1e-8)
    gc.collect()  # here, not in another test
    for load in (train.Checkpoints, *read):
        with pytest.raises(ValueError, match="got restore_concurrent_gb=0; wanted a finite number above 0"):
            load(tmp_path, restore_concurrent_gb=0)


@pytest.mark.slow
def test_a_smaller_bound_of_a_restore_takes_less_memory(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}

    def run(gigabytes, devices):
        command = [sys.executable, "-m", "tests.train.restored_memory", str(tmp_path / "checkpoints")]
        command += [str(devices), str(gigabytes)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return done.stdout

    run(96, 8)  # saves
    for devices in (1, 8):
        free, bounded = (json.loads(run(gigabytes, devices))["beyond"] for gigabytes in (96, 0.04))
        print(f"{devices} devices: {free / 1e6:.0f} MB beside the state; bounded {bounded / 1e6:.0f} MB")
        assert bounded < 0.8 * free
