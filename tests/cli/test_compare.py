"""``tfm compare``: differences between runs of this and older versions, and of sweeps."""

import json
from pathlib import Path

import pytest

from tfm_jax import runs
from tfm_jax.train.run_directory import write_config

OLD = Path(__file__).parents[1] / "fixtures" / "v0_1" / "digits" / "run"
TASK = runs.Task(task="text-generation")
CONFIG = {
    "model": {"d_model": 8, "positions": "Alibi()", "vocab_size": 0},
    "train": {"steps": 10, "seed": 0, "optimizer": {"learning_rate": 0.125}},
    "data": {"source": None, "size": [1, 2]},
    "out": "somewhere",
    "resume": False,
}


def make_run(
    directory, *, results=None, lines=(), digest="abc", jax="0.10.2", model=None, origin=True, **changes
):
    """The directory of a run; ``changes`` replace sections of its config."""
    directory.mkdir(parents=True)
    write_config(directory / "config.json", {**CONFIG, "out": str(directory), **changes})
    if model is not None:
        write_config(directory / "model.json", model)
    if origin:
        versions = {"python": "3.11", "jax": jax}
        runs.write_task(
            directory, TASK, runs.Origin(versions=versions, data={"train": digest, "test": "t"}, seed=0)
        )
    if results is not None:
        (directory / "result.json").write_text(json.dumps(results))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def table_of(out):
    """The cells of each line, by its first one; the names of fields are in no other line."""
    return {cells[0]: cells[1:] for line in out.splitlines() if (cells := line.split())}


def test_what_differs_is_listed_and_the_rest_counted(tfm, tmp_path):
    one = make_run(tmp_path / "one", results={"accuracy": 0.25, "n": 3})
    train = {"steps": 20, "seed": 7, "optimizer": {"learning_rate": 0.125}}
    data = {"source": "a.csv", "size": [1, 3]}
    options = {"train": train, "data": data, "jax": "0.11"}
    two = make_run(tmp_path / "two", results={"accuracy": 0.5, "n": 3, "text": "x"}, **options)
    status, out, err = tfm("compare", one, two)
    table = table_of(out)
    assert (status, err) == (0, "")
    assert table.pop("one") == ["two"]
    counts = " ".join(table.pop("equal:"))
    assert counts == "4 of the config, 2 of the data, 1 of the versions, 1 of the results"
    rule = next(name for name in table if set(name) <= {"─", "-"})
    assert {name: cells for name, cells in table.items() if name != rule} == {
        "config": [], "versions": [], "results": [],
        "train.steps": ["10", "20"], "train.seed": ["0", "7"],
        "data.source": ["None", "a.csv"], "data.size": ["[1,", "2]", "[1,", "3]"],
        "jax": ["0.10.2", "0.11"], "accuracy": ["0.25", "0.5"], "text": ["x"],
    }  # fmt: skip


def test_floats_that_differ_are_shown_with_digits_that_do(tfm, tmp_path):
    one = make_run(tmp_path / "one", results={"loss": 0.5, "accuracy": 1 / 3})
    two = make_run(tmp_path / "two", results={"loss": 0.5 + 2**-52, "accuracy": 2 / 3})
    table = table_of(tfm("compare", one, two)[1])
    assert table["loss"] == ["0.5", "0.50000000000000022"]
    assert table["accuracy"] == ["0.333333", "0.666667"]


def test_the_model_is_that_of_model_json(tfm, tmp_path):
    runs_ = [make_run(tmp_path / str(size), model={"vocab_size": size}) for size in (5, 6)]
    _, out, _ = tfm("compare", *runs_)
    assert table_of(out)["model.vocab_size"] == [] and "model.d_model" not in out  # one line per run
    assert table_of(out)["5"] == ["5"] and table_of(out)["6"] == ["6"]


def test_an_unfinished_run_has_its_last_metrics(tfm, tmp_path):
    lines = [
        {"step": 2, "loss": 3.5, "validation/loss": 4.5},
        {"step": 3, "loss": 2.5, "validation/loss": None},
    ]
    one = make_run(tmp_path / "one", lines=lines, digest="abd")
    two = make_run(tmp_path / "two", results={"loss": 2.5})
    _, out, _ = tfm("compare", one, two)
    table = table_of(out)
    assert (table["step"], table["validation/loss"]) == (["3"], ["4.5"]) and "loss" not in table
    assert table["train"] == ["abd", "abc"] and "test" not in table
    assert "\nnot finished, with their last metrics as results: one\n" in out


