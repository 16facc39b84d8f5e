import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.marks import slow
from tests.train import problem, resumable_run
from tfm_jax import processes, train
from tfm_jax.train.metrics import total

ROOT = Path(__file__).parents[2]
OPTIMIZER = optax.sgd(0.05)


def initial():
    return train.init_state(problem.init(jax.random.key(0)), OPTIMIZER, jax.random.key(1))


def plain_step(loss_fn=problem.loss_fn):
    return jax.jit(train.make_train_step(loss_fn, OPTIMIZER))


STEP = plain_step()


class MemoryWriter:
    """A writer that keeps the metrics."""

    def __init__(self):
        self.lines = {}

    def __call__(self, step, means, evaluation):
        assert step not in self.lines
        self.lines[step] = {**means, **evaluation}


def test_fit_uses_each_batch_once_in_order_and_writes_weighted_means():
    writer, batches = MemoryWriter(), problem.Batches()
    result = train.fit(
        STEP, initial(), batches, steps=7, log_every=3, writers=[writer], learning_rate=train.noam(8, 4)
    )
    state, metrics = initial(), []
    for i in range(7):
        state, pairs = STEP(state, problem.make_batch(i))
        metrics.append(pairs)
    chex.assert_trees_all_equal(result.state, state)
    assert (result.step, result.reason, batches.next) == (7, "steps", 7)
    assert list(writer.lines) == [3, 6, 7]
    for step, first in ((3, 0), (6, 3), (7, 6)):
        expected = train.means(total(metrics[first:step]))
        line = writer.lines[step]
        assert {name: line[name] for name in expected} == pytest.approx(expected)
        assert line["learning_rate"] == float(train.noam(8, 4)(step - 1))
        assert line["examples_per_second"] > 0


def test_many_steps_on_many_devices_do_not_deadlock():
    for parallel in (train.Jit(train.make_mesh(data=8)), train.Pmap(train.make_mesh(data=8))):
        step = parallel.compile(
            train.make_train_step(problem.loss_fn, OPTIMIZER, axis_name=parallel.axis_name)
        )
        result = train.fit(
            step, parallel.place_state(initial()), problem.Batches(), steps=100, log_every=1000
        )
        assert int(result.state.step) == 100


def test_evaluation_and_checkpoints_are_at_their_intervals_and_at_the_end(tmp_path):
    writer, evaluated = MemoryWriter(), []

    def evaluate(state):
        evaluated.append(int(state.step))
        return {"valid_loss": abs(5.0 - int(state.step))}

    with train.Checkpoints(tmp_path, keep=1, best="valid_loss") as checkpoints:
        train.fit(
            STEP, initial(), problem.Batches(), steps=11, evaluate=evaluate, evaluate_every=2,
            checkpoints=checkpoints, checkpoint_every=4, log_every=100, writers=[writer],
        )  # fmt: skip
        assert evaluated == list(writer.lines) == [2, 4, 6, 8, 10, 11]
        assert all("valid_loss" in line and "loss" in line for line in writer.lines.values())
        assert (checkpoints.steps(), checkpoints.best()) == ([4, 11], 4)


def test_early_stopping_keeps_its_state_across_a_resume(tmp_path):
    losses = {2: 3.0, 4: 2.0, 6: float("nan"), 8: 2.0, 10: 2.5, 12: 1.0}
    settings = {
        "steps": 12,
        "evaluate": lambda state: {"valid_loss": losses[int(state.step)]},
        "evaluate_every": 2,
        "early_stopping": train.EarlyStopping("valid_loss", patience=3),
    }
    result = train.fit(STEP, initial(), problem.Batches(), **settings)
    assert (result.step, result.reason) == (10, "early stop")
    with train.Checkpoints(tmp_path) as checkpoints:
        train.fit(STEP, initial(), problem.Batches(), checkpoints=checkpoints, **{**settings, "steps": 8})
        abstract = train.Jit().abstract(initial())
        for _ in range(2):  # the second time the run is finished
            batches = problem.Batches()
            state, extra = train.resume(checkpoints, abstract, batches)
            result = train.fit(STEP, state, batches, checkpoints=checkpoints, extra=extra, **settings)
            assert (result.step, result.reason, batches.next) == (10, "early stop", 10)
            assert checkpoints.latest() == 10
    up = train.EarlyStopping("accuracy", patience=1, mode="max")
    state = up.update(up.update({}, {"accuracy": 0.5}), {"accuracy": 0.6})
    assert state == {"best": 0.6, "bad": 0} and not up.should_stop(state)
    assert up.should_stop(up.update(state, {"accuracy": 0.6}))


