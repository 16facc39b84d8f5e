import dataclasses
import json
import math
import os
import signal
import threading
import types
from pathlib import Path
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import command_line, runner
from experiments.config import OptimizerConfig, RunConfig, TrainConfig
from experiments.translation.config import Config as TranslationConfig
from tests.train import problem
from tfm_jax import compilation_cache, nn, runs, train, viz
from tfm_jax.train.run_directory import load_config
from tfm_jax.values import from_dict, to_dict


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    widths: tuple[int, ...] = (4, 8)
    """Widths of the layers."""
    rate: float = 0.1
    name: str | None = None
    source: Path = Path("data/train.jsonl")


SHORT = TrainConfig(
    steps=12,
    batch_size=16,
    optimizer=OptimizerConfig(warmup=2),
    ema_decay=0.9,
    evaluate_every=3,
    checkpoint_every=6,
    log_every=2,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Regression on random numbers."""

    train: TrainConfig = SHORT
    model: ModelConfig = ModelConfig()


class Validation:
    """Two batches; each iteration is a new pass."""

    def __iter__(self):
        return (problem.make_batch(1000 + i) for i in range(2))


TASK = runs.Task(task="text-classification", labels=("no", "yes"), pooling="mean")
MODEL = nn.Config(vocab_size=5, d_model=4, n_layers=1, n_heads=2, d_ff=3)


def fit(
    run,
    *,
    init=problem.init,
    loss_fn=problem.loss_fn,
    batches=None,
    validation=(),
    digests=types.MappingProxyType({}),
    curves=lambda *args, **options: None,
    **metrics,
):
    """Does what an experiment's run.py does."""
    settings = run.config.train
    with run.setup():
        optimizer, schedule = settings.optimizer.build(d_model=8, steps=settings.steps)
        step = run.compile_step(loss_fn, optimizer)
        state = run.init_state(init, optimizer)
    batches = batches or problem.Batches(settings.batch_size)
    evaluate = run.compile_evaluation(loss_fn, validation or Validation(), **metrics)
    with run.session(state, batches, digests, task=TASK, model=MODEL) as (state, options):
        result = train.fit(
            step, state, batches, evaluate=evaluate, learning_rate=schedule, unit="rows", **options
        )
    with mock.patch.object(viz, "curves", curves):
        params = run.end_training(result)
    return types.SimpleNamespace(run=run, params=params, result=result, checkpoints=run.path / "checkpoints")


def start(config, **options):
    trained = fit(runner.Run(config, "regression"), **options)
    trained.run.finish({"loss": trained.result.step / 2, "n": 3, "bad": math.nan})
    return trained


def config(*argv):
    return command_line.parse(Config, argv)


def lines_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_run_writes_its_directory_and_prints_its_result(tmp_path, capsys):
    drawn = []
    trained = start(
        config("--out", str(tmp_path / "run")), curves=lambda *args, title: drawn.append((*args, title))
    )
    path = tmp_path / "run"
    assert {p.name for p in path.iterdir()} == {
        "config.json", "model.json", "task.json", "metrics.jsonl", "events", "checkpoints", "result.json",
    }  # fmt: skip
    result = json.loads((path / "result.json").read_text())
    assert result.pop("seconds") > 0
    assert result == {"loss": 6.0, "n": 3, "bad": None}
    lines = lines_of(path)
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8, 9, 10, 12]
    assert {"loss", "near", "grad_norm", "rows_per_second", "learning_rate"} < lines[0].keys()
    assert {"validation/loss", "validation/near"} <= lines[1].keys()
    assert drawn == [(lines, path / "curves.png", "regression")]
    out = capsys.readouterr().out
    assert "regression: 30 parameters, jit on 1 cpu device, in" in out
    assert "loss: 6" in out and "n: 3" in out
    assert load_config(Config, path / "config.json").model == ModelConfig()
    # the moving average is evaluated and returned; the best checkpoint is kept
    chex.assert_trees_all_equal(trained.params, trained.result.state.ema)
    losses = {line["step"]: line["validation/loss"] for line in lines if line["step"] in (6, 12)}
    step = trained.run.best_step
    assert step == min(losses, key=losses.get)
    chex.assert_trees_all_equal(
        trained.run.best_params(), train.load_params(path / "checkpoints", step, item="ema")
    )
    parts = [train.load_params(path / "checkpoints", s) for s in (6, 12)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *parts)
    chex.assert_trees_all_close(trained.run.average_params(), mean, rtol=1e-6)


