"""Encodings, and files that are damaged or not in their encoding."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.files import STREAM, compress, read


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


@STREAM
@pytest.mark.parametrize(
    ("kind", "content", "options", "message"),
    [
        ("csv", "a", {"encoding": "klingon"}, "load: got encoding='klingon' .*; wanted a text encoding"),
        ("csv", "a", {"encoding": "rot13"}, "load: got encoding='rot13' .*; wanted a text encoding"),
        ("csv", "a\nb\ngröße\n".encode("latin-1"), {}, r"a, line 3: .* not utf-8 .*--data.encoding latin-1"),
        ("tsv", "a\nb\ngröße\n".encode("latin-1"), {}, "a, line 3: .* not utf-8"),
        ("json", b'{"a": 1}\n{"a": "\xff"}', {}, "a, line 2: .* not utf-8"),
        ("text", "größe".encode("utf-16"), {}, "a, line 1: .* not utf-8 .*--data.encoding utf-16"),
        ("text", b"a", {"encoding": "utf-16"}, "a, line 1: .* not utf-16"),
        ("text", b"\nab", {"encoding": "utf-16"}, "a, line 1: .* not utf-16"),
    ],
)
def test_a_wrong_encoding_is_one_line_with_file_and_line(kind, content, options, message, streaming):
    with pytest.raises(ValueError, match=message) as error:
        read(kind, content, streaming=streaming, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["truncated", "flipped", "other"])
@pytest.mark.parametrize(
    "name", ["a.csv.gz", "a.jsonl.bz2", "a.txt.xz", "a.tsv.zst", "a.parquet", "a.parquet.gz"]
)
def test_a_damaged_file_is_one_line_with_its_name(name, change):
    kinds = {"csv": "csv", "jsonl": "json", "txt": "text", "tsv": "tsv", "parquet": "parquet"}
    kind = kinds[name.split(".")[1]]
    suffix = name[name.rindex(".") :].removeprefix(".parquet")
    rows = np.random.default_rng(0).integers(10**9, size=3000).tolist()
    if kind == "parquet":
        file = io.BytesIO()
        pq.write_table(pa.table({"n": rows}), file, write_page_checksum=True)
        content = file.getvalue()
    else:
        content = "".join(f'{{"n": {n}}}\n' if kind == "json" else f"{n}\n" for n in rows).encode()
    content = compress(content, suffix)
    assert read(kind, content, name)
    if change == "flipped" and suffix == ".zst":
        pytest.skip("Arrow writes no checksum")
    half = len(content) // 2
    damaged = {
        "truncated": content[:-20],
        "flipped": content[:half] + bytes([content[half] ^ 255]) + content[half + 1 :],
        "other": b"nothing of the kind",
    }[change]
    for streaming in (False, True):
        with pytest.raises(ValueError, match=rf"^\S*{name}(:|, line)") as error:
            read(kind, damaged, name, streaming=streaming)
        assert "\n" not in str(error.value)
