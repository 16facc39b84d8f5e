"""--init-from RUN with more data: what RUN held out is not trained on."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import command_line
from experiments.classification.config import DataConfig as ClassificationData
from experiments.classification.corpus import load_corpus
from experiments.images import run as images
from experiments.inputs import (
    INPUTS_FILE,
    START_FILE,
    RunInputs,
    check_splits,
    hash_lines,
    hash_texts,
    inherit_splits,
    keep_lines,
)
from experiments.language_model.config import DataConfig as TextData
from experiments.language_model.corpus import load_texts
from experiments.runner import Run
from experiments.translation import run as translation_run
from experiments.translation.config import Config as TranslationConfig
from experiments.translation.config import TextConfig
from experiments.translation.run import main as translation
from tests.experiments.test_init_from import FROZEN, without_model
from tests.experiments.test_translation import SMALL
from tfm_jax.data.sources import load_splits
from tfm_jax.data.splitting import input_hashes
from tfm_jax.train.run_directory import RunDirectory, load_config
from tfm_jax.values import to_dict


def saved_inputs(path, name=INPUTS_FILE):
    with np.load(path / name) as file:
        return {split: set(file[split].tolist()) for split in ("train", "validation", "test")}


def write_pairs(path, numbers):
    """Pairs that are all different."""
    pairs = ({"en": f"number {n}", "fr": f"nombre {n}"} for n in numbers)
    path.write_text("".join(json.dumps({"translation": pair}) + "\n" for pair in pairs))
    return str(path)


def make_start(path, data, splits=None):
    """Writes the directory of a run that held examples out, as far as another one reads it."""
    RunDirectory(path, to_dict(TextConfig()) | {"data": data})
    if splits is not None:
        own = RunInputs("translation", path)
        own.regroup({name: hash_texts(texts) for name, texts in splits.items()})
        own.write()
    return str(path)


def start_from(source, path, *, by_permutation=False):
    path.mkdir(exist_ok=True)
    inputs = RunInputs("translation", path, by_permutation)
    inputs.start_from(source)
    return inputs


HASH = {"held_out": 0.1, "held_out_salt": "tfm_jax"}
PERMUTATION = {"held_out": 0.1, "held_out_salt": None}


def regrouped(inputs, splits, files=()):
    """The texts of each split afterwards."""
    rows = inputs.regroup({name: hash_texts(texts) for name, texts in splits.items()}, files)
    return {name: [splits[split][i] for split, i in part] for name, part in rows.items()}


def test_pairs_are_left_out_and_known_test_pairs_are_counted(tmp_path, capsys):
    start, pairs = tmp_path / "start", write_pairs(tmp_path / "pairs.jsonl", range(60))
    test = write_pairs(tmp_path / "test.jsonl", range(100, 108))
    held_out, trained_on = [f"number {i}" for i in range(5)], [f"number {i}" for i in range(100, 103)]
    make_start(start, HASH, {"train": trained_on, "validation": held_out, "test": []})
    options = ["--out", str(tmp_path / "run"), *SMALL, "--data.source", pairs, "--data.pair", "en-fr"]
    options += ["--data.test", test, "--data.tokenizer", "characters", "--data.held-out", "0.1"]
    run = Run(command_line.parse(TranslationConfig, options), "translation")
    run.inputs.start_from(str(start))
    splits = translation_run._prepare(run).pairs
    assert not {*splits["train"][0]} & {*held_out}
    assert {*splits["train"][0], *splits["validation"][0], *held_out} == {f"number {i}" for i in range(60)}
    assert splits["train"][1] == [text.replace("number", "nombre") for text in splits["train"][0]]
    assert "; 3 of the test pairs are training pairs too" in capsys.readouterr().out


@pytest.mark.slow
def test_translation_goes_on_with_more_pairs(tmp_path, capsys):
    first, second, pairs = tmp_path / "first", tmp_path / "second", tmp_path / "pairs.jsonl"
    options = [*SMALL, "--train.steps", "2", "--average", "1", "--search.beams", "1", "--data.pair", "en-fr"]
    options += ["--data.source", write_pairs(pairs, range(100)), "--data.batch-tokens", "None"]
    translation(["--out", str(first), *options, "--data.held-out", "0.2", "--data.tokenizer", "characters"])
    before = saved_inputs(first)
    assert all(before.values()) and sum(map(len, before.values())) == 100
    write_pairs(pairs, [*range(50, 160), *range(50)])
    capsys.readouterr()
    options = [*without_model(options), *FROZEN, "--init-from", str(first)]
    translation(["--out", str(second), *options])
    after, printed = saved_inputs(second), capsys.readouterr().out
    assert all(before[name] < after[name] for name in before)
    assert not after["train"] & (after["validation"] | after["test"])
    assert f"{first}: left out 0 training inputs that it held out; it was trained on 0 of" in printed
    assert "0 of the test pairs are training pairs too" in printed
    settings = load_config(TextConfig, second / "config.json").data
    assert (settings.held_out, settings.held_out_salt) == (0.2, "tfm_jax")
    assert saved_inputs(second, START_FILE) == before
    # without the first one, from its own files
    (first / INPUTS_FILE).rename(tmp_path / "gone")
    translation(["--out", str(second), "--resume", "--train.steps", "3"])
    assert saved_inputs(second) == after
    # a test file with what the first run was trained on, and training pairs that it held out as a file
    test = write_pairs(tmp_path / "test.jsonl", range(80))
    third = ["--out", str(tmp_path / "third"), *options, "--init-from", str(second), "--data.test", test]
    translation(third)
    printed = capsys.readouterr().out
    known = sum(hash_texts([f"number {n}"]).item() in after["train"] for n in range(80))
    assert f"left out {len(after['test'])} training inputs that it held out" in printed
    assert f"and {known} of 80 test inputs" in printed
    assert f"; {known} of the test pairs are training pairs too" in printed
    with pytest.raises(
        SystemExit, match=r"got --data.held-out 0.3; wanted 0.2, by which .*leave it out.*tfm convert"
    ):
        translation([*third, "--data.held-out", "0.3", "--out", str(tmp_path / "fourth")])
    with pytest.raises(SystemExit, match=r"got --data.held-out-salt other; wanted tfm_jax"):
        translation([*third, "--data.held-out-salt", "other", "--out", str(tmp_path / "fourth")])
    assert not (tmp_path / "fourth").exists()


def test_what_was_held_out_is_left_out_and_inherited(tmp_path, capsys):
    source = make_start(
        tmp_path / "start", HASH, {"train": ["a", "b"], "validation": ["c", "d"], "test": ["e"]}
    )
    inputs = start_from(source, tmp_path / "run")
    splits = {"train": ["c", "f", "a", "f"], "validation": ["b", "d"], "test": ["g"]}
    assert regrouped(inputs, splits) == {**splits, "train": ["f", "a", "f"]}
    said = (
        "left out 1 training inputs that it held out; it was trained on 1 of 2 validation inputs and 0 of 1"
    )
    assert f"translation: {source}: {said} test inputs" in capsys.readouterr().out
    inputs.write()
    letters = {
        "train": ["a", "b", "f"],
        "validation": ["b", "c", "d"],
        "test": ["e", "g"],
    }
    assert saved_inputs(tmp_path / "run") == {
        name: set(hash_texts(texts).tolist()) for name, texts in letters.items()
    }
    np.testing.assert_array_equal(inputs.is_known(hash_texts(["a", "g", "b"])), [True, False, True])
    again = RunInputs("translation", tmp_path / "run")  # of a resume
    assert regrouped(again, splits) == {**splits, "train": ["f", "a", "f"]}
    with pytest.raises(ValueError, match="got 2 training examples, all of which it held out; wanted some"):
        inputs.regroup({"train": hash_texts(["c", "e"]), "validation": hash_texts(["x"])})


def test_a_permutation_goes_on_by_the_list(tmp_path):
    held = {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}
    source = make_start(tmp_path / "start", PERMUTATION, held)
    mixed = {"train": ["c", "d", "e"], "validation": ["a", "f"], "test": ["b", "g"]}
    found = regrouped(start_from(source, tmp_path / "run", by_permutation=True), mixed)
    assert found == {"train": ["e", "a", "b"], "validation": ["c", "f"], "test": ["d", "g"]}
    found = regrouped(start_from(source, tmp_path / "run", by_permutation=True), mixed, ["test"])
    assert found == {"train": ["e", "a"], "validation": ["c", "f"], "test": ["b", "g"]}
    with pytest.raises(
        ValueError, match=r"for validation that it was trained on, all of them, and no others"
    ):
        regrouped(
            start_from(source, tmp_path / "run", by_permutation=True),
            {"train": ["e"], "validation": ["a"], "test": ["d"]},
        )


def test_the_share_and_the_salt_are_those_of_the_start(tmp_path):
    start = make_start(tmp_path / "start", {"held_out": 0.25, "held_out_salt": "mine"})
    config = inherit_splits(TranslationConfig(init_from=start))
    assert (config.data.held_out, config.data.held_out_salt) == (0.25, "mine")
    check_splits(config)
    with pytest.raises(
        ValueError, match=r"--init-from .*start: got --data.held-out 0.05; wanted 0.25, by which"
    ):
        check_splits(TranslationConfig(init_from=start))
    # one that held out files alone leaves them free, as does a checkpoint
    files = make_start(tmp_path / "files", {"held_out": 0.0, "held_out_salt": "mine", "test": "test.csv"})
    for source in (files, "owner/name", None):
        config = TranslationConfig(init_from=source)
        assert inherit_splits(config) == config
        check_splits(config)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"held_out": 0.1}, "by a permutation, as version 0.1 did, and no inputs.npz"),  # of format 1
        (PERMUTATION, "by a permutation, as version 0.1 did, and no inputs.npz, the list"),
        (
            {**HASH, "validation": "v.csv", "test": "t.csv"},
            r"by files \(validation, test\) and no inputs.npz",
        ),
    ],
)
def test_a_start_without_a_list_is_refused_with_the_way_out(tmp_path, data, message):
    source = make_start(tmp_path / "start", data)
    path = tmp_path / "start" / "config.json"
    if "held_out_salt" not in data:
        path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(ValueError, match=rf"{message}.*by --resume and its --out: .*tfm convert"):
        start_from(source, tmp_path / "run")


def test_a_start_that_splits_by_its_salt_needs_no_list_and_a_checkpoint_none(tmp_path, capsys):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text('{"architectures": ["MarianMTModel"]}')
    for source in (make_start(tmp_path / "start", HASH), str(tmp_path / "checkpoint"), "owner/name"):
        inputs = start_from(source, tmp_path / "run")
        assert ("has no inputs.npz, so its share" in capsys.readouterr().out) == source.endswith("start")
        assert inputs.regroup({"train": hash_texts(["a"])}) is None
        assert not inputs.is_known(hash_texts(["a"])).any()


def test_a_damaged_list_is_one_line_with_its_name(tmp_path):
    source = make_start(tmp_path / "start", HASH, {"train": ["a"], "validation": ["b"], "test": ["c"]})
    path = tmp_path / "start" / INPUTS_FILE
    whole = path.read_bytes()
    for damaged in (b"", b"PK", whole[:200], b"junk" + whole):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"^{path}: got no lists of hashes .*Put a copy"):
            start_from(source, tmp_path / "run")


@pytest.mark.parametrize("source", ["books/book.txt", "books", "books/*.txt"])
def test_a_text_that_grew_loses_the_lines_that_were_held_out(tmp_path, source):
    path, start = tmp_path / "books" / "book.txt", tmp_path / "start"
    path.parent.mkdir()
    lines = [f"This is line {i} of the book.\n" for i in range(200)]
    path.write_text("".join(lines[:100]))
    settings = TextData(source=str(tmp_path / source), held_out=0.1)
    make_start(start, to_dict(settings))
    own = RunInputs("language_model", start)
    train, validation = load_texts(settings, own)
    assert "".join(train + validation) == "".join(lines[:100])
    own.write()
    path.write_text("".join(lines))
    grown, later = load_texts(settings, start_from(str(start), tmp_path / "run"))
    found = "".join(grown).splitlines(keepends=True)
    held_out = "".join(validation).splitlines(keepends=True)
    assert 9 <= len(held_out) <= 11 and not set(found) & set(held_out)
    boundary = lines.index("".join(later).splitlines(keepends=True)[0])
    assert found == [line for line in lines[:boundary] if line not in held_out]


def test_lines_are_hashed_by_three_whatever_the_parts():
    whole = hash_lines(["a\nb\nc\nd\ne\n"])
    np.testing.assert_array_equal(whole, hash_lines(["a\nb\n", "c\nd\ne"]))
    assert len(whole) == 3 and len(hash_lines(["a\nb"])) == 1
    assert keep_lines(["a\nb\n", "c\nd\ne\n"], [0, 1]) == ["a\nb\n"]
    assert keep_lines(["a\nb\n", "c\nd\ne\n"], [0, 1, 2]) == ["a\nb\n", "c\nd\ne\n"]
    assert keep_lines(["a\nb"], []) == []


@given(st.lists(st.sampled_from(["a", "b", "c", "d "]), min_size=3, max_size=6), st.data())
def test_windows_of_other_lines_have_other_hashes(lines, drawn):
    other = drawn.draw(st.permutations(lines))
    same = [line.strip() for line in other[:3]] == [line.strip() for line in lines[:3]]
    assert (hash_lines(["\n".join(other)])[0] == hash_lines(["\n".join(lines)])[0]) == same


def test_a_long_line_that_grew_loses_what_was_held_out():
    rng = np.random.default_rng(0)
    words = ["".join(map(str, rng.integers(0, 10, 6))) for _ in range(2000)]
    held_out, grown = " ".join(words[900:1000]), " ".join(words)
    known = np.isin(hash_lines([grown]), hash_lines([held_out]))
    (kept,) = keep_lines([grown], np.flatnonzero(~known))
    dropped = {*words} - {*kept.split()}
    assert dropped < {*words[900:1000]} and len(dropped) >= 60  # but for the parts at both ends
    assert keep_lines([grown], range(len(known))) == [grown]


def test_texts_of_a_language_model_are_left_out(tmp_path):
    path, start = tmp_path / "rows.jsonl", tmp_path / "start"
    texts = [f"text {i}" for i in range(50)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    make_start(start, HASH, {"train": ["text 4"], "validation": texts[:4], "test": []})
    training, validation = load_texts(
        TextData(source=str(path), held_out=0.1), start_from(str(start), tmp_path / "run")
    )
    assert not {*training} & {*texts[:4]} and {*training} | {*validation} | {*texts[:4]} == {*texts}


def test_labelled_texts_are_left_out_with_their_labels(tmp_path):
    path, start = tmp_path / "texts.csv", tmp_path / "start"
    path.write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(60)))
    held_out = [f"text {i}" for i in range(5)]
    make_start(start, HASH, {"train": [], "validation": held_out, "test": []})
    config = ClassificationData(source=str(path))
    corpus = load_corpus(config)
    found = load_corpus(config, "classification", start_from(str(start), tmp_path / "run")).splits
    kept = [text not in held_out for text in corpus.splits["train"].texts]
    assert 1 <= kept.count(False) <= 5
    np.testing.assert_array_equal(found["train"].labels, corpus.splits["train"].labels[kept])
    assert not {*found["train"].texts} & {*held_out}
    assert found["test"].texts == corpus.splits["test"].texts


def test_images_are_left_out(tmp_path):
    splits = load_splits("digits", by=["image"], columns=["image", "label"])
    hashes = {name: input_hashes(part, ["image"]) for name, part in splits.items()}
    start = tmp_path / "start"
    make_start(start, HASH)
    own = RunInputs("images", start)
    own.regroup({"train": hashes["test"], "validation": hashes["train"][10:20], "test": hashes["test"][:0]})
    own.write()
    found = images._without_held_out(start_from(str(start), tmp_path / "run"), splits, "image")
    assert (
        len(splits["train"]) - len(found["train"]) == np.isin(hashes["train"], hashes["train"][10:20]).sum()
    )
    assert not np.isin(input_hashes(found["train"], ["image"]), hashes["train"][10:20]).any()
    assert found["test"]["label"] == splits["test"]["label"]
