"""Experiments on meshes of simulated devices: the results of one device, and resumes on another mesh."""

import json
import re

import jax
import pytest

from experiments.classification.run import main as classification
from experiments.images.run import main as images
from experiments.language_model.run import main as language_model
from experiments.translation.run import main as translation
from tests.experiments import test_classification, test_images, test_language_model, test_translation
from tests.experiments.test_language_model import rows  # noqa: F401  - a fixture
from tests.experiments.test_runner import config, start
from tfm_jax import train

TIMED = ("seconds", "seconds_since_resume")


def result_of(path):
    result = json.loads((path / "result.json").read_text())
    return {name: value for name, value in result.items() if name not in TIMED}


def losses_of(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


@pytest.mark.slow
def test_language_model_on_meshes_has_the_results_of_one_device(tmp_path, rows, capsys):  # noqa: F811
    options = [
        *test_language_model.SMALL, "--train.batch-size", "8", "--data.source", rows,
        "--data.vocab-size", "300", "--model.vocab-size", "304",
        "--model.dropout-rate", "0.1", "--sample.prompt", "the cat",
    ]  # fmt: skip
    language_model(["--out", str(tmp_path / "one"), *options])
    expected, losses = result_of(tmp_path / "one"), losses_of(tmp_path / "one")
    sample = (tmp_path / "one" / "sample.txt").read_text(encoding="utf-8")
    for mesh in (["--mesh.fsdp", "8"], ["--mesh.data", "auto", "--mesh.sequence", "2", "--mesh.tensor", "2"]):
        out = tmp_path / mesh[0]
        language_model(["--out", str(out), *options, *mesh])
        assert result_of(out) == pytest.approx(expected, rel=1e-5)
        assert losses_of(out) == pytest.approx(losses, rel=1e-5)
        assert (out / "sample.txt").read_text(encoding="utf-8") == sample
    printed = capsys.readouterr().out
    assert "jit on 8 cpu devices (fsdp 8; state 0.0" in printed
    assert "jit on 8 cpu devices (data 2 x tensor 2 x sequence 2; state 0.0" in printed
    # resumed on other meshes, the last one of one device
    out = tmp_path / "--mesh.fsdp"
    for mesh in (["--mesh.tensor", "2", "--mesh.data", "2"], []):
        resumed = ["--resume", "--resume-step", "2", "--mesh.fsdp", "1", *mesh]
        language_model(["--out", str(out), *resumed])
        assert result_of(out) == pytest.approx(expected, rel=1e-5)
        assert losses_of(out) == pytest.approx(losses, rel=1e-5)


@pytest.mark.slow
def test_translation_on_a_mesh_has_the_results_of_one_device(tmp_path):
    options = [*test_translation.SMALL, "--data.decoded", "5", "--train.batch-size", "8"]
    translation(["--out", str(tmp_path / "one"), *options])
    translation(["--out", str(tmp_path / "mesh"), *options, "--mesh.fsdp", "4", "--mesh.data", "2"])
    assert result_of(tmp_path / "mesh") == pytest.approx(result_of(tmp_path / "one"), rel=1e-5)
    assert losses_of(tmp_path / "mesh") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-5)


@pytest.mark.slow
def test_images_on_a_mesh_have_the_results_of_one_device(tmp_path):
    options = ["--train.steps", "6", "--train.evaluate-every", "3", "--train.checkpoint-every", "3"]
    options += ["--train.optimizer.warmup", "2", "--train.log-every", "1", "--model.n-layers", "1"]
    images(["--out", str(tmp_path / "one"), *options])
    images(["--out", str(tmp_path / "mesh"), *options, "--mesh.fsdp", "2", "--mesh.tensor", "2"])
    assert losses_of(tmp_path / "mesh") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-4)
    assert result_of(tmp_path / "mesh").keys() == result_of(tmp_path / "one").keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["translation", "classification"])
