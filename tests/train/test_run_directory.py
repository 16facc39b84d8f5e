import json
import math
from pathlib import Path

import numpy as np
import pytest

from tfm_jax import processes
from tfm_jax.train.run_directory import RunDirectory, flatten, is_under, read_config

CONFIG = {
    "train": {"steps": 10, "seed": 0},
    "data": {"path": Path("a/b"), "sizes": (1, 2)},
    "parallel": "jit",
}


def test_new_run_creates_its_directory_and_resumes_with_the_same_config(tmp_path):
    run = RunDirectory(tmp_path / "new" / "run", CONFIG)
    saved = json.loads(run.config_file.read_text())
    assert (saved["format"], saved["data"]) == (2, {"path": "a/b", "sizes": [1, 2]})
    assert read_config(run.config_file) == {**CONFIG, "data": saved["data"]}
    run.write("result.json", {"accuracy": np.float32(0.5), "loss": math.inf})
    assert json.loads((run.path / "result.json").read_text()) == {"accuracy": 0.5, "loss": None}
    again = RunDirectory(run.path, {**CONFIG, "parallel": "pmap"}, resume=True, free=["parallel"])
    assert again.path == run.path
    assert (run.checkpoints.parent, run.events.parent, run.metrics.parent) == (run.path,) * 3


def test_new_run_in_a_directory_with_files_raises_and_changes_nothing(tmp_path):
    run = RunDirectory(tmp_path / "run", CONFIG)
    before = {p: p.read_bytes() for p in run.path.iterdir()}
    with pytest.raises(FileExistsError, match=r"got files in it.*--resume.*--out"):
        RunDirectory(run.path, {**CONFIG, "parallel": "pmap"})
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="--out"):
        RunDirectory(tmp_path / "file", CONFIG)
    assert {p: p.read_bytes() for p in run.path.iterdir()} == before


def test_fixed_fields_are_those_that_may_not_change(tmp_path):
    run = RunDirectory(tmp_path, CONFIG, free=["parallel", "train.seed"])
    assert run.fixed_fields() == {"train.steps": 10, "data.path": "a/b", "data.sizes": [1, 2]}
    assert run.fixed_fields(["data.path"]) == {"train.steps": 10, "data.sizes": [1, 2]}


def test_resume_with_another_config_names_the_fields(tmp_path):
    run = RunDirectory(tmp_path, CONFIG)
    other = {"train": {"steps": 20, "more": None}, "data": CONFIG["data"], "parallel": "jit"}
    with pytest.raises(ValueError) as error:
        RunDirectory(run.path, other, resume=True)
    assert str(error.value).splitlines()[1:] == [
        "  train.seed: saved 0, configured nothing",
        "  train.steps: saved 10, configured 20",
        f"Leave them out, or start a new run with the weights of this one: --init-from {run.path}",
    ]
    free = ["train.steps", "train.seed"]
    assert RunDirectory(run.path, other, resume=True, free=free).path == run.path
    assert RunDirectory(run.path, other, resume=True, free=["train"]).path == run.path
    with pytest.raises(FileNotFoundError, match=r"got no config.json; wanted the directory of a run"):
        RunDirectory(tmp_path / "nowhere", CONFIG, resume=True)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", "\udcff", '{"a": ' * 9000, '{"a": ' * 102 + "1" + "}" * 102]
)
def test_file_without_a_json_object_raises_one_line_with_its_name(tmp_path, text):
    RunDirectory(tmp_path, CONFIG)
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"config.json: got no JSON object .*another --out$") as error:
        RunDirectory(tmp_path, CONFIG, resume=True)
    assert "\n" not in str(error.value)


def test_flatten_and_is_under():
    assert flatten({"a": {"b": [1], "c": {}}, "d": None}) == {"a.b": [1], "d": None}
    assert is_under("a.b", ["a"]) and is_under("a.b", ["a.b"]) and is_under("a", ["a"])
    assert not is_under("ab.c", ["a"]) and not is_under("a", ["a.b"]) and not is_under("a", [])


def test_only_process_0_writes(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run", {"a": 1})
    monkeypatch.setattr(processes, "is_main", lambda: False)
    run.write("result.json", {"b": 2})
    assert not (run.path / "result.json").exists()


def test_a_directory_that_the_processes_do_not_share_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "from_main", lambda name, make: None)  # process 0 makes it elsewhere
    monkeypatch.setattr(processes, "index", lambda: 3)
    with pytest.raises(FileNotFoundError, match=r"no config.json in process 3, .* all processes share"):
        RunDirectory(tmp_path / "run", {"a": 1})
