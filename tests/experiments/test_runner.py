import dataclasses
import json
import math
import os
import signal
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import runner
from experiments.translation import config as translation_config
from tests.train import problem
from tfm_jax import train


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    widths: tuple[int, ...] = (4, 8)
    """Of the layers."""
    rate: float = 0.1
    name: str | None = None
    source: Path = Path("data/train.jsonl")


SHORT = runner.TrainConfig(
    steps=12,
    batch_size=16,
    optimizer=runner.OptimizerConfig(warmup=2),
    ema_decay=0.9,
    evaluate_every=3,
    checkpoint_every=6,
    log_every=2,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(runner.RunConfig):
    """Regression on numbers drawn at random."""

    train: runner.TrainConfig = SHORT
    model: ModelConfig = ModelConfig()


def start(config, **options):
    """What an experiment's run.py does."""
    run = runner.Run(config, "regression")
    settings = {
        "init": problem.init,
        "loss_fn": problem.loss_fn,
        "batches": problem.Batches(config.train.batch_size),
        "d_model": 8,
        "valid": lambda: (problem.make_batch(1000 + i) for i in range(2)),
        "unit": "rows",
        **options,
    }
    trained = run.fit(**settings)
    run.finish({"loss": trained.fitted.step / 2, "n": 3, "bad": math.nan})
    return trained


def config(*argv):
    return runner.parse(Config, argv)


def lines_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_directory_and_prints_its_result(tmp_path, capsys):
    drawn = []
    trained = start(config("--out", str(tmp_path / "run")), curves=lambda *a: drawn.append(a))
    path = tmp_path / "run"
    assert {p.name for p in path.iterdir()} == {
        "config.json", "metrics.jsonl", "events", "checkpoints", "result.json",
    }  # fmt: skip
    result = json.loads((path / "result.json").read_text())
    assert result.pop("seconds") > 0
    assert result == {"loss": 6.0, "n": 3, "bad": None}
    lines = lines_of(path)
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8, 9, 10, 12]
    assert {"loss", "near", "grad_norm", "rows_per_second", "learning_rate"} < lines[0].keys()
    assert {"validation/loss", "validation/near"} <= lines[1].keys()
    assert drawn == [(lines, path / "curves.png")]
    out = capsys.readouterr().out
    assert "regression: 30 parameters, jit on 1 cpu device, in" in out
    assert "loss: 6" in out and "n: 3" in out
    assert runner.load_config(Config, path).model == ModelConfig()
    # the average is what is evaluated and handed on; the best checkpoint is one of those kept
    chex.assert_trees_all_equal(trained.params, trained.fitted.state.ema)
    figures = {line["step"]: line["validation/loss"] for line in lines if line["step"] in (6, 12)}
    assert trained.best_step == min(figures, key=figures.get)
    step = trained.best_step
    chex.assert_trees_all_equal(
        trained.best_params(), train.load_params(path / "checkpoints", step, item="ema")
    )
    parts = [train.load_params(path / "checkpoints", s) for s in (6, 12)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *parts)
    chex.assert_trees_all_close(trained.average_params(), mean, rtol=1e-6)


def test_validation_is_that_of_the_averaged_weights(tmp_path):
    trained = start(config("--out", str(tmp_path / "run")))
    pairs = [problem.loss_fn(trained.params, problem.make_batch(1000 + i), None)[0] for i in range(2)]
    expected = sum(float(s) for s, _ in pairs) / sum(float(w) for _, w in pairs)
    assert lines_of(tmp_path / "run")[-1]["validation/loss"] == pytest.approx(expected, rel=1e-5)


def test_a_stopped_run_is_resumed_under_other_devices_and_ends_the_same(tmp_path, capsys):
    whole = start(config("--out", str(tmp_path / "whole")))
    out = ("--out", str(tmp_path / "stopped"))
    calls = []

    def stop(params):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    with pytest.raises(SystemExit, match=r"stopped at step 6, saved; go on: --out .*stopped --resume"):
        start(config(*out), evaluate=stop)
    assert not (tmp_path / "stopped" / "result.json").exists()
    resumed = start(config(*out, "--resume", "--parallel", "pmap", "--mesh.data", "4"))
    chex.assert_trees_all_close(
        jax.device_get(resumed.params), jax.device_get(whole.params), rtol=1e-5, atol=1e-6
    )
    assert "pmap on 4 cpu devices" in capsys.readouterr().out
    steps = [line["step"] for line in lines_of(tmp_path / "stopped")]
    assert steps == [line["step"] for line in lines_of(tmp_path / "whole")]