def test_lengths_are_rounded_up_to_what_a_sequence_axis_divides(tmp_path, capsys, name):
    options = ["--model.dropout-rate", "0", "--data.buckets", "1"]
    if name == "translation":
        main, printed = translation, [r"8 x 39\+\d+", r"8 x 40\+\d+"]
        options = [*test_translation.SMALL, *options, "--data.decoded", "5", "--train.batch-size", "8"]
        mesh = ["--mesh.sequence", "2", "--mesh.data", "2"]
    else:
        main, printed = classification, ["8 x 16", "8 x 24"]
        options = [*test_classification.SMALL, *options]
        options += ["--data.source", test_classification.write_texts(tmp_path / "texts.csv", 60, 0)]
        options += ["--data.text-column", "phrase", "--data.label-column", "kind"]
        mesh = ["--mesh.sequence", "3", "--mesh.data", "2"]
    for out, more, shape in (("one", [], printed[0]), ("mesh", mesh, printed[1])):
        main(["--out", str(tmp_path / out), *options, *more])
        assert re.search(rf"batches of {shape}\n", capsys.readouterr().out)
    assert losses_of(tmp_path / "mesh") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-5)
    results = [result_of(tmp_path / out) for out in ("mesh", "one")]
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_images_whose_patches_a_sequence_axis_does_not_divide_are_an_error_that_leaves_no_run(tmp_path):
    with pytest.raises(SystemExit, match=r"images: .*got T = 16 .*wanted a multiple of 3"):
        images(["--out", str(tmp_path / "run"), *test_images.SMALL, "--mesh.sequence", "3"])
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_that_the_mesh_does_not_divide_names_the_option(tmp_path, rows):  # noqa: F811
    options = [*test_language_model.SMALL, "--data.source", rows, "--data.tokenizer", "bytes"]
    wanted = r"embedding.*got V = 259 .*wanted a multiple of 2.*Or --model.vocab-size 260: "
    with pytest.raises(SystemExit, match=wanted):
        language_model(["--out", str(tmp_path / "run"), *options, "--mesh.tensor", "2"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (["--mesh.expert", "2"], r"got mesh\.expert=2, and a model without experts; wanted mesh\.expert=1"),
        (["--mesh.sequence", "3"], r"got T = 32 .*wanted a multiple of 3"),
    ],
)
def test_an_axis_that_the_model_or_its_length_does_not_take_is_an_error(tmp_path, rows, mesh, message):  # noqa: F811
    options = [*test_language_model.SMALL, "--data.source", rows, "--data.tokenizer", "bytes"]
    with pytest.raises(SystemExit, match=message):
        language_model(["--out", str(tmp_path / "run"), *options, *mesh])
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_mesh_does_not_divide_names_its_axes(tmp_path):
    out = ("--out", str(tmp_path / "run"))
    wanted = (
        "got --train.batch-size 16; wanted a multiple of --mesh.data x --mesh.fsdp times --train.acc.*, 24"
    )
    with pytest.raises(SystemExit, match=wanted):
        start(config(*out, "--mesh.fsdp", "3", "--mesh.data", "2", "--train.accumulate", "4"))
    with pytest.raises(SystemExit, match="got 'auto' for data and fsdp; wanted it once"):
        start(config(*out, "--mesh.fsdp", "auto", "--mesh.data", "auto"))
    with pytest.raises(SystemExit, match=r"Pmap: got a mesh with fsdp=2; wanted data alone\. Use jit"):
        start(config(*out, "--mesh.fsdp", "2", "--parallel", "pmap"))
    assert not (tmp_path / "run").exists()


def test_a_run_on_a_mesh_ends_as_on_one_device(tmp_path):
    alone = start(config("--out", str(tmp_path / "one")))
    found = start(config("--out", str(tmp_path / "mesh"), "--mesh.fsdp", "4", "--mesh.data", "auto"))
    assert found.run.parallel.mesh.size == 8
    for name in ("params", "ema"):
        states = [getattr(trained.result.state, name) for trained in (alone, found)]
        one, many = (jax.tree.leaves(jax.device_get(state)) for state in states)
        for a, b in zip(one, many, strict=True):
            assert b == pytest.approx(a, rel=1e-4, abs=1e-5)
    params = found.run.on_main(lambda params: params, found.params)
    assert {len(x.devices()) for x in jax.tree.leaves(params)} == {1}
    assert train.bytes_per_device(params) == train.bytes_per_device(alone.params)
