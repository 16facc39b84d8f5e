import pytest

from experiments.classes import align_classes


def labels(**splits):
    """One label per example, a letter."""
    return {split: [[name] for name in names] for split, names in splits.items()}


def test_classes_of_all_splits_are_kept(capsys):
    found = align_classes("x", ["b", "a"], labels(train="ab", test="b", validation="a"), drop=False)
    assert found == (["b", "a"], {"train": [0, 1], "test": [0], "validation": [0]})
    assert not capsys.readouterr().out


def test_missing_classes_are_named_with_their_counts():
    splits = labels(train="aab", validation="ca", test="dccb")
    with pytest.raises(
        ValueError, match=r"example: 'c' \(1 in validation, 2 in test\), 'd' \(1 in test\); wanted"
    ):
        align_classes("x", ["a", "b", "c"], splits, drop=False)
    with pytest.raises(
        ValueError, match="'d'"
    ):  # a class of a file alone was an error in older versions, too
        align_classes("x", ["a", "b", "c"], splits, drop=False, resumes=True)


def test_dropped_examples_are_counted(capsys):
    splits = {"train": [["a", "b"], ["b"]], "test": [["a", "c"], ["a"], ["b"]]}
    found = align_classes("x", ["a", "c", "b"], splits, drop=True)
    assert found == (["a", "b"], {"train": [0, 1], "test": [1, 2]})
    assert capsys.readouterr().out == (
        "x: dropped 1 of 3 test examples of missing classes: 'c' (1 in test)\n"
    )
    with pytest.raises(
        ValueError, match=r"got --data.drop-missing-classes and no example .* in test; wanted"
    ):
        align_classes("x", ["a", "b"], labels(train="ab", test="cc"), drop=True)


def test_labels_that_are_no_class_are_named_or_dropped(capsys):
    """Such as the -1 of an example without a label, which data sets of the hub have."""
    splits = labels(train=["a", "-1", "b", "-1"], test=["-1", "b"])
    with pytest.raises(ValueError, match=r"none of the 2 classes .*: '-1' \(2 in train, 1 in test\); wanted"):
        align_classes("x", ["a", "b"], splits, drop=False, resumes=True)
    found = align_classes("x", ["a", "b"], splits, drop=True)
    assert found == (["a", "b"], {"train": [0, 2], "test": [1]})
    assert (
        "x: dropped 2 of 4 train, 1 of 2 test examples of missing classes: '-1' (2 in train"
        in capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="got training examples of one class, 'a'"):
        align_classes("x", ["a"], labels(train=["a", "-1"], test="a"), drop=True)


def test_run_of_an_older_version_resumes(capsys):
    splits = labels(train="ab", test="abc")
    assert align_classes("x", ["a", "b", "c"], splits, drop=False, resumes=True).names == ["a", "b", "c"]
    assert "x: classes without a training example: 'c' (1 in test)" in capsys.readouterr().out
    assert align_classes("x", ["a", "b", "c"], splits, drop=True, resumes=True).names == ["a", "b"]


def test_untested_and_unused_classes_are_printed(capsys):
    align_classes("x", ["a", "b", "never"], labels(train="abb", test="a"), drop=False)
    out = capsys.readouterr().out
    assert "x: classes that only training examples have: 'b' (2 in train)" in out
    assert "x: classes without an example: 'never'" in out


def test_one_class_raises():
    with pytest.raises(ValueError, match="got training examples of one class, 'a'; wanted two or more"):
        align_classes("x", ["a", "b"], labels(train="aa", test="b"), drop=True)
