"""Parquet: columns keep the types that the files declare."""

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfm_jax import data
from tfm_jax.data._formats import read_files


def test_columns_keep_their_types(tmp_path):
    table = pa.table({"n": [1, None], "c": pa.array(["x", "y"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(pa.table({"c": ["z"], "n": pa.array([2], pa.int32())}), tmp_path / "b.parquet")
    files = {"train": [tmp_path / "a.parquet", tmp_path / "b.parquet"]}
    rows = [{"n": 1, "c": "x"}, {"n": None, "c": "y"}, {"n": 2, "c": "z"}]
    assert list(read_files("parquet", files, split="train")) == rows
    pq.write_table(pa.table({"n": ["x"], "c": ["z"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: got the columns .*; wanted those of .*a\.parquet"):
        read_files("parquet", files, split="train")


def test_files_of_a_split_declare_the_same_classes(tmp_path):
    files = {"train": [tmp_path / "a.parquet", tmp_path / "b.parquet"]}
    for names, file in ((["x", "y"], "a"), (["y", "x"], "b")):
        features = datasets.Features({"c": datasets.ClassLabel(names=names)})
        datasets.Dataset.from_dict({"c": [0]}, features=features).to_parquet(tmp_path / f"{file}.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: got the columns"):
        read_files("parquet", files, split="train")


def test_a_column_of_an_unknown_type_is_named_with_its_file(tmp_path):
    column = pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"/a\.parquet: got .*map<.*; wanted columns of other types"):
        data.load(str(tmp_path / "a.parquet"))
