"""``tfm classify``: the library's labels, in order, whatever the source of the texts and the batch size."""

import dataclasses
import json
import math
import os
import shutil
import sys
import threading

import jax
import numpy as np
import PIL.Image
import pytest

from tests.pretrained.families.test_families import FIELDS
from tests.pretrained.tasks.test_sentence_embedding import as_pickle
from tests.pretrained.tasks.test_text_classification import SEQUENCES, TEXTS, TOKENS, save
from tfm_jax import nn, pretrained, runs
from tfm_jax.pretrained.families import find_family
from tfm_jax.pretrained.load import model_of
from tfm_jax.pretrained.tasks.text_classification import Label


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("classifiers")
    return {
        kind: save(directory / kind, config) for kind, config in (("texts", SEQUENCES), ("tokens", TOKENS))
    }


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A tiny ViT with its preprocessing, and three images of other sizes."""
    directory = tmp_path_factory.mktemp("images") / "vit"
    settings = {"id2label": {"0": "cat", "1": "dog", "2": "cow"}}
    patches = nn.Patches(6, 8, 3, (3, 2), class_token=True)
    config = nn.Config(**FIELDS["vit"] | {"patches": patches})
    config = pretrained.CheckpointConfig("ViTForImageClassification", config, settings)
    model = model_of(config, find_family(config.architecture))
    params = jax.tree.map(lambda x: 3.0 * x, jax.jit(model.init)(jax.random.key(3)))
    pretrained.save(directory, params, config)
    size = {"height": patches.height, "width": patches.width}
    (directory / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    rng = np.random.default_rng(0)
    paths = [directory.parent / name for name in ("a.png", "b.png", "c d.jpg")]
    for i, path in enumerate(paths):
        PIL.Image.fromarray(rng.integers(0, 256, (7 + i, 9, 3), np.uint8)).save(path)
    return directory, [str(path) for path in paths]


def read(out):
    return [json.loads(line) for line in out.splitlines()]


def test_texts(tfm, models, tmp_path):
    classifier = pretrained.load_text_classifier(models["texts"])
    wanted = classifier(TEXTS)
    status, out, _ = tfm("classify", "--model", models["texts"], *TEXTS)
    assert status == 0 and [x["label"] for x in read(out)] == [x.label for x in wanted]
    for got, label in zip(read(out), wanted, strict=True):
        assert got["score"] == pytest.approx(label.score, abs=1e-6) == max(got["scores"].values())
        assert list(got["scores"]) == list(classifier.labels)
    (tmp_path / "file").write_text("\n".join(TEXTS))
    argv = ["classify", "--model", models["texts"], "--file", tmp_path / "file", "--out", tmp_path / "labels"]
    assert tfm(*argv, "--batch-size", 1)[:2] == (0, "")
    assert [x["label"] for x in read((tmp_path / "labels").read_text())] == [x.label for x in wanted]


def test_tokens(tfm, models):
    (wanted,) = pretrained.load_text_classifier(models["tokens"])(TEXTS[:1])
    (found,) = read(tfm("classify", "--model", models["tokens"], TEXTS[0])[1])
    assert [(x["start"], x["end"], x["label"]) for x in found] == [(x.start, x.end, x.label) for x in wanted]
    assert [x["score"] for x in found] == pytest.approx([x.score for x in wanted], abs=1e-6)


def test_images(tfm, vit, tmp_path):
    model, paths = vit
    classifier = pretrained.load_image_classifier(model)
    wanted = classifier(paths)
    assert np.ptp([x.scores for x in wanted], axis=0).max() > 1e-3
    (tmp_path / "list").write_text("\n".join(paths))
    for words, stdin in (
        (paths, None),
        (["--file", tmp_path / "list"], None),
        ([], "\n".join(paths).encode()),
    ):
        status, out, _ = tfm("classify", model, "--batch-size", 2, *words, stdin=stdin)
        assert status == 0 and [x["label"] for x in read(out)] == [x.label for x in wanted]
        np.testing.assert_allclose(
            [[*x["scores"].values()] for x in read(out)], [x.scores for x in wanted], atol=1e-6
        )
        assert all(tuple(x["scores"]) == classifier.labels == ("cat", "dog", "cow") for x in read(out))


def test_an_image_that_cannot_be_read_fails_alone_with_its_name(tfm, vit, tmp_path):
    model, paths = vit
    nowhere, text, damaged = tmp_path / "nowhere.png", tmp_path / "text.jpg", tmp_path / "damaged.png"
    text.write_text("no image")
    with open(paths[0], "rb") as image:
        damaged.write_bytes(image.read()[:60])
    inputs = [nowhere, paths[0], text, tmp_path, damaged, paths[1], ""]
    status, out, err = tfm("classify", model, *inputs)
    wanted = [x.label for x in pretrained.load_image_classifier(model)(paths[:2])]
    assert status == 1 and [x and x["label"] for x in read(out)] == [
        *(None, wanted[0], None, None, None, wanted[1], None)
    ]
    messages = [
        f"line 1: got {nowhere}: No such file or directory; wanted the path of an image file.",
        f"line 3: classify: got bytes that Pillow does not know in {text}; wanted an image file.",
        f"line 4: got {tmp_path}: Is a directory; wanted the path of an image file.",
        f"line 5: classify: got a damaged or too large image file in {damaged}",
        "line 7: got .: Is a directory",
    ]
    assert len(err.splitlines()) == len(messages)
    assert all(x.startswith(f"tfm: {y}") for x, y in zip(err.splitlines(), messages, strict=True))


def test_a_run_of_pairs_reads_them_from_lines_with_a_tab(tfm, run_of_pairs, tmp_path):
    pairs = [("ab", "cd ef"), ("g", "a"), ("", "b")]
    wanted = runs.load_run(run_of_pairs)(pairs)
    lines = [f"{a}\t{b}" for a, b in pairs]
    status, out, _ = tfm("classify", run_of_pairs, *lines)
    assert (status, [x["label"] for x in read(out)]) == (0, [x.label for x in wanted])
    assert tfm("classify", run_of_pairs, "--pairs", *lines)[:2] == (0, out)
    (tmp_path / "file").write_text("\n".join([lines[0], "no tab", "a\tb\tc"]))
    status, found, err = tfm("classify", run_of_pairs, "--file", tmp_path / "file")
    assert (status, found) == (1, out.splitlines()[0] + "\nnull\nnull\n")
    assert [line.partition(";")[0] for line in err.splitlines()] == [
        "tfm: line 2: got 0 TABs",
        "tfm: line 3: got 2 TABs",
    ]


def test_a_checkpoint_takes_pairs_where_the_option_says_so(tfm, models):
    wanted = pretrained.load_text_classifier(models["texts"])([("a b", "c"), "a b\tc"])
    assert not np.allclose(wanted[0].scores, wanted[1].scores, atol=1e-3)
    for words, label in ((["--pairs"], wanted[0]), ([], wanted[1])):
        (found,) = read(tfm("classify", models["texts"], *words, "a b\tc")[1])
        np.testing.assert_allclose([*found["scores"].values()], label.scores, atol=1e-6)


def test_pairs_that_do_not_fit_the_model_are_an_error(tfm, models, vit, run_of_pairs, tmp_path):
    single = shutil.copytree(run_of_pairs, tmp_path / "single")
    task = dataclasses.replace(runs.read_task(single), pairs=False)
    runs.write_task(single, task, runs.read_origin(single))
    for model, message in (
        (models["tokens"], "a model of token-classification; wanted one of text-classification."),
        (vit[0], "a model of image-classification; wanted one of text-classification."),
        (single, "a run of single texts; wanted one of pairs."),
    ):
        assert tfm("classify", model, "--pairs", "a\tb") == (2, "", f"tfm: --pairs: got {model}, {message}\n")


def test_batches_are_split_over_devices(tfm, models, monkeypatch):
    load, meshes = runs.load_text_classifier, []

    def spy(path, *, mesh, **options):
        meshes.append(mesh)
        return load(path, mesh=mesh, **options)

    monkeypatch.setattr(runs, "load_text_classifier", spy)
    wanted = [x.label for x in load(models["texts"])(TEXTS)]
    status, out, _ = tfm("classify", "--model", models["texts"], "--devices", 3, *TEXTS)
    assert status == 0 and meshes[0].size == 3
    assert [x["label"] for x in read(out)] == wanted


def test_only_a_line_that_is_not_utf8_fails(tfm, models):
    stdin = f"{TEXTS[0]}\n".encode() + b"\xff\n" + TEXTS[1].encode()
    status, out, err = tfm("classify", "--model", models["texts"], stdin=stdin)
    first, bad, last = read(out)
    assert (status, bad) == (1, None) and err.startswith("tfm: line 2: got a text that is not UTF-8")
    labels = [x.label for x in pretrained.load_text_classifier(models["texts"])(TEXTS[:2])]
    assert [first["label"], last["label"]] == labels


def test_errors_are_one_line(tfm, models, tmp_path):
    for argv, message in (
        (["--model", tmp_path / "no" / "where" / "at" / "all", "a"], "wanted an existing directory"),
        (
            ["--model", models["texts"], "a", "--file", "b"],
            "--file: got inputs as arguments too; wanted only one of the two.",
        ),
        (
            ["--model", models["texts"], "a", "--devices", "33"],
            "--devices: got 33; wanted at most --batch-size, 32.",
        ),
        (["--model", tmp_path, "a"], "got no config.json; wanted one"),
    ):
        status, out, err = tfm("classify", *argv)
        assert (status, out) == (2, "") and len(err.splitlines()) == 1 and message in err


def test_json_is_ascii(tfm, models, monkeypatch):
    classifier = dataclasses.replace(
        pretrained.load_text_classifier(models["texts"]), labels=("é", "日", '"\\')
    )
    monkeypatch.setattr(runs, "load_text_classifier", lambda *args, **options: classifier)
    _, out, _ = tfm("classify", models["texts"], "a")
    assert out.isascii() and list(json.loads(out)["scores"]) == ["é", "日", '"\\']


def test_nan_and_inf_are_null(tfm, models, monkeypatch):
    def broken(texts, batch_size):
        return [Label("a", math.nan, np.array([math.nan, math.inf, 1.0]))]

    broken.labels = ("a", "b", "c")
    monkeypatch.setattr(runs, "load_text_classifier", lambda *args, **options: broken)
    (found,) = read(tfm("classify", models["texts"], "text")[1])
    assert found == {"label": "a", "score": None, "scores": {"a": None, "b": None, "c": 1.0}}


def test_closed_standard_input_is_an_error(tfm, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    status, out, err = tfm("classify", "--model", "it")
    assert (status, out) == (2, "") and err.startswith(
        "tfm: standard input: got a closed stream; wanted inputs."
    )


def test_a_pipe_is_read_once(tfm, models, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_text, args=("\n".join(TEXTS),))
    thread.start()
    out = tfm("classify", "--model", models["texts"], "--file", tmp_path / "pipe")[1]
    thread.join()
    assert len(read(out)) == len(TEXTS)


@pytest.mark.parity
def test_a_pickled_checkpoint_needs_allow_pickle(tfm, tmp_path):
    model = save(tmp_path / "it", SEQUENCES)
    wanted = tfm("classify", "--model", model, *TEXTS)[1]
    as_pickle(model)
    assert tfm("classify", "--model", model, *TEXTS)[0] == 2
    assert tfm("classify", "--model", model, "--allow-pickle", *TEXTS)[:2] == (0, wanted)
