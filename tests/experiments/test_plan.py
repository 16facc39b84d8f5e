"""What ``tfm plan`` gets from each experiment: the step of its run, as shapes."""

import dataclasses
import importlib
import tomllib
from pathlib import Path

import jax
import pytest

from tfm_jax.train.plan.flops import traced_flops
from tfm_jax.train.plan.task import with_changes

ROOT = Path(__file__).parents[2]
TINY = [
    *("--model.d-model", "16", "--model.n-layers", "1", "--model.n-heads", "2", "--model.d-ff", "32"),
    *("--train.batch-size", "4"),
]
OPTIONS = {
    "classification": ["--data.max-length", "12"],
    "images": ["--data.size", "8", "12", "--patch-size", "4"],
    "language_model": ["--data.length", "12", "--data.overlap", "4"],
    "translation": ["--data.max-length", "12"],
}
ARRAYS = {
    "classification": {"tokens": (4, 12), "valid": (4, 12), "labels": (4,), "weights": (4,)},
    "images": {"images": (4, 8, 12, 1), "labels": (4,), "weights": (4,)},
    "language_model": dict.fromkeys(["tokens", "labels", "weights", "segment_ids", "positions"], (4, 12)),
    "translation": dict.fromkeys(["source", "valid", "target", "labels", "weights"], (4, 12)),
}


def experiment(name):
    return importlib.import_module(f"experiments.{name}.plan")


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_experiment_has_an_entry_point_and_is_in_the_wheel():
    points = project()["project"]["entry-points"]["tfm_jax.experiments"]
    assert points == {name: f"experiments.{name}.plan" for name in OPTIONS}
    assert set(OPTIONS) == {path.parent.name for path in (ROOT / "experiments").glob("*/config.py")}
    assert "experiments" in project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_step_of_an_experiment_is_traced_from_its_options_alone(name):
    module = experiment(name)
    config = module.parse([*TINY, *OPTIONS[name]])
    task = module.plan(config)
    assert {key: x.shape for key, x in task.batch.items()} == ARRAYS[name]
    state = jax.eval_shape(task.make_state, jax.random.key(0))
    after, metrics = jax.eval_shape(task.step, state, task.batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert "loss" in metrics
    assert task.mesh["data"] == 1 and task.accumulate == 1
    counted = traced_flops(jax.make_jaxpr(task.step)(state, task.batch))
    assert 0.8 < counted / task.flops < 1.2  # the first layer's inputs need no gradient; a loss may differ


def test_the_mesh_and_the_model_of_a_config_can_be_changed():
    module = experiment("language_model")
    config = module.parse([*TINY, *OPTIONS["language_model"], "--mesh.tensor", "2", "--mesh.data", "2"])
    changed = with_changes(config, {"fsdp": 4}, remat="full")
    assert dataclasses.asdict(changed.mesh) == {
        **dict.fromkeys(dataclasses.asdict(config.mesh), 1),
        "fsdp": 4,
    }
    assert changed.model == dataclasses.replace(config.model, remat="full")
    assert module.plan(changed).mesh["fsdp"] == 4


def test_pmap_is_not_planned():
    module = experiment("language_model")
    with pytest.raises(ValueError, match="got --parallel pmap; wanted jit"):
        module.plan(module.parse([*TINY, *OPTIONS["language_model"], "--parallel", "pmap"]))


def test_batches_of_tokens_are_pairs_of_the_longest():
    module = experiment("translation")
    config = module.parse([*TINY, *OPTIONS["translation"], "--data.batch-tokens", "100"])
    assert module.plan(config).batch["source"].shape == (8, 12)