def test_what_does_not_fit_is_said_in_one_line_before_anything_is_done(tmp_path):
    path = tmp_path / "run"
    out = ("--out", str(path))
    with pytest.raises(SystemExit, match=r"regression: .*holds no run to resume"):
        runner.Run(config(*out, "--resume"), "regression")
    with pytest.raises(SystemExit, match="--resume goes on with the run in --out: name that too"):
        runner.Run(config("--resume"), "regression")
    with pytest.raises(SystemExit, match=r"data=9 devices.*JAX_NUM_CPU_DEVICES=9"):
        runner.Run(config(*out, "--mesh.data", "9"), "regression")
    with pytest.raises(SystemExit, match="warmup=40 is not shorter than steps=12"):
        runner.Run(config(*out, "--train.optimizer.warmup", "40"), "regression")
    assert not path.exists()
    runner.Run(config(*out), "regression")
    with pytest.raises(SystemExit, match=r"is not empty: .*--resume.*--out"):
        runner.Run(config(*out), "regression")
    with pytest.raises(SystemExit, match=r"a batch of 16 does not divide into 3 equal parts"):
        runner.Run(config(*out, "--resume", "--train.accumulate", "3"), "regression")
    changed = ("--model.rate", "0.2", "--train.optimizer.schedule", "noam")
    with pytest.raises(SystemExit) as error:
        runner.Run(config(*out, "--resume", *changed), "regression")
    assert str(error.value).splitlines()[1:] == [
        "  model.rate: saved 0.1, configured 0.2",
        "  train.optimizer.schedule: saved 'cosine', configured 'noam'",
        f"Leave them out, or begin a new run with the weights of this one: --init-from {path}",
    ]


SHORTER = ("--train.steps", "4", "--train.evaluate-every", "2", "--train.checkpoint-every", "2")


def test_a_run_is_resumed_with_its_settings_by_out_and_resume_alone(tmp_path, capsys):
    out = ("--out", str(tmp_path / "run"))
    # more warm-up than the default has steps: only with the run's own steps does it fit
    asked = config(*out, "--train.steps", "16", "--train.optimizer.warmup", "13", "--model.name", "a")
    runner.Run(asked, "regression")
    again = config(*out, "--resume")
    assert again == dataclasses.replace(asked, resume=True)
    runner.Run(again, "regression")
    other = config(f"--out={tmp_path / 'run'}", "--resume", "--mesh.data", "2", "--model.rate", "0.2")
    assert (other.model.name, other.model.rate, other.mesh.data) == ("a", 0.2, 2)
    assert config("--out", str(tmp_path / "none"), "--resume").train == SHORT  # Run then says what is missing


