"""Image files with their classes, or with the columns of a metadata file."""

import gzip
import json

import numpy as np
import pytest

from tests.data.files import STREAM, write_image
from tfm_jax.data._formats import read_files


@pytest.fixture
def files(tmp_path):
    """Six image files, of grey levels 0 to 5."""
    return [write_image(tmp_path / f"{level}.png", level) for level in range(6)]


@pytest.fixture
def load(files, tmp_path):
    """Reads the images, in two splits, with a metadata file."""

    def load(name, content, split=None, **options):
        metadata = tmp_path / name
        metadata.write_text(content)
        try:
            splits = {"train": [*files[:4], metadata], "test": files[4:]}
            names = splits if split is None else (split,)
            rows = {name: read_files("imagefolder", splits, split=name, **options) for name in names}
            return rows if split is None else rows[split]
        finally:
            options.get("streaming") or metadata.unlink()

    return load


def levels(rows):
    return [np.asarray(row["image"])[0, 0].tolist() for row in rows]


@STREAM
def test_images_and_their_classes(files, streaming):
    names = ["10", "9", "10", "-1", "9", "9"]
    splits = {"train": files[:4], "test": files[4:]}
    labels = dict(zip(files, names, strict=True))
    options = {"streaming": streaming, "labels": labels}
    loaded = {name: read_files("imagefolder", splits, split=name, **options) for name in splits}
    assert loaded["test"].features["label"].names == ["-1", "9", "10"]
    assert [row["label"] for row in loaded["train"]] == [2, 1, 2, 0]
    assert levels(loaded["test"]) == [4, 5]
    assert streaming or len(loaded["train"].data["label"].chunks) == 1, "one table per image is slow"
    (row,) = read_files("imagefolder", {"train": files[3:4]}, split="train", streaming=streaming)
    assert row.keys() == {"image"} and levels([row]) == [3]


@STREAM
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.tsv", "metadata.jsonl"])
def test_metadata_of_images(name, load, streaming):
    rows = [("0.png", "007"), ("3.png", "NA"), ("5.png", "2020-01-31")]
    separator = {".csv": ",", ".tsv": "\t"}.get(name[8:])
    if separator:
        content = f"file_name{separator}label\n" + "".join(f"{a}{separator}{b}\n" for a, b in rows)
    else:
        content = "".join(json.dumps({"file_name": a, "label": b}) + "\n" for a, b in rows)
    loaded = load(name, content, streaming=streaming)
    assert [row["label"] for row in loaded["train"]] == ["007", "NA"] and levels(loaded["test"]) == [5]
    assert [row["label"] for row in loaded["test"]] == ["2020-01-31"]


def test_metadata_with_a_separator_and_two_images_per_row(load, caplog):
    content = "file_name;left_file_name;n\n1.png;2.png;x\n"
    (row,) = load("metadata.csv", content, split="train", separator=";")
    assert row["n"] == "x" and levels([row]) == [1] and np.asarray(row["left"])[0, 0] == 2
    assert "dropped 2 of 4 images" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file_name,label\n9.png,x\n", r"metadata\.csv, row 0: got .*9\.png, which is no image there"),
        ("file_name,label\n../a.png,x\n", r"row 0: got the file name '\.\./a\.png'; wanted a path below"),
        ("file_name,label\n/etc/passwd,x\n", "row 0: got the file name '/etc/passwd'"),
        ("file_name,label\n,x\n", "row 0: got the file name ''"),
        ("name,label\n0.png,x\n", r"got the columns \['name', 'label'\]; wanted 'file_name'"),
        ("file_name,image\n0.png,x\n", "got two columns for 'image'"),
    ],
)
def test_bad_metadata(content, message, load):
    with pytest.raises(ValueError, match=message):
        load("metadata.csv", content)


def test_compressed_images(files, tmp_path):
    (tmp_path / "a.png.gz").write_bytes(gzip.compress(files[3].read_bytes()))
    assert levels(read_files("imagefolder", {"train": [tmp_path / "a.png.gz"]}, split="train")) == [3]
