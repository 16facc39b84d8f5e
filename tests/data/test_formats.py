"""Reading of files of one kind: what is written is what is read (also _open, _tables, _json, _pictures)."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data
from tfm_jax.data import _formats as formats

# Where Python says that a comma before the end of an object is wrong.
COMMA = 2 if sys.version_info >= (3, 13) else 3

STREAM = pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
PACKED = st.sampled_from(["", ".gz", ".bz2", ".xz", ".zst"])
WORDS = st.sampled_from(
    ["NA", "null", "None", "", "nan", "007", "1", "-1.50", "1e5", "True", "2020-01-31",
     "2020-01-31T10:00:00Z", '"', '""', '"Hello," she said.', " a ", "a\u2028b", "\\t",
     "x\r", "é", "\ufeff", "\x00"]
)  # fmt: skip
TEXT = st.one_of(WORDS, st.text(max_size=8))


def pack(content, suffix):
    """The bytes compressed as a suffix says."""
    if suffix == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as file:
            file.write(content)
        return sink.getvalue().to_pybytes()
    modules = {".gz": gzip, ".bz2": bz2, ".xz": lzma}
    return modules[suffix].compress(content) if suffix else content


def read(kind, content, name="a", *, streaming=False, split="train", **options):
    """The rows of one file with this content."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(formats.read_files(kind, {"train": [path]}, split=split, streaming=streaming, **options))


def csv_of(header, rows, separator, quoted):
    """A file by the rules of RFC 4180; some fields are quoted that need not be."""
    field = lambda text: (
        '"' + text.replace('"', '""') + '"' if quoted or set(text) & needs or not text else text
    )
    needs = {separator, '"', "\r", "\n"}
    return "".join(separator.join(map(field, row)) + "\r\n" for row in [header, *rows])


@st.composite
def tables(draw, text):
    name = text.filter(lambda text: text and "\x00" not in text)
    header = draw(st.lists(name, min_size=1, max_size=3, unique=True))
    return header, draw(st.lists(st.tuples(*(text for _ in header)), max_size=4))


@given(
    tables(TEXT),
    st.sampled_from([",", ";", "\t", "|", " ", "¦"]),
    st.booleans(),
    PACKED,
    st.sampled_from([0, 1]),
)
def test_csv_is_read_as_it_is_written(table, separator, quoted, suffix, stream):
    header, rows = table
    content = pack(csv_of(header, rows, separator, quoted).encode("utf-8-sig"), suffix)
    found = read("csv", content, f"a.csv{suffix}", separator=separator, streaming=bool(stream))
    assert found == [dict(zip(header, row, strict=True)) for row in rows]


@given(tables(TEXT))
def test_csv_of_pythons_own_writer(table):
    header, rows = table
    file = io.StringIO(newline="")
    csv.writer(file).writerows([header, *rows])
    assert read("csv", file.getvalue().encode("utf-8-sig")) == [
        dict(zip(header, row, strict=True)) for row in rows
    ]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_columns_without_a_name_are_called_by_their_number(kind):
    """The index that pandas writes, and the separator that Excel leaves at the end of every line."""
    content = ",text,\n0,x,\n1,y,\n".replace(",", {"csv": ",", "tsv": "\t"}[kind])
    assert read(kind, content.encode()) == [
        {"Unnamed: 0": "0", "text": "x", "Unnamed: 2": ""},
        {"Unnamed: 0": "1", "text": "y", "Unnamed: 2": ""},
    ]


def literal(text):
    return text.replace("\t", "").replace("\n", "").rstrip("\r").removeprefix("\ufeff")


@given(tables(TEXT.map(literal)), st.sampled_from(["\n", "\r\n"]), PACKED, st.booleans())
def test_tsv_is_read_as_it_is_written(table, end, suffix, stream):
    header, rows = table
    content = "".join("\t".join(row) + end for row in [header, *rows]).encode()
    found = read("tsv", pack(content, suffix), f"a.tsv{suffix}", streaming=stream)
    assert found == [dict(zip(header, row, strict=True)) for row in rows]


