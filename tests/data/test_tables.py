"""CSV and TSV: fields are read as they are written."""

import csv
import io

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.data.files import STREAM, SUFFIXES, TEXTS, as_dicts, compress, read, tables
from tfm_jax import data
from tfm_jax.data._formats import read_files


def csv_of(header, rows, separator, quoted):
    """A file by RFC 4180; ``quoted`` quotes all fields."""
    special = {separator, '"', "\r", "\n"}

    def field(text):
        if quoted or set(text) & special or not text:
            return '"' + text.replace('"', '""') + '"'
        return text

    return "".join(separator.join(map(field, row)) + "\r\n" for row in [header, *rows])


@given(
    tables(TEXTS),
    st.sampled_from([",", ";", "\t", "|", " ", "¦"]),
    st.booleans(),
    SUFFIXES,
    st.booleans(),
)
def test_csv_is_read_as_it_is_written(table, separator, quoted, suffix, streaming):
    content = compress(csv_of(*table, separator, quoted).encode("utf-8-sig"), suffix)
    rows = read("csv", content, f"a.csv{suffix}", separator=separator, streaming=streaming)
    assert rows == as_dicts(*table)


@given(tables(TEXTS))
def test_csv_of_pythons_writer(table):
    header, rows = table
    file = io.StringIO(newline="")
    csv.writer(file).writerows([header, *rows])
    assert read("csv", file.getvalue().encode("utf-8-sig")) == as_dicts(*table)


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_columns_without_a_name_get_their_number(kind):
    """Such as the index that pandas writes, and the separator that Excel leaves at the end of every line."""
    content = ",text,\n0,x,\n1,y,\n".replace(",", {"csv": ",", "tsv": "\t"}[kind])
    assert read(kind, content.encode()) == [
        {"Unnamed: 0": "0", "text": "x", "Unnamed: 2": ""},
        {"Unnamed: 0": "1", "text": "y", "Unnamed: 2": ""},
    ]


def literal(text):
    return text.replace("\t", "").replace("\n", "").rstrip("\r").removeprefix("\ufeff")


@given(tables(TEXTS.map(literal)), st.sampled_from(["\n", "\r\n"]), SUFFIXES, st.booleans())
def test_tsv_is_read_as_it_is_written(table, end, suffix, streaming):
    header, rows = table
    assume(not any("\r" in name for name in header))  # an error: line ends of CR alone
    content = "".join("\t".join(row) + end for row in [header, *rows]).encode()
    assert read("tsv", compress(content, suffix), f"a.tsv{suffix}", streaming=streaming) == as_dicts(*table)


def test_fields_and_lines_of_any_length():
    text = 'a "quoted" line,\n' * 20_000
    assert read("csv", csv_of(["a", "b"], [(text, "x")], ",", False)) == [{"a": text, "b": "x"}]
    line = text.replace("\n", " ")
    assert read("tsv", f"a\tb\n{line}\tx") == [{"a": line, "b": "x"}]


@STREAM
def test_names_for_tables_without_a_header(tmp_path, streaming):
    assert read("tsv", "a\tb\r\nc\td\n", names=["x", "y"], streaming=streaming) == [
        {"x": "a", "y": "b"},
        {"x": "c", "y": "d"},
    ]
    assert read("csv", '"a,b"\nsame\n', names=["x"], streaming=streaming) == [{"x": "a,b"}, {"x": "same"}]
    for name, text in (("train.csv", "a,a\nb,c\n"), ("test.csv", "d,e\n")):
        (tmp_path / name).write_text(text)
    rows = data.load(str(tmp_path), "test", names=["x", "y"], columns=["y"], streaming=streaming)
    assert list(rows) == [{"y": "e"}]
    assert len(data.load_splits(str(tmp_path), names=["x", "y"], validation=0)["train"]) == 2


def test_a_first_line_that_is_no_header_is_shown_with_the_fix(tmp_path):
    (tmp_path / "pairs.tsv").write_text("Good morning.\tBonjour.\nYes.\tOui.\n")
    message = (
        r"the columns 'Good morning.', 'Bonjour.'; wanted 'en', 'fr'\. .*"
        r"if this first line is data.*names=\[\.\.\.\] \(--data.columns en fr\)"
    )
    with pytest.raises(ValueError, match=message):
        data.load(str(tmp_path / "pairs.tsv"), columns=["en", "fr"])
    with pytest.raises(ValueError, match=message):
        data.text_pairs(data.load(str(tmp_path / "pairs.tsv")).select([0]), "en-fr")
    (tmp_path / "pairs.jsonl").write_text('{"a": "b"}\n')
    for source, options in (("pairs.tsv", {"names": ["x", "y"]}), ("pairs.jsonl", {})):
        with pytest.raises(ValueError, match="wanted 'en'") as error:
            data.load(str(tmp_path / source), columns=["en"], **options)
        assert "first line" not in str(error.value)


