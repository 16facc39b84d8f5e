import json

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data

BYTES = data.ByteTokenizer()


def table(values):
    return datasets.Dataset.from_dict({"label": values})


def rows_of(texts, **options):
    labels = np.arange(len(texts)) % 3
    return data.text_classification_examples(texts, labels, BYTES, 3, **{"max_length": 99, **options}), labels


@given(texts=st.lists(st.text(max_size=9), min_size=1, max_size=6), more=st.integers(0, 3))
def test_a_batch_is_each_text_between_its_ends_padded(texts, more):
    rows, labels = rows_of(texts)
    wanted = [[1, *BYTES.encode(text), 2] if text else [] for text in texts]
    width = max(1, *map(len, wanted)) + more
    batch = rows.take(np.arange(len(texts)), (width,))
    assert {name: (x.dtype, x.shape) for name, x in batch.items()} == {
        "tokens": (np.int32, (len(texts), width)),
        "valid": (bool, (len(texts), width)),
        "label": (np.int32, (len(texts),)),
        "weight": (np.float32, (len(texts),)),
    }
    for row, ids in enumerate(wanted):
        assert batch["tokens"][row].tolist() == ids + [0] * (width - len(ids))
        assert batch["valid"][row].sum() == len(ids) and batch["valid"][row, : len(ids)].all()
    np.testing.assert_array_equal(batch["label"], labels)
    np.testing.assert_array_equal(rows.lengths[:, 0], list(map(len, wanted)))


@given(length=st.integers(3, 9))
def test_a_long_text_is_cut_and_keeps_its_ends(length):
    rows, _ = rows_of(["abcdefghij", "ab"], max_length=length)
    tokens = rows.take(np.arange(1))["tokens"][0]
    assert tokens.tolist() == [1, *BYTES.encode("abcdefghij")[: length - 2], 2]
    chars = data.char_tokenizer(["abcdefghij"])
    chars.bos_id = chars.eos_id = None  # as another's may be, without ends
    cut = data.text_classification_examples(["abcdefghij"], np.zeros(1, int), chars, 1, max_length=length)
    assert cut.take(np.arange(1))["tokens"][0].tolist() == chars.encode("abcdefghij")[:length]


def test_what_was_cut_is_said(caplog):
    rows_of(["abcdefgh", "a", "abcdefghi"], max_length=5)
    assert "cut 2 of 3 texts to max_length 5" in caplog.text


def test_rows_that_fill_a_batch_up_weigh_nothing():
    rows, labels = rows_of(["a", "bc", "def", "ghij", "k"])
    batches = list(data.Loader(rows, data.BucketBatchSampler(rows.lengths, [(4,), (6,)], 3)))
    seen = np.concatenate([batch["index"] for batch in batches])
    weight = np.concatenate([batch["weight"] for batch in batches])
    np.testing.assert_array_equal(weight, seen >= 0)
    assert sorted(seen[seen >= 0]) == list(range(5))
    for batch in batches:
        assert not batch["valid"][batch["index"] < 0].any()
        real = batch["index"] >= 0
        np.testing.assert_array_equal(batch["label"][real], labels[batch["index"][real]])


def test_other_texts_or_labels_have_another_fingerprint():
    one, again, other = (rows_of(texts)[0].fingerprint for texts in (["ab", "c"], ["ab", "c"], ["a", "bc"]))
    assert one == again != other
    relabelled = data.text_classification_examples(["ab", "c"], np.array([1, 0]), BYTES, 3, max_length=9)
    assert relabelled.fingerprint != one


def test_labels_of_every_kind_are_numbers():
    table = datasets.Dataset.from_dict(
        {"text": list("abcd"), "label": ["no", "yes", "maybe", "no"], "n": [2, 0, 0, 1]}
    )
    names = data.label_names(table)
    assert names == ["maybe", "no", "yes"]
    assert data.label_ids(table, names).tolist() == [1, 2, 0, 1]
    assert data.label_names(table, "n") == ["0", "1", "2"] and data.label_names(table, "n", classes=2) == [
        "0",
        "1",
    ]
    assert data.label_ids(table, ["0", "1", "2"], "n").tolist() == [2, 0, 0, 1]
    declared = table.cast_column("n", datasets.ClassLabel(names=["x", "y", "z", "unused"]))
    assert data.label_names(declared, "n") == ["x", "y", "z", "unused"]
    assert data.label_ids(declared, ["x", "y", "z", "unused"], "n").tolist() == [2, 0, 0, 1]
    assert data.label_names(declared, "n", classes=6) == ["x", "y", "z", "unused", "4", "5"]
    other = table.cast_column(
        "n", datasets.ClassLabel(names=["z", "x", "y"])
    )  # another order, the same names
    assert data.label_ids(other, ["x", "y", "z"], "n").tolist() == [1, 2, 2, 0]
    assert data.label_ids(table, ["x", "y", "z"], "n").tolist() == [2, 0, 0, 1]  # no name is a number


