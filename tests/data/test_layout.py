"""The rule of splits and classes, beside a second statement of it that walks a tree instead of paths."""

from pathlib import PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm_jax.data import _layout as layout
from tfm_jax.data._open import PACKED

TRAIN, VALIDATION, TEST = "train", "validation", "test"
NAMED = {
    "train": TRAIN, "training": TRAIN, "valid": VALIDATION, "validation": VALIDATION, "val": VALIDATION,
    "dev": VALIDATION, "eval": VALIDATION, "test": TEST, "testing": TEST,
}  # fmt: skip
DIRECTORIES = ["bus", "car", "data", "train", "TEST", "Dev", "Training", "test-corpus", "contest"]
STEMS = {  # and the split that each names
    "a": None, "train": TRAIN, "corpus.Test": TEST, "dev_set": VALIDATION, "train-00000-of-00002": TRAIN,
    "en-test-00001-of-00002-0f3a": TEST, "retrained": None, "a test of time": None, "photo of a train": TRAIN,
    "VAL2017": VALIDATION, "00-testing": TEST, "eval": VALIDATION, "trainer": None, "1.2": None,
}  # fmt: skip
AMBIGUOUS = "ambiguous"


@st.composite
def trees(draw, depth=3):
    """Directories as dicts; a file's name without a suffix as None."""
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


def oracle(tree, pictures):
    """The split of each leaf by the rule; or AMBIGUOUS."""
    inner = {name: part for name, part in tree.items() if part}
    if len(tree) == 1 and inner:
        ((name, part),) = inner.items()
        if not split_of(name):
            found = oracle(part, pictures)
            return found if found == AMBIGUOUS else {(name, *path): split for path, split in found.items()}
    files = {leaf: (not pictures and STEMS[leaf[-1]]) or TRAIN for leaf in leaves(tree)}
    splits = [name for name in inner if split_of(name)]
    if len(splits) == len(inner):
        return {leaf: split_of(leaf[0]) if len(leaf) > 1 else split for leaf, split in files.items()}
    if splits:
        flat = all(not any(part.values()) for part in inner.values())
        return files if pictures and flat else AMBIGUOUS
    return AMBIGUOUS if any(holds_splits(part) for part in inner.values()) else files


def holds_splits(tree):
    """Whether a directory, or one further down, holds directories that are several splits and no other."""
    inner = {name: part for name, part in tree.items() if part}
    several = len({split_of(name) for name in inner}) > 1 and all(map(split_of, inner))
    return several or any(map(holds_splits, inner.values()))


def assigned(tree, pictures, splits=None):
    """The split of each leaf as the library has it; or AMBIGUOUS."""
    suffix = ".png" if pictures else ".jsonl.gz"
    files = {PurePath(*leaf[:-1], leaf[-1] + suffix): leaf for leaf in leaves(tree)}
    try:
        places = layout.assign_splits(list(files), pictures=pictures, splits=splits)
    except ValueError as error:
        assert "--data.splits" in str(error) and "\n" not in str(error)
        return AMBIGUOUS
    return {files[file]: place.split for file, place in places.items()}


@settings(max_examples=300)
@given(trees().filter(bool), st.booleans())
def test_the_rule(tree, pictures):
    assert assigned(tree, pictures) == oracle(tree, pictures)


@given(trees().filter(bool), st.booleans())
def test_what_the_user_declares_is_never_ambiguous(tree, pictures):
    first = lambda leaf: next((split for name in leaf[:-1] if (split := split_of(name))), TRAIN)
    assert assigned(tree, pictures, "directories") == {leaf: first(leaf) for leaf in leaves(tree)}
    assert assigned(tree, pictures, "files") == {leaf: STEMS[leaf[-1]] or TRAIN for leaf in leaves(tree)}
    assert assigned(tree, pictures, "none") == dict.fromkeys(leaves(tree), TRAIN)


@given(trees().filter(bool), st.sampled_from(DIRECTORIES), st.booleans())
def test_below_the_directory_of_a_split_it_alone_decides(tree, name, pictures):
    beside = {"test": {"a": None}, "train": {"a": None}}
    found = assigned({**beside, name: tree}, pictures)
    if split_of(name):
        assert {found[(name, *leaf)] for leaf in leaves(tree)} == {split_of(name)}
    else:
        assert found == AMBIGUOUS or (pictures and not any(tree.values()))


@given(trees().filter(bool), st.booleans())
def test_a_directory_around_everything_changes_nothing(tree, pictures):
    found, around = assigned(tree, pictures), assigned({"data": {"my corpus": tree}}, pictures)
    assert around == (
        found
        if found == AMBIGUOUS
        else {("data", "my corpus", *leaf): split for leaf, split in found.items()}
    )


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
def test_cases(files, splits):
    places = layout.assign_splits([*map(PurePath, files)], pictures=files[0].endswith("png"))
    found = [place.split for place in places.values()]
    assert {split: found.count(split) for split in found} == splits


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/bus/1.png", "test/bus/2.png", "extra/3.png"],
         "'test', 'train' have the names of splits, 'extra' have not; wanted all or none"),
        (["train/1.png", "bus/red/2.png"], "'train' have the names of splits, 'bus' have not"),
        (["train/a.txt", "test/b.txt", "extra/c.txt"], "'test', 'train' have the names of splits"),
        (["en/train/a.txt", "en/test/b.txt", "fr/train/c.txt"],
         "'en' holds 'test', 'train', the names of splits"),
        (["train-or-test.txt"], "'train-or-test.txt' begins with one split's name and ends with another's"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_an_error_with_a_way_out(files, message):
    paths, pictures = [*map(PurePath, files)], files[0].endswith("png")
    with pytest.raises(ValueError, match=f"{message}.*'directories'.*'none'") as error:
        layout.assign_splits(paths, pictures=pictures)
    for splits in ("directories", "files", "none"):
        if repr(splits) in str(error.value):
            layout.assign_splits(paths, pictures=pictures, splits=splits)


def labels(*files, splits=None):
    places = layout.assign_splits([*map(PurePath, files)], pictures=True, splits=splits)
    found = layout.class_names(places)
    return found and list(found.values())


def test_classes_are_the_directories_of_pictures():
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
def test_pictures_without_classes(files):
    assert labels(*files) is None


@given(
    st.sampled_from(sorted(layout.KINDS)),
    st.sampled_from(["", *PACKED]),
    st.sampled_from(sorted(STEMS)),
)
def test_the_kind_of_a_file_is_that_of_its_suffix(suffix, packed, stem):
    assert (
        layout.kind_of(stem + suffix + packed)
        == layout.kind_of((stem + suffix).upper())
        == layout.KINDS[suffix]
    )
    assert layout.kind_of(stem + packed) is None


def test_splits_that_nobody_knows():
    with pytest.raises(
        ValueError, match="splits: got 'folders'; wanted 'directories', 'files', 'none' or None"
    ):
        layout.check_splits("folders")