def lines_of(path):
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if not k.endswith("_per_second")} for record in records]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """An uninterrupted run: its directory and its last state."""
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    return path, resumable_run.main(path)[0].state


@pytest.mark.slow
def test_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, uninterrupted):
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.train.resumable_run", str(killed), "0.03"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        deadline = time.monotonic() + 120
        while not (killed / "checkpoints" / "14").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')  # what a kill may leave of a line
    resumed, after = resumable_run.main(killed, resume=True)
    assert after in range(14, 60, 7)
    chex.assert_trees_all_equal(resumed.state, uninterrupted[1])
    assert lines_of(killed) == lines_of(uninterrupted[0])


def test_resume_of_a_finished_run_does_nothing(tmp_path):
    finished, _ = resumable_run.main(tmp_path / "run", steps=10)
    before = lines_of(tmp_path / "run")
    again, after = resumable_run.main(tmp_path / "run", resume=True, steps=10)
    chex.assert_trees_all_equal(again.state, finished.state)
    assert after == 10
    assert lines_of(tmp_path / "run") == before


@pytest.mark.parametrize("number", [signal.SIGTERM, *slow(signal.SIGINT)])
def test_signal_saves_and_ends_the_run_and_a_resume_continues(tmp_path, number, uninterrupted):
    def send(step, *_):
        return step == 20 and os.kill(os.getpid(), number)

    handler = signal.getsignal(number)  # a background shell may ignore Ctrl-C
    stopped, _ = resumable_run.main(tmp_path / "stopped", writers=[send])
    assert stopped.reason == "signal" and 20 <= stopped.step <= 22
    assert signal.getsignal(number) == handler
    resumed, after = resumable_run.main(tmp_path / "stopped", resume=True)
    assert after == stopped.step
    chex.assert_trees_all_equal(resumed.state, uninterrupted[1])


@pytest.mark.parametrize("when", ["before the first step", "while metrics are written"])
def test_run_ended_by_a_signal_has_saved_its_last_step(tmp_path, when):
    sent = []

    def send(*_):
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    class Early(problem.Batches):
        def __next__(self):
            send()
            return super().__next__()

    early = when == "before the first step"
    batches, writers = (Early(), []) if early else (problem.Batches(), [send])
    with train.Checkpoints(tmp_path) as checkpoints:
        result = train.fit(
            STEP, initial(), batches, steps=20, evaluate=lambda state: {"valid_loss": 1.0}, evaluate_every=3,
            checkpoints=checkpoints, log_every=100, writers=writers,
        )  # fmt: skip
        assert sent and result.reason == "signal"
        assert result.step == int(result.state.step) == checkpoints.latest() == (1 if early else 4)


@pytest.mark.parametrize("received", [False, True])
def test_a_signal_to_another_process_ends_the_run_a_step_later(monkeypatch, received):
    flags = []

    def any_process(flag):
        flags.append(flag)
        return jnp.bool_(flag or (not received and len(flags) == 3))  # of another process, after step 3

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "any_process", any_process)

    def send(step, *_):
        return received and step == 2 and os.kill(os.getpid(), signal.SIGTERM)

    result = train.fit(STEP, initial(), problem.Batches(), steps=9, log_every=1, writers=[send])
    assert (result.reason, result.step, len(flags)) == ("signal", 4, 4)
    assert flags == [False, False, received, received]


def test_process_0_alone_calls_the_writers(monkeypatch):
    writer = MemoryWriter()
    monkeypatch.setattr(processes, "is_main", lambda: False)
    result = train.fit(STEP, initial(), problem.Batches(), steps=2, log_every=1, writers=[writer])
    assert result.step == 2 and not writer.lines


def test_resume_compares_the_record(tmp_path):
    record = {"data": {"test": "a"}, "config": {"model.widths": (1, 2)}}
    abstract = train.Jit().abstract(initial())
    with train.Checkpoints(tmp_path) as checkpoints:
        train.fit(
            STEP,
            initial(),
            problem.Batches(),
            steps=3,
            checkpoints=checkpoints,
            checkpoint_every=1,
            record=record,
        )
        batches = problem.Batches()
        state, _ = train.resume(checkpoints, abstract, batches, record=record, step=2)
        assert int(state.step) == batches.next == 2
        more = {**record, "config": {**record["config"], "new": 1}}  # a field of a later version
        train.resume(checkpoints, abstract, batches, record=more)
        batches = problem.Batches()
        other = {"data": {"test": "b"}, "config": {"model.widths": (1, 3)}}
        with pytest.raises(ValueError, match="resume: got other data, files or settings; wanted") as error:
            train.resume(checkpoints, abstract, batches, record=other)
        assert str(error.value).splitlines()[1:3] == [
            "  data.test: the checkpoint has 'a', the run now 'b'",
            "  config.model.widths: the checkpoint has [1, 2], the run now [1, 3]",
        ]
        assert "--init-from" in str(error.value) and batches.next == 0


