import re

import datasets
import pytest

from tfm_jax import data

NESTED = {"translation": [{"en": "one", "fr": "un"}, {"en": "two", "fr": "deux"}]}
FLAT = {"en": ["one", "two"], "fr": ["un", "deux"], "id": [1, 2]}
FORM = pytest.mark.parametrize("stream", [False, True], ids=["table", "stream"])


def dataset(columns, stream=False):
    made = datasets.Dataset.from_dict(columns)
    return made.to_iterable_dataset() if stream else made


@FORM
@pytest.mark.parametrize("columns", [NESTED, FLAT], ids=["nested", "flat"])
def test_pairs(columns, stream):
    assert data.text_pairs(dataset(columns, stream), "en-fr") == (["one", "two"], ["un", "deux"])
    assert data.text_pairs(dataset(columns, stream), "fr-en") == (["un", "deux"], ["one", "two"])


@FORM
def test_named_columns(stream):
    assert data.text_pairs(dataset(FLAT, stream), source="fr", target="en") == (
        ["un", "deux"],
        ["one", "two"],
    )
    assert data.texts(dataset(FLAT, stream), "fr") == ["un", "deux"]


def test_a_stream_whose_columns_nobody_declared():
    stream = dataset({"t": ["a", "b"]}, stream=True).map(lambda row: {"text": row["t"]}, remove_columns=["t"])
    assert stream.column_names is None and data.texts(stream) == ["a", "b"]
    with pytest.raises(ValueError, match="no column 'prose'; it has 'text'"):
        data.texts(stream, "prose")


@FORM
@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (FLAT, {}, "no column 'source', 'target'; it has 'en', 'fr', 'id'. Choose with pair="),
        (FLAT, {"pair": "en-de"}, "no column 'de'; it has"),
        (NESTED, {"pair": "en-de"}, "no translations 'en-de'; it has the languages 'en', 'fr'"),
        (NESTED, {}, "no column 'source', 'target'; it has 'translation'"),
        (FLAT, {"pair": "en"}, "pair 'en' is not two names"),
        (FLAT, {"pair": "en-zh-Hans"}, "is not two names"),
        (
            {"en": ["a", None], "fr": ["b", "c"]},
            {"pair": "en-fr"},
            "row 1: wanted text in column 'en', got nothing",
        ),
        (
            {"translation": [{"en": "a", "fr": "b"}, None]},
            {"pair": "en-fr"},
            "row 1: wanted text in column 'en'",
        ),
        (FLAT, {"pair": "en-id"}, "row 0: wanted text in column 'id', got int 1"),
    ],
)
def test_what_is_missing_is_named(columns, options, message, stream):
    with pytest.raises(ValueError, match=message):
        data.text_pairs(dataset(columns, stream), **options)


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
def test_a_table_with_another_separator_is_named(separator):
    with pytest.raises(
        ValueError, match=f"Choose with .*, or pass .*--data.separator {re.escape(repr(separator))}"
    ):
        data.texts(dataset({f"text{separator}label": ["a"]}))


def test_no_rows():
    with pytest.raises(ValueError, match="the data set is empty"):
        data.texts(dataset({"text": []}))
