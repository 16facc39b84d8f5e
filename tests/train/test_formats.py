import json

import jax
import jax.numpy as jnp
import optax
import pytest

from tfm_jax import train
from tfm_jax.train._formats import FORMAT, migrate_config, migrate_record
from tfm_jax.train.run_directory import RunDirectory, flatten, read_config

OLD = {
    "model": {"d_model": 8, "attention_implementation": "optimistic"},
    "data": {"source": "a", "held_out": 0.1},
}
CURRENT = {
    "model": {"d_model": 8, "attention_implementation": "cpu_decode"},
    "data": {"source": "a", "held_out": 0.1, "held_out_salt": None},
}


def save_checkpoint(path, extra=None):
    state = train.init_state({"w": jnp.ones(2)}, optax.sgd(0.1), jax.random.key(0))
    with train.Checkpoints(path) as checkpoints:
        checkpoints.save(1, state, extra)
    return state


def change_meta(path, **fields):
    """Rewrites a checkpoint's metadata; None removes a field."""
    file = path / "1" / "meta" / "metadata"
    meta = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in meta.items() if value is not None}))


def test_configs_and_checkpoints_carry_the_format(tmp_path):
    run = RunDirectory(tmp_path, {"steps": 1})
    save_checkpoint(run.checkpoints)
    meta = json.loads((run.checkpoints / "1" / "meta" / "metadata").read_text())
    assert json.loads(run.config_file.read_text())["format"] == meta["format"] == FORMAT == 2


@pytest.mark.parametrize("number", [None, 1])
def test_old_config_is_migrated(tmp_path, number):
    old = OLD if number is None else {"format": number, **OLD}
    (tmp_path / "config.json").write_text(json.dumps(old))
    (tmp_path / "model.json").write_text(json.dumps(OLD["model"]))
    assert read_config(tmp_path / "config.json") == CURRENT
    assert read_config(tmp_path / "model.json") == CURRENT["model"]


def test_migration_keeps_other_values_and_its_argument():
    config = {"model": {"attention_implementation": "xla"}, "data": {"held_out": 0.1, "held_out_salt": "a"}}
    assert migrate_config(config, 1) == migrate_config(config, FORMAT) == config
    assert migrate_config({"model": 3, "data": None, "x": 1}, 1) == {"model": 3, "data": None, "x": 1}
    before = json.dumps(OLD)
    assert migrate_config(OLD, 1) == CURRENT and migrate_config(OLD, FORMAT) == OLD
    assert json.dumps(OLD) == before


def test_record_of_an_old_checkpoint_is_migrated(tmp_path):
    old, current = ({"config": flatten(config), "data": {"test": "a"}} for config in (OLD, CURRENT))
    assert migrate_record(old, 1) == current
    assert migrate_record({"data": {}}, 1) == {"data": {}}
    files = {
        "files": {"tokenizer.json": "0f", "special_tokens_map.json": None, "preprocessor_config.json": None}
    }
    for number in (1, FORMAT):  # a run of images may get that file
        assert migrate_record(old | files, number)["files"] == {
            "tokenizer.json": "0f",
            "special_tokens_map.json": None,
        }
    save_checkpoint(tmp_path, {"record": old})
    with train.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.extra()["record"] == old  # as saved, in the current format
    change_meta(tmp_path, format=None)
    with train.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.extra()["record"] == current


def test_config_of_a_newer_format_raises_one_line_with_the_fix(tmp_path):
    run = RunDirectory(tmp_path, {"steps": 1})
    run.config_file.write_text('{"format": 3, "steps": 1}')
    message = r"^\S+config.json: got format 3; wanted at most 2. .*pip install -U tfm_jax$"
    with pytest.raises(ValueError, match=message):
        read_config(run.config_file)
    with pytest.raises(ValueError, match=message):
        RunDirectory(tmp_path, {"steps": 1}, resume=True)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2", None, [2]])
def test_config_of_no_format_raises(tmp_path, number):
    (tmp_path / "config.json").write_text(json.dumps({"format": number}))
    with pytest.raises(ValueError, match=r"config.json: got format .*; wanted a number from 1 to 2"):
        read_config(tmp_path / "config.json")


def test_checkpoint_of_a_newer_format_raises_and_is_kept(tmp_path):
    save_checkpoint(tmp_path)
    change_meta(tmp_path, format=FORMAT + 1)
    for read in (train.Checkpoints, train.load_params, lambda path: train.average_params(path, 1)):
        with pytest.raises(ValueError, match=r"^\S+/1: got format 3; wanted at most 2. .*pip install -U"):
            read(tmp_path)
    assert (tmp_path / "1" / "params").is_dir()


def test_checkpoint_without_a_format_is_read(tmp_path):
    state = save_checkpoint(tmp_path, {"data": {"next": 3}})
    change_meta(tmp_path, format=None)
    with train.Checkpoints(tmp_path) as checkpoints:
        restored, extra = checkpoints.restore(train.Jit().abstract(state))
    assert extra == {"data": {"next": 3}} and bool((restored.params["w"] == 1).all())
