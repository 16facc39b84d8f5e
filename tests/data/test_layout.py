"""The rule of splits and classes, and a second implementation of it that walks a tree instead of paths."""

from collections import Counter
from pathlib import PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm_jax.data import _layout
from tfm_jax.data._open import COMPRESSED

TRAIN, VALIDATION, TEST = "train", "validation", "test"
NAMED = {
    "train": TRAIN, "training": TRAIN, "valid": VALIDATION, "validation": VALIDATION, "val": VALIDATION,
    "dev": VALIDATION, "eval": VALIDATION, "test": TEST, "testing": TEST,
}  # fmt: skip
DIRECTORIES = ["bus", "car", "data", "train", "TEST", "Dev", "Training", "test-corpus", "contest"]
STEMS = {  # with the split that each names
    "a": None, "train": TRAIN, "corpus.Test": TEST, "dev_set": VALIDATION, "train-00000-of-00002": TRAIN,
    "en-test-00001-of-00002-0f3a": TEST, "retrained": None, "a test of time": None, "photo of a train": TRAIN,
    "VAL2017": VALIDATION, "00-testing": TEST, "eval": VALIDATION, "trainer": None, "1.2": None,
}  # fmt: skip
AMBIGUOUS = "ambiguous"


@st.composite
def trees(draw, depth=3):
    """Directories as dicts; files, without their suffix, as None."""
    tree = dict.fromkeys(draw(st.lists(st.sampled_from(sorted(STEMS)), max_size=2)))
    if depth:
        names = draw(st.lists(st.sampled_from(DIRECTORIES), max_size=3, unique=True))
        tree |= {name: inner for name in names if (inner := draw(trees(depth - 1)))}
    return tree


def leaves(tree, above=()):
    for name, inner in tree.items():
        yield from leaves(inner, (*above, name)) if inner else [(*above, name)]


def split_of(directory):
    return NAMED.get(directory.lower())


def expected_splits(tree, images):
    """The split of each leaf by the rule, or AMBIGUOUS."""
    inner = {name: part for name, part in tree.items() if part}
    if len(tree) == 1 and inner:
        ((name, part),) = inner.items()
        if not split_of(name):
            inside = expected_splits(part, images)
            return inside if inside == AMBIGUOUS else {(name, *path): split for path, split in inside.items()}
    files = {leaf: (not images and STEMS[leaf[-1]]) or TRAIN for leaf in leaves(tree)}
    splits = [name for name in inner if split_of(name)]
    if len(splits) == len(inner):
        return {leaf: split_of(leaf[0]) if len(leaf) > 1 else split for leaf, split in files.items()}
    if splits:
        flat = all(not any(part.values()) for part in inner.values())
        return files if images and flat else AMBIGUOUS
    return AMBIGUOUS if any(holds_splits(part) for part in inner.values()) else files


def holds_splits(tree):
    """Whether a directory, or one further down, holds several splits and nothing else."""
    inner = {name: part for name, part in tree.items() if part}
    several = len({split_of(name) for name in inner}) > 1 and all(map(split_of, inner))
    return several or any(map(holds_splits, inner.values()))


def assigned(tree, images, splits=None):
    """The split of each leaf by `assign_splits`, or AMBIGUOUS."""
    suffix = ".png" if images else ".jsonl.gz"
    files = {PurePath(*leaf[:-1], leaf[-1] + suffix): leaf for leaf in leaves(tree)}
    try:
        assignments = _layout.assign_splits(list(files), images=images, splits=splits)
    except ValueError as error:
        assert "--data.splits" in str(error) and "\n" not in str(error)
        return AMBIGUOUS
    return {files[file]: assignment.split for file, assignment in assignments.items()}


@settings(max_examples=300)
@given(trees().filter(bool), st.booleans())
def test_the_rule(tree, images):
    assert assigned(tree, images) == expected_splits(tree, images)


def first_split(leaf):
    return next((split for name in leaf[:-1] if (split := split_of(name))), TRAIN)


@given(trees().filter(bool), st.booleans())
def test_declared_splits_are_never_ambiguous(tree, images):
    assert assigned(tree, images, "directories") == {leaf: first_split(leaf) for leaf in leaves(tree)}
    assert assigned(tree, images, "files") == {leaf: STEMS[leaf[-1]] or TRAIN for leaf in leaves(tree)}
    assert assigned(tree, images, "none") == dict.fromkeys(leaves(tree), TRAIN)


@given(trees().filter(bool), st.sampled_from(DIRECTORIES), st.booleans())
def test_below_the_directory_of_a_split_it_alone_decides(tree, name, images):
    others = {"test": {"a": None}, "train": {"a": None}}
    splits = assigned({**others, name: tree}, images)
    if split_of(name):
        assert {splits[(name, *leaf)] for leaf in leaves(tree)} == {split_of(name)}
    else:
        assert splits == AMBIGUOUS or (images and not any(tree.values()))


