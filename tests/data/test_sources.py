"""Data sets by name: built in, or in local files; the hub has its own tests."""

import bz2
import csv
import gzip
import json
import lzma

import numpy as np
import pytest

from tfm_jax import data
from tfm_jax.data import _local, sources
from tfm_jax.data._local import is_path
from tfm_jax.data.splitting import split_by_hash

ROWS = [{"text": f"line {i}\nand more", "n": i} for i in range(20)]


@pytest.fixture
def load(tmp_path):
    return lambda source, *args, **options: data.load(
        str(source), *args, cache_dir=str(tmp_path / "cache"), **options
    )


def write(path, rows=ROWS):
    """A file of rows, in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name, opener = path.name, open
    for suffix, module in ((".gz", gzip), (".bz2", bz2), (".xz", lzma)):
        if name.endswith(suffix):
            name, opener = name.removesuffix(suffix), module.open
    if name.endswith(".parquet"):
        import datasets

        datasets.Dataset.from_list(rows).to_parquet(path)
        return path
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        if name.endswith(".jsonl"):
            file.writelines(json.dumps(row) + "\n" for row in rows)
        elif name.endswith(".json"):
            json.dump(rows, file)
        elif name.endswith(".tsv"):
            lines = [
                "\t".join(rows[0]),
                *("\t".join(map(str, row.values())).replace("\n", " ") for row in rows),
            ]
            file.write("\n".join(lines) + "\n")
        else:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
@pytest.mark.parametrize(
    "name",
    [
        "a.jsonl",
        "a.json",
        "a.csv",
        "a.tsv",
        "a.parquet",
        "a.jsonl.gz",
        "a.csv.gz",
        "a.jsonl.bz2",
        "a.jsonl.xz",
    ],
)
def test_a_file(name, streaming, load, tmp_path):
    rows = load(write(tmp_path / name), streaming=streaming)
    table = ".csv" in name or ".tsv" in name  # columns of texts; those of TSV have no line ends
    expected = [{"text": row["text"], "n": str(row["n"]) if table else row["n"]} for row in ROWS]
    if ".tsv" in name:
        expected = [row | {"text": row["text"].replace("\n", " ")} for row in expected]
    assert list(rows) == expected
    assert list(load(tmp_path / name, columns=["n"], streaming=streaming)) == [
        {"n": row["n"]} for row in expected
    ]


def test_a_slice_of_a_split(load, tmp_path):
    assert list(load(write(tmp_path / "a.jsonl"), "train[:10%]")) == ROWS[:2]


@pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
@pytest.mark.parametrize("source", ["", "**/*.jsonl", "**/*[gdnt].jsonl"])
def test_the_files_of_a_directory_or_glob_by_split(source, streaming, load, tmp_path):
    base = tmp_path / "test-corpus"  # names above the source are ignored
    sizes = {
        "en-fr.train.jsonl": 3,
        "more_training.jsonl": 4,
        "en-fr.valid.jsonl": 5,
        "test/train_set.jsonl": 6,
    }
    for name, n in sizes.items():
        write(base / name, ROWS[:n])
    (base / "README.txt").write_text("about")
    sizes = {
        split: len(list(load(base / source, split, streaming=streaming)))
        for split in ("train", "validation", "test")
    }
    assert sizes == {"train": 7, "validation": 5, "test": 6}
    with pytest.raises(ValueError, match=r"load: got split 'dev' .*train.*load_splits makes"):
        load(base / source, "dev", streaming=streaming)


def test_text_files_are_documents_and_long_ones_are_split_at_lines(load, tmp_path):
    long = "".join(f"{i}\n" for i in range(30_000))
    (tmp_path / "a.txt").write_text(long)
    (tmp_path / "b.txt").write_text("short\n\nfile\n")
    for streaming in (False, True):
        rows = [row["text"] for row in load(tmp_path / "*.txt", streaming=streaming)]
        assert "".join(rows) == long + "short\n\nfile\n"
        assert len(rows) == 4 and max(map(len, rows)) <= 1 << 16 and all(row.endswith("\n") for row in rows)


@pytest.mark.parametrize("name", ["d/a.txt", "d", "d/*.txt", "d/a.txt.gz"])
def test_one_text_file_is_split_by_position_at_any_length(name, tmp_path):
    """It grows past the 65,536 characters of a row, and no training text becomes test text."""
    source, text = tmp_path / name, "".join(f"{i}\n" for i in range(20_000))
    (tmp_path / "d").mkdir()
    last = 0
    for n in (10_000, len(text)):
        if name.endswith(".gz"):
            source.write_bytes(gzip.compress(text[:n].encode()))
        else:
            (tmp_path / "d" / "a.txt").write_text(text[:n])
        parts = data.load_splits(str(source), cache_dir=str(tmp_path / "c"))
        parts = {split: "".join(rows["text"]) for split, rows in parts.items()}
        assert "".join(parts[split] for split in ("train", "validation", "test")) == text[:n]
        assert len(parts["train"]) >= last
        last = len(parts["train"])


def test_a_directory_of_images(load, tmp_path):
    pil = pytest.importorskip("PIL.Image")
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for i in range(3):
                pil.fromarray(np.full((4, 5), i, np.uint8)).save(
                    tmp_path / "images" / split / label / f"{i}.png"
                )
    examples = data.image_classification_examples(load(tmp_path / "images", "test"))
    assert (
        examples.images.shape == (6, 4, 5, 1)
        and examples.classes == 2
        and examples.labels.tolist() == [0, 0, 0, 1, 1, 1]
    )


def test_a_glob_of_images_and_a_single_image(load, tmp_path):
    pil = pytest.importorskip("PIL.Image")
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(3):
            pil.fromarray(np.full((4, 5), i, np.uint8)).save(tmp_path / "images" / label / f"{i}.png")
    examples = data.image_classification_examples(load(tmp_path / "images" / "*" / "1.png"))
    assert (examples.images == 1).all() and examples.labels.tolist() == [0, 1]
    single = load(tmp_path / "images" / "cat" / "2.png")
    assert len(single) == 1
    with pytest.raises(ValueError, match="the columns 'image'; wanted 'label'"):
        data.image_classification_examples(single)


@pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
def test_hidden_files_and_directories_are_not_read(streaming, load, tmp_path):
    write(tmp_path / ".above" / "d" / "a.jsonl", ROWS[:2])
    for name in (".git/b.jsonl", "sub/.cache/deep/c.jsonl", "_old/d.jsonl", ".e.jsonl"):
        write(tmp_path / ".above" / "d" / name, ROWS[2:])
    assert list(load(tmp_path / ".above" / "d", streaming=streaming)) == ROWS[:2]


def test_paths_and_hub_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub = ("squad", "owner/x", "owner/x:a/b", "x:a/b/c")
    assert not any(map(is_path, hub))
    assert all(map(is_path, ("a/b/c", "a/b/c:d", "./x", "a/*.csv", "x.jsonl")))


def test_mnists_layout_in_parquet(load, tmp_path):
    datasets = pytest.importorskip("datasets")
    pil = pytest.importorskip("PIL.Image")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    images = [pil.fromarray(np.full((28, 28), i, np.uint8)) for i in range(3)]
    table = datasets.Dataset.from_dict({"image": images, "label": [5, 0, 4]}, features=features)
    table.to_parquet(tmp_path / "train.parquet")
    examples = data.image_classification_examples(load(tmp_path / "train.parquet"))
    assert (
        examples.images.shape == (3, 28, 28, 1)
        and examples.images[:, 0, 0, 0].tolist() == [0, 1, 2]
        and examples.classes == 10
    )


@pytest.mark.parametrize(
    "source",
    [
        "nowhere.jsonl",
        "./nowhere",
        "/no/where",
        "no/where/at-all",
        "nowhere/*.csv",
        "~/nowhere-at-all",
        "~nobody-at-all/x",
        "no/",
    ],
)
def test_a_path_that_does_not_exist(source, load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file or directory") as error:
        load(source)
    assert repr(source) in str(error.value) and "'digits'" in str(error.value)


def test_a_directory_without_data(load, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"load: got .* found no data files"):
        load(tmp_path / "empty")


def test_files_of_several_or_unknown_kinds(load, tmp_path):
    write(tmp_path / "mixed" / "a.jsonl")
    write(tmp_path / "mixed" / "a.csv")
    with pytest.raises(
        ValueError,
        match=r"mixed: got files of several kinds or of an unknown one: \.csv, \.jsonl; wanted one of .*glob",
    ):
        load(tmp_path / "mixed")
    (tmp_path / "model.bin").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"unknown one: \.bin"):
        load(tmp_path / "model.bin")


@pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
def test_no_rows(streaming, load, tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"a\.jsonl: got an empty file|load: got no rows"):
        load(tmp_path / "a.jsonl", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
def test_a_broken_file(streaming, load, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a":\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: got a JSON parse error"):
        list(load(tmp_path / "a.jsonl", streaming=streaming))


def test_missing_columns(load, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"load: got .* the columns 'text', 'n'; wanted 'prose'. Choose with columns=\[\.\.\.\]",
    ):
        load(write(tmp_path / "a.jsonl"), columns=["prose"])


@pytest.mark.parametrize("options", [{"separator": ";"}, {"encoding": "latin-1"}, {"names": ["a"]}], ids=str)
def test_options_of_files_do_not_apply_to_other_sources(options, load):
    (name,) = options
    for source in ("places", "owner/name"):
        with pytest.raises(ValueError, match=f"load: got {name}=.* for {source!r}; wanted a path"):
            load(source, **options)
    with pytest.raises(ValueError, match=f"load: got {name}=.* for 'places'; wanted a path"):
        data.load_splits("places", **options)


def test_separator_and_encoding(tmp_path, load):
    (tmp_path / "a.csv").write_text(
        "text;n\n" + "".join(f"{i}größe;1\n" for i in range(10)), encoding="latin-1"
    )
    options = {"separator": ";", "encoding": "latin-1"}
    assert next(iter(load(tmp_path / "a.csv", **options))) == {"text": "0größe", "n": "1"}
    splits = data.load_splits(str(tmp_path / "a.csv"), by=["text"], cache_dir=str(tmp_path), **options)
    assert sum(map(len, splits.values())) == 10 and splits["train"].column_names == ["text", "n"]


def test_built_in_sources_by_name(load, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)  # a directory of that name does not matter
    assert len(load("digits", "test")) == 360
    assert next(iter(load("digits", "test", streaming=True, columns=["label"]))).keys() == {"label"}
    with pytest.raises(ValueError, match="digits: got split 'dev'"):
        load("digits", "dev")


def test_load_splits_holds_out_missing_splits(tmp_path):
    write(tmp_path / "d" / "train.jsonl")
    write(tmp_path / "d" / "test.jsonl", ROWS[:3])
    options = {"by": ["text"], "cache_dir": str(tmp_path / "cache")}
    splits = data.load_splits(str(tmp_path / "d"), columns=["n"], **options)
    assert len(splits["test"]) == 3
    assert {name for part in splits.values() for name in part.column_names} == {"n"}
    assert sorted([*splits["train"]["n"], *splits["validation"]["n"]]) == list(range(20))
    all_held_out = data.load_splits(str(tmp_path / "d" / "train.jsonl"), **options)
    assert {name: list(part["n"]) for name, part in all_held_out.items()} == {
        name: list(part["n"])
        for name, part in split_by_hash(
            data.load(str(tmp_path / "d" / "train.jsonl"), cache_dir=options["cache_dir"]), by=["text"]
        ).items()
    }
    assert list(all_held_out["validation"]["n"]) == list(splits["validation"]["n"])  # with or without a test
    old = data.load_splits(str(tmp_path / "d" / "train.jsonl"), salt=None, **options)
    assert {name: len(part) for name, part in old.items()} == {"test": 2, "validation": 2, "train": 16}
    with pytest.raises(
        ValueError, match=r"load_splits: got no by for .*train.jsonl', which has the columns 'text', 'n'"
    ):
        data.load_splits(str(tmp_path / "d" / "train.jsonl"), **{**options, "by": None})
    write(tmp_path / "e" / "test.jsonl")
    with pytest.raises(ValueError, match=r"load_splits: got .* with the splits 'test'; wanted 'train'"):
        data.load_splits(str(tmp_path / "e" / "*.jsonl"), **options)


@pytest.mark.parametrize("lines", [40, 9000], ids=["under 64 KiB", "of several rows"])
def test_load_splits_splits_one_text_by_position(tmp_path, lines):
    text = "".join(f"line {i:05}\n" for i in range(lines))
    (tmp_path / "book.txt").write_text(text)
    write(tmp_path / "one.jsonl", [{"text": text}])
    options = {"validation": 0.1, "test": 0.05, "cache_dir": str(tmp_path / "cache")}
    for name in ("book.txt", "one.jsonl"):
        splits = data.load_splits(str(tmp_path / name), **options)
        parts = ["".join(splits[part]["text"]) for part in ("train", "validation", "test")]
        assert "".join(parts) == text
        assert [part.count("\n") for part in parts] == [0.85 * lines, 0.1 * lines, 0.05 * lines]
    with pytest.raises(ValueError, match="1 rows with 1 different inputs, which leave none for"):
        write(tmp_path / "labelled.jsonl", [{"text": text, "label": 0}])
        data.load_splits(str(tmp_path / "labelled.jsonl"), by=["text"], **options)


def test_load_splits_of_a_built_in_source():
    pytest.importorskip("sklearn")
    splits = data.load_splits("digits")
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 1257,
        "validation": 180,
        "test": 360,
    }


def test_load_splits_searches_the_files_once(tmp_path, monkeypatch):
    calls = []

    def find_files(*args):
        calls.append(args)
        return _local.find_files(*args)

    monkeypatch.setattr(sources, "find_files", find_files)
    (tmp_path / "a.txt").write_text("".join(f"{i}\n" for i in range(100)))
    data.load_splits(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert len(calls) == 1