VALUES = st.one_of(
    st.none(),
    TEXT,
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.sampled_from([0.5, -2.0, 1e300]),
    st.lists(TEXT, max_size=2),
    st.fixed_dictionaries({"en": TEXT, "fr": TEXT}),
)


@given(
    st.lists(st.fixed_dictionaries({"a": VALUES, "b": TEXT}), min_size=1, max_size=4), PACKED, st.booleans()
)
def test_json_is_read_as_it_is_written(rows, suffix, escaped):
    for content in (
        "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows),
        json.dumps(rows, ensure_ascii=escaped, indent=1),
        "".join(json.dumps(row, ensure_ascii=escaped, indent=1) + "\n\n" for row in rows),
    ):
        content = pack(content.encode(), suffix)
        assert read("json", content, f"a.jsonl{suffix}") == rows
        assert read("json", content, f"a.jsonl{suffix}", streaming=True) == rows


def test_json_keeps_the_kinds_of_its_values_over_all_rows():
    rows = [{"a": 1, "t": None}] * 1500 + [{"a": "1", "t": "2020-01-31"}, {"a": True, "t": "x"}]
    found = read("json", "".join(json.dumps(row) + "\n" for row in rows))
    assert found == rows and type(found[-1]["a"]) is bool and type(found[0]["a"]) is int
    assert read("json", '{"a": 1}\n{"b": {"x": 1}}\n{"b": {"y": 0.5}}') == [
        {"a": 1, "b": None},
        {"a": None, "b": {"x": 1, "y": None}},
        {"a": None, "b": {"x": None, "y": 0.5}},
    ]
    for value in ({}, [[]] * 3, [1, [2, "x"]], "x" * 10**6, [[[[[[[[[["deep"]]]]]]]]]]):
        assert read("json", json.dumps({"a": value})) == [{"a": value}]
    deep = "[" * 300 + "]" * 300
    assert json.dumps(read("json", f'{{"a": {deep}}}')[0]["a"]) == deep


def test_json_in_an_array_or_one_after_the_other():
    assert read("json", ' \n[{"a": 1}, {"a": 2}]') == [{"a": 1}, {"a": 2}]
    assert read("json", '["x", "2020-01-31"]') == [{"text": "x"}, {"text": "2020-01-31"}]
    assert read("json", '{"a": 1}{"a": 2}\n{"a": 3}') == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert read("json", '{\n"data": [{"a": 1}]}') == [{"data": [{"a": 1}]}]


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "text"])
@pytest.mark.parametrize(
    ("encoding", "write"),
    [
        ("utf-8", "utf-8"),
        ("utf-8", "utf-8-sig"),
        ("latin-1", "latin-1"),
        ("utf-16", "utf-16"),
        ("UTF8", "utf-8"),
    ],
)
def test_encodings(kind, encoding, write):
    content = {"json": '{"text": "größe"}\n'}.get(kind, "text\ngröße\n")
    rows = [{"text": content}] if kind == "text" else [{"text": "größe"}]
    assert read(kind, content.encode(write), encoding=encoding) == rows
    assert read(kind, content.encode(write), encoding=encoding, streaming=True) == rows


def test_fields_and_lines_of_any_length():
    text = 'a "quoted" line,\n' * 20_000
    assert read("csv", csv_of(["a", "b"], [(text, "x")], ",", False)) == [{"a": text, "b": "x"}]
    assert read("tsv", "a\tb\n" + text.replace("\n", " ") + "\tx") == [
        {"a": text.replace("\n", " "), "b": "x"}
    ]


def test_a_header_alone_has_no_rows(tmp_path):
    for name in ("a.csv", "a.tsv"):
        (tmp_path / name).write_text("text\n")
        for streaming in (False, True):
            with pytest.raises(ValueError, match="is empty: it has no rows"):
                data.load(str(tmp_path / name), streaming=streaming)


