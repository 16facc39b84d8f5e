import json
import math
from pathlib import Path

import numpy as np
import pytest

from tfm_jax import train

CONFIG = {
    "train": {"steps": 10, "seed": 0},
    "data": {"path": Path("a/b"), "sizes": (1, 2)},
    "parallel": "jit",
}


def test_a_run_begins_in_an_empty_place_and_is_resumed_with_the_same_config(tmp_path):
    run = train.RunDirectory(tmp_path / "new" / "run", CONFIG)
    assert json.loads((run.path / "config.json").read_text())["data"] == {"path": "a/b", "sizes": [1, 2]}
    run.write("result.json", {"accuracy": np.float32(0.5), "loss": math.inf})
    assert json.loads((run.path / "result.json").read_text()) == {"accuracy": 0.5, "loss": None}
    again = train.RunDirectory(run.path, {**CONFIG, "parallel": "pmap"}, resume=True, free=["parallel"])
    assert again.path == run.path
    assert (run.checkpoints.parent, run.events.parent, run.metrics.parent) == (run.path,) * 3


def test_a_run_is_never_written_over(tmp_path):
    run = train.RunDirectory(tmp_path / "run", CONFIG)
    before = {p: p.read_bytes() for p in run.path.iterdir()}
    with pytest.raises(FileExistsError, match=r"is not empty.*--resume.*--out"):
        train.RunDirectory(run.path, {**CONFIG, "parallel": "pmap"})
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="--out"):
        train.RunDirectory(tmp_path / "file", CONFIG)
    assert {p: p.read_bytes() for p in run.path.iterdir()} == before


def test_a_resume_with_another_config_names_what_differs(tmp_path):
    run = train.RunDirectory(tmp_path, CONFIG)
    other = {"train": {"steps": 20, "more": None}, "data": CONFIG["data"], "parallel": "jit"}
    with pytest.raises(ValueError) as error:
        train.RunDirectory(run.path, other, resume=True)
    assert str(error.value).splitlines()[1:] == [
        "  train.seed: saved 0, asked for nothing",
        "  train.steps: saved 10, asked for 20",
    ]
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        train.RunDirectory(tmp_path / "nowhere", CONFIG, resume=True)
    assert not (tmp_path / "nowhere").exists()
