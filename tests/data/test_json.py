"""JSON: values are read as they are written, with their types."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.files import STREAM, SUFFIXES, TEXTS, compress, read
from tfm_jax import data

# The line that Python names for a comma before the end of an object.
COMMA_LINE = 2 if sys.version_info >= (3, 13) else 3

VALUES = st.one_of(
    st.none(),
    TEXTS,
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.sampled_from([0.5, -2.0, 1e300]),
    st.lists(TEXTS, max_size=2),
    st.fixed_dictionaries({"en": TEXTS, "fr": TEXTS}),
)


@given(
    st.lists(st.fixed_dictionaries({"a": VALUES, "b": TEXTS}), min_size=1, max_size=4),
    SUFFIXES,
    st.booleans(),
)
def test_json_is_read_as_it_is_written(rows, suffix, escaped):
    for content in (
        "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows),
        json.dumps(rows, ensure_ascii=escaped, indent=1),
        "".join(json.dumps(row, ensure_ascii=escaped, indent=1) + "\n\n" for row in rows),
    ):
        content = compress(content.encode(), suffix)
        assert read("json", content, f"a.jsonl{suffix}") == rows
        assert read("json", content, f"a.jsonl{suffix}", streaming=True) == rows


def test_values_keep_their_types_over_all_rows():
    rows = [{"a": 1, "t": None}] * 1500 + [{"a": "1", "t": "2020-01-31"}, {"a": True, "t": "x"}]
    loaded = read("json", "".join(json.dumps(row) + "\n" for row in rows))
    assert loaded == rows and type(loaded[-1]["a"]) is bool and type(loaded[0]["a"]) is int
    assert read("json", '{"a": 1}\n{"b": {"x": 1}}\n{"b": {"y": 0.5}}') == [
        {"a": 1, "b": None},
        {"a": None, "b": {"x": 1, "y": None}},
        {"a": None, "b": {"x": None, "y": 0.5}},
    ]
    for value in ({}, [[]] * 3, [1, [2, "x"]], "x" * 10**6, [[[[[[[[[["deep"]]]]]]]]]]):
        assert read("json", json.dumps({"a": value})) == [{"a": value}]
    deep = "[" * 300 + "]" * 300
    assert json.dumps(read("json", f'{{"a": {deep}}}')[0]["a"]) == deep


def test_objects_in_an_array_or_one_after_another():
    assert read("json", ' \n[{"a": 1}, {"a": 2}]') == [{"a": 1}, {"a": 2}]
    assert read("json", '{"a": 1}{"a": 2}\n{"a": 3}') == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert read("json", '{\n"data": [{"a": 1}]}') == [{"data": [{"a": 1}]}]


def test_a_missing_key_is_none_in_a_stream(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": "x", "b": "1"}\n{"a": "y"}\n{"b": "2"}\n')
    stream = data.load(str(tmp_path / "a.jsonl"), streaming=True)
    assert list(stream.select_columns(["b"])) == [{"b": "1"}, {"b": None}, {"b": "2"}]
    with pytest.raises(ValueError, match="text_pairs: got nothing in row 2 of column 'a'; wanted a text"):
        data.text_pairs(stream, "a-b")


def test_numbers_that_would_be_rounded_or_do_not_fit():
    with pytest.raises(ValueError, match=r"a: got 1000.* in column 'n' .*; wanted a value that the datasets"):
        read("json", '{"n": 1' + "0" * 40 + "}")
    rows = f'{{"n": {2**53 + 1}}}\n' * 1000  # types are found in batches of this size
    assert read("json", rows + '{"n": 1}')[0] == {"n": 2**53 + 1}
    assert read("json", f'{{"n": {2**53 + 1}}}\n{{"n": 0.5}}') == [{"n": 2**53 + 1}, {"n": 0.5}]
    with pytest.raises(
        ValueError, match=r"a: got the whole number in 9007199254740993 beside fractions in column 'n'"
    ):
        read("json", rows + '{"n": 0.5}\n')
    with pytest.raises(ValueError, match=r"a: got the whole number in .* beside fractions in column 'n'"):
        read("json", rows.replace(": 9", ': [{"m": 9').replace("}", "}]}") + '{"n": [{"m": 0.5}]}\n')
    assert read("json", '{"n": 1}\n' * 1500 + '{"n": 0.5}\n')[0] == {"n": 1.0}


@STREAM
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a\\u0000b": 1}', r"a, line 1: got the key 'a\\x00b'; wanted no NUL"),
        ('{"a": 1}\n\n{"a":\n', "a, line 3: got a JSON parse error .* Expecting value"),
        ('\n{"a": 1} x', "a, line 2: got a JSON parse error .* Expecting value"),
        ('{\n"a": 1,\n}', f"a, line 1: got a JSON parse error in the value .*in line {COMMA_LINE}"),
        ("[" * 10**5, "a, line 1: got a JSON parse error .* nested too deep"),
        ('{"a": 1}\n{"a": ' + "[" * 10**5, "a, line 2: got a JSON parse error .* nested too deep"),
        ('{"a": 1, "a": 2}', "a, line 1: .* the key 'a' more than once"),
        ('{"a": 1}\n[1]', r"a, line 2: got \[1\]; wanted an object"),
        ('[{"a": 1}, 2]', "a, item 1 of its array: got 2; wanted an object"),
        ('["x", "y"]', "a, item 0 of its array: got 'x'; wanted an object"),
        ("[1]\n[2]", "a, line 1: got an array beside other values"),
        ('[{"a": 1}]\n[{"a": 2}]', "a, line 1: got an array beside other values"),
        ('{"a": 1}\n{"a": "\\ud800"}', "a, line 2: got a text with half of a surrogate pair"),
        ('{"a": "x\x00"}', "a, line 1: got a JSON parse error .* Invalid control character"),
    ],
)
def test_bad_content_is_one_line_with_file_and_line(content, message, streaming):
    with pytest.raises(ValueError, match=message) as error:
        read("json", content, streaming=streaming)
    assert "\n" not in str(error.value)