def test_line_ends():
    for end in ("\n", "\r\n", "\r"):
        assert read("csv", end.join(["a,b", "1,2", "", "3,4"])) == [
            {"a": "1", "b": "2"},
            {"a": "3", "b": "4"},
        ]
    assert read("tsv", "a\tb\r\n\r\n1\t2\r\n") == [{"a": "1", "b": "2"}]
    assert read("tsv", "a\n1\n\n2\n") == [{"a": "1"}, {"a": ""}, {"a": "2"}]
    assert read("text", "a\r\nb\r") == [{"text": "a\nb\n"}]


def test_a_parquet_column_of_an_unknown_type_is_named_with_its_file(tmp_path):
    column = pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"/a\.parquet: .*map<.*; convert or drop that one"):
        data.load(str(tmp_path / "a.parquet"))


@STREAM
@pytest.mark.parametrize(
    ("kind", "content", "options", "message"),
    [
        ("csv", "a,b\n1,2\n1,2,3\n", {}, r"a, line 3: got 3 fields; wanted 2 .* ','\. .* in double quotes"),
        ("tsv", "a\tb\n1\n", {}, r"a, line 2: got 1 fields; wanted 2 .*Correct the line$"),
        ("csv", 'a\n"x\ny"\n"x" y\n', {}, r"line 4: the record that starts here .*RFC 4180.*as \.tsv"),
        ("csv", 'a\nx\n"y\n\nz', {}, "line 3: .* unexpected end of data"),
        ("csv", "a,b,a\n", {}, r"line 1: the header names \['a'\] more than once"),
        ("csv", "a,,Unnamed: 1\n", {}, r"line 1: the header names \['Unnamed: 1'\] more than once"),
        ("tsv", "a\tb\rx\ty\r", {}, "line 1: its lines end in CR alone; wanted LF or CRLF"),
        (
            "csv",
            "a\nb".encode("utf-16-le"),
            {},
            r"line 1: the header .*'a\\x00'.* NUL.*--data.encoding utf-16-le",
        ),
        ("json", '{"a\\u0000b": 1}', {}, r"a, line 1: the key 'a\\x00b' holds a NUL"),
        ("csv", "", {}, "a is empty: it has no header line"),
        ("csv", "\n\n", {}, "a is empty: it has no header line"),
        ("tsv", "\n\n", {}, "a is empty: it has no header line"),
        ("csv", "a;b\n1;2,\n", {}, "line 2: got 2 fields; wanted 1"),
        ("csv", "a", {"separator": "||"}, r"separator: got '\|\|'; wanted one character"),
        ("csv", "a", {"separator": ""}, "separator: got ''; wanted one character"),
        ("csv", "a", {"separator": '"'}, "separator: got '\"'; wanted one character"),
        ("json", "{}", {"separator": ","}, "separator: got ',' for files of kind json; only csv and tsv"),
        ("csv", "a", {"encoding": "klingon"}, "encoding: got 'klingon'; wanted a text encoding"),
        ("csv", "a", {"encoding": "rot13"}, "encoding: got 'rot13'; wanted a text encoding"),
        ("parquet", "a", {"encoding": "latin-1"}, "encoding: got 'latin-1' for files of kind parquet"),
        ("csv", "a\nb\ngröße\n".encode("latin-1"), {}, r"a, line 3: .* not utf-8 .*--data.encoding latin-1"),
        ("tsv", "a\nb\ngröße\n".encode("latin-1"), {}, "a, line 3: .* not utf-8"),
        ("json", b'{"a": 1}\n{"a": "\xff"}', {}, "a, line 2: .* not utf-8"),
        ("text", "größe".encode("utf-16"), {}, "a, line 1: .* not utf-8 .*--data.encoding utf-16"),
        ("text", b"a", {"encoding": "utf-16"}, "a, line 1: .* not utf-16"),
        ("text", b"\nab", {"encoding": "utf-16"}, "a, line 1: .* not utf-16"),
        ("json", '{"a": 1}\n\n{"a":\n', {}, "a, line 3: JSON parse error .* Expecting value"),
        ("json", '\n{"a": 1} x', {}, "a, line 2: JSON parse error .* Expecting value"),
        ("json", '{\n"a": 1,\n}', {}, f"a, line 1: JSON parse error in what starts here.*in line {COMMA}"),
        ("json", "[" * 10**5, {}, "a, line 1: JSON parse error .* nested too deep"),
        ("json", '{"a": 1}\n{"a": ' + "[" * 10**5, {}, "a, line 2: JSON parse error .* nested too deep"),
        ("json", '{"a": 1, "a": 2}', {}, "a, line 1: .* the key 'a' more than once"),
        ("json", '{"a": 1}\n[1]', {}, r"a, line 2: wanted an object, such as .*, got \[1\]"),
        ("json", '[{"a": 1}, 2]', {}, "a, item 1 of its array: wanted an object, got 2"),
        ("json", "[1]\n[2]", {}, "a, line 1: got an array beside other values"),
        ("json", '{"a": 1}\n{"a": "\\ud800"}', {}, "a, line 2: a text holds half of a surrogate pair"),
        ("json", '{"a": "x\x00"}', {}, "a, line 1: JSON parse error .* Invalid control character"),
    ],
)
def test_bad_content_is_one_line_with_file_and_line(kind, content, options, message, streaming):
    with pytest.raises(ValueError, match=message) as error:
        read(kind, content, streaming=streaming, **options)
    assert "\n" not in str(error.value)


