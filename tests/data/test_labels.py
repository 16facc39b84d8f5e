import json

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data


def label_column(values):
    return datasets.Dataset.from_dict({"label": values})


def test_labels_of_every_type_become_ids():
    table = datasets.Dataset.from_dict(
        {"text": list("abcd"), "label": ["no", "yes", "maybe", "no"], "n": [2, 0, 0, 1]}
    )
    names = data.label_names(table)
    assert names == ["maybe", "no", "yes"]
    assert data.label_ids(table, names).tolist() == [1, 2, 0, 1]
    assert data.label_names(table, "n") == ["0", "1", "2"]
    assert data.label_names(table, "n", classes=2) == ["0", "1"]
    assert data.label_ids(table, ["0", "1", "2"], "n").tolist() == [2, 0, 0, 1]
    assert data.label_ids(table, ["x", "y", "z"], "n").tolist() == [2, 0, 0, 1]  # no name is a number


def test_declared_classes_keep_their_names():
    table = datasets.Dataset.from_dict({"n": [2, 0, 0, 1]})
    names = ["x", "y", "z", "unused"]
    declared = table.cast_column("n", datasets.ClassLabel(names=names))
    assert data.label_names(declared, "n") == names
    assert data.label_ids(declared, names, "n").tolist() == [2, 0, 0, 1]
    assert data.label_names(declared, "n", classes=6) == [*names, "4", "5"]
    reordered = table.cast_column("n", datasets.ClassLabel(names=["z", "x", "y"]))
    assert data.label_ids(reordered, ["x", "y", "z"], "n").tolist() == [1, 2, 2, 0]


LABELS = st.one_of(
    st.integers(-3, 12),
    st.booleans(),
    st.sampled_from(["1", "01", "-2", "10", "3.0", "cat", "NA", "True", " 1"]),
)


@given(st.lists(LABELS, min_size=1, max_size=9))
def test_classes_are_those_that_occur_as_they_are_written(labels):
    labels = [label for label in labels if type(label) is type(labels[0])]
    written = [str(label).lower() if isinstance(label, bool) else str(label) for label in labels]
    names = data.label_names(label_column(labels))
    assert set(names) == set(written) and len(names) == len(set(names))
    if all(name.lstrip("-").isdigit() for name in names):
        assert list(map(int, names)) == sorted(map(int, names))
    else:
        assert names == sorted(names)
    assert [names[i] for i in data.label_ids(label_column(labels), names)] == written
    assert [names[i] for i in data.label_ids(label_column(written), names)] == written, "a column of texts"


def test_whole_numbers_are_sorted_by_value():
    for labels in ([10, 9, -1], ["9", "10", "-1"]):
        assert data.label_names(label_column(labels)) == ["-1", "9", "10"]
    assert data.label_names(label_column(["10", "9", "x"])) == ["10", "9", "x"]


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
    ("labels", "names", "message"),
    [
        ([0, 1, 5], ["a", "b"], "got label 5 in row 2; wanted 0 <= label < 2"),
        ([0, -1], ["a", "b"], "got label -1 in row 1"),
        (["a", "c"], ["a", "b"], "got 'c' in row 1 of .* wanted one of the 2 classes of the .*: 'a', 'b'"),
        (["a", None], ["a", "b"], "got nothing in row 1 of column 'label'; wanted a text or an integer"),
        ([0.5], ["a", "b"], "got 0.5 in row 0 of column 'label'; wanted a text or an integer"),
        (["0", ""], ["0", "1"], "got nothing in row 1"),
        ([5, 6], ["1", "5"], "got '6' in row 1 .* wanted one of the 2 classes"),
    ],
)
def test_labels_that_are_no_class_are_named(labels, names, message):
    with pytest.raises(ValueError, match="^label_ids: " + message):
        data.label_ids(label_column(labels), names)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (label_column([1, None]), "got nothing in row 1 .*; wanted a text or an integer as label"),
        (label_column(["a", "", "b"]), "got nothing in row 1 .* Name its class"),
        (label_column(["0", "1", " "]), "got ' ' in row 2"),
        (mixed(["1", 1]), "got 1 in row 1 of column 'label' and '1' in row 0; wanted labels of one type"),
        (
            datasets.Dataset.from_dict({"labels": ["a"]}),
            r"got .* the columns 'labels'; wanted 'label'. Choose with label='...'",
        ),
    ],
)
def test_labels_that_have_no_name_are_errors(dataset, message):
    with pytest.raises(ValueError, match="^label_names: " + message):
        data.label_names(dataset)


def test_tags_of_every_kind_become_ids():
    table = datasets.Dataset.from_dict(
        {"tags": [["O", "B"], ["B"]], "text": ["O B", "B"], "ids": [[1, 0], [0]], "bad": [["O", ""], ["B"]]}
    )
    for column in ("tags", "text"):
        assert data.tag_names(table, column) == ["B", "O"]
        assert [ids.tolist() for ids in data.tag_ids(table, ["B", "O"], column)] == [[1, 0], [0]]
    declared = table.cast_column("ids", datasets.Sequence(datasets.ClassLabel(names=["x", "y", "unused"])))
    assert data.tag_names(declared, "ids") == ["x", "y", "unused"]
    assert [ids.tolist() for ids in data.tag_ids(declared, ["y", "x"], "ids")] == [[0, 1], [1]]
    with pytest.raises(ValueError, match="tag_ids: got 'B' in row 0, token 1, of column 'tags'; wanted one"):
        data.tag_ids(table, ["O"])
    rows = mixed([["1"], [1]])
    with pytest.raises(
        ValueError, match=r"tag_names: got 1 in row 1, token 0, of .* and '1' in row 0, token 0; "
    ):
        data.tag_names(rows, "label")
    with pytest.raises(ValueError, match="tag_names: got nothing in row 0, token 1, of column 'bad'"):
        data.tag_names(table, "bad")
    with pytest.raises(ValueError, match="tag_names: got 3 in row 0 of column 'n'; wanted the tags"):
        data.tag_names(datasets.Dataset.from_dict({"n": [3]}), "n")
