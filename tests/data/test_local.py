"""Finding the files of a path, a directory or a glob, on the disk."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.files import write_image, write_lines
from tests.data.test_layout import AMBIGUOUS, assigned, leaves, trees
from tfm_jax import data
from tfm_jax.data._local import find_files
from tfm_jax.data.sources import load_unsplit

ROWS = [{"text": f"line {i}", "n": i} for i in range(5)]
RUN = {"train": {"steps": 1}, "data": {"source": "."}, "model": {}, "out": "runs/x", "resume": False}


def write(path, rows=ROWS):
    return write_lines(path, rows)


def write_run(path):
    """The files of a run that could be read as data."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(RUN))
    names = ("metrics.jsonl", "tokenizer.json", "result.json", "result-4.json", "sample.txt", "curves.png")
    for name in (*names, "model.json"):
        (path / name).write_text("{}\n")
    write(path / "profile" / "a.trace.json")
    write(path / "checkpoints" / "2" / "extra" / "metadata.json")
    for name in ("set_aside", "set_aside-1"):
        write(path / name / "metrics.jsonl")
    write(path / "events" / "a.jsonl")


def relative_files(source, splits=None, *, to):
    """The files of each split, relative to a directory."""
    files = find_files(str(source), splits).files
    return {
        split: [Path(os.path.relpath(file, to)).as_posix() for file in part] for split, part in files.items()
    }


@pytest.fixture
def load(tmp_path):
    return lambda source, *args, **options: data.load(
        str(source), *args, cache_dir=str(tmp_path / "cache"), **options
    )