def test_metrics_of_numpy_jax_and_python_numbers_are_saved(tmp_path):
    losses = iter([np.float32(2.0), jnp.float32(1.0), 3])
    with train.Checkpoints(tmp_path, best="valid_loss") as checkpoints:
        train.fit(
            STEP, initial(), problem.Batches(), steps=3, evaluate=lambda state: {"valid_loss": next(losses)},
            evaluate_every=1, checkpoint_every=1, checkpoints=checkpoints,
            early_stopping=train.EarlyStopping("valid_loss", patience=3),
        )  # fmt: skip
        assert (checkpoints.steps(), checkpoints.best()) == ([1, 2, 3], 2)


def test_run_stopped_between_checkpoints_keeps_those_of_an_uninterrupted_one(tmp_path):
    losses = {4: 1.0, 8: 3.0, 10: 0.5, 12: 2.0, 16: 2.0}

    def checkpoints_of(name, stop=()):
        settings = {"steps": 16, "evaluate_every": 2, "checkpoint_every": 4}
        settings["evaluate"] = lambda state: {"valid_loss": losses.get(int(state.step), 9.0)}
        state, batches, extra = initial(), problem.Batches(), None
        for end in (*stop, 16):

            def send(state, end=end):
                return int(state.step) == end < 16 and os.kill(os.getpid(), signal.SIGTERM)

            def evaluate(state, send=send):
                return (send(state), settings["evaluate"](state))[1]

            with train.Checkpoints(tmp_path / name, keep=2, best="valid_loss", every=4) as checkpoints:
                if checkpoints.latest():
                    state, extra = train.resume(checkpoints, train.Jit().abstract(initial()), batches)
                options = {**settings, "evaluate": evaluate, "checkpoints": checkpoints, "extra": extra}
                assert train.fit(STEP, state, batches, **options).step == end
                found = checkpoints.steps(), checkpoints.best()
        return found

    assert checkpoints_of("stopped", stop=[10]) == checkpoints_of("uninterrupted") == ([4, 12, 16], 4)
    averages = [
        train.average_params(tmp_path / name, last=2, every=4) for name in ("stopped", "uninterrupted")
    ]
    chex.assert_trees_all_equal(*averages)


def test_second_interrupt_is_immediate():
    def twice(*_):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        train.fit(STEP, initial(), problem.Batches(), steps=20, log_every=1, writers=[twice])


def test_fit_runs_in_a_thread():
    found = []
    thread = threading.Thread(
        target=lambda: found.append(train.fit(STEP, initial(), problem.Batches(), steps=3).step)
    )
    thread.start()
    thread.join()
    assert found == [3]


def test_bad_arguments_raise(tmp_path):
    def fit(**settings):
        return train.fit(STEP, initial(), problem.Batches(end=4), **{"steps": 8, **settings})

    with pytest.raises(ValueError, match="fit: got 4 batches; wanted 8"):
        fit()
    with pytest.raises(ValueError, match=r"fit: got evaluate_every=0; wanted a number .*, or None"):
        fit(evaluate_every=0)
    with pytest.raises(ValueError, match="fit: got log_every=0; wanted a number of steps, at least 1"):
        fit(log_every=0)
    stop = train.EarlyStopping("loss", patience=1)
    with pytest.raises(ValueError, match="got early_stopping alone; wanted evaluate and evaluate_every"):
        fit(early_stopping=stop)
    with pytest.raises(ValueError, match=r"got metric='loss'; wanted one of .*\['accuracy'\]"):
        fit(early_stopping=stop, evaluate=lambda state: {"accuracy": 1.0}, evaluate_every=1)
    with pytest.raises(ValueError, match=r"EarlyStopping: got patience=0, .*wanted a patience of at least 1"):
        train.EarlyStopping("loss", patience=0)
    with train.Checkpoints(tmp_path, best="loss") as checkpoints:
        with pytest.raises(ValueError, match="keep the best 'loss', without evaluate; wanted both"):
            fit(checkpoints=checkpoints)
        with pytest.raises(ValueError, match="got checkpoint_every=3; wanted a multiple of evaluate_every=2"):
            fit(
                checkpoints=checkpoints,
                checkpoint_every=3,
                evaluate_every=2,
                evaluate=lambda state: {"loss": 1.0},
            )