def test_profile_is_written_into_the_run_and_ignored_on_a_resume_beyond_it(tmp_path, capsys):
    out = str(tmp_path / "run")
    start(config("--out", out, "--profile", "4:5"))
    traces = list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1
    assert f"profile of steps 4 to 5: {tmp_path / 'run' / 'profile'}; open it by" in capsys.readouterr().out
    start(config("--out", out, "--resume"))
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb")) == traces


def test_a_run_says_once_what_came_from_the_compilation_cache(tmp_path, capsys, monkeypatch):
    chosen = []
    monkeypatch.setattr(compilation_cache, "enable", chosen.append)
    monkeypatch.setattr(compilation_cache, "report_hits", lambda report: report("3 programs"))
    start(config("--out", str(tmp_path / "run"), "--compilation-cache", "off"))
    assert capsys.readouterr().out.count("regression: 3 programs\n") == 1
    assert chosen == ["off"]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("5:4", "--profile: got '5:4'; wanted the first and the last step"),
        ("4:13", "--profile: got 4:13; wanted steps up to --train.steps 12"),
    ],
)
def test_wrong_profile_is_one_error_before_anything_is_written(steps, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        config("--out", str(tmp_path / "run"), "--profile", steps)
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_a_baseline_is_computed_once_by_process_0(monkeypatch):
    threads = []

    def baseline(x):
        threads.append(threading.current_thread())
        return x + 1

    wait = runner.start_on_main(baseline, 2)
    assert (wait(), wait(), len(threads)) == (3, 3, 1)
    assert threads[0] is not threading.main_thread()
    monkeypatch.setattr(runner.processes, "is_main", lambda: False)
    runner.start_on_main(baseline, 2)
    assert len(threads) == 1


def test_validation_uses_the_moving_average(tmp_path):
    trained = start(config("--out", str(tmp_path / "run")))
    pairs = [problem.loss_fn(trained.params, problem.make_batch(1000 + i), None)[0] for i in range(2)]
    expected = sum(float(s) for s, _ in pairs) / sum(float(w) for _, w in pairs)
    assert lines_of(tmp_path / "run")[-1]["validation/loss"] == pytest.approx(expected, rel=1e-5)


def test_stopped_run_resumed_on_other_devices_ends_the_same(tmp_path, capsys):
    uninterrupted = start(config("--out", str(tmp_path / "uninterrupted")))
    out = ("--out", str(tmp_path / "stopped"))
    calls = []

    def stop(params):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    with pytest.raises(SystemExit, match=r"stopped at step 6, saved; resume by --out .*stopped --resume"):
        start(config(*out), metrics=stop)
    assert not (tmp_path / "stopped" / "result.json").exists()
    resumed = start(config(*out, "--resume", "--parallel", "pmap", "--mesh.data", "4"))
    chex.assert_trees_all_close(
        jax.device_get(resumed.params), jax.device_get(uninterrupted.params), rtol=1e-5, atol=1e-6
    )
    assert "pmap on 4 cpu devices" in capsys.readouterr().out
    steps = [line["step"] for line in lines_of(tmp_path / "stopped")]
    assert steps == [line["step"] for line in lines_of(tmp_path / "uninterrupted")]


def test_settings_that_do_not_fit_exit_with_one_line_and_change_nothing(tmp_path):
    path = tmp_path / "run"
    out = ("--out", str(path))
    with pytest.raises(SystemExit, match=r"regression: .*got no config.json; wanted the directory of a run"):
        runner.Run(config(*out, "--resume"), "regression")
    with pytest.raises(SystemExit, match=r"got --resume without --out; wanted .*Add --out"):
        runner.Run(config("--resume"), "regression")
    with pytest.raises(
        SystemExit, match=r"got --mesh.data 9: 9 devices; wanted 1 to 8, .*JAX_NUM_CPU_DEVICES=9"
    ):
        runner.Run(config(*out, "--mesh.data", "9"), "regression")
    with pytest.raises(
        SystemExit, match=r"got --train.optimizer.warmup 40 with --train.steps 12; wanted fewer"
    ):
        runner.Run(config(*out, "--train.optimizer.warmup", "40"), "regression")
    assert not path.exists()
    runner.Run(config(*out), "regression")
    with pytest.raises(SystemExit, match=r"got files in it; .*--resume.*--out"):
        runner.Run(config(*out), "regression")
    with pytest.raises(SystemExit, match=r"got --train.batch-size 16; wanted a multiple of .*, 3"):
        runner.Run(config(*out, "--resume", "--train.accumulate", "3"), "regression")
    changed = ("--model.rate", "0.2", "--train.optimizer.schedule", "noam")
    with pytest.raises(SystemExit) as error:
        runner.Run(config(*out, "--resume", *changed), "regression")
    assert str(error.value).splitlines()[1:] == [
        "  model.rate: saved 0.1, configured 0.2",
        "  train.optimizer.schedule: saved 'cosine', configured 'noam'",
        f"Leave them out, or start a new run with the weights of this one: --init-from {path}",
    ]


SHORTER = ("--train.steps", "4", "--train.evaluate-every", "2", "--train.checkpoint-every", "2")


def test_out_and_resume_alone_restore_the_settings(tmp_path, capsys):
    out = ("--out", str(tmp_path / "run"))
    # more warm-up than the default steps: it fits the run's steps only
    configured = config(*out, "--train.steps", "16", "--train.optimizer.warmup", "13", "--model.name", "a")
    runner.Run(configured, "regression")
    again = config(*out, "--resume")
    assert again == dataclasses.replace(configured, resume=True)
    runner.Run(again, "regression")
    other = config(f"--out={tmp_path / 'run'}", "--resume", "--mesh.data", "2", "--model.rate", "0.2")
    assert (other.model.name, other.model.rate, other.mesh.data) == ("a", 0.2, 2)
    assert (
        config("--out", str(tmp_path / "none"), "--resume").train == SHORT
    )  # Run raises for the missing run


def test_resume_of_a_translation_needs_no_other_options(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    options = ["--data.source", "pairs.jsonl", "--data.pair", "en-fr"]
    configured = command_line.parse(TranslationConfig, [*out, *options])
    runner.Run(configured, "translation")
    again = command_line.parse(TranslationConfig, [*out, "--resume"])
    assert to_dict(again) == {**to_dict(configured), "resume": True}
    runner.Run(again, "translation")


def test_older_run_without_a_field_resumes_with_its_default(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    runner.Run(config(*out), "regression")
    path = tmp_path / "run" / "config.json"
    saved = json.loads(path.read_text())
    del saved["model"]["rate"]
    path.write_text(json.dumps(saved))
    runner.Run(config(*out, "--resume"), "regression")
    with pytest.raises(SystemExit, match=r"model.rate: saved 0.1, configured 0.2"):
        runner.Run(config(*out, "--resume", "--model.rate", "0.2"), "regression")


def test_resumed_run_reports_seconds_since_the_resume(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    start(config(*out, *SHORTER))
    start(config(*out, "--resume"))
    assert "seconds_since_resume" in json.loads((tmp_path / "run" / "result.json").read_text())


def test_average_params_averages_the_last_checkpoints_and_prints_them(tmp_path, capsys):
    scores = iter([0.0, 1.0, 2.0, 3.0])  # the first is the best
    options = {"metrics": lambda params: {"validation/loss": next(scores)}}
    every = ("--train.steps", "8", "--train.evaluate-every", "2", "--train.checkpoint-every", "2")
    trained = start(config("--out", str(tmp_path / "run"), *every, "--train.keep", "2"), **options)
    found = trained.run.average_params(last=3)
    assert "averages the weights of 2 checkpoints, of steps 6, 8" in capsys.readouterr().out
    parts = [train.load_params(tmp_path / "run" / "checkpoints", s) for s in (6, 8)]
    chex.assert_trees_all_close(found, jax.tree.map(lambda a, b: (a + b) / 2, *parts), rtol=1e-6)
    assert trained.run.best_step == 2
    trained.run.config = dataclasses.replace(trained.run.config, restore_concurrent_gb=0.5)
    for name, load in (
        ("average_params", trained.run.average_params),
        ("load_params", trained.run.best_params),
    ):
        with mock.patch.object(train, name) as reading:
            load()
        assert reading.call_args.kwargs["restore_concurrent_gb"] == 0.5


def test_a_run_says_what_its_model_is_for_and_where_it_comes_from(tmp_path):
    start(config("--out", str(tmp_path / "run"), "--train.seed", "7"), digests={"train": "0f"})
    assert runs.read_task(tmp_path / "run") == TASK
    assert runs.read_model_config(tmp_path / "run") == MODEL
    origin = runs.read_origin(tmp_path / "run")
    assert (origin.seed, origin.data) == (7, {"train": "0f"})
    assert origin.versions["jax"] == jax.__version__


def test_exhausted_validation_raises(tmp_path):
    used = iter([problem.make_batch(0)])
    with pytest.raises(ValueError, match="evaluate: got no batches; wanted"):
        start(config("--out", str(tmp_path / "run"), *SHORTER), validation=used)


def test_resume_with_other_batches_exits_with_one_line(tmp_path):
    class Other(problem.Batches):
        def set_state(self, state):
            raise ValueError("the state is of other data")

    out = ("--out", str(tmp_path / "run"))
    start(config(*out, *SHORTER))
    with pytest.raises(SystemExit, match="regression: the state is of other data"):
        start(config(*out, "--resume"), batches=Other())


def test_nan_loss_before_the_first_checkpoint_exits_with_one_message(tmp_path):
    def broken(params, batch, key):
        return ((jnp.float32(jnp.nan), jnp.float32(1.0)), {})

    with pytest.raises(SystemExit, match=r"got a loss of nan at step 1(?s:.*)no checkpoint was saved"):
        start(config("--out", str(tmp_path / "run")), loss_fn=broken)


def test_infinite_loss_exits_and_names_the_last_checkpoint(tmp_path):
    def loss_fn(params, batch, key):
        (total, weight), metrics = problem.loss_fn(params, batch, key)
        late = jnp.asarray(batch["x"][0, 0] == problem.make_batch(7)["x"][0, 0], jnp.float32)
        return (total / (1.0 - late), weight), metrics

    with pytest.raises(SystemExit, match=r"got a loss of inf at step 8(?s:.*)last checkpoint is of step 6"):
        start(config("--out", str(tmp_path / "run")), loss_fn=loss_fn)


def test_patience_ends_a_run(tmp_path):
    steps = iter(range(10))
    options = {"metrics": lambda params: {"validation/loss": next(steps)}}
    trained = start(config("--out", str(tmp_path / "run"), "--train.patience", "1"), **options)
    assert (trained.result.step, trained.result.reason) == (6, "early stop")


def test_run_without_out_gets_a_new_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = runner.Run(config(), "regression")
    assert run.path.parent == tmp_path / "runs" and run.path.name.startswith("regression-2")


def test_help_lists_the_options_and_errors_suggest_them(capsys):
    with pytest.raises(SystemExit):
        config("--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in (
        "Regression on random numbers.",
        "--train.steps INT Total number of updates; more on a resume make the run longer. (default: 12)",
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
    ("argv", "message"),
    [
        (["--train.evaluate-every", "30", "--train.checkpoint-every", "50"],
         "--train.checkpoint-every: got 50; wanted a multiple of --train.evaluate-every 30"),
        (["--train.keep", "0"], "--train.keep: got 0; wanted an integer from 1 to"),
        (["--train.accumulate", "0"], "--train.accumulate: got 0"),
        (["--train.log-every", "0"], "--train.log-every: got 0"),
        (["--train.batch-size", "0"], "--train.batch-size: got 0"),
        (["--train.steps", "0"], "--train.steps: got 0"),
        (["--train.patience", "0"], "--train.patience: got 0; wanted an integer from 1 to "),
        (["--train.ema-decay", "1.5"], "--train.ema-decay: got 1.5; wanted a number in [0, 1), or None"),
        (["--train.seed", "-1"], "--train.seed: got -1"),
        (["--train.optimizer.clip-norm", "0"], "clip-norm: got 0.0; wanted a finite number above 0, or None"),
        (["--train.optimizer.warmup", "0"], "--train.optimizer.warmup: got 0"),
        (["--train.optimizer.learning-rate", "nan"], "learning-rate: got nan; wanted a finite number above"),
        (["--train.optimizer.b2", "1"], "--train.optimizer.b2: got 1.0"),
        (["--train.optimizer.mu-dtype", "float16"], "invalid choice 'float16'"),
        (["--train.gradient-dtype", "float16"], "invalid choice 'float16'"),
        (["--train.steps", "1" + 30 * "0"], "--train.steps: got 1" + 30 * "0"),
        (["--train.batch-size", "2000000"], "batch-size: got 2000000; wanted an integer from 1 to 1048576"),
        (["--mesh.data", "0"], "--mesh.data: got 0; wanted 'auto', or an integer from 1 to"),
        (["--resume-step", "3"], "--resume-step: got 3 without --resume"),
    ],
)  # fmt: skip
def test_invalid_setting_exits_with_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as error:
        config(*argv)
    text = str(error.value) + " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in text and "Traceback" not in text


def test_noam_ignores_the_learning_rate_of_the_experiment(tmp_path):
    preset = OptimizerConfig(learning_rate=2e-3)
    _, rate = dataclasses.replace(preset, schedule="noam", warmup=4000).build(d_model=512, steps=100_000)
    assert float(rate(3999)) == pytest.approx((512 * 4000) ** -0.5, rel=1e-5)


def test_items_of_a_tuple_have_their_own_types():
    kind = tuple[int, float]
    found = from_dict(kind, [1, 2])
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
def test_config_round_trips_through_json(model, schedule, clip_norm, out):
    optimizer = OptimizerConfig(schedule=schedule, clip_norm=clip_norm)
    original = Config(train=TrainConfig(optimizer=optimizer), model=model, out=out)
    assert from_dict(Config, json.loads(json.dumps(to_dict(original)))) == original


def test_config_with_unknown_fields_raises():
    message = r"ModelConfig: got unknown fields \['depth'\]; wanted some of \['name'"
    with pytest.raises(ValueError, match=message):
        from_dict(Config, {"model": {"depth": 3}})


@pytest.mark.parametrize("schedule", ["noam", "cosine", "inverse_sqrt"])
def test_optimizer_uses_the_configured_schedule(schedule):
    settings = OptimizerConfig(schedule=schedule, learning_rate=0.5, noam_factor=0.5, warmup=4)
    optimizer, rate = settings.build(d_model=16, steps=10)
    peak = 0.5 * (16 * 4) ** -0.5 if schedule == "noam" else 0.5
    assert float(rate(3)) == pytest.approx(peak, rel=1e-5)
    params = {"kernel": jnp.ones(2)}
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(optax.apply_updates(params, updates)["kernel"], 1 - rate(0), rtol=1e-5)


def test_a_resume_frees_the_initial_state_before_it_reads_the_checkpoint(tmp_path, monkeypatch):
    start(config("--out", str(tmp_path / "run")))
    initial, restore, init_state = [], train.resume, runner.Run.init_state

    def make_state(*args):
        initial.append(init_state(*args))
        return initial[0]

    def resume(*args, **options):
        assert all(x.is_deleted() for x in jax.tree.leaves(initial))
        return restore(*args, **options)

    monkeypatch.setattr(runner.Run, "init_state", make_state)
    monkeypatch.setattr(train, "resume", resume)
    assert start(config("--out", str(tmp_path / "run"), "--resume")).result.step == SHORT.steps
    assert len(jax.tree.leaves(initial)) > 5


def test_the_dtypes_of_moments_and_gradients_are_settings():
    options = ("--train.optimizer.mu-dtype", "bfloat16", "--train.gradient-dtype", "bfloat16")
    settings = config(*options, "--parallel", "pmap").train
    params = {"kernel": jnp.ones((2, 3))}
    optimizer, _ = settings.optimizer.build(d_model=8, steps=999)
    moments = optimizer.init(params)[0]
    assert moments.mu["kernel"].dtype == jnp.bfloat16 and moments.nu["kernel"].dtype == jnp.float32
    default, _ = OptimizerConfig().build(d_model=8, steps=999)
    assert default.init(params)[0].mu["kernel"].dtype == jnp.float32

    def loss_fn(params, batch, key):
        return (jnp.sum(params["kernel"]) * 1.001, jnp.float32(1)), {}  # bfloat16 has 1.0 and 1.0078125

    assert settings.gradient_dtype == "bfloat16"
    for gradient_dtype, norm in (("bfloat16", 1.0), ("float32", 1.001)):
        changed = dataclasses.replace(settings, gradient_dtype=gradient_dtype, ema_decay=None)
        step = runner.make_step(changed, loss_fn, optimizer)
        state = train.init_state(params, optimizer, jax.random.key(0))
        _, metrics = step(state, {"x": jnp.ones(1)})
        assert float(metrics["grad_norm"][0]) == pytest.approx(norm * 6**0.5, rel=1e-5)


def test_bfloat16_gradients_need_a_bfloat16_model_under_jit():
    settings = TrainConfig(gradient_dtype="bfloat16")
    narrow = nn.Config(vocab_size=9, dtype="bfloat16")
    for allowed in ({"model": narrow}, {"model": nn.Config(vocab_size=9), "parallel": "pmap"}):
        assert TranslationConfig(train=settings, **allowed).train == settings
    with pytest.raises(
        ValueError, match=r"--train.gradient-dtype: got bfloat16 and --model.dtype float32; wanted"
    ):
        TranslationConfig(train=settings, model=nn.Config(vocab_size=9))


def test_frozen_layers_and_layer_decay_are_settings(tmp_path):
    params = {"embedding": {"table": jnp.ones((3, 2))}, "layers": {"kernel": jnp.ones((4, 2))}}
    settings = OptimizerConfig(learning_rate=0.5, warmup=1, frozen_layers=1, layer_decay=0.5)
    optimizer, _ = settings.build(d_model=8, steps=9)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["layers"]["kernel"][:, 0], [0, -0.0625, -0.125, -0.25], rtol=1e-4)
    np.testing.assert_array_equal(updates["embedding"]["table"], 0)
    # in a run their gradients count neither in the norm nor in the clip
    frozen = ("--train.optimizer.frozen-layers=1", "--train.steps=3")
    run = runner.Run(config("--out", str(tmp_path / "run"), *frozen), "layers")

    def loss_fn(p, batch, key):
        weight = jnp.sum(batch["weights"])
        return (jnp.sum(p["layers"]["kernel"] * jnp.array([[1e6], [3], [0], [4]])) * weight, weight), {}

    fit(run, init=lambda key: params, loss_fn=loss_fn)
    assert lines_of(run.path)[-1]["grad_norm"] == pytest.approx(5 * 2**0.5, rel=1e-5)


def test_too_many_frozen_layers_exit_with_one_line_and_leave_no_run(tmp_path):
    deep = {"layers": {"kernel": jnp.ones((4, 2))}}
    messages = {problem.init: "got params without 'layers'", (lambda key: deep): "frozen=5; wanted 0 to 4"}
    for init, message in messages.items():
        settings = config("--out", str(tmp_path / "run"), "--train.optimizer.frozen-layers=5")
        with pytest.raises(SystemExit, match=f"regression: .*{message}"):
            start(settings, init=init)
        assert not (tmp_path / "run").exists()


def test_layer_decay_and_frozen_layers_out_of_range_raise():
    with pytest.raises(
        ValueError, match=r"--train.optimizer.layer-decay: got 0.0; wanted a number in \(0, 1\]"
    ):
        OptimizerConfig(layer_decay=0.0)
    with pytest.raises(
        ValueError, match=r"--train.optimizer.frozen-layers: got -1; wanted an integer from 0 to"
    ):
        OptimizerConfig(frozen_layers=-1)
