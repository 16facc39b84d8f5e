import hashlib
import io
import json

import datasets
import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from tfm_jax.data.columns import source_column
from tfm_jax.data.splitting import (
    SPLIT_SALT,
    content_digest,
    describe_splits,
    hold_out,
    input_hashes,
    split_at_random,
    split_by_hash,
    split_text,
)

HELD_OUT = ("validation", "test")
texts = st.lists(st.text(max_size=6), min_size=3, max_size=30, unique=True)
shares = st.just(1e-9) | st.floats(0.01, 0.2)  # the share 1e-9 takes no row


def rows_of(inputs):
    return datasets.Dataset.from_dict({"text": inputs, "label": list(range(len(inputs)))})


def split(inputs, validation=0.2, test=0.1, **options):
    """The inputs of each split."""
    parts = split_by_hash(rows_of(inputs), by=["text"], validation=validation, test=test, **options)
    return {name: list(part["text"]) for name, part in parts.items()}


def split_some(inputs, validation, test):
    """As `split`; rejects few inputs that leave nothing to train on."""
    try:
        return split(inputs, validation, test)
    except ValueError as error:
        assert "leave none for train" in str(error)
        reject()


def held_out_by_share(inputs, validation, test):
    """Inputs that the shares hold out, without those for the minimum of one per split."""
    hashes = input_hashes(rows_of(inputs), ["text"]) / 2.0**64
    return {
        "test": {x for x, h in zip(inputs, hashes, strict=True) if h < test},
        "validation": {x for x, h in zip(inputs, hashes, strict=True) if h >= 1 - validation},
    }


def test_the_hash_is_of_the_inputs_alone():
    rows = datasets.Dataset.from_dict({"a": ["x", "ü"], "b": [1, 2], "label": [0, 1]})
    expected = [
        int.from_bytes(hashlib.blake2b(json.dumps(row).encode(), digest_size=8, key=b"salt").digest(), "big")
        for row in (["x", 1], ["ü", 2])
    ]
    hashes = input_hashes(rows, ["a", "b"], "salt")
    assert hashes.dtype == np.uint64 and hashes.tolist() == expected
    # Runs depend on these: they may never change.
    assert SPLIT_SALT == "tfm_jax"
    assert input_hashes(rows, ["a"]).tolist() == [3423831450644620247, 2858075112843548611]


