"""Longer runs: --resume with more --train.steps."""

import json
import os
import shutil
import signal

import chex
import jax
import numpy as np
import pytest

from experiments import runner
from experiments.config import OptimizerConfig
from tests.experiments.test_runner import Config, config, lines_of, start
from tfm_jax import train
from tfm_jax.train.run_directory import load_config

CONSTANT = ("--train.optimizer.schedule", "constant")
EVERY = ("--train.evaluate-every", "2", "--train.checkpoint-every", "2", "--train.log-every", "1")


def steps(n, *argv):
    return ("--train.steps", str(n), *argv)


def curve(path):
    return [{k: v for k, v in line.items() if not k.endswith("_per_second")} for line in lines_of(path)]


def rates(path):
    """The learning rate of each step."""
    return {line["step"]: line["learning_rate"] for line in lines_of(path) if "learning_rate" in line}


def state_of(trained):
    """The last state, with the key as numbers."""
    state = trained.result.state
    return jax.device_get(
        (state.step, state.params, state.opt_state, state.ema, jax.random.key_data(state.key))
    )


def planned(path):
    settings = load_config(Config, path / "config.json").train
    return settings.steps, settings.optimizer.extended


SLOW = [
    pytest.param(other, marks=pytest.mark.slow) for other in (("--parallel", "pmap"), ("--mesh.data", "4"))
]


@pytest.mark.parametrize("other", [(), *SLOW])
def test_a_run_of_200_steps_made_longer_to_400_is_one_of_400(tmp_path, other):
    common = (*CONSTANT, "--train.evaluate-every", "100", "--train.checkpoint-every", "100", *other)
    out = ("--out", str(tmp_path / "longer"))
    whole = start(config("--out", str(tmp_path / "whole"), *steps(400), *common))
    start(config(*out, *steps(200), *common))
    longer = start(config(*out, "--resume", *steps(400)))
    chex.assert_trees_all_equal(state_of(longer), state_of(whole))
    assert curve(tmp_path / "longer") == curve(tmp_path / "whole")
    names = [sorted(path.name for path in run.checkpoints.iterdir()) for run in (longer, whole)]
    assert names[0] == names[1]
    chex.assert_trees_all_equal(longer.run.best_params(), whole.run.best_params())
    assert json.loads((tmp_path / "longer" / "result.json").read_text())["loss"] == 200
    assert json.loads((tmp_path / "longer" / "result-200.json").read_text())["loss"] == 100
    assert planned(tmp_path / "longer") == (400, ((200, "continue"),))


def test_a_cosine_keeps_its_last_rate_and_says_so_once(tmp_path, capsys):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run"
    start(config(*out, *steps(6), *EVERY))
    first = rates(path)
    capsys.readouterr()
    start(config(*out, "--resume", *steps(10)))
    said = f"regression: the learning rate stays at {first[6]:.3g} from step 6 on"
    assert capsys.readouterr().out.count(said) == 1
    assert rates(path) == {**first, **dict.fromkeys(range(7, 11), first[6])}
    start(config(*out, "--resume"))
    assert "learning rate stays" not in capsys.readouterr().out
    # the config alone has the rates of all steps: a new run with it is the same
    again = ("--train.optimizer.extended", "6", "hold", *steps(10), *EVERY)
    start(config("--out", str(tmp_path / "again"), *again))
    assert curve(tmp_path / "again") == curve(path)


def test_a_tiny_last_rate_is_said_with_the_option_that_helps(tmp_path, capsys):
    out = ("--out", str(tmp_path / "run"))
    start(config(*out, *steps(60), "--train.evaluate-every", "60", "--train.checkpoint-every", "60"))
    start(config(*out, "--resume", *steps(61)))
    line = next(line for line in capsys.readouterr().out.splitlines() if "stays at" in line)
    assert "% of its peak (--train.optimizer.when-longer rewarm starts it again)" in line


def test_rewarm_starts_the_schedule_again(tmp_path, capsys):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run"
    rewarm = ("--train.optimizer.when-longer", "rewarm")
    start(config(*out, *steps(6), *EVERY))
    start(config(*out, "--resume", *steps(10), *rewarm))
    assert "is warmed up again from step 6 on, and its cosine ends at step 10" in capsys.readouterr().out
    peak, warmup = 1e-3, 2
    expected = [float(train.warmup_cosine(peak, warmup, n)(i)) for n in (6, 4) for i in range(n)]
    np.testing.assert_allclose([rates(path)[i] for i in range(1, 11)], expected, rtol=1e-6)
    with pytest.raises(
        SystemExit,
        match=r"when-longer rewarm: got 2 added steps with --train.optimizer.warmup 2; wanted more",
    ):
        runner.Run(config(*out, "--resume", *steps(12)), "regression")  # the saved option holds


@pytest.mark.parametrize("name", ["noam", "inverse_sqrt"])
def test_schedules_without_an_end_continue(name):
    short = OptimizerConfig(schedule=name, warmup=3)
    longer = short.longer(5)
    assert longer.extended == ((5, "continue"),)
    numbers = np.arange(9)
    np.testing.assert_array_equal(longer.build(7, 9)[1](numbers), short.build(7, 5)[1](numbers))
    held = OptimizerConfig(schedule=name, warmup=3, when_longer="hold").longer(5).build(7, 9)[1](numbers)
    np.testing.assert_array_equal(held[5:], np.repeat(held[4], 4))