LABELS = st.one_of(
    st.integers(-3, 12),
    st.booleans(),
    st.sampled_from(["1", "01", "-2", "10", "3.0", "cat", "NA", "True", " 1"]),
)


@given(st.lists(LABELS, min_size=1, max_size=9))
def test_classes_are_those_that_occur_as_they_are_written(labels):
    labels = [label for label in labels if type(label) is type(labels[0])]
    written = [str(label).lower() if isinstance(label, bool) else str(label) for label in labels]
    names = data.label_names(table(labels))
    assert set(names) == set(written) and len(names) == len(set(names))
    if all(name.lstrip("-").isdigit() for name in names):
        assert list(map(int, names)) == sorted(map(int, names))
    else:
        assert names == sorted(names)
    assert [names[i] for i in data.label_ids(table(labels), names)] == written
    assert [names[i] for i in data.label_ids(table(written), names)] == written, "from a table of texts"


def test_whole_numbers_are_sorted_by_their_value():
    assert (
        data.label_names(table([10, 9, -1]))
        == data.label_names(table(["9", "10", "-1"]))
        == ["-1", "9", "10"]
    )
    assert data.label_names(table(["10", "9", "x"])) == ["10", "9", "x"]


def test_stars_are_five_classes_in_every_format(tmp_path):
    stars = [5, 1, 3, 2, 4, 5]
    (tmp_path / "a.csv").write_text("label\n" + "".join(f"{n}\n" for n in stars))
    (tmp_path / "a.jsonl").write_text("".join(f'{{"label": {n}}}\n' for n in stars))
    for name in ("a.csv", "a.jsonl"):
        for streaming in (False, True):
            loaded = data.load(str(tmp_path / name), streaming=streaming)
            names = data.label_names(loaded)
            assert names == ["1", "2", "3", "4", "5"]
            assert (data.label_ids(loaded, names) + 1).tolist() == stars


def mixed(values):
    features = datasets.Features({"label": datasets.Json()})
    return datasets.Dataset.from_dict({"label": list(map(json.dumps, values))}, features=features)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: data.label_ids(table([0, 1, 5]), ["a", "b"]),
            "row 2: label 5 is out of range: wanted 0 <= label < 2",
        ),
        (lambda: data.label_ids(table([0, -1]), ["a", "b"]), "row 1: label -1 is out of range"),
        (
            lambda: data.label_ids(table(["a", "c"]), ["a", "b"]),
            "row 1: label 'c' in column 'label' is none of the 2 classes of the training rows: 'a', 'b'",
        ),
        (
            lambda: data.label_ids(table(["a", None]), ["a", "b"]),
            "row 1: wanted a text or an integer as label in column 'label', got nothing; name its class",
        ),
        (
            lambda: data.label_ids(table([0.5]), ["a", "b"]),
            "row 0: wanted a text or an integer as label in column 'label', got 0.5",
        ),
        (lambda: data.label_names(table([1, None])), "row 1: wanted a text or an integer as label"),
        (
            lambda: data.label_names(table(["a", "", "b"])),
            "row 1: wanted a text .* got nothing; name its class",
        ),
        (lambda: data.label_names(table(["0", "1", " "])), "row 2: wanted a text .* got ' '"),
        (lambda: data.label_ids(table(["0", ""]), ["0", "1"]), "row 1: wanted a text .* got nothing"),
        (lambda: data.label_ids(table([5, 6]), ["1", "5"]), "row 1: label 6 .* none of the 2 classes"),
        (
            lambda: data.label_names(mixed(["1", 1])),
            "row 1: got the label 1 in column 'label' beside '1' in row 0; write all",
        ),
        (
            lambda: data.label_names(table(["a"]), "labels"),
            r"no column 'labels'; it has 'label'. Choose with label='...'",
        ),
        (lambda: rows_of(["a"], max_length=2), "max_length 2 has no room"),
        (lambda: rows_of(["a"], vocab_size=50), "row 0: id 100 is out of range"),
        (
            lambda: data.TextClassificationExamples([np.zeros(1, int)], np.zeros(2, int), 3, 4),
            "there are 1 texts but 2 labels",
        ),
        (
            lambda: data.TextClassificationExamples([np.zeros(1, int)], np.full(1, 3), 3, 4),
            "row 0: label 3 is out of range",
        ),
        (lambda: rows_of(["abc"])[0].take(np.arange(1), (4,)), "rows of up to 5 do not fit shape"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
