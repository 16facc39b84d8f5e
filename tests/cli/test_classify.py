"""Texts into labels, in their order, whatever the file or the batch."""

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
from tfm_jax import pretrained


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    directory = tmp_path_factory.mktemp("classifiers")
    return {
        kind: save(directory / kind, config) for kind, config in (("texts", SEQUENCES), ("tokens", TOKENS))
    }


def read(out):
    return [json.loads(line) for line in out.splitlines()]


def test_texts(tfm, places, tmp_path):
    classifier = pretrained.load_text_classifier(places["texts"])
    wanted = classifier(TEXTS)
    status, out, _ = tfm("classify", "--model", places["texts"], *TEXTS)
    assert status == 0 and [x["label"] for x in read(out)] == [x.label for x in wanted]
    for got, label in zip(read(out), wanted, strict=True):
        assert got["score"] == pytest.approx(label.score, abs=1e-6) == max(got["scores"].values())
        assert list(got["scores"]) == list(classifier.labels)
    (tmp_path / "file").write_text("\n".join(TEXTS))
    argv = ["classify", "--model", places["texts"], "--file", tmp_path / "file", "--out", tmp_path / "labels"]
    assert tfm(*argv, "--batch-size", 1)[:2] == (0, "")
    assert [x["label"] for x in read((tmp_path / "labels").read_text())] == [x.label for x in wanted]


def test_tokens(tfm, places):
    (wanted,) = pretrained.load_text_classifier(places["tokens"])(TEXTS[:1])
    (found,) = read(tfm("classify", "--model", places["tokens"], TEXTS[0])[1])
    assert [(x["start"], x["end"], x["label"]) for x in found] == [(x.start, x.end, x.label) for x in wanted]
    assert [x["score"] for x in found] == pytest.approx([x.score for x in wanted], abs=1e-6)


def test_devices_share_each_batch(tfm, places, monkeypatch):
    load, meshes = pretrained.load_text_classifier, []
    spy = lambda path, dtype, mesh, **options: meshes.append(mesh) or load(path, dtype, mesh, **options)
    monkeypatch.setattr(pretrained, "load_text_classifier", spy)
    wanted = [x.label for x in load(places["texts"])(TEXTS)]
    status, out, _ = tfm("classify", "--model", places["texts"], "--devices", 3, *TEXTS)
    assert status == 0 and meshes[0].size == 3
    assert [x["label"] for x in read(out)] == wanted


def test_a_bad_line_is_said_and_loses_no_other(tfm, places):
    stdin = f"{TEXTS[0]}\n".encode() + b"\xff\n" + TEXTS[1].encode()
    status, out, err = tfm("classify", "--model", places["texts"], stdin=stdin)
    first, bad, last = read(out)
    assert (status, bad) == (1, None) and err.startswith("tfm: line 2: this is not UTF-8")
    labels = [x.label for x in pretrained.load_text_classifier(places["texts"])(TEXTS[:2])]
    assert [first["label"], last["label"]] == labels


def test_what_cannot_be_done_is_one_line(tfm, places, tmp_path):
    for argv, said in (
        (["--model", tmp_path / "no" / "where" / "at" / "all", "a"], "wanted an existing directory"),
        (["--model", places["texts"], "a", "--file", "b"], "arguments or the lines of --file, not both"),
        (["--model", places["texts"], "a", "--devices", "33"], "--devices: got 33; wanted at most the 32"),
        (["--model", tmp_path, "a"], "there is no config.json"),
    ):
        status, out, err = tfm("classify", *argv)
        assert (status, out) == (2, "") and len(err.splitlines()) == 1 and said in err


def test_json_is_json_in_every_encoding(tfm, places, monkeypatch):
    """Whatever letters a label has."""
    classifier = dataclasses.replace(
        pretrained.load_text_classifier(places["texts"]), labels=("é", "日", '"\\')
    )
    monkeypatch.setattr(pretrained, "load_text_classifier", lambda *args, **options: classifier)
    _, out, _ = tfm("classify", "--model", "it", "a")
    assert out.isascii() and list(json.loads(out)["scores"]) == ["é", "日", '"\\']


def test_what_is_no_number_is_null(tfm, places, monkeypatch):
    broken = lambda texts, batch_size: [pretrained.Label("a", math.nan, np.array([math.nan, math.inf, 1.0]))]
    broken.labels = ("a", "b", "c")
    monkeypatch.setattr(pretrained, "load_text_classifier", lambda *args, **options: broken)
    (found,) = read(tfm("classify", "--model", "it", "text")[1])
    assert found == {"label": "a", "score": None, "scores": {"a": None, "b": None, "c": 1.0}}


def test_a_closed_standard_input(tfm, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    status, out, err = tfm("classify", "--model", "it")
    assert (status, out) == (2, "") and err.startswith("tfm: standard input is closed: give texts as argume")


def test_lines_of_a_pipe_are_read_once(tfm, places, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_text, args=("\n".join(TEXTS),))
    thread.start()
    out = tfm("classify", "--model", places["texts"], "--file", tmp_path / "pipe")[1]
    thread.join()
    assert len(read(out)) == len(TEXTS)


def test_a_file_of_output_that_cannot_be_is_refused_before_the_model_is_loaded(tfm, tmp_path):
    for out, said in (
        (tmp_path / "no" / "labels", f"--out: got {tmp_path}/no/labels; wanted a file in a directory"),
        (tmp_path, f"--out: {tmp_path} is a directory; wanted a file."),
    ):
        status, _, err = tfm("classify", "--model", "nowhere at all", "a", "--out", out)
        assert status == 2 and err.startswith(f"tfm: {said}") and len(err.splitlines()) == 1
    status, _, err = tfm("classify", "--model", "nowhere at all", "--file", tmp_path)
    assert (status, err) == (2, f"tfm: --file: {tmp_path} is a directory; wanted a file.\n")


def test_a_device_stays_and_is_named(tfm, places, tmp_path):
    """By links, lest a test that fails replaces the devices themselves."""
    for name in ("null", "full"):
        (tmp_path / name).symlink_to(f"/dev/{name}")
    argv = ["classify", "--model", places["texts"], "a", "--out"]
    assert tfm(*argv, tmp_path / "null")[0] == 0 and (tmp_path / "null").is_char_device()
    assert tfm(*argv, tmp_path / "full")[::2] == (2, f"tfm: {tmp_path}/full: No space left on device\n")


def test_what_a_link_names_is_replaced(tfm, places, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "labels")
    assert tfm("classify", "--model", places["texts"], "a", "--out", tmp_path / "link")[0] == 0
    assert (tmp_path / "link").is_symlink() and len(read((tmp_path / "labels").read_text())) == 1


@pytest.mark.parity
def test_a_pickle_where_it_is_allowed(tfm, tmp_path):
    place = save(tmp_path / "it", SEQUENCES)
    wanted = tfm("classify", "--model", place, *TEXTS)[1]
    as_pickle(place)
    assert tfm("classify", "--model", place, *TEXTS)[0] == 2
    assert tfm("classify", "--model", place, "--allow-pickle", *TEXTS)[:2] == (0, wanted)
