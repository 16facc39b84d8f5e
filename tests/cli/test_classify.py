"""``tfm classify``: the library's labels, in order, whatever the source of the texts and the batch size."""

import dataclasses
import json
import math
import os
import sys
import threading

import numpy as np
import pytest

from tests.pretrained.tasks.test_sentence_embedding import as_pickle
from tests.pretrained.tasks.test_text_classification import SEQUENCES, TEXTS, TOKENS, save
from tfm_jax import pretrained, runs
from tfm_jax.pretrained.tasks.text_classification import Label


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("classifiers")
    return {
        kind: save(directory / kind, config) for kind, config in (("texts", SEQUENCES), ("tokens", TOKENS))
    }


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
