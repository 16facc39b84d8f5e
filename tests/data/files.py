"""Files of every kind for the tests of data sets."""

import bz2
import gzip
import json
import lzma
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from tfm_jax.data._formats import read_files

STREAM = pytest.mark.parametrize("streaming", [False, True], ids=["table", "stream"])
SUFFIXES = st.sampled_from(["", ".gz", ".bz2", ".xz", ".zst"])
WORDS = st.sampled_from(
    ["NA", "null", "None", "", "nan", "007", "1", "-1.50", "1e5", "True", "2020-01-31",
     "2020-01-31T10:00:00Z", '"', '""', '"Hello," she said.', " a ", "a\u2028b", "\\t",
     "x\r", "é", "\ufeff", "\x00"]
)  # fmt: skip
TEXTS = st.one_of(WORDS, st.text(max_size=8))


def compress(content, suffix):
    """Compressed bytes, by the suffix."""
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
        return list(read_files(kind, {"train": [path]}, split=split, streaming=streaming, **options))


def write_lines(path, rows):
    """A file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_image(path, grey=0):
    """An image file of one grey level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("PIL.Image").fromarray(np.full((4, 5), grey, np.uint8)).save(path)
    return path


@st.composite
def tables(draw, text):
    """A header and rows of texts."""
    name = text.filter(lambda text: text and "\x00" not in text)
    header = draw(st.lists(name, min_size=1, max_size=3, unique=True))
    return header, draw(st.lists(st.tuples(*(text for _ in header)), max_size=4))


def as_dicts(header, rows):
    return [dict(zip(header, row, strict=True)) for row in rows]