@given(texts, shares, shares, st.randoms())
def test_no_training_example_is_held_out_when_a_file_grows_or_is_reordered(inputs, v, t, random):
    early = split_some(inputs[: max(3, len(inputs) // 2)], v, t)
    shuffled = random.sample(inputs, len(inputs))
    late = split_some(shuffled, v, t)
    assert not set(early["train"]) & {x for name in HELD_OUT for x in late[name]}
    assert {name: set(part) for name, part in split_some(inputs, v, t).items()} == {
        name: set(part) for name, part in late.items()
    }
    order = {x: i for i, x in enumerate(shuffled)}
    for part in late.values():  # in the order of the rows
        assert part == sorted(part, key=order.get)


@given(texts, shares, shares, st.randoms())
def test_no_training_example_is_held_out_when_a_file_shrinks_while_the_shares_take_rows(inputs, v, t, random):
    full, kept = split_some(inputs, v, t), held_out_by_share(inputs, v, t)
    few = [x for x in inputs if random.random() < 0.7 or x in kept["test"] | kept["validation"]]
    if all(kept.values()) and len(few) < len(inputs) and set(few) & set(full["train"]):
        assert not set(full["train"]) & {x for name in HELD_OUT for x in split_some(few, v, t)[name]}


@given(texts, shares, shares, st.data())
def test_equal_inputs_are_in_one_split(inputs, v, t, draw):
    more = inputs + draw.draw(st.lists(st.sampled_from(inputs), max_size=10))
    once, parts = split_some(inputs, v, t), split_some(more, v, t)
    assert {name: set(part) for name, part in parts.items()} == {
        name: set(part) for name, part in once.items()
    }
    assert sorted(x for part in parts.values() for x in part) == sorted(more)


@given(texts, shares, shares, shares)
def test_a_larger_share_holds_out_the_same_and_more(inputs, a, b, t):
    small, large = (split_some(inputs, share, t) for share in sorted((a, b)))
    assert set(small["validation"]) <= set(large["validation"])
    assert small["test"] == large["test"]  # the other share moves none of them
    small, large = (split_some(inputs, t, share) for share in sorted((a, b)))
    assert set(small["test"]) <= set(large["test"])


@given(st.integers(0, 2**32), st.floats(0.01, 0.2), st.floats(0.01, 0.2))
def test_the_share_is_met_within_sampling_error(seed, v, t):
    parts = split([f"{seed} {i}" for i in range(1000)], v, t)
    for name, share in (("validation", v), ("test", t)):
        assert abs(len(parts[name]) - 1000 * share) <= 5 * (1000 * share * (1 - share)) ** 0.5


def test_no_training_example_of_5_000_rows_is_a_test_example_of_8_000():
    inputs = [f"row {i}" for i in range(8000)]
    early, late = split(inputs[:5000], 0.05, 0.05), split(inputs, 0.05, 0.05)
    assert not set(late["test"]) & set(early["train"]) and set(early["test"]) <= set(late["test"])
    permuted = [split_at_random(rows_of(inputs[:n]), validation=0.05, test=0.05) for n in (5000, 8000)]
    leaked = set(permuted[1]["test"]["text"]) & set(permuted[0]["train"]["text"])
    assert len(leaked) > 150  # as in version 0.1


def test_another_salt_holds_out_other_rows_and_a_share_of_0_none():
    inputs = [str(i) for i in range(200)]
    assert split(inputs)["test"] != split(inputs, salt="b")["test"]
    assert split(inputs, validation=0).keys() == {"train", "test"}
    assert split(inputs, 0, 0) == {"train": inputs}
    assert split(inputs, 1e-300, 1e-300).keys() == {"train", "validation", "test"}


@pytest.mark.parametrize("n", [3, 4, 7])
def test_a_small_data_set_has_one_row_per_split(n):
    inputs = [str(i) for i in range(n)]
    order = np.argsort(input_hashes(rows_of(inputs), ["text"]))
    parts = split(inputs, 1e-9, 1e-9)
    assert (parts["test"], parts["validation"]) == ([inputs[order[0]]], [inputs[order[-1]]])
    for start in range(20):
        parts = split([f"{start}-{i}" for i in range(n)], 0.05, 0.05)
        assert sum(map(len, parts.values())) == n and all(parts.values())


def test_bad_input():
    with pytest.raises(
        ValueError, match="got 2 rows with 2 different inputs, which leave none for train; wanted one for"
    ):
        split(["a", "b"])
    with pytest.raises(
        ValueError, match="4 rows with 1 different inputs, which leave none for train and validation; "
    ):
        split(["a"] * 4)
    with pytest.raises(ValueError, match="0 rows with 0 different inputs, which leave none for train"):
        split_by_hash(rows_of(["a"]).select([]), by=["text"])
    for bad in (-0.1, 1.0, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=rf"split_by_hash: got test={bad}; wanted a share, at least 0 and below 1"
        ):
            split(["a", "b", "c"], test=bad)
    with pytest.raises(
        ValueError, match=r"split_by_hash: got validation=0.5 and test=0.5; wanted less than 1 together"
    ):
        split(["a", "b", "c"], 0.5, 0.5)
    with pytest.raises(ValueError, match=r"input_hashes: got .* the columns 'text', 'label'; wanted 'prose'"):
        input_hashes(rows_of(["a"]), ["prose"])
    for by in ("text", []):
        with pytest.raises(ValueError, match=r"input_hashes: got by=.*by=\['text'\]"):
            input_hashes(rows_of(["a"]), by)
    with pytest.raises(ValueError, match="input_hashes: got a salt of 65 bytes; wanted at most 64"):
        input_hashes(rows_of(["a"]), ["text"], "x" * 65)


def test_the_hash_of_a_translation_is_that_of_its_source():
    pairs = [{"en": f"word {i}", "fr": f"mot {i}"} for i in range(40)]
    nested = datasets.Dataset.from_dict({"translation": pairs})
    flat = datasets.Dataset.from_dict({name: [pair[name] for pair in pairs] for name in ("en", "fr")})
    assert source_column(nested, "en-fr") == "translation.en" and source_column(flat, "fr-en") == "fr"
    assert source_column(flat) == "source"
    hashes = input_hashes(flat, ["en"])
    assert (input_hashes(nested, ["translation.en"]) == hashes).all()
    others = datasets.Dataset.from_dict({"translation": [{**pair, "fr": "x"} for pair in pairs]})
    assert (input_hashes(others, ["translation.en"]) == hashes).all()
    with pytest.raises(
        ValueError, match=r"got the column 'translation.de' and .*; wanted a column, or a field"
    ):
        input_hashes(nested, ["translation.de"])


def test_the_hash_of_an_image_is_that_of_the_bytes_of_its_file(tmp_path):
    pil = pytest.importorskip("PIL.Image")
    content = []
    for i in range(3):
        buffer = io.BytesIO()
        pil.fromarray(np.full((4, 5), i, np.uint8)).save(buffer, "png")
        content.append(buffer.getvalue())
        (tmp_path / f"{i}.png").write_bytes(content[i])
    as_bytes = datasets.Dataset.from_dict({"image": content})
    hashes = input_hashes(as_bytes, ["image"])
    assert len(set(hashes.tolist())) == 3
    image = datasets.Features({"image": datasets.Image()})
    files = datasets.Dataset.from_dict(
        {"image": [str(tmp_path / f"{i}.png") for i in range(3)]}, features=image
    )
    undeclared = datasets.Dataset.from_dict(
        {"image": [{"bytes": x, "path": f"a/{i}"} for i, x in enumerate(content)]}
    )
    for rows in (files, undeclared, as_bytes.cast(image)):
        assert (input_hashes(rows, ["image"]) == hashes).all()


def test_the_hash_of_an_array_is_that_of_its_numbers():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    lists = datasets.Dataset.from_dict({"image": [image.tolist(), (image + 1).tolist()]})
    features = datasets.Features({"image": datasets.Array2D((3, 4), "uint8")})
    arrays = datasets.Dataset.from_dict({"image": np.stack([image, image + 1])}, features=features)
    hashes = input_hashes(lists, ["image"])
    assert hashes[0] != hashes[1] and (input_hashes(arrays, ["image"]) == hashes).all()
    assert (input_hashes(arrays.with_format("numpy"), ["image"]) == hashes).all()


lines = st.lists(st.text("ab\n", min_size=1, max_size=9), min_size=1, max_size=12)


@given(lines, shares, shares)
def test_a_text_is_split_by_position_at_line_ends(parts_of_text, v, t):
    text = "".join(parts_of_text)
    try:
        parts = split_text(parts_of_text, validation=v, test=t)
    except ValueError as error:
        assert "wanted one for each of train, validation, test" in str(error) and len(text) < 3
        return
    joined = ["".join(parts[name]) for name in ("train", "validation", "test")]
    assert "".join(joined) == text and all(joined) and list(parts) == ["train", "validation", "test"]
    n, before = len(text), 0
    for left, share in ((2, v + t), (1, t)):
        boundary = max(3 - left, min(n - round(share * n), n - left))
        start = len("".join(joined[: 3 - left]))
        line = text.rfind("\n", 0, boundary) + 1
        if min(v, t) * n >= 1:  # no boundary moves to give each part a character
            assert start == (line if before < line and (1 - 2 * share) * n <= line else boundary)
        assert before < start <= boundary
        before = start
    assert split_text([text], validation=v, test=t).keys() == parts.keys()


@given(lines, st.text("ab\n", max_size=9), shares, shares)
def test_boundaries_only_move_forward_when_a_text_grows_at_its_end(parts_of_text, more, v, t):
    start, last = "".join(parts_of_text), [0, 0]
    for text in (start + more[:n] for n in range(len(more) + 1)):
        if len(text) > 2:
            parts = split_text([text], validation=v, test=t)
            ends = np.cumsum([len("".join(part)) for part in parts.values()])[:2]
            assert (ends >= last).all()
            last = ends


def test_each_part_of_a_short_text_has_a_character():
    assert split_text(["abc"], validation=1e-9, test=0.9) == {
        "train": ["a"],
        "validation": ["b"],
        "test": ["c"],
    }
    one_line = "a" * 49 + "\n" + "b" * 50  # both boundaries are in it
    parts = split_text([one_line], validation=0.1, test=0.3)
    assert {name: len(*part) for name, part in parts.items()} == {"train": 50, "validation": 20, "test": 30}


def test_the_random_split_is_that_of_version_0_1():
    rows = datasets.Dataset.from_dict({"n": range(20)})
    parts = split_at_random(rows, validation=0.25, test=0.1, seed=3)
    assert {name: len(part) for name, part in parts.items()} == {"test": 2, "validation": 5, "train": 13}
    order = np.random.default_rng(3).permutation(20)
    assert list(parts["test"]["n"]) == sorted(order[:2].tolist())
    assert list(parts["validation"]["n"]) == sorted(order[2:7].tolist())
    assert set(split_at_random(rows, test=0)) == {"train", "validation"}
    with pytest.raises(
        ValueError, match="split_at_random: got 20 rows, 10 of them for validation and 10 for test"
    ):
        split_at_random(rows, validation=0.5, test=0.5)
    with pytest.raises(ValueError, match="got 2 rows, 1 of them for validation and 1 for test"):
        split_at_random(rows.select([0, 1]))


def test_only_missing_splits_are_held_out():
    rows, test = rows_of([str(i) for i in range(50)]), rows_of(["a"])
    splits = hold_out({"train": rows, "test": test}, by=["text"], validation=0.2)
    assert splits["test"] is test and len(splits["train"]) + len(splits["validation"]) == 50
    assert list(splits["validation"]["text"]) == split([str(i) for i in range(50)], 0.2, 0.1)["validation"]
    assert hold_out({"train": rows}, by=[], validation=0, test=0) == {"train": rows}
    old = hold_out({"train": rows}, by=["text"], salt=None)
    assert list(old["test"]["text"]) == list(split_at_random(rows)["test"]["text"])


def test_the_digest_is_of_the_columns_and_their_order():
    rows = rows_of(["a", "b"])
    digest = content_digest(rows, ["text", "label"])
    assert len(digest) == 16 and digest == content_digest(rows_of(["a", "b"]), ["text", "label"])
    others = (rows_of(["b", "a"]), rows_of(["a"]), rows_of(["a", "c"]))
    assert len({digest, *(content_digest(x, ["text", "label"]) for x in others)}) == 4
    assert content_digest(rows, ["text"]) != digest


def test_sizes_and_shares_are_described():
    assert describe_splits({"train": 1700, "test": 300}) == "1,700 train (85.0 %), 300 test (15.0 %)"
