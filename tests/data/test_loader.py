import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data

LENGTHS = np.array([3, 1, 7, 2, 2, 6, 1, 5, 4, 7, 1])


class Plain:
    """Rows whose content is their number, from 1 on (a row that fills up is 0)."""

    fingerprint = 77

    def __len__(self):
        return len(LENGTHS)

    def take(self, indices, shape=None):
        return {"x": np.asarray(indices) + 1, "weight": np.ones(len(indices), np.float32)}


def batching(kind, size, seed):
    if kind == "uniform":
        return data.UniformBatches(len(LENGTHS), size, seed)
    return data.BucketBatches(LENGTHS, [(3,), (7,)], size, seed)


def first(iterator, n):
    return [batch["x"].tolist() for batch in itertools.islice(iterator, n)]


KINDS = st.sampled_from(["uniform", "buckets"])
SIZES = st.sampled_from([2, 4, 16])


@given(KINDS, SIZES, st.integers(0, 3), st.sampled_from([0, 1, 2, 3]))
def test_the_same_batches_whatever_the_threads(kind, size, seed, threads):
    plain = first(iter(data.Loader(Plain(), batching(kind, size, seed), threads=0)), 20)
    assert first(iter(data.Loader(Plain(), batching(kind, size, seed), threads=threads)), 20) == plain
    assert first(iter(data.Loader(Plain(), batching(kind, size, seed + 1), threads=0)), 20) != plain


@given(KINDS, SIZES, st.sampled_from([None, 5]), st.integers(0, 12), st.booleans())
def test_stopping_anywhere_and_resuming_gives_the_rest(kind, size, seed, stop, moved):
    whole = first(iter(data.Loader(Plain(), batching(kind, size, seed))), 30)
    iterator = iter(data.Loader(Plain(), batching(kind, size, seed)))
    assert first(iterator, stop) == whole[:stop]
    state = json.loads(json.dumps(iterator.get_state()))
    resumed = iter(data.Loader(Plain(), batching(kind, size, seed)))
    if moved:
        first(resumed, 3)
    resumed.set_state(state)
    assert first(resumed, 30 - stop) == whole[stop:]
    assert resumed.get_state()["next_batch"] == len(whole)


@given(KINDS, SIZES, st.sampled_from([1, 2]), st.sampled_from([None, 3]))
def test_the_parts_of_the_processes_are_the_batch_of_one(kind, size, world, seed):
    whole = first(iter(data.Loader(Plain(), batching(kind, size, seed))), 12)
    parts = [
        first(iter(data.Loader(Plain(), batching(kind, size, seed), rank=rank, world=world)), 12)
        for rank in range(world)
    ]
    assert [[*itertools.chain(*rows)] for rows in zip(*parts, strict=True)] == whole