@given(tree=trees().filter(bool), images=st.booleans(), splits=st.sampled_from([None, "directories", "none"]))
def test_a_directory_and_a_glob_of_it_have_the_splits_of_the_rule(tree, images, splits, tmp_path_factory):
    base = tmp_path_factory.mktemp("test [1] train")  # names above the source are ignored
    suffix, expected = (".png" if images else ".jsonl"), assigned(tree, images, splits)
    for leaf in leaves(tree):
        path = base.joinpath(*leaf[:-1], leaf[-1] + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in (".git/a.jsonl", "extra/notes.md", "test/empty/README.md", ".DS_Store"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).touch()
    for source in (base, base / "**" / f"*{suffix}"):
        if expected == AMBIGUOUS:
            with pytest.raises(ValueError, match=r"--data\.splits"):
                find_files(str(source), splits)
        else:
            splits_of = {}
            for split, files in relative_files(source, splits, to=base).items():
                for file in files:
                    assert file not in splits_of, "in one split only"
                    splits_of[(*Path(file).parts[:-1], Path(file).name.removesuffix(suffix))] = split
            assert splits_of == expected


def test_a_flat_folder_of_classes_keeps_the_class_called_train(load, tmp_path):
    for grey, name in enumerate(("bus", "car", "train", "truck")):
        for i in range(2):
            write_image(tmp_path / "p" / name / f"{i}.png", 10 * grey + i)
    examples = data.image_classification_examples(load(tmp_path / "p"))
    assert examples.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert examples.images[:, 0, 0, 0].tolist() == [0, 1, 10, 11, 20, 21, 30, 31]
    shares = {"validation": 0.2, "test": 0.2}
    splits = data.load_splits(str(tmp_path / "p"), by=["image"], cache_dir=str(tmp_path / "c"), **shares)
    assert sum(map(len, splits.values())) == 8
    assert splits["train"].features["label"].names == ["bus", "car", "train", "truck"]


def test_no_image_is_in_two_splits(load, tmp_path):
    for i, name in enumerate(
        ("train/cat/a", "train/test/b", "test/train/c", "test/cat/d", "test/cat/photo of a train")
    ):
        write_image(tmp_path / "p" / f"{name}.png", i)
    greys = {
        split: data.image_classification_examples(load(tmp_path / "p", split)).images[:, 0, 0, 0].tolist()
        for split in ("train", "test")
    }  # fmt: skip
    assert greys == {"train": [0, 1], "test": [3, 4, 2]}
    names = load(tmp_path / "p", "test").features["label"].names
    assert names == load(tmp_path / "p", "train").features["label"].names == ["cat", "test", "train"]


def test_text_files_follow_the_rule_of_directories(load, tmp_path):
    write(tmp_path / "d" / "test" / "train.jsonl", ROWS[:2])
    write(tmp_path / "d" / "train" / "a.jsonl", ROWS[2:])
    for source in ("d", "d/*/*.jsonl"):
        assert list(load(tmp_path / source, "test")) == ROWS[:2]
        assert list(load(tmp_path / source)) == ROWS[2:]


def test_declared_splits(load, tmp_path):
    for i, name in enumerate(("train/cat/a", "test/dog/b", "extra/cat/c")):
        write_image(tmp_path / "p" / f"{name}.png", i)
    with pytest.raises(
        ValueError, match=r"^/.*/p: got directories of which .*'test', 'train'.*'extra'.*--data.splits"
    ):
        load(tmp_path / "p")

    def greys(**options):
        images = data.image_classification_examples(load(tmp_path / "p", **options)).images
        return images[:, 0, 0, 0].tolist()

    assert greys(splits="directories") == [2, 0] and greys(splits="none") == [2, 1, 0]
    assert data.load_splits(
        str(tmp_path / "p"), splits="directories", validation=0, cache_dir=str(tmp_path / "cache")
    )["test"]["label"] == [1]
    with pytest.raises(
        ValueError, match="load: got splits='all'; wanted 'directories', 'files', 'none' or None"
    ):
        load(tmp_path / "p", splits="all")
    with pytest.raises(
        ValueError, match="load: got splits='none' for 'digits', which declares its splits itself"
    ):
        load("digits", splits="none")


def test_a_folder_whose_classes_are_all_named_as_splits(load, tmp_path):
    for i, name in enumerate(("train/a", "test/b", "dev/c")):
        write_image(tmp_path / "p" / f"{name}.png", i)
    columns = ["image", "label"]
    with pytest.raises(ValueError, match=r"wanted 'label'.*--data\.splits none"):
        load(tmp_path / "p", columns=columns)
    with pytest.raises(ValueError, match=r"wanted 'label'.*--data\.splits none"):
        data.load_splits(str(tmp_path / "p"), columns=columns, cache_dir=str(tmp_path / "cache"))
    rows = load(tmp_path / "p", columns=columns, splits="none")
    assert rows["label"] == [0, 1, 2] and rows.features["label"].names == ["dev", "test", "train"]


def test_without_training_data_the_error_names_the_fix(load, tmp_path):
    for name in ("test.jsonl", "dev/a.jsonl"):
        write(tmp_path / "d" / name)
    for call in (load, data.load_splits):
        with pytest.raises(ValueError, match=r"'train'.*--data\.splits none.*makes all of its files"):
            call(str(tmp_path / "d"))
    assert len(load(tmp_path / "d", splits="none")) == 2 * len(ROWS)


def test_a_single_file_is_train_unless_names_are_declared_to_decide(load, tmp_path):
    path = write(tmp_path / "corpus.test.jsonl")
    assert relative_files(path, to=tmp_path) == {"train": ["corpus.test.jsonl"]}
    assert relative_files(path, "files", to=tmp_path) == {"test": ["corpus.test.jsonl"]}
    assert relative_files(tmp_path / "*.jsonl", to=tmp_path) == {"test": ["corpus.test.jsonl"]}
    assert list(load_unsplit(str(tmp_path / "*.jsonl"), cache_dir=str(tmp_path / "cache"))) == ROWS


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_is_in_the_split_of_its_images(name, load, tmp_path):
    for i, image in enumerate(("train/a.png", "train/deep/b.png", "test/c.png")):
        write_image(tmp_path / "p" / image, i)
    rows = {"train": {"a.png": 7, "deep/b.png": 5}, "test": {"c.png": 3}}
    for split, labels in rows.items():
        lines = [json.dumps({"file_name": file, "label": label}) for file, label in labels.items()]
        if name.endswith("csv"):
            lines = ["file_name,label", *(f"{file},{label}" for file, label in labels.items())]
        (tmp_path / "p" / split / name).write_text("\n".join(lines) + "\n")
    assert relative_files(tmp_path / "p", to=tmp_path / "p") == {
        "train": ["train/a.png", "train/deep/b.png", f"train/{name}"],
        "test": ["test/c.png", f"test/{name}"],
    }
    for split, labels in rows.items():
        loaded = load(tmp_path / "p", split)
        assert [int(label) for label in loaded["label"]] == list(labels.values())
        assert [np.asarray(image)[0, 0] for image in loaded["image"]] == ([0, 1] if split == "train" else [2])


def test_metadata_above_the_splits_is_that_of_each_of_them(load, tmp_path):
    for i, name in enumerate(("train/a.png", "test/b.png")):
        write_image(tmp_path / "p" / name, i)
    lines = [json.dumps({"file_name": name, "label": name[-5]}) for name in ("test/b.png", "train/a.png")]
    (tmp_path / "p" / "metadata.jsonl").write_text("\n".join(lines))
    assert relative_files(tmp_path / "p", to=tmp_path / "p") == {
        "train": ["train/a.png", "metadata.jsonl"],
        "test": ["test/b.png"],
    }
    for split, label in (("train", "a"), ("test", "b")):
        assert load(tmp_path / "p", split)["label"] == [label]
    (tmp_path / "p" / "extra").mkdir()
    (tmp_path / "p" / "extra" / "metadata.csv").touch()
    with pytest.raises(ValueError, match=r"extra/metadata\.csv: got a table of images without images"):
        find_files(str(tmp_path / "p"))


@pytest.mark.parametrize(
    "name", ["a[1].jsonl", "[ab]", "a*b.jsonl", "wh?t", "a::b.jsonl", "c::d", "x:", "http:", "~a"]
)
@pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
def test_an_existing_path_is_literal(name, streaming, load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(name) if name.endswith("jsonl") else Path(name, "inner.jsonl")
    write(path)
    write(Path("a1.jsonl"), ROWS[:1])  # which the names as globs would match
    write(Path("a", "inner.jsonl"), ROWS[:1])
    write(Path("what", "inner.jsonl"), ROWS[:1])
    for source in (str(path), name, str(tmp_path / name), f"./{name}"):
        assert list(load(source, streaming=streaming)) == ROWS
    if path.name == "inner.jsonl":
        assert list(load(f"./{name}/*.jsonl", streaming=streaming)) == ROWS


@pytest.mark.parametrize("name", ["p[1]", "p::q", "p*", "http:"])
def test_images_in_directories_of_any_name(name, load, tmp_path):
    for i in range(2):
        write_image(tmp_path / name / "[cat]" / f"a::{i}?.png", i)
        write_image(tmp_path / name / "d*g" / f"[{i}].png", 2 + i)
    dataset = load(tmp_path / name)
    assert dataset.features["label"].names == ["[cat]", "d*g"]
    assert data.image_classification_examples(dataset).images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_links_to_directories_are_followed_without_cycles(tmp_path):
    write(tmp_path / "elsewhere" / "a.jsonl")
    (tmp_path / "d" / "train").mkdir(parents=True)
    (tmp_path / "d" / "test").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d" / "train" / "again").symlink_to(tmp_path / "d")
    write(tmp_path / "d" / "train" / "b.jsonl")
    assert relative_files(tmp_path / "d", to=tmp_path / "d") == {
        "train": ["train/b.jsonl"],
        "test": ["test/a.jsonl"],
    }


@pytest.mark.parametrize("source", ["", "a.jsonl", "*.jsonl"])
def test_a_dangling_link_is_an_error(source, tmp_path):
    write(tmp_path / "b.jsonl")
    (tmp_path / "a.jsonl").symlink_to("gone.jsonl")
    with pytest.raises(
        FileNotFoundError, match=r"/a\.jsonl: got a link to gone\.jsonl, which does not exist"
    ):
        find_files(str(tmp_path / source))


def test_only_files_named_readme_or_license_are_skipped(tmp_path):
    for name in (
        "README.txt",
        "README-fr.txt",
        "LICENSE.txt",
        "READMEs.txt",
        "LICENSEES.txt",
        "README_corpus.txt",
    ):
        (tmp_path / name).touch()
    kept = ["LICENSEES.txt", "README_corpus.txt", "READMEs.txt"]
    assert relative_files(tmp_path, to=tmp_path) == {"train": kept}


def test_files_of_runs_in_a_source_are_not_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data_files = [
        "a.jsonl",
        "runs/mine.jsonl",
        "runs/x/added.jsonl",
        "other/config.json",
        "other/metrics.jsonl",
        "other/sweep.json",
    ]
    for name in data_files:
        write(Path(name))
    before = relative_files(".", to=".")
    for name in ("runs/x", "runs/old/y"):
        write_run(Path(name)) if not Path(name).exists() else None
    write_run(Path("z"))
    write(Path("runs/x/config.json"), [RUN])
    write(Path("runs/x/metrics.jsonl"))
    write(Path("runs/sweep.json"), [{"arguments": [], "best": None, "runs": []}])
    assert relative_files(".", to=".") == before == {"train": sorted(data_files)}
    assert relative_files("**/*.json*", to=".") == before
    assert relative_files("runs", to=".") == {"train": ["runs/mine.jsonl", "runs/x/added.jsonl"]}
    # a named file is read
    assert relative_files("z/metrics.jsonl", to=".") == {"train": ["z/metrics.jsonl"]}
    assert relative_files("*/metrics.jsonl", to=".") == {"train": ["other/metrics.jsonl", "z/metrics.jsonl"]}
    with pytest.raises(FileNotFoundError, match=r"load: got 'z' .* found no data files"):
        find_files("z")
    with pytest.raises(
        FileNotFoundError, match=r"matches only files that runs wrote, such as 'z/metrics\.jsonl'"
    ):
        find_files("z/*.jsonl")


@pytest.mark.parametrize("config", ["", "{", "[1]", '{"model": 1, "data": 2}', "\0", "[" * 100_000])
def test_another_config_json_makes_no_run(config, tmp_path):
    write_run(tmp_path / "x")
    (tmp_path / "x" / "config.json").write_text(config)
    for name in ("sample.txt", "curves.png"):
        (tmp_path / "x" / name).unlink()
    files = find_files(str(tmp_path), "none").files["train"]
    assert {"config.json", "metrics.jsonl", "metadata.json"} < {file.name for file in files}


def test_a_glob_that_matches_only_directories(tmp_path):
    write(tmp_path / "d" / "sub" / "a.jsonl")
    with pytest.raises(FileNotFoundError, match=r"matches only directories.*such as '.*/d/\*/\*\.jsonl'"):
        find_files(str(tmp_path / "d" / "*"))