def test_a_header_alone_has_no_rows(tmp_path):
    for name in ("a.csv", "a.tsv"):
        (tmp_path / name).write_text("text\n")
        for streaming in (False, True):
            with pytest.raises(ValueError, match="load: got no rows in split 'train' of "):
                data.load(str(tmp_path / name), streaming=streaming)


def test_line_ends():
    for end in ("\n", "\r\n", "\r"):
        assert read("csv", end.join(["a,b", "1,2", "", "3,4"])) == [
            {"a": "1", "b": "2"},
            {"a": "3", "b": "4"},
        ]
    assert read("tsv", "a\tb\r\n\r\n1\t2\r\n") == [{"a": "1", "b": "2"}]
    assert read("tsv", "a\n1\n\n2\n") == [{"a": "1"}, {"a": ""}, {"a": "2"}]


def test_files_of_a_split_have_one_header(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("y,x\n3,4\n")
    files = {"train": [tmp_path / "a.csv", tmp_path / "b.csv"]}
    assert list(read_files("csv", files, split="train")) == [{"x": "1", "y": "2"}, {"x": "4", "y": "3"}]
    (tmp_path / "b.csv").write_text("y,z\n3,4\n")
    with pytest.raises(ValueError, match=r"b\.csv: got the columns \['y', 'z'\]; wanted those of .*a\.csv"):
        read_files("csv", files, split="train")


@STREAM
@pytest.mark.parametrize(
    ("kind", "content", "options", "message"),
    [
        ("csv", "a,b\n1,2\n1,2,3\n", {}, r"a, line 3: got 3 fields; wanted 2 .* ','\. .* in double quotes"),
        ("tsv", "a\tb\n1\n", {}, r"a, line 2: got 1 fields; wanted 2 .*Correct the line\.$"),
        ("csv", 'a\n"x\ny"\n"x" y\n', {}, r"line 4: got a record, which starts here, .*4180.*as \.tsv"),
        ("csv", 'a\nx\n"y\n\nz', {}, r"line 3: .*\(unexpected end of data\)"),
        ("csv", "a,b,a\n", {}, r"line 1: got \['a'\] twice in the header"),
        ("csv", "a,,Unnamed: 1\n", {}, r"line 1: got \['Unnamed: 1'\] twice in the header"),
        ("tsv", "a\tb\rx\ty\r", {}, "line 1: got line ends of CR alone; wanted LF or CRLF"),
        (
            "csv",
            "a\nb".encode("utf-16-le"),
            {},
            r"line 1: got the column .*'a\\x00'.* NUL.*--data.encoding utf-16-le",
        ),
        ("csv", "", {}, "a: got an empty file; wanted a header line"),
        ("csv", "\n\n", {}, "a: got an empty file; wanted a header line"),
        ("tsv", "\n\n", {}, "a: got an empty file; wanted a header line"),
        ("csv", "a;b\n1;2,\n", {}, "line 2: got 2 fields; wanted 1"),
        ("csv", "a,a\n1,2", {}, r"twice in the header.*if this line is data.*\(--data.columns NAME \.\.\.\)"),
        (
            "tsv",
            "a\tb\n1\n",
            {"names": ["x", "y"]},
            r"line 2: got 1 fields; wanted 2 as in names=\('x', 'y'\) \(--data.columns x y\)",
        ),
        (
            "csv",
            "x,y\n1,2",
            {"names": ["x", "y"]},
            r"line 1: got a header line, \['x', 'y'\], and the same .* \(--data.columns x y\) out",
        ),
        ("csv", "a,b", {"names": ["x"]}, "line 1: got 2 fields; wanted 1 as in names="),
        ("csv", "a,b", {"names": ["x", "x"]}, r"load: got names=\('x', 'x'\); wanted different ones"),
        ("tsv", "a\tb\rx\ty\r", {"names": ["x", "y"]}, "line 1: got line ends of CR alone"),
        ("csv", "a\nb".encode("utf-16-le"), {"names": ["x"]}, "line 1: got the field .* NUL"),
        ("json", '{"a": 1}', {"names": ["x"]}, "got names=.* of kind json; wanted csv or tsv files"),
        ("csv", "a", {"separator": "||"}, r"load: got separator='\|\|'; wanted one character"),
        ("csv", "a", {"separator": ""}, "load: got separator=''; wanted one character"),
        ("csv", "a", {"separator": '"'}, "load: got separator='\"'; wanted one character"),
    ],
)
def test_bad_content_is_one_line_with_file_and_line(kind, content, options, message, streaming):
    with pytest.raises(ValueError, match=message) as error:
        read(kind, content, streaming=streaming, **options)
    assert "\n" not in str(error.value)
