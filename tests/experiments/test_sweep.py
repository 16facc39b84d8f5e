"""Sweeps: the runs, their directories, the table, failures and resuming."""

import dataclasses
import json
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import command_line, sweep
from experiments.config import RunConfig, TrainConfig
from experiments.images.run import main as images
from experiments.runner import Stopped
from tests.experiments.test_images import SMALL, result_of
from tests.experiments.test_settings import write
from tests.experiments.test_small_data import Config as SmallConfig
from tfm_jax import nn, processes, runs
from tfm_jax.train.run_directory import RunDirectory, load_config
from tfm_jax.values import to_dict

TRAIN = TrainConfig(steps=12, evaluate_every=3, checkpoint_every=6)
MODEL = nn.Config(d_model=8, n_layers=1, n_heads=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """A run."""

    model: nn.Config = MODEL
    train: TrainConfig = TRAIN
    beams: int = 4
    """Of the test."""

    MAY_CHANGE = (*RunConfig.MAY_CHANGE, "beams")


class Experiment:
    """An experiment that computes nothing: its loss is the learning rate plus the seed; seed 13 fails."""

    def __init__(self):
        self.configs: dict[str, RunConfig] = {}
        self.trained, self.stops_at, self.task = [], None, runs.Task(task="translation")

    def __call__(self, config):
        name = config.out.name
        try:
            RunDirectory(config.out, to_dict(config), resume=config.resume, free=config.MAY_CHANGE)
        except ValueError as error:
            raise SystemExit(f"toy: {error}") from error
        runs.write_task(config.out, self.task, runs.Origin.now({}, config.train.seed))
        self.trained.append((name, config.resume))
        self.configs[name] = config
        seed, rate = config.train.seed, config.train.optimizer.learning_rate
        if name == self.stops_at:
            raise Stopped("toy: stopped at step 3, saved; resume by --resume")
        if seed == 13:
            raise SystemExit("toy: fit: got a loss of nan\nno checkpoint was saved")
        if seed == 14:
            raise RuntimeError("a device\nis lost")
        losses = [{"step": 3, "validation/loss": 0.5}, {"step": 6, "validation/loss": seed + rate}]
        (config.out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses))
        result = {"accuracy": 1 / (1 + seed), "text": "abc", "n": 7, "bad": None}
        (config.out / "result.json").write_text(json.dumps(result))

    def run(self, *argv, config=Config):
        """Runs the command line; returns the exit status, and the runs that it trained, with their resume."""
        self.trained = []
        try:
            command_line.run(self, config, list(map(str, argv)), name="toy")
        except SystemExit as error:
            return error.code, self.trained
        return 0, self.trained