def test_killed_after_the_extension_and_extended_twice_is_the_same(tmp_path):
    """The plan is in config.json: there is no other state."""
    path, other = tmp_path / "run", tmp_path / "other"
    for run in (path, other):
        start(config("--out", str(run), *steps(6), *EVERY))
        start(config("--out", str(run), "--resume", *steps(10)))
    # killed before the first checkpoint after the extension, and again in the middle of it
    for last in (6, 8):
        for step in (8, 10):
            if step > last:
                shutil.rmtree(other / "checkpoints" / str(step), ignore_errors=True)
        start(config("--out", str(other), "--resume"))
    rewarm = ("--train.optimizer.when-longer", "rewarm")
    ended = [start(config("--out", str(run), "--resume", *steps(16), *rewarm)) for run in (path, other)]
    chex.assert_trees_all_equal(state_of(ended[0]), state_of(ended[1]))
    assert curve(path) == curve(other)
    assert planned(path) == planned(other) == (16, ((6, "hold"), (10, "rewarm")))


def test_a_stopped_run_is_made_longer_without_ending_first(tmp_path):
    def stop(params):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    out = ("--out", str(tmp_path / "run"))
    with pytest.raises(SystemExit, match="stopped at step 2, saved"):
        start(config(*out, *steps(6), *EVERY), metrics=stop)
    start(config(*out, "--resume", *steps(10)))
    again = ("--train.optimizer.extended", "6", "hold", *steps(10), *EVERY)
    start(config("--out", str(tmp_path / "again"), *again))
    assert curve(tmp_path / "run") == curve(tmp_path / "again")


def test_an_early_stopped_run_goes_on(tmp_path):
    out, scores = ("--out", str(tmp_path / "run")), iter(range(20))
    options = {"metrics": lambda params: {"validation/loss": next(scores)}}
    first = start(config(*out, *steps(6), *EVERY, "--train.patience", "1"), **options)
    assert (first.result.step, first.result.reason) == (4, "early stop")
    assert start(config(*out, "--resume"), **options).result.step == 4
    second = start(config(*out, "--resume", *steps(12)), **options)
    assert (second.result.step, second.result.reason) == (6, "early stop")  # after one more evaluation
    assert (tmp_path / "run" / "result-4.json").exists()


def test_the_way_is_changed_from_a_checkpoint_before_it(tmp_path):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run"
    rewarm = ("--train.optimizer.when-longer", "rewarm")
    start(config(*out, *steps(6), *EVERY))
    start(config(*out, "--resume", *steps(10)))
    with pytest.raises(
        SystemExit, match=r"got a plan of 6, rewarm, 10 .*step 10, 6, hold, 10.*--resume-step"
    ):
        start(config(*out, "--resume", *rewarm))
    assert planned(path) == (10, ((6, "hold"),))
    start(config(*out, "--resume", "--resume-step", "6", *rewarm))
    assert planned(path) == (10, ((6, "rewarm"),))
    assert rates(path)[8] == pytest.approx(1e-3)
    assert json.loads((path / "set_aside" / "result.json").read_text())["loss"] == 5  # of the longer run


def test_an_old_checkpoint_without_a_plan_keeps_its_result_too(tmp_path, monkeypatch):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run"
    start(config(*out, *steps(6), *EVERY))
    extra = train.Checkpoints.extra
    monkeypatch.setattr(train.Checkpoints, "extra", lambda *args: {**extra(*args), "record": {}})
    start(config(*out, "--resume", *steps(8)))
    assert json.loads((path / "result-6.json").read_text())["loss"] == 3


def test_fewer_steps_and_another_plan_exit_with_one_line_and_change_nothing(tmp_path):
    out, path = ("--out", str(tmp_path / "run")), tmp_path / "run"
    start(config(*out, *steps(6), *EVERY))
    saved = (path / "config.json").read_text()
    with pytest.raises(SystemExit) as error:
        runner.Run(config(*out, "--resume", *steps(4)), "regression")
    assert str(error.value) == (
        "regression: --train.steps: got 4; wanted at least 6, as planned; the run's last checkpoint is of "
        "step 6. Ctrl-C or --train.patience ends a run earlier"
    )
    with pytest.raises(
        SystemExit, match=r"--train.optimizer.extended: got \(\(3, 'hold'\),\); wanted that of"
    ):
        runner.Run(config(*out, "--resume", "--train.optimizer.extended", "3", "hold"), "regression")
    assert (path / "config.json").read_text() == saved
    # edited by hand
    edited = json.loads(saved)
    edited["train"]["steps"] = 8
    (path / "config.json").write_text(json.dumps(edited))
    with pytest.raises(
        SystemExit, match=r"got a plan of 8 .*of the checkpoint of step 6, 6\. Put the config"
    ):
        start(config(*out, "--resume"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"when_longer": "continue"},
            "got continue with --train.optimizer.schedule cosine, which ends; wanted hold",
        ),
        ({"extended": ((4, "continue"),)}, "when-longer: got continue with"),
        ({"extended": ((4, "hold"), (4, "hold"))}, r"extended: got steps \[4, 4\]; wanted increasing"),
        ({"extended": ((4, "keep"),)}, "wanted a tuple of a tuple of an integer"),
    ],
)
def test_plans_that_do_not_fit_raise(options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**options)


def test_a_plan_needs_more_steps_than_it_had():
    with pytest.raises(ValueError, match=r"--train.steps: got 9, with .*extended of 9 steps; wanted more"):
        OptimizerConfig(warmup=2, extended=((9, "hold"),)).build(8, 9)