def test_a_run_of_version_0_1_has_unknown_versions_and_migrated_fields(tfm, tmp_path):
    new = make_run(tmp_path / "new", data={"held_out_salt": None}, jax="0.11", results={})
    status, out, _ = tfm("compare", OLD, new)
    table = table_of(out)
    assert status == 0 and table["jax"] == ["unknown", "0.11"]
    assert "data.held_out_salt" not in table  # None in both: a file of version 0.1 has another form
    both = make_run(tmp_path / "both", origin=False)
    _, out, _ = tfm("compare", both, make_run(tmp_path / "other", origin=False))
    wanted = "equal: 8 of the config\nnot finished, with their last metrics as results: both, other\n"
    assert out == wanted


def test_a_sweep_is_its_runs_with_one_line_each(tfm, tmp_path):
    names = [f"train.seed={seed}" for seed in range(5)]
    for seed, name in enumerate(names):
        make_run(tmp_path / name, train={"steps": 10, "seed": seed}, results={"accuracy": 0.5})
    rows = [{"name": name} for name in (*names, "train.seed=5")]  # the last one was not started
    write_config(tmp_path / "sweep.json", {"runs": rows})
    _, out, _ = tfm("compare", tmp_path)
    table = table_of(out)
    assert [table[name] for name in names] == [["0"], ["1"], ["2"], ["3"], ["4"]] and "train.seed" in table
    assert "1 of the results" in out


def test_json_has_the_values_that_differ(tfm, tmp_path):
    one = make_run(tmp_path / "one", results={"n": 1}, origin=False)
    two = make_run(tmp_path / "two", results={"n": None, "text": "ü"}, data={"source": "a"})
    found = json.loads(tfm("compare", one, two, "--json")[1])
    assert found["equal"] == {"config": 6, "data": 0, "versions": 0, "results": 0}
    assert found["runs"][0] == {
        "run": str(one), "is_finished": True, "config": {"data.source": None, "data.size": [1, 2]},
        "data": None, "versions": None, "results": {"n": 1},
    }  # fmt: skip
    assert found["runs"][1]["config"] == {"data.source": "a"}
    assert found["runs"][1]["versions"] == {"python": "3.11", "jax": "0.10.2"}
    assert found["runs"][1]["results"] == {"n": None, "text": "ü"}


def test_runs_of_one_name_have_their_paths(tfm, tmp_path):
    one, two = (make_run(tmp_path / name / "run", train={"seed": name}) for name in "ab")
    table = table_of(tfm("compare", one, two)[1])
    assert (table[str(one)], table[str(two)]) == (["a"], ["b"])


def test_errors_name_the_directory(tfm, checkpoint, tmp_path):
    run = make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    cases = [
        ([tmp_path / "empty", run], "got no config.json, nor sweep.json; wanted the directory of a run, or"),
        ([tmp_path / "gone", run], f"{tmp_path / 'gone'}: got no config.json"),
        ([checkpoint, run], f"{checkpoint}: got a checkpoint; wanted the directory of a run, or of a sweep."),
        ([run], "RUN: got 1; wanted two or more, or a sweep with as many."),
        ([], "RUN: got 0; wanted two or more"),
        ([run, tmp_path / "empty" / ".." / "run"], f"RUN: got {run} twice; wanted different runs."),
    ]
    for argv, message in cases:
        status, out, err = tfm("compare", *argv)
        assert (status, out) == (2, "") and message in err


@pytest.mark.parametrize("name", ["config.json", "model.json", "task.json", "result.json", "metrics.jsonl"])
def test_a_damaged_file_is_named(tfm, tmp_path, name):
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    (one / name).write_text("{\n{")
    status, out, err = tfm("compare", one, two)
    assert (status, out) == (2, "") and str(one / name) in err and len(err.splitlines()) == 1