def test_a_number_that_nothing_holds():
    with pytest.raises(
        ValueError, match=r"a: column 'n' holds 1000.*, which the data set library cannot hold"
    ):
        read("json", '{"n": 1' + "0" * 40 + "}")
    rows = f'{{"n": {2**53 + 1}}}\n' * 1000  # types are found for so many at a time
    assert read("json", rows + '{"n": 1}')[0] == {"n": 2**53 + 1}
    assert read("json", f'{{"n": {2**53 + 1}}}\n{{"n": 0.5}}') == [{"n": 2**53 + 1}, {"n": 0.5}]
    with pytest.raises(
        ValueError, match=r"a: column 'n' holds fractions and the whole number in 9007199254740993"
    ):
        read("json", rows + '{"n": 0.5}\n')
    with pytest.raises(ValueError, match="a: column 'n' holds fractions"):
        read("json", rows.replace(": 9", ': [{"m": 9').replace("}", "}]}") + '{"n": [{"m": 0.5}]}\n')
    assert read("json", '{"n": 1}\n' * 1500 + '{"n": 0.5}\n')[0] == {"n": 1.0}


@pytest.mark.parametrize("change", ["cut", "flipped", "other"])
@pytest.mark.parametrize(
    "name", ["a.csv.gz", "a.jsonl.bz2", "a.txt.xz", "a.tsv.zst", "a.parquet", "a.parquet.gz"]
)
def test_a_damaged_file_is_one_line_with_its_name(name, change):
    kind = {"csv": "csv", "jsonl": "json", "txt": "text", "tsv": "tsv", "parquet": "parquet"}[
        name.split(".")[1]
    ]
    suffix = name[name.rindex(".") :].removeprefix(".parquet")
    rows = np.random.default_rng(0).integers(10**9, size=3000).tolist()
    if kind == "parquet":
        file = io.BytesIO()
        pq.write_table(pa.table({"n": rows}), file, write_page_checksum=True)
        content = file.getvalue()
    else:
        content = "".join(f'{{"n": {n}}}\n' if kind == "json" else f"{n}\n" for n in rows).encode()
    content = pack(content, suffix)
    assert read(kind, content, name)
    if change == "flipped" and suffix == ".zst":
        pytest.skip("Arrow writes no checksum")
    half = len(content) // 2
    damaged = {
        "cut": content[:-20],
        "flipped": content[:half] + bytes([content[half] ^ 255]) + content[half + 1 :],
        "other": b"nothing of the kind",
    }[change]
    for streaming in (False, True):
        with pytest.raises(ValueError, match=rf"^\S*{name}(:|, line)") as error:
            read(kind, damaged, name, streaming=streaming)
        assert "\n" not in str(error.value)