@given(SIZES, st.integers(0, 5))
def test_uniform_batches_hold_every_row_once_an_epoch(size, seed):
    batches = data.UniformBatches(11, size, seed)
    stream = np.concatenate([batches[i][0] for i in range(40)])
    for epoch in range(len(stream) // 11):
        assert sorted(stream[epoch * 11 : (epoch + 1) * 11]) == list(range(11))
    assert stream[:11].tolist() != stream[11:22].tolist(), "shuffled anew"
    assert batches.per_epoch == -(-11 // size)


@given(KINDS, SIZES)
def test_evaluation_is_finite_and_fills_up_with_weight_zero(kind, size):
    loader = data.Loader(Plain(), batching(kind, size, None))
    batches = list(loader)
    assert len(batches) == loader.per_epoch
    rows = np.concatenate([batch["row"] for batch in batches])
    values, weights = (np.concatenate([batch[name] for batch in batches]) for name in ("x", "weight"))
    assert {len(batch["x"]) for batch in batches} == {size}
    assert rows.dtype == np.int32 and sorted(rows[rows >= 0]) == list(range(len(LENGTHS)))
    assert (values == rows + 1).all() and (weights == (rows >= 0)).all()
    if kind == "uniform":
        assert (np.diff(rows[rows >= 0]) == 1).all(), "in order"
    assert [batch["x"].tolist() for batch in loader] == [batch["x"].tolist() for batch in batches], "again"


def test_training_batches_have_no_row_numbers():
    assert set(next(iter(data.Loader(Plain(), batching("buckets", 4, 0))))) == {"x", "weight"}


def test_the_state_is_small():
    iterator = iter(data.Loader(Plain(), batching("buckets", 4, 0)))
    first(iterator, 7)
    assert iterator.get_state() == {
        "next_batch": 7,
        "rows": [6, 5],
        "shapes": [[3], [7]],
        "batch_sizes": [4, 4],
        "seed": 0,
        "fingerprint": 77,
    }


@pytest.mark.parametrize("other", [("uniform", 4, 1), ("uniform", 2, 0), ("buckets", 4, 0)])
def test_a_state_of_other_batches_is_an_error(other):
    state = iter(data.Loader(Plain(), batching("uniform", 4, 0))).get_state()
    with pytest.raises(ValueError, match="the saved state belongs to batches made with"):
        iter(data.Loader(Plain(), batching(*other))).set_state(state)


def test_an_error_in_a_row_reaches_the_reader():
    class Violation(Plain):
        def take(self, indices, shape=None):
            raise ValueError("row 3: broken")

    with pytest.raises(ValueError, match="row 3: broken"):
        next(iter(data.Loader(Violation(), batching("uniform", 4, 0))))


def test_bad_input():
    with pytest.raises(ValueError, match="made for 12 rows, but there are 11"):
        data.Loader(Plain(), data.UniformBatches(12, 4))
    with pytest.raises(ValueError, match="batch size 4 does not divide into world=3"):
        data.Loader(Plain(), batching("uniform", 4, 0), world=3)
    with pytest.raises(ValueError, match="rank 2 is not one of 0 to 1"):
        data.Loader(Plain(), batching("uniform", 4, 0), rank=2, world=2)
    with pytest.raises(ValueError, match="no rows"):
        data.UniformBatches(0, 4)
    with pytest.raises(ValueError, match="UniformBatches: got batch_size=0; wanted an integer from 1 to"):
        data.UniformBatches(4, 0)
    with pytest.raises(ValueError, match="UniformBatches: got batch_size=nan"):
        data.UniformBatches(4, float("nan"))
    with pytest.raises(ValueError, match=r"UniformBatches: got seed=0.5"):
        data.UniformBatches(4, 2, 0.5)
    with pytest.raises(ValueError, match="Loader: got threads=-1"):
        data.Loader(Plain(), batching("uniform", 4, 0), threads=-1)


def image_rows(pixel=0, label=0):
    images = np.zeros((3, 2, 2, 1), np.uint8)
    images[1, 1, 1] = pixel
    return data.ImageRows(images, np.array([0, label, 1]), 2)


def text_rows(one="ab", two="cd"):
    return data.translation_rows(["x", one, "y"], ["1", two, "2"], data.ByteTokenizer())


def packed_rows(*documents):
    return data.PackedRows([[1, 5, 6, 2], *documents], 4, 9)


@pytest.mark.parametrize(
    ("make", "same", "others"),
    [
        (image_rows, (0, 0), [(1, 0), (0, 1)]),
        (text_rows, ("ab", "cd"), [("ac", "cd"), ("ab", "ce"), ("abc", "d")]),
        (packed_rows, ([1, 7, 2],), [([1, 8, 2],), ([7, 1, 2],), ([1, 7], [2, 2])]),
    ],
)
def test_a_state_of_other_data_of_the_same_size_is_an_error(make, same, others):
    iterate = lambda rows: iter(data.Loader(rows, data.UniformBatches(2, 2, 0)))
    cut = lambda rows: rows if len(rows) == 2 else Part(rows)

    class Part:
        """The first two of some rows."""

        def __init__(self, rows):
            self.take, self.fingerprint = rows.take, rows.fingerprint

        def __len__(self):
            return 2

    state = json.loads(json.dumps(iterate(cut(make(*same))).get_state()))
    iterate(cut(make(*same))).set_state(state)
    for other in others:
        with pytest.raises(ValueError, match="the saved state belongs to batches made with"):
            iterate(cut(make(*other))).set_state(state)
