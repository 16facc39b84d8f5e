"""Texts into labels, in their order, whatever the file or the batch."""

import json

import pytest

from tests.pretrained.test_classify import SEQUENCES, TEXTS, TOKENS, save
from tests.pretrained.test_sentences import as_pickle
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
        (["--model", tmp_path / "no" / "where" / "at" / "all", "a"], "there is no directory"),
        (["--model", places["texts"], "a", "--file", "b"], "arguments or the lines of --file, not both"),
        (["--model", places["texts"], "a", "--devices", "0"], "--devices is at least 1, got 0"),
        (["--model", tmp_path, "a"], "there is no config.json"),
    ):
        status, out, err = tfm("classify", *argv)
        assert (status, out) == (2, "") and len(err.splitlines()) == 1 and said in err


@pytest.mark.parity
def test_a_pickle_where_it_is_allowed(tfm, tmp_path):
    place = save(tmp_path / "it", SEQUENCES)
    wanted = tfm("classify", "--model", place, *TEXTS)[1]
    as_pickle(place)
    assert tfm("classify", "--model", place, *TEXTS)[0] == 2
    assert tfm("classify", "--model", place, "--allow-pickle", *TEXTS)[:2] == (0, wanted)
