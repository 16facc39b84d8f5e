import re

import datasets
import pytest

from tfm_jax import data

NESTED = {"translation": [{"en": "one", "fr": "un"}, {"en": "two", "fr": "deux"}]}
FLAT = {"en": ["one", "two"], "fr": ["un", "deux"], "id": [1, 2]}
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["table", "stream"])


def dataset(columns, stream=False):
    table = datasets.Dataset.from_dict(columns)
    return table.to_iterable_dataset() if stream else table


@STREAM
@pytest.mark.parametrize("columns", [NESTED, FLAT], ids=["nested", "flat"])
def test_pairs(columns, stream):
    assert data.text_pairs(dataset(columns, stream), "en-fr") == (["one", "two"], ["un", "deux"])
    assert data.text_pairs(dataset(columns, stream), "fr-en") == (["un", "deux"], ["one", "two"])


@STREAM
def test_named_columns(stream):
    assert data.text_pairs(dataset(FLAT, stream), source="fr", target="en") == (
        ["un", "deux"],
        ["one", "two"],
    )
    assert data.texts(dataset(FLAT, stream), "fr") == ["un", "deux"]


def test_a_stream_that_declares_no_columns():
    stream = dataset({"t": ["a", "b"]}, stream=True).map(lambda row: {"text": row["t"]}, remove_columns=["t"])
    assert stream.column_names is None and data.texts(stream) == ["a", "b"]
    with pytest.raises(ValueError, match="texts: got a data set with the columns 'text'; wanted 'prose'"):
        data.texts(stream, "prose")


@STREAM
@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (FLAT, {}, "the columns 'en', 'fr', 'id'; wanted 'source', 'target'. Choose with pair="),
        (FLAT, {"pair": "en-de"}, "text_pairs: got .*; wanted 'de'"),
        (NESTED, {"pair": "en-de"}, "text_pairs: got pair='en-de'; wanted two of the languages 'en', 'fr'"),
        (NESTED, {}, "the columns 'translation'; wanted 'source', 'target'"),
        (FLAT, {"pair": "en"}, "text_pairs: got pair='en'; wanted two names"),
        (FLAT, {"pair": "en-zh-Hans"}, "got pair='en-zh-Hans'; wanted two names"),
        (
            {"en": ["a", None], "fr": ["b", "c"]},
            {"pair": "en-fr"},
            "text_pairs: got nothing in row 1 of column 'en'; wanted a text",
        ),
        (
            {"translation": [{"en": "a", "fr": "b"}, None]},
            {"pair": "en-fr"},
            "text_pairs: got nothing in row 1 of column 'en'",
        ),
        (FLAT, {"pair": "en-id"}, "text_pairs: got int 1 in row 0 of column 'id'"),
    ],
)
def test_missing_columns_and_texts_are_named(columns, options, message, stream):
    with pytest.raises(ValueError, match=message):
        data.text_pairs(dataset(columns, stream), **options)


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
def test_a_likely_separator_is_named(separator):
    with pytest.raises(
        ValueError, match=f"Choose with .*Or pass .*--data.separator {re.escape(repr(separator))}"
    ):
        data.texts(dataset({f"text{separator}label": ["a"]}))


def test_no_rows():
    with pytest.raises(ValueError, match="texts: got an empty data set"):
        data.texts(dataset({"text": []}))
