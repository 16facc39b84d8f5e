"""Two aligned text files: a line of one is the translation of the same line of the other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.files import STREAM, SUFFIXES, TEXTS, compress
from tfm_jax import data

LINES = TEXTS.map(lambda text: text.replace("\n", "").rstrip("\r").removeprefix("\ufeff"))


@given(
    st.lists(st.tuples(LINES, LINES), min_size=1, max_size=5),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    SUFFIXES,
    st.booleans(),
)
def test_lines_are_read_as_they_are_written(tmp_path_factory, pairs, end, with_mark, suffix, streaming):
    directory, sides = tmp_path_factory.mktemp("aligned"), []
    for name, lines in zip(("train.en", "train.fr"), zip(*pairs, strict=True), strict=True):
        text = "".join(line + end for line in lines)
        (directory / (name + suffix)).write_bytes(
            compress(text.encode("utf-8-sig" if with_mark else "utf-8"), suffix)
        )
        sides.append(str(directory / (name + suffix)))
    rows = data.load(tuple(sides), streaming=streaming, cache_dir=str(directory))
    assert [(row["source"], row["target"]) for row in rows] == pairs


@pytest.fixture
def write(tmp_path):
    def write(**sides):
        for name, text in sides.items():
            (tmp_path / f"train.{name}").write_bytes(text.encode())
        return tuple(str(tmp_path / f"train.{name}") for name in sides)

    return write


def test_the_last_line_needs_no_line_end_and_an_encoding_holds_for_both(write, tmp_path):
    source = write(en="a\nb", fr="c\nd\n")
    assert list(data.load(source)) == [{"source": "a", "target": "c"}, {"source": "b", "target": "d"}]
    for name in source:
        (tmp_path / name).write_text("é\n", encoding="utf-16")
    assert list(data.load(source, encoding="utf-16")) == [{"source": "é", "target": "é"}]


def test_splits_are_held_out_by_the_source_text(write):
    lines = [f"{i % 30}\n" for i in range(60)]
    splits = data.load_splits(
        write(en="".join(lines), fr="".join(f"x{i}\n" for i in range(60))), by=["source"]
    )
    assert sum(map(len, splits.values())) == 60
    texts = {name: set(rows["source"]) for name, rows in splits.items()}
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
    assert len(data.load(write(en="a\n" * 20, fr="b\n" * 20), "train[:10%]", columns=["target"])) == 2


@STREAM
@pytest.mark.parametrize(
    ("sides", "counts"),
    [({"en": "a\nb\nc\nd", "fr": "a\n"}, "4 lines in .*en and 1 in .*fr"),
     ({"en": "", "fr": "a\n\n"}, "0 lines in .*en and 2 in .*fr")],
)  # fmt: skip
def test_another_number_of_lines_is_an_error_with_both(sides, counts, write, streaming):
    with pytest.raises(ValueError, match=f"load: got {counts}; wanted as many in both.*Align the files"):
        list(data.load(write(**sides), streaming=streaming))


def test_errors_name_the_file(write, tmp_path):
    good = write(en="a\nb\n", fr="c\nd\n")
    bad = str(tmp_path / "bad.fr")
    (tmp_path / "bad.fr").write_bytes(b"c\n\xff\n")
    for source in ((good[0], bad), (bad, good[1])):
        with pytest.raises(ValueError, match=r"bad\.fr, line 2: got bytes that are not utf-8"):
            data.load(source)
    (tmp_path / "pairs.jsonl").write_text("{}")
    cases = {
        (good[0],): "got 1 paths.*wanted one source, or two aligned text files",
        (good[0], good[1], good[0]): "got 3 paths",
        (good[0], str(tmp_path / "pairs.jsonl")): r"pairs\.jsonl' as one of two aligned files; wanted text",
        (good[0], str(tmp_path / "none.fr")): r"none\.fr' .*no such file; wanted two aligned text files",
        (str(tmp_path), good[1]): "found a directory; wanted two aligned text files",
    }
    for source, message in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            data.load(source)
    for options, message in (
        ({"splits": "files"}, "got splits='files' for two aligned files"),
        ({"separator": ";"}, "got separator=';' for files of kind aligned"),
        ({"names": ["a", "b"]}, r"got names=\('a', 'b'\) for files of kind aligned"),
    ):
        with pytest.raises(ValueError, match=message):
            data.load(good, **options)