def test_parquet_keeps_its_types(tmp_path):
    table = pa.table({"n": [1, None], "c": pa.array(["x", "y"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(pa.table({"c": ["z"], "n": pa.array([2], pa.int32())}), tmp_path / "b.parquet")
    files = {"train": [tmp_path / "a.parquet", tmp_path / "b.parquet"]}
    rows = [{"n": 1, "c": "x"}, {"n": None, "c": "y"}, {"n": 2, "c": "z"}]
    assert list(formats.read_files("parquet", files, split="train")) == rows
    pq.write_table(pa.table({"n": ["x"], "c": ["z"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: got the columns .*; wanted those of .*a\.parquet"):
        formats.read_files("parquet", files, split="train")
    for names, file in ((["x", "y"], "a"), (["y", "x"], "b")):
        features = datasets.Features({"c": datasets.ClassLabel(names=names)})
        datasets.Dataset.from_dict({"c": [0]}, features=features).to_parquet(tmp_path / f"{file}.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: got the columns"):
        formats.read_files("parquet", files, split="train")


def test_files_of_a_split_have_one_header(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("y,x\n3,4\n")
    files = {"train": [tmp_path / "a.csv", tmp_path / "b.csv"]}
    assert list(formats.read_files("csv", files, split="train")) == [
        {"x": "1", "y": "2"},
        {"x": "4", "y": "3"},
    ]
    (tmp_path / "b.csv").write_text("y,z\n3,4\n")
    with pytest.raises(ValueError, match=r"b\.csv: got the columns \['y', 'z'\]; wanted those of .*a\.csv"):
        formats.read_files("csv", files, split="train")


def test_splits_and_their_slices(tmp_path):
    for name, n in (("train", 10), ("test", 4)):
        (tmp_path / name).write_text("".join(f'{{"n": {i}}}\n' for i in range(n)))
    files = {name: [tmp_path / name] for name in ("train", "test")}
    rows = lambda split, **options: list(formats.read_files("json", files, split=split, **options)["n"])
    assert rows("train[:30%]") == [0, 1, 2] and rows("train[-2:]+test") == [8, 9, 0, 1, 2, 3]
    found = formats.read_files("json", files, split=None)
    assert {name: (len(part), str(part.split)) for name, part in found.items()} == {
        "train": (10, "train"),
        "test": (4, "test"),
    }
    streams = formats.read_files("json", files, split=None, streaming=True)
    assert {name: len(list(part)) for name, part in streams.items()} == {"train": 10, "test": 4}
    for split, streaming in (("dev", False), ("dev[:1]", False), ("dev", True), ("train[:1]", True)):
        with pytest.raises(ValueError, match=r"^(Unknown|Bad) split.*'train', 'test'"):
            formats.read_files("json", files, split=split, streaming=streaming)


def test_a_stream_reads_no_further_than_it_must(tmp_path):
    (tmp_path / "a").write_text('{"text": "x"}\n' * 5000 + "nonsense")
    stream = formats.read_files(
        "json", {"train": [tmp_path / "a", tmp_path / "b"]}, split="train", streaming=True
    )
    assert stream.num_shards == 2 and len(list(stream.take(4000))) == 4000
    (tmp_path / "b").write_text("text\n" + '"x"\n' * 5000 + '"')
    assert len(
        list(formats.read_files("csv", {"train": [tmp_path / "b"]}, split="train", streaming=True).take(9))
    )


def test_a_missing_key_is_nothing_in_a_stream(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": "x", "b": "1"}\n{"a": "y"}\n{"b": "2"}\n')
    stream = data.load(str(tmp_path / "a.jsonl"), streaming=True)
    assert list(stream.select_columns(["b"])) == [{"b": "1"}, {"b": None}, {"b": "2"}]
    with pytest.raises(ValueError, match="row 2: wanted text in column 'a', got nothing"):
        data.text_pairs(stream, "a-b")


def test_a_stream_goes_on_where_it_was(tmp_path):
    for name, kind in (("a.csv", "csv"), ("a.jsonl", "json")):
        lines = [json.dumps({"text": str(i)}) if kind == "json" else str(i) for i in range(600)]
        (tmp_path / name).write_text("\n".join(["text"] * (kind == "csv") + lines))
        stream = data.load(str(tmp_path / name), streaming=True)
        for _ in zip(range(300), stream, strict=False):
            pass
        again = data.load(str(tmp_path / name), streaming=True)
        again.load_state_dict(stream.state_dict())
        assert [row["text"] for row in again] == [str(i) for i in range(300, 600)]


def test_a_file_with_the_same_time_and_size_is_read_anew(tmp_path):
    path, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    for word in ("one", "two"):
        path.write_text(f'{{"text": "{word}"}}\n')
        os.utime(path, (10**9, 10**9))
        assert data.load(str(path), cache_dir=str(cache))["text"] == [word]
    for file in cache.rglob("*"):  # what one load leaves behind is nothing to the next
        if file.is_file():
            file.write_bytes(file.read_bytes().replace(b"two", b"owt"))
    assert data.load(str(path), cache_dir=str(cache))["text"] == ["two"]


def test_what_was_converted_goes_with_the_process(tmp_path):
    directory = Path(formats._directory(str(tmp_path / "cache")))
    (directory / "a").write_text("x")
    formats._remove(str(directory), os.getpid() + 1)
    assert directory.is_dir()
    formats._remove(str(directory), os.getpid())
    assert not directory.exists()
    formats._directory.cache_clear()


def test_no_request_is_sent_for_files(tmp_path, monkeypatch):
    called = []

    def refuse(*args, **options):
        called.append(args)
        raise ConnectionRefusedError("a test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
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
    pytest.importorskip("PIL.Image").new("L", (2, 2)).save(tmp_path / "a.png")
    for file in tmp_path.glob("a.*"):
        for streaming in (False, True):
            (row,) = data.load(str(file), streaming=streaming)
            assert row.get("text", "1") == "1"
    data.load_splits(str(tmp_path / "a.txt"), validation=0, test=0)
    assert called == []


def test_a_long_document_is_cut_at_lines():
    text = "".join(f"{i}\n" for i in range(30_000))
    for document in (text, text.replace("\n", " "), text[: 1 << 16], text[: 1 + (1 << 16)], ""):
        rows = [row["text"] for row in read("text", document)]
        assert "".join(rows) == document and max(map(len, rows)) <= 1 << 16
        wanted = []
        while len(document) > 1 << 16:
            end = document.rfind("\n", 0, 1 << 16) + 1 or 1 << 16
            wanted, document = [*wanted, document[:end]], document[end:]
        assert rows == [*wanted, document]


@pytest.fixture
def pictures(tmp_path):
    """Six pictures, grey levels 0 to 5, and what reads those of each split with a metadata file."""
    pil = pytest.importorskip("PIL.Image")
    files = [tmp_path / f"{level}.png" for level in range(6)]
    for level, file in enumerate(files):
        pil.new("L", (3, 2), level).save(file)

    def load(name, content, **options):
        metadata = tmp_path / name
        metadata.write_text(content)
        try:
            splits = {"train": [*files[:4], metadata], "test": files[4:]}
            return formats.read_files("imagefolder", splits, **{"split": None, **options})
        finally:
            options.get("streaming") or metadata.unlink()

    load.files = files
    return load


def levels(rows):
    return [np.asarray(row["image"])[0, 0].tolist() for row in rows]


@STREAM
def test_pictures_and_their_classes(pictures, streaming):
    files, names = pictures.files, ["10", "9", "10", "-1", "9", "9"]
    splits = {"train": files[:4], "test": files[4:]}
    labels = dict(zip(files, names, strict=True))
    found = formats.read_files("imagefolder", splits, split=None, streaming=streaming, labels=labels)
    assert found["test"].features["label"].names == ["-1", "9", "10"]
    assert [row["label"] for row in found["train"]] == [2, 1, 2, 0]
    assert levels(found["test"]) == [4, 5]
    assert streaming or len(found["train"].data["label"].chunks) == 1, "a table for each would be slow"
    (row,) = formats.read_files("imagefolder", {"train": files[3:4]}, split="train", streaming=streaming)
    assert row.keys() == {"image"} and levels([row]) == [3]


@STREAM
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.tsv", "metadata.jsonl"])
def test_metadata_beside_pictures(name, pictures, streaming):
    rows = [("0.png", "007"), ("3.png", "NA"), ("5.png", "2020-01-31")]
    separator = {".csv": ",", ".tsv": "\t"}.get(name[8:])
    if separator:
        content = f"file_name{separator}label\n" + "".join(f"{a}{separator}{b}\n" for a, b in rows)
    else:
        content = "".join(json.dumps({"file_name": a, "label": b}) + "\n" for a, b in rows)
    found = pictures(name, content, streaming=streaming)
    assert [row["label"] for row in found["train"]] == ["007", "NA"] and levels(found["test"]) == [5]
    assert [row["label"] for row in found["test"]] == ["2020-01-31"]


def test_metadata_with_a_separator_and_several_pictures(pictures, caplog):
    (row,) = pictures(
        "metadata.csv", "file_name;left_file_name;n\n1.png;2.png;x\n", split="train", separator=";"
    )
    assert row["n"] == "x" and levels([row]) == [1] and np.asarray(row["left"])[0, 0] == 2
    assert "left out 2 of 4 pictures" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file_name,label\n9.png,x\n", r"metadata\.csv, row 0: there is no picture .*9\.png"),
        ("file_name,label\n../a.png,x\n", r"row 0: got the file name '\.\./a\.png'; wanted a path below"),
        ("file_name,label\n/etc/passwd,x\n", "row 0: got the file name '/etc/passwd'"),
        ("file_name,label\n,x\n", "row 0: got the file name ''"),
        ("name,label\n0.png,x\n", "it has no column 'file_name', only"),
        ("file_name,image\n0.png,x\n", "two columns would be called 'image'"),
    ],
)
def test_bad_metadata(content, message, pictures):
    with pytest.raises(ValueError, match=message):
        pictures("metadata.csv", content)


def test_compressed_pictures(pictures, tmp_path):
    (tmp_path / "a.png.gz").write_bytes(gzip.compress(pictures.files[3].read_bytes()))
    assert levels(formats.read_files("imagefolder", {"train": [tmp_path / "a.png.gz"]}, split="train")) == [3]


def test_a_data_set_may_be_copied_mapped_and_pickled(tmp_path):
    import pickle

    (tmp_path / "a.csv").write_text("text\nx\ny\n")
    loaded = data.load(str(tmp_path / "a.csv"), cache_dir=str(tmp_path / "cache"))
    assert loaded.map(lambda row: {"text": row["text"] * 2})["text"] == ["xx", "yy"]
    assert pickle.loads(pickle.dumps(loaded))["text"] == ["x", "y"]
    shutil.rmtree(tmp_path / "cache")
    formats._directory.cache_clear()