@pytest.fixture
def toy(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return Experiment()


def saved(out):
    content = json.loads((out / "sweep.json").read_text())
    return content, {run["name"]: run for run in content["runs"]}


def test_all_combinations_are_trained_and_the_best_is_marked(toy, tmp_path, capsys):
    out = tmp_path / "out"
    swept = ("--sweep", "train.seed=range(2)", "--sweep", "train.optimizer.learning-rate=0.25", "0.125")
    names = [
        f"train.seed={seed},train.optimizer.learning_rate={rate}" for seed in (0, 1) for rate in (0.25, 0.125)
    ]
    status, trained = toy.run("--out", out, *swept, "--train.steps", "24", "--set", "train.seed=9")
    assert status == 0 and trained == [(name, False) for name in names]
    config = load_config(Config, out / names[1] / "config.json")
    assert (config.train.seed, config.train.optimizer.learning_rate, config.train.steps) == (0, 0.125, 24)
    assert config.out == out / names[1] and not config.resume
    content, runs = saved(out)
    assert content["best"] == names[1] and list(runs) == names
    assert runs[names[3]] == {
        "name": names[3],
        "values": {"train.seed": "1", "train.optimizer.learning_rate": "0.125"},
        "status": "finished",
        "validation/loss": 1.125,
        "result": {"accuracy": 0.5, "text": "abc", "n": 7, "bad": None},
        "error": None,
    }
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert ["train.seed", "train.optimizer.learning_rate", "validation/loss", "accuracy", "n"] in lines
    assert ["0", "0.25", "0.25", "1", "7"] in lines and ["0", "0.125", "0.125", "1", "7", "best"] in lines
    assert "toy: run 2 of 4: train.seed=0,train.optimizer.learning_rate=0.125" in printed
    assert f"toy: 4 runs: 4 finished; best: least validation/loss. The sweep's directory: {out}" in printed


@pytest.mark.parametrize(
    ("task", "of_patience"),
    [
        (runs.Task(task="text-classification", labels=("no", "yes")), 0.5),
        (runs.Task(task="translation"), 4.001),
    ],
)
def test_the_loss_is_of_the_tested_checkpoint(toy, tmp_path, task, of_patience):
    """With early stopping that of a classifier is its best one, and of other models the last one."""
    toy.task = task
    assert (
        toy.run("--out", tmp_path / "x", "--sweep", "train.patience=None", "3", "--train.seed", "4")[0] == 0
    )
    _, found = saved(tmp_path / "x")
    assert [run["validation/loss"] for run in found.values()] == [4.001, of_patience]


@pytest.mark.parametrize(
    ("options", "trains"),
    [(["--beams", 1], True), (["--train.patience", 3], True), (["--train.keep", 2], False), ([], False)],
)
def test_a_finished_run_is_resumed_for_what_changes_its_result(toy, tmp_path, options, trains):
    assert toy.run("--out", tmp_path / "x", "--sweep", "train.seed=1") == (0, [("train.seed=1", False)])
    found = toy.run("--out", tmp_path / "x", "--resume", *options)
    assert found == (0, [("train.seed=1", True)] if trains else [])


def test_a_finished_run_that_cannot_be_resumed_keeps_its_result(toy, tmp_path):
    out = tmp_path / "out"
    toy.run("--out", out, "--sweep", "train.seed=1")
    before = (out / "train.seed=1" / "result.json").read_text()
    status, _ = toy.run("--out", out, "--resume", "--model.d-model", "16")
    assert status == 1 and saved(out)[1]["train.seed=1"]["status"] == "failed"
    assert (out / "train.seed=1" / "result.json").read_text() == before


def test_a_failed_run_is_a_row_and_the_others_follow(toy, tmp_path, capsys):
    out = tmp_path / "out"
    status, trained = toy.run("--out", out, "--sweep", "train.seed=13", "14", "2")
    assert status == 1 and [name for name, _ in trained] == ["train.seed=13", "train.seed=14", "train.seed=2"]
    content, runs = saved(out)
    assert [run["status"] for run in runs.values()] == ["failed", "failed", "finished"]
    assert runs["train.seed=13"]["error"] == "fit: got a loss of nan"
    assert runs["train.seed=14"]["error"] == "RuntimeError: a device is lost"
    assert content["best"] == "train.seed=2"
    captured = capsys.readouterr()
    assert "Traceback" in captured.err and "no checkpoint was saved" in captured.err
    assert "toy: train.seed=13 failed: fit: got a loss of nan" in captured.out
    assert "3 runs: 1 finished, 2 failed; best" in captured.out
    # A resume starts with what failed.
    assert toy.run("--out", out, "--resume")[1] == [("train.seed=13", True), ("train.seed=14", True)]


def test_a_signal_ends_the_sweep_and_a_resume_trains_the_rest(toy, tmp_path):
    out = tmp_path / "out"
    swept = ("--sweep", "train.seed=1", "2", "3", "--train.steps", "24", "--set", "train.keep=3")
    toy.stops_at = "train.seed=2"
    status, trained = toy.run("--out", out, *swept)
    assert "stopped at step 3" in status and f"or the whole sweep by --out {out} --resume" in status
    assert [name for name, _ in trained] == ["train.seed=1", "train.seed=2"]
    assert [run["status"] for run in saved(out)[1].values()] == ["finished", "waiting", "waiting"]
    toy.stops_at = None
    first = json.loads((out / "train.seed=1" / "result.json").read_text())
    rest = [("train.seed=2", True), ("train.seed=3", False)]
    assert toy.run("--out", out, "--resume") == (0, rest)
    content, runs = saved(out)
    assert [run["status"] for run in runs.values()] == ["finished"] * 3
    assert runs["train.seed=1"]["result"] == first and content["best"] == "train.seed=1"
    assert load_config(Config, out / "train.seed=3" / "config.json").train.steps == 24
    # The whole command again, with one value more.
    more = ("--sweep", "train.seed=1", "2", "3", "4", "--train.steps", "24", "--set", "train.keep=3")
    assert toy.run("--out", out, "--resume", *more) == (0, [("train.seed=4", False)])
    assert toy.run("--out", out, "--resume") == (0, [])


def test_an_option_beside_resume_replaces_that_of_the_sweep(toy, tmp_path):
    out = tmp_path / "out"
    toy.stops_at = "train.seed=1"
    toy.run(f"--out={out}", "--sweep", "train.seed=1", "2", "--train.keep", "3", "--set", "train.log_every=7")
    toy.stops_at = None
    assert toy.run("--resume", f"--out={out}", "--train.keep", "4")[0] == 0
    train = load_config(Config, out / "train.seed=2" / "config.json").train
    assert (train.keep, train.log_every) == (4, 7)
    # --set beside --resume too, in place of an option or a --set of the sweep
    for path in out.glob("train.seed=*/result.json"):
        path.unlink()
    options = ("--set", "train.keep=2", "--set", "train.log-every=8")
    assert toy.run("--resume", f"--out={out}", *options)[0] == 0
    for config in (toy.configs["train.seed=1"], toy.configs["train.seed=2"]):
        assert (config.train.keep, config.train.log_every) == (2, 8)


def test_a_file_of_set_is_read_once(toy, tmp_path):
    out, file = tmp_path / "out", write(tmp_path / "values", "train.keep=3\n")
    toy.stops_at = "train.seed=1"
    toy.run("--out", out, "--sweep", "train.seed=1", "2", "--set", file)
    toy.stops_at = None
    file.unlink()
    assert toy.run("--out", out, "--resume")[0] == 0
    assert toy.configs["train.seed=2"].train.keep == 3


def test_the_file_of_config_makes_new_runs_alone(toy, tmp_path):
    out, file = tmp_path / "out", write(tmp_path / "c.json", {"format": 2, "train": {"batch_size": 5}})
    toy.stops_at = "train.seed=1"
    toy.run("--out", out, "--sweep", "train.seed=1", "2", "--config", file)
    toy.stops_at = None
    assert toy.run("--out", out, "--resume") == (0, [("train.seed=1", True), ("train.seed=2", False)])
    assert load_config(Config, out / "train.seed=2" / "config.json").train.batch_size == 5


def test_values_need_to_fit_together_in_each_run_only(toy, tmp_path):
    """No default model has five heads, and the values of both sweeps fit in each run."""
    swept = ("--sweep", "model.d_model=20", "40", "--model.n-heads", "5")
    assert toy.run("--out", tmp_path / "out", *swept)[0] == 0
    assert load_config(Config, tmp_path / "out" / "model.d_model=40" / "config.json").model.n_heads == 5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train.seed=1", "1"], "--sweep train.seed: got 1 1; wanted one or more values, each once."),
        (["train.seed=range(0)"], "--sweep train.seed: got range(0); wanted one or more values"),
        (["train.seed=range(1,5,0)"], "wanted one or more values"),
        (["train.seed=range(99999)"], "--sweep: got 10,001 runs; wanted at most 10,000."),
        (["train.seed"], "--sweep: got 'train.seed'; wanted NAME=VALUE"),
        (["train.seed=1", "--sweep", "train.seed=2"], "--sweep: got train.seed twice; wanted all of its val"),
        (["train.seeds=1"], "--sweep: got train.seeds; wanted a field of the config, such as train.seed"),
        (["train.seed=x"], "--sweep train.seed: got x; wanted an integer from 0"),
        (["out=a", "b"], "--sweep: got out; wanted a field of the run. Give --out instead."),
        (["train.seed=1", "01"], "got train.seed=1 and train.seed=01, which are the same run; wanted one."),
        (["train.seed=1", "--train.seed", "2"], "--train.seed: got a --sweep of it too; wanted one of both."),
        (
            ["model.tie_embeddings=True", "--model.no-tie-embeddings"],
            "--model.no-tie-embeddings: got a --sweep of it too",
        ),
        (["train.seed=1", "--resume"], "--resume: got None, without sweep.json; wanted --out with the dire"),
        (["train.seed=1", "--out", "full"], "full: got files in it; wanted an empty directory. Resume its"),
    ],
)
def test_invalid_sweep_raises_before_a_run(toy, tmp_path, argv, message):
    (tmp_path / "full").mkdir()
    write(tmp_path / "full" / "a", "")
    status, trained = toy.run("--sweep", *argv)
    assert message in str(status) and not trained
    assert {path.name for path in tmp_path.iterdir()} == {"full"}


