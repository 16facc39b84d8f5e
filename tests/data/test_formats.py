"""Files of one kind as data sets: splits, streams, temporary files, and no network access."""

import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.files import STREAM, read, write_image, write_lines
from tfm_jax import data
from tfm_jax.data import _formats
from tfm_jax.data._formats import read_files


def test_splits_and_their_slices(tmp_path):
    for name, n in (("train", 10), ("test", 4)):
        write_lines(tmp_path / name, [{"n": i} for i in range(n)])
    files = {name: [tmp_path / name] for name in ("train", "test")}
    assert list(read_files("json", files, split="train[:30%]")["n"]) == [0, 1, 2]
    assert list(read_files("json", files, split="train[-2:]+test")["n"]) == [8, 9, 0, 1, 2, 3]
    splits = {name: read_files("json", files, split=name) for name in files}
    assert {name: (len(part), str(part.split)) for name, part in splits.items()} == {
        "train": (10, "train"),
        "test": (4, "test"),
    }
    streams = {name: read_files("json", files, split=name, streaming=True) for name in files}
    assert {name: len(list(part)) for name, part in streams.items()} == {"train": 10, "test": 4}
    for split, streaming in (("dev", False), ("dev[:1]", False), ("dev", True), ("train[:1]", True)):
        with pytest.raises(ValueError, match=r"^(Unknown|Bad) split.*'train', 'test'"):
            read_files("json", files, split=split, streaming=streaming)


@STREAM
@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("json", {"separator": ","}, "load: got separator=',' for files of kind json; wanted csv or tsv"),
        ("parquet", {"encoding": "latin-1"}, "load: got encoding='latin-1' for files of kind parquet"),
    ],
)
def test_options_that_do_not_apply_are_errors(kind, options, message, streaming):
    with pytest.raises(ValueError, match=message):
        read(kind, "{}", streaming=streaming, **options)


def test_a_stream_reads_no_further_than_it_must(tmp_path):
    (tmp_path / "a").write_text('{"text": "x"}\n' * 5000 + "nonsense")
    files = {"train": [tmp_path / "a", tmp_path / "b"]}
    stream = read_files("json", files, split="train", streaming=True)
    assert stream.num_shards == 2 and len(list(stream.take(4000))) == 4000
    (tmp_path / "b").write_text("text\n" + '"x"\n' * 5000 + '"')
    stream = read_files("csv", {"train": [tmp_path / "b"]}, split="train", streaming=True)
    assert len(list(stream.take(9))) == 9


def test_a_stream_resumes(tmp_path):
    for name, kind in (("a.csv", "csv"), ("a.jsonl", "json")):
        lines = [json.dumps({"text": str(i)}) if kind == "json" else str(i) for i in range(600)]
        (tmp_path / name).write_text("\n".join(["text"] * (kind == "csv") + lines))
        stream = data.load(str(tmp_path / name), streaming=True)
        for _ in zip(range(300), stream, strict=False):
            pass
        resumed = data.load(str(tmp_path / name), streaming=True)
        resumed.load_state_dict(stream.state_dict())
        assert [row["text"] for row in resumed] == [str(i) for i in range(300, 600)]


def test_a_changed_file_of_the_same_time_and_size_is_read_anew(tmp_path):
    path, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    for word in ("one", "two"):
        path.write_text(f'{{"text": "{word}"}}\n')
        os.utime(path, (10**9, 10**9))
        assert data.load(str(path), cache_dir=str(cache))["text"] == [word]
    for file in cache.rglob("*"):  # the next load does not read what one load leaves
        if file.is_file():
            file.write_bytes(file.read_bytes().replace(b"two", b"owt"))
    assert data.load(str(path), cache_dir=str(cache))["text"] == ["two"]


def test_converted_files_are_deleted_with_the_process(tmp_path):
    directory = Path(_formats._directory(str(tmp_path / "cache")))
    (directory / "a").write_text("x")
    _formats._remove(str(directory), os.getpid() + 1)
    assert directory.is_dir()
    _formats._remove(str(directory), os.getpid())
    assert not directory.exists()
    _formats._directory.cache_clear()


def test_files_need_no_request_and_no_inference_of_datasets(tmp_path, monkeypatch):
    calls = []

    def refuse(*args, **options):
        calls.append(args)
        raise ConnectionRefusedError("a test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    pq.write_table(pa.table({"text": ["1"]}), tmp_path / "a.parquet")
    for name, content in {
        "a.csv": "text\n1",
        "a.tsv": "text\n1",
        "a.json": '{"text": "1"}',
        "a.txt": "1",
    }.items():
        (tmp_path / name).write_text(content)
    write_image(tmp_path / "a.png")
    for file in tmp_path.glob("a.*"):
        for streaming in (False, True):
            (row,) = data.load(str(file), streaming=streaming)
            assert row.get("text", "1") == "1"
    data.load_splits(str(tmp_path / "a.txt"), validation=0, test=0)
    assert calls == []


def test_a_data_set_may_be_copied_mapped_and_pickled(tmp_path):
    (tmp_path / "a.csv").write_text("text\nx\ny\n")
    loaded = data.load(str(tmp_path / "a.csv"), cache_dir=str(tmp_path / "cache"))
    assert loaded.map(lambda row: {"text": row["text"] * 2})["text"] == ["xx", "yy"]
    assert pickle.loads(pickle.dumps(loaded))["text"] == ["x", "y"]
    shutil.rmtree(tmp_path / "cache")
    _formats._directory.cache_clear()
