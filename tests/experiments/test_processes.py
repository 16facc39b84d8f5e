"""Experiments on several processes: as on one, and what happens where one of them fails."""

import importlib
import json
import re
import signal
import time

import pytest

from experiments.language_model.run import main
from tests.experiments.test_classification import write_texts
from tests.experiments.test_language_model import RUN_FILES, lines_of, make_texts, result_of, write_rows
from tests.experiments.test_translation import write_pairs
from tests.processes import Processes

pytestmark = pytest.mark.slow
LANGUAGE_MODEL = "experiments.language_model.run"
OPTIONS = (
    "--model.d-model", "8", "--model.n-layers", "1", "--model.n-heads", "2", "--model.d-ff", "8",
    "--model.dropout-rate", "0.2", "--train.batch-size", "8", "--train.evaluate-every", "5",
    "--train.checkpoint-every", "5", "--train.optimizer.warmup", "2", "--train.log-every", "1",
    "--data.length", "32", "--data.overlap", "8", "--sample.tokens", "5", "--data.vocab-size", "300",
    "--sample.prompt", "cat", "--compilation-cache", "off",
)  # fmt: skip


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    rows = write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", make_texts(60, 0))
    return [*OPTIONS, "--data.source", rows]


@pytest.fixture(scope="module")
def one(tmp_path_factory, options):
    """A run of 20 steps by one process."""
    path = tmp_path_factory.mktemp("one") / "run"
    main([*options, "--train.steps", "20", "--mesh.data", "4", "--out", str(path)])
    return path


def start(n, *arguments, devices=2, module=LANGUAGE_MODEL):
    return Processes(n, "tests.experiments.connected", module, *arguments, devices=devices)


def train(n, *arguments, **options):
    """Runs to the end; returns what each process printed."""
    with start(n, *arguments, **options) as started:
        ended = started.finish()
    for status, _, error in ended:
        assert status == 0, error
    return [output for _, output, _ in ended]


def wait_for(path, started, seconds=200):
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        assert all(process.poll() is None for process in started.running), "a process ended"
        time.sleep(0.01)


def curve(path):
    """The losses by step; each step occurs once."""
    names = ("loss", "grad_norm", "validation/loss", "validation/bits_per_byte")
    lines = lines_of(path)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return {f"{line['step']} {name}": line[name] for line in lines for name in names if name in line}


@pytest.mark.parametrize(("n", "mesh"), [(2, "data"), (4, "fsdp")])
def test_the_losses_are_those_of_one_process(tmp_path, options, one, n, mesh):
    several = tmp_path / "several"
    outputs = train(n, *options, "--train.steps", "20", f"--mesh.{mesh}", "auto", "--out", several)
    assert curve(several) == pytest.approx(curve(one), rel=1e-5)
    assert {p.name for p in several.iterdir()} == RUN_FILES
    results = [result_of(path) for path in (several, one)]
    for result in results:
        del result["seconds"]
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert f"jit on {2 * n} cpu devices ({mesh} {2 * n}" in outputs[0]
    assert outputs[0].count("step 20/20") == 1
    assert outputs[1:] == [""] * (n - 1)
    assert json.loads((several / "config.json").read_text())["distributed"] == "auto"


@pytest.mark.parametrize("name", ["translation", "images", "classification"])
def test_the_other_experiments_run_on_two_processes(tmp_path, name):
    common = ["--train.steps", "4", "--train.batch-size", "8", "--train.evaluate-every", "2"]
    common += ["--train.checkpoint-every", "2", "--train.log-every", "1", "--train.optimizer.warmup", "2"]
    common += ["--model.d-model", "8", "--model.n-heads", "2", "--model.d-ff", "8", "--model.n-layers", "1"]
    common += ["--compilation-cache", "off"]
    own = {
        "translation": [
            "--average",
            "2",
            "--data.pair",
            "en-fr",
            "--data.decoded",
            "4",
            "--data.buckets",
            "2",
        ],
        "images": ["--train.patience", "3"],
        "classification": ["--train.patience", "3", "--data.buckets", "2"],
    }[name]
    meshes = [["--mesh.data", "auto"], ["--mesh.data", "4"]]
    if name == "classification":
        own += ["--data.source", write_texts(tmp_path / "texts.csv", 60, 0)]
        own += ["--data.text-column", "phrase", "--data.label-column", "kind"]
    if name == "translation":
        own += ["--data.source", write_pairs(tmp_path / "pairs.jsonl", 200, 0)]
        meshes = [["--mesh.data", "2", "--mesh.fsdp", "auto"], ["--mesh.data", "2", "--mesh.fsdp", "2"]]
    module, options = f"experiments.{name}.run", [*common, *own]
    train(2, *options, *meshes[0], "--out", tmp_path / "several", module=module)
    importlib.import_module(module).main([*options, *meshes[1], "--out", str(tmp_path / "one")])
    assert curve(tmp_path / "several") == pytest.approx(curve(tmp_path / "one"), rel=1e-5)
    files = [{p.name for p in (tmp_path / run).iterdir()} for run in ("several", "one")]
    assert files[0] == files[1] and "result.json" in files[0]


def test_where_one_is_killed_the_others_end_and_a_restart_gives_the_same_losses(tmp_path, options, one):
    options = [*options, "--train.steps", "20", "--mesh.fsdp", "auto", "--out", tmp_path / "run"]
    with start(4, *options, devices=1) as started:
        wait_for(tmp_path / "run" / "checkpoints" / "5", started)
        started.running[2].kill()
        killed_at = time.monotonic()
        ended = started.finish(timeout=60)
    assert time.monotonic() - killed_at < 30
    statuses = [status for status, _, _ in ended]
    assert statuses.pop(2) == -signal.SIGKILL
    assert 0 not in statuses
    del ended[2]
    for _, _, error in ended:
        assert "process 2 is gone" in error or "If another process ended, its output has the cause" in error
    train(2, *options, "--resume")  # fewer processes
    assert curve(tmp_path / "run") == pytest.approx(curve(one), rel=1e-5)


def test_sigterm_to_one_saves_the_run_of_all(tmp_path, options):
    options = [*options, "--train.steps", "2000", "--mesh.data", "auto", "--out", tmp_path / "run"]
    with start(2, *options) as started:
        wait_for(tmp_path / "run" / "checkpoints" / "5", started)
        started.running[1].send_signal(signal.SIGTERM)
        ended = started.finish(timeout=60)
    assert [status for status, _, _ in ended] == [1, 1]
    found = re.search(r"language_model: stopped at step (\d+), saved; resume by", ended[0][2])
    assert found and ended[1][2] == ""
    step = int(found[1])
    assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()
    assert lines_of(tmp_path / "run")[-1]["step"] == step


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.seed", "1{index}"], "disagree on the config"),
        (["--train.batch-size", "x"], "Error parsing --train.batch-size"),
    ],
)
def test_what_does_not_fit_is_one_error(tmp_path, options, arguments, message):
    with start(2, *options, *arguments, "--out", tmp_path / "run") as started:
        ended = started.finish(timeout=120)
    assert all(status in (1, 2) for status, _, _ in ended)
    assert message in ended[0][2] and "Traceback" not in ended[0][2]
    assert ended[1][2] == ""
    assert not (tmp_path / "run").exists()