def test_an_error_of_one_run_names_it(toy, tmp_path, capsys):
    status, trained = toy.run("--sweep", "train.checkpoint_every=6", "7")
    captured = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert status == 2 and not trained and "--train.checkpoint-every: got 7; wanted a mu" in captured
    assert captured.endswith("toy: the error is of the run train.checkpoint_every=7")


def test_a_sweep_needs_one_process_and_no_resume_step(toy, tmp_path, monkeypatch):
    assert toy.run("--out", tmp_path / "out", "--sweep", "train.seed=1")[0] == 0
    status, _ = toy.run("--out", tmp_path / "out", "--resume", "--resume-step", "3")
    assert status == "toy: --resume-step: got --sweep too; wanted one run. Resume it by its own --out."
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(SystemExit, match="--sweep: got 2 processes; wanted one"):
        command_line._run_sweep(toy, Config, [], command_line.Sources(), "toy", "toy")


def test_one_run_takes_no_sweep():
    with pytest.raises(SystemExit, match="--sweep: got it for one run; wanted python -m exp"):
        command_line.parse(Config, ["--sweep", "train.seed=1"])


def test_a_sweep_without_out_is_in_runs(toy, tmp_path):
    assert toy.run("--sweep", "model.positions=Alibi", "Rope(theta=7)")[0] == 0
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name.startswith("toy-sweep-")
    names = {path.name for path in out.iterdir()}
    assert {"sweep.json", "model.positions=Alibi"} < names
    (other,) = names - {"sweep.json", "model.positions=Alibi"}
    assert other.startswith("model.positions=Rope_theta=7-")
    assert load_config(Config, out / other / "config.json").model.positions == nn.Rope(7.0)