def test_what_a_translation_is_made_of_need_not_be_said_again_on_a_resume(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    asked = translation_config.parse([*out, "--data.source", "pairs.jsonl", "--data.pair", "en-fr"])
    runner.Run(asked, "translation")
    again = translation_config.parse([*out, "--resume"])
    assert runner.to_dict(again) == {**runner.to_dict(asked), "resume": True}
    runner.Run(again, "translation")


def test_a_config_field_added_later_does_not_block_the_resume_of_an_older_run(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    runner.Run(config(*out), "regression")
    path = tmp_path / "run" / "config.json"
    saved = json.loads(path.read_text())
    del saved["model"]["rate"]
    path.write_text(json.dumps(saved))
    runner.Run(config(*out, "--resume"), "regression")
    with pytest.raises(SystemExit, match=r"model.rate: saved 0.1, configured 0.2"):
        runner.Run(config(*out, "--resume", "--model.rate", "0.2"), "regression")


def test_a_resumed_run_says_whose_seconds_it_has(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    start(config(*out, *SHORTER))
    start(config(*out, "--resume"))
    assert "seconds_since_resume" in json.loads((tmp_path / "run" / "result.json").read_text())


def test_the_average_is_that_of_the_last_of_the_run_and_says_so(tmp_path, capsys):
    figures = iter([0.0, 1.0, 2.0, 3.0])  # the first is the best
    options = {"evaluate": lambda params: {"score": next(figures)}, "best": "score", "valid": None}
    every = ("--train.steps", "8", "--train.evaluate-every", "2", "--train.checkpoint-every", "2")
    trained = start(config("--out", str(tmp_path / "run"), *every, "--train.keep", "2"), **options)
    found = trained.average_params(last=3)
    assert "the mean of 2 checkpoints, those of steps 6, 8" in capsys.readouterr().out
    parts = [train.load_params(tmp_path / "run" / "checkpoints", s) for s in (6, 8)]
    chex.assert_trees_all_close(found, jax.tree.map(lambda a, b: (a + b) / 2, *parts), rtol=1e-6)
    assert trained.best_step == 2


def test_validation_that_is_used_up_is_one_clear_error(tmp_path):
    used = iter([problem.make_batch(0)])
    with pytest.raises(ValueError, match=r"valid\(\) gave no batches"):
        start(config("--out", str(tmp_path / "run"), *SHORTER), valid=lambda: used)


def test_other_batches_than_those_of_the_run_are_one_line_on_a_resume(tmp_path):
    class Other(problem.Batches):
        def set_state(self, state):
            raise ValueError("the state is of other data")

    out = ("--out", str(tmp_path / "run"))
    start(config(*out, *SHORTER))
    with pytest.raises(SystemExit, match="regression: the state is of other data"):
        start(config(*out, "--resume"), batches=Other())


def test_without_a_checkpoint_none_is_called_good(tmp_path):
    broken = lambda params, batch, key: ((jnp.float32(jnp.nan), jnp.float32(1.0)), {})
    with pytest.raises(SystemExit, match=r"the loss of step 1 is nan(?s:.*)no checkpoint was saved"):
        start(config("--out", str(tmp_path / "run")), loss_fn=broken, valid=None)


def test_a_loss_that_is_not_finite_is_said_in_one_line(tmp_path):
    def loss_fn(params, batch, key):
        (total, weight), metrics = problem.loss_fn(params, batch, key)
        late = jnp.asarray(batch["x"][0, 0] == problem.make_batch(7)["x"][0, 0], jnp.float32)
        return (total / (1.0 - late), weight), metrics

    with pytest.raises(SystemExit, match=r"the loss of step 8 is inf(?s:.*)last good checkpoint: step 6"):
        start(config("--out", str(tmp_path / "run")), loss_fn=loss_fn, valid=None)


def test_patience_ends_a_run_and_needs_a_figure(tmp_path):
    steps = iter(range(10))
    options = {"evaluate": lambda params: {"score": -next(steps)}, "best": "score", "mode": "max"}
    trained = start(config("--out", str(tmp_path / "run"), "--train.patience", "1"), **options)
    assert (trained.fitted.step, trained.fitted.reason) == (6, "early stop")
    with pytest.raises(ValueError, match="early_stop needs evaluate"):
        start(config("--out", str(tmp_path / "other"), "--train.patience", "1"), valid=None)


def test_without_out_a_run_goes_to_a_new_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = runner.Run(config(), "regression")
    assert run.path.parent == tmp_path / "runs" and run.path.name.startswith("regression-2")


def test_help_is_for_people(capsys):
    with pytest.raises(SystemExit):
        config("--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in (
        "Regression on numbers drawn at random.",
        "--train.steps INT Updates in all. (default: 12)",
        "--train.optimizer.learning-rate FLOAT",
        "--parallel {jit,pmap}",
        "--mesh.data INT",
        "--out {None}|PATH",
        "--resume",
        "--model.widths",
    ):
        assert part in text
    assert "--no-resume" not in text
    with pytest.raises(SystemExit):
        config("--train.stepz", "3")
    assert "--train.steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--train.evaluate-every", "30", "--train.checkpoint-every", "50"],
         "TrainConfig: got checkpoint_every=50; wanted a multiple of evaluate_every=30"),
        (["--train.keep", "0"], "TrainConfig: got keep=0; wanted an integer from 1 to"),
        (["--train.accumulate", "0"], "got accumulate=0"),
        (["--train.log-every", "0"], "got log_every=0"),
        (["--train.batch-size", "0"], "got batch_size=0"),
        (["--train.steps", "0"], "got steps=0"),
        (["--train.patience", "0"], "got patience=0; wanted an integer from 1 to "),
        (["--train.ema-decay", "1.5"], "got ema_decay=1.5; wanted a number in [0, 1), or None"),
        (["--train.seed", "-1"], "got seed=-1"),
        (["--train.optimizer.clip-norm", "0"], "got clip_norm=0.0; wanted a finite number above 0, or None"),
        (["--train.optimizer.warmup", "0"], "OptimizerConfig: got warmup=0"),
        (["--train.optimizer.learning-rate", "nan"], "got learning_rate=nan; wanted a finite number above"),
        (["--train.optimizer.b2", "1"], "got b2=1.0"),
        (["--train.steps", "1" + 30 * "0"], "got steps=1" + 30 * "0"),
        (["--train.batch-size", "2000000"], "batch_size=2000000; wanted an integer from 1 to 1048576"),
        (["--mesh.data", "0"], "MeshConfig: got data=0; wanted an integer from 1 to"),
        (["--resume-step", "3"], "got resume_step=3 without --resume"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_one_line_before_anything_is_done(argv, said, capsys):
    with pytest.raises(SystemExit) as error:
        config(*argv)
    text = str(error.value) + " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert said in text and "Traceback" not in text


def test_noam_alone_is_the_papers_rate_whatever_the_experiments_own(tmp_path):
    preset = runner.OptimizerConfig(learning_rate=2e-3)
    _, rate = dataclasses.replace(preset, schedule="noam", warmup=4000).build(d_model=512, steps=100_000)
    assert float(rate(3999)) == pytest.approx((512 * 4000) ** -0.5, rel=1e-5)


def test_items_of_a_tuple_have_their_own_kinds():
    kind = tuple[int, float]
    found = runner.from_dict(kind, [1, 2])
    assert found == (1, 2.0) and [type(x) for x in found] == [int, float]


models = st.builds(
    ModelConfig,
    widths=st.lists(st.integers(-(2**62), 2**62)).map(tuple),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    name=st.none() | st.text(),
    source=st.sampled_from([Path("a/b"), Path("c")]),
)


@given(
    models, st.sampled_from(["noam", "cosine"]), st.none() | st.floats(0.1, 1), st.none() | st.just(Path("x"))
)
def test_a_config_comes_back_from_json(model, schedule, clip_norm, out):
    optimizer = runner.OptimizerConfig(schedule=schedule, clip_norm=clip_norm)
    original = Config(train=runner.TrainConfig(optimizer=optimizer), model=model, out=out)
    assert runner.from_dict(Config, json.loads(json.dumps(runner.to_dict(original)))) == original


def test_a_config_with_unknown_fields_is_one_clear_error():
    with pytest.raises(
        ValueError, match=r"ModelConfig: got unknown fields \['depth'\]; wanted some of \['name'"
    ):
        runner.from_dict(Config, {"model": {"depth": 3}})


@pytest.mark.parametrize("schedule", ["noam", "cosine", "inverse_sqrt"])
def test_every_schedule_is_built_and_is_the_one_the_optimizer_uses(schedule):
    settings = runner.OptimizerConfig(schedule=schedule, learning_rate=0.5, noam_factor=0.5, warmup=4)
    optimizer, rate = settings.build(d_model=16, steps=10)
    peak = 0.5 * (16 * 4) ** -0.5 if schedule == "noam" else 0.5
    assert float(rate(3)) == pytest.approx(peak, rel=1e-5)
    params = {"kernel": jnp.ones(2)}
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(optax.apply_updates(params, updates)["kernel"], 1 - rate(0), rtol=1e-5)


def test_frozen_layers_and_the_decay_of_the_rate_are_settings(tmp_path):
    params = {"embedding": {"table": jnp.ones((3, 2))}, "layers": {"kernel": jnp.ones((4, 2))}}
    settings = runner.OptimizerConfig(learning_rate=0.5, warmup=1, frozen_layers=1, layer_decay=0.5)
    optimizer, _ = settings.build(d_model=8, steps=9)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["layers"]["kernel"][:, 0], [0, -0.0625, -0.125, -0.25], rtol=1e-4)
    np.testing.assert_array_equal(updates["embedding"]["table"], 0)
    # in a run their gradients are neither in the norm nor in the clip
    frozen = ("--train.optimizer.frozen-layers=1", "--train.steps=3")
    run = runner.Run(config("--out", str(tmp_path / "run"), *frozen), "layers")

    def loss_fn(p, batch, key):
        weight = jnp.sum(batch["weight"])
        return (jnp.sum(p["layers"]["kernel"] * jnp.array([[1e6], [3], [0], [4]])) * weight, weight), {}

    run.fit(init=lambda key: params, loss_fn=loss_fn, batches=problem.Batches(16), d_model=8)
    assert lines_of(run.path)[-1]["grad_norm"] == pytest.approx(5 * 2**0.5, rel=1e-5)


def test_more_frozen_layers_than_there_are_is_one_line_and_leaves_no_run(tmp_path):
    deep = {"layers": {"kernel": jnp.ones((4, 2))}}
    said = {problem.init: "'layers'; there are none", (lambda key: deep): "frozen layers are 0 to 4, .*got 5"}
    for init, message in said.items():
        settings = config("--out", str(tmp_path / "run"), "--train.optimizer.frozen-layers=5")
        with pytest.raises(SystemExit, match=f"regression: .*{message}"):
            start(settings, init=init)
        assert not (tmp_path / "run").exists()


def test_a_decay_or_a_number_of_layers_out_of_range_is_one_clear_error():
    with pytest.raises(ValueError, match=r"got layer_decay=0.0; wanted a number in \(0, 1\]"):
        runner.OptimizerConfig(layer_decay=0.0)
    with pytest.raises(ValueError, match="got frozen_layers=-1; wanted an integer from 0 to"):
        runner.OptimizerConfig(frozen_layers=-1)