@given(trees().filter(bool), st.booleans())
def test_a_directory_around_everything_changes_nothing(tree, images):
    splits, nested = assigned(tree, images), assigned({"data": {"my corpus": tree}}, images)
    if splits != AMBIGUOUS:
        splits = {("data", "my corpus", *leaf): split for leaf, split in splits.items()}
    assert nested == splits


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["bus/1.png", "car/2.png", "train/3.png", "truck/4.png"], {TRAIN: 4}),
        (["train/bus/1.png", "train/test/2.png", "test/train/3.png", "Val/bus/4.png"],
         {TRAIN: 2, TEST: 1, VALIDATION: 1}),
        (["cat/photo of a train.png", "cat/test.png", "dog/1.png"], {TRAIN: 3}),
        (["data/train/bus/1.png", "data/test/bus/2.png"], {TRAIN: 1, TEST: 1}),
        (["test/bus/1.png", "test/car/2.png"], {TEST: 2}),
        (["test/train.jsonl", "train/test.jsonl"], {TRAIN: 1, TEST: 1}),
        (["train.jsonl", "corpus.test.tsv", "TEST/a.csv", "b.csv"], {TRAIN: 2, TEST: 2}),
        (["data/train-0-of-2.parquet", "data/train-1-of-2.parquet", "data/test-0-of-1.parquet"],
         {TRAIN: 2, TEST: 1}),
        (["en/a.txt", "fr/b/test.txt", "de/dev/c.txt"], {TRAIN: 2, TEST: 1}),
    ],
)  # fmt: skip
def test_examples_of_the_rule(files, splits):
    assignments = _layout.assign_splits([*map(PurePath, files)], images=files[0].endswith("png"))
    assert Counter(assignment.split for assignment in assignments.values()) == splits


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/bus/1.png", "test/bus/2.png", "extra/3.png"],
         "'test', 'train' have the names of splits, 'extra' have not; wanted all or none"),
        (["train/1.png", "bus/red/2.png"], "'train' have the names of splits, 'bus' have not"),
        (["train/a.txt", "test/b.txt", "extra/c.txt"], "'test', 'train' have the names of splits"),
        (["en/train/a.txt", "en/test/b.txt", "fr/train/c.txt"],
         "'en' with 'test', 'train', the names of splits"),
        (["train-or-test.txt"], "'train-or-test.txt', which begins with one split's name and ends with"),
    ],
)  # fmt: skip
def test_an_ambiguous_layout_is_an_error_with_a_fix(files, message):
    paths, images = [*map(PurePath, files)], files[0].endswith("png")
    with pytest.raises(ValueError, match=f"{message}.*'directories'.*'none'") as error:
        _layout.assign_splits(paths, images=images)
    for splits in ("directories", "files", "none"):
        if repr(splits) in str(error.value):
            _layout.assign_splits(paths, images=images, splits=splits)


def labels(*files, splits=None):
    names = _layout.class_names(_layout.assign_splits([*map(PurePath, files)], images=True, splits=splits))
    return names and list(names.values())


def test_classes_are_the_directories_of_images():
    assert labels("bus/1.png", "car/2.png", "train/3.png") == ["bus", "car", "train"]
    assert labels("data/bus/1.png", "data/car/2.png") == ["bus", "car"]
    assert labels("train/bus/1.png", "test/car/2.png") == ["bus", "car"]
    assert labels("train/test/1.png", "test/train/2.png") == ["test", "train"]
    assert labels("train/1.png", "test/2.png", "dev/3.png", splits="none") == ["train", "test", "dev"]


@pytest.mark.parametrize(
    "files",
    [
        ("1.png", "2.png"),
        ("cat/1.png", "cat/2.png"),
        ("cat/1.png", "dog/old/2.png"),
        ("train/1.png", "test/2.png"),
        ("train/cat/1.png", "test/cat/1.png"),
    ],
)
def test_images_without_classes(files):
    assert labels(*files) is None


@given(
    st.sampled_from(sorted(_layout.KINDS)),
    st.sampled_from(["", *COMPRESSED]),
    st.sampled_from(sorted(STEMS)),
)
def test_the_kind_of_a_file_is_that_of_its_suffix(suffix, compressed, stem):
    assert (
        _layout.kind_of(stem + suffix + compressed)
        == _layout.kind_of((stem + suffix).upper())
        == _layout.KINDS[suffix]
    )
    assert _layout.kind_of(stem + compressed) is None


def test_unknown_splits():
    with pytest.raises(
        ValueError, match="load: got splits='folders'; wanted 'directories', 'files', 'none' or None"
    ):
        _layout.check_splits("folders")