def test_a_damaged_file_of_a_sweep_raises(toy, tmp_path):
    assert toy.run("--out", tmp_path / "out", "--sweep", "train.seed=1")[0] == 0
    for content in ("[", {"format": 2, "arguments": 3}):
        write(tmp_path / "out" / "sweep.json", content)
        assert (
            f"{tmp_path / 'out' / 'sweep.json'}: got no " in toy.run("--out", tmp_path / "out", "--resume")[0]
        )


def test_what_small_data_choose_is_printed_once_for_all_runs(toy, tmp_path, capsys):
    rows = write(tmp_path / "a.jsonl", '{"text": "t"}\n' * 9)
    options = ("--out", tmp_path / "out", "--data.source", rows, "--sweep", "model.n_layers=2", "3")
    assert toy.run(*options, config=SmallConfig)[0] == 0
    error = capsys.readouterr().err
    assert error.count("toy: defaults for 9 rows: --model.d-model 16") == 1 and "n-layers" not in error
    found = load_config(SmallConfig, tmp_path / "out" / "model.n_layers=3" / "config.json")
    assert (found.model.n_layers, found.model.d_model) == (3, 16)


@given(st.dictionaries(st.sampled_from(["a.b", "c"]), st.text(), min_size=1), st.text())
def test_names_are_safe_and_differ_with_the_values(values, other):
    name = sweep.run_name(values)
    assert name.isascii() and "/" not in name and len(name) <= 140 and name[:1] in "ac"
    changed = {**values, next(iter(values)): other}
    assert (sweep.run_name(changed) == name) == (changed == values)


@pytest.mark.slow
def test_a_sweep_of_real_runs_is_resumed_after_a_signal(tmp_path, monkeypatch, capsys):
    out, step = tmp_path / "out", []
    options = ("--out", str(out), *SMALL, "--views.copies", "0", "--sweep", "train.seed=range(2)")
    images([*options[:1], str(tmp_path / "one"), *options[2:-2], "--train.seed", "1"])
    with monkeypatch.context() as patch:

        def report(*args, **kwargs):
            step.append(args)
            if len(step) == 6:  # the second one of the second run
                signal.raise_signal(signal.SIGTERM)

        patch.setattr("tfm_jax.train.JsonLines.__call__", report)
        with pytest.raises(SystemExit, match="or the whole sweep by --out"):
            images(list(options))
    assert result_of(out / "train.seed=0")["test_images"] == 360
    images(["--out", str(out), "--resume"])
    printed = capsys.readouterr().out
    assert "run 1 of 2: train.seed=0, finished before" in printed and "train.seed=1, resumed" in printed
    alone, swept = result_of(tmp_path / "one"), result_of(out / "train.seed=1")
    assert swept["test_accuracy"] == alone["test_accuracy"]
