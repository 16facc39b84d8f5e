"""Runs of version 0.1 resume and load: tests/fixtures/v0_1."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments import init_from
from tfm_jax import runs

OLD = Path(__file__).parents[1] / "fixtures" / "v0_1"
EXPERIMENTS = ("classification", "digits", "language_model", "translation")
TIMED = "_per_second"
USED = {
    "classification": (["a text", ""], {"animal", "fruit", "tool"}),
    "digits": ([np.zeros((8, 8, 1), np.uint8), np.full((20, 16, 1), 255, np.uint8)], set("0123456789")),
}
"""Inputs of a classifier, and its labels."""


@pytest.fixture
def old_run(tmp_path, monkeypatch):
    """Copies a run of version 0.1 with its data and enters the copy, as its paths are relative."""

    def copy(name):
        shutil.copytree(OLD / name, tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        return Path("run")

    return copy


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def metrics_of(line):
    return {name: value for name, value in line.items() if not name.endswith(TIMED)}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_run_of_version_0_1_resumes_with_the_same_metrics(name, old_run):
    run = old_run(name)
    expected = json.loads(Path("expected.json").read_text())
    main = importlib.import_module(f"experiments.{name}.run").main
    main(["--out", "run", "--resume"])
    found = lines_of(run)
    assert len(found) == len(expected["metrics"]) == 9
    for line, wanted in zip(found, expected["metrics"], strict=True):
        assert metrics_of(line) == pytest.approx(wanted, rel=1e-4), wanted["step"]
    result = json.loads((run / "result.json").read_text())
    texts = {key: value for key, value in expected["result"].items() if isinstance(value, str)}
    assert {key: result[key] for key in texts} == texts
    numbers = expected["result"].keys() - texts.keys()
    assert {key: result[key] for key in numbers} == pytest.approx(
        {key: expected["result"][key] for key in numbers}, rel=1e-4
    )
    if name in USED:  # the resume wrote its task, and the preprocessing of images
        inputs, labels = USED[name]
        assert {label.label for label in runs.load_run(run)(inputs)} <= labels
        main(["--out", "run", "--resume"])  # the new file is no other data


def test_translation_run_of_version_0_1_loads(old_run):
    assert len(runs.load_run(old_run("translation")).translate(["one two"])) == 1


def test_language_model_run_of_version_0_1_loads(old_run):
    assert len(runs.load_run(old_run("language_model")).write(["cat"], key=None, max_length=3)) == 1


@pytest.mark.parametrize("name", ["language_model", "digits"])
def test_values_of_version_0_1_are_migrated(name, old_run):
    run = old_run(name)
    path = run / ("model.json" if name == "digits" else "config.json")
    path.write_text(path.read_text().replace('"auto"', '"optimistic"'))
    wanted = "images" if name == "digits" else "texts"
    assert init_from.read_model_config(str(run), wanted).attention_implementation == "cpu_decode"
    if name == "language_model":
        assert len(runs.load_run(run).write(["cat"], key=None, max_length=3)) == 1
