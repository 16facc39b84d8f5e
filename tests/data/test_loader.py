import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data

LENGTHS = np.array([3, 1, 7, 2, 2, 6, 1, 5, 4, 7, 1])


class Numbers:
    """Examples whose content is their number, from 1 on (padding is 0)."""

    fingerprint = 77

    def __len__(self):
        return len(LENGTHS)

    def take(self, indices, shape=None):
        return {"x": np.asarray(indices) + 1, "weights": np.ones(len(indices), np.float32)}


def sampler_of(kind, size, seed):
    if kind == "uniform":
        return data.UniformBatchSampler(len(LENGTHS), size, seed)
    return data.BucketBatchSampler(LENGTHS, [(3,), (7,)], size, seed)


def first(iterator, n):
    return [batch["x"].tolist() for batch in itertools.islice(iterator, n)]


KINDS = st.sampled_from(["uniform", "buckets"])
SIZES = st.sampled_from([2, 4, 16])


@given(KINDS, SIZES, st.integers(0, 3), st.sampled_from([0, 1, 2, 3]))
def test_batches_do_not_depend_on_the_number_of_threads(kind, size, seed, threads):
    expected = first(iter(data.Loader(Numbers(), sampler_of(kind, size, seed), threads=0)), 20)
    assert first(iter(data.Loader(Numbers(), sampler_of(kind, size, seed), threads=threads)), 20) == expected
    assert first(iter(data.Loader(Numbers(), sampler_of(kind, size, seed + 1), threads=0)), 20) != expected


@given(KINDS, SIZES, st.sampled_from([None, 5]), st.integers(0, 12), st.booleans())
def test_resuming_anywhere_gives_the_remaining_batches(kind, size, seed, stop, moved):
    expected = first(iter(data.Loader(Numbers(), sampler_of(kind, size, seed))), 30)
    iterator = iter(data.Loader(Numbers(), sampler_of(kind, size, seed)))
    assert first(iterator, stop) == expected[:stop]
    state = json.loads(json.dumps(iterator.get_state()))
    resumed = iter(data.Loader(Numbers(), sampler_of(kind, size, seed)))
    if moved:
        first(resumed, 3)
    resumed.set_state(state)
    assert first(resumed, 30 - stop) == expected[stop:]
    assert resumed.get_state()["next_batch"] == len(expected)


@given(KINDS, SIZES, st.sampled_from([1, 2]), st.sampled_from([None, 3]))
def test_the_parts_of_all_processes_are_the_batch_of_one_process(kind, size, world, seed):
    expected = first(iter(data.Loader(Numbers(), sampler_of(kind, size, seed))), 12)
    parts = [
        first(iter(data.Loader(Numbers(), sampler_of(kind, size, seed), rank=rank, world=world)), 12)
        for rank in range(world)
    ]
    assert [[*itertools.chain(*batch)] for batch in zip(*parts, strict=True)] == expected


@given(SIZES, st.integers(0, 5))
def test_uniform_batches_hold_every_example_once_per_epoch(size, seed):
    sampler = data.UniformBatchSampler(11, size, seed)
    stream = np.concatenate([sampler[i][0] for i in range(40)])
    for epoch in range(len(stream) // 11):
        assert sorted(stream[epoch * 11 : (epoch + 1) * 11]) == list(range(11))
    assert stream[:11].tolist() != stream[11:22].tolist(), "shuffled anew"
    assert sampler.per_epoch == -(-11 // size)


@given(KINDS, SIZES)
def test_evaluation_is_one_epoch_padded_with_weight_zero(kind, size):
    loader = data.Loader(Numbers(), sampler_of(kind, size, None))
    batches = list(loader)
    assert len(batches) == loader.per_epoch
    index = np.concatenate([batch["index"] for batch in batches])
    values, weights = (np.concatenate([batch[name] for batch in batches]) for name in ("x", "weights"))
    assert {len(batch["x"]) for batch in batches} == {size}
    assert index.dtype == np.int32 and sorted(index[index >= 0]) == list(range(len(LENGTHS)))
    assert (values == index + 1).all() and (weights == (index >= 0)).all()
    if kind == "uniform":
        assert (np.diff(index[index >= 0]) == 1).all(), "in order"
    assert [batch["x"].tolist() for batch in loader] == [batch["x"].tolist() for batch in batches], "again"


def test_training_batches_have_no_index():
    assert set(next(iter(data.Loader(Numbers(), sampler_of("buckets", 4, 0))))) == {"x", "weights"}


def test_the_state_is_small():
    iterator = iter(data.Loader(Numbers(), sampler_of("buckets", 4, 0)))
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
    state = iter(data.Loader(Numbers(), sampler_of("uniform", 4, 0))).get_state()
    with pytest.raises(ValueError, match="Loader: got a saved state of batches made with"):
        iter(data.Loader(Numbers(), sampler_of(*other))).set_state(state)


def test_an_error_of_the_examples_is_raised_by_the_iterator():
    class Broken(Numbers):
        def take(self, indices, shape=None):
            raise ValueError("row 3: broken")

    with pytest.raises(ValueError, match="row 3: broken"):
        next(iter(data.Loader(Broken(), sampler_of("uniform", 4, 0))))


def test_padding_that_cannot_be_zeroed_is_an_error():
    class Lists(Numbers):
        def take(self, indices, shape=None):
            return {**super().take(indices), "names": ["a"] * len(indices)}

    batches = iter(data.Loader(Lists(), sampler_of("uniform", 4, None)))  # 4, 4 and 3 examples
    assert [next(batches)["names"], next(batches)["names"]] == [["a"] * 4] * 2
    with pytest.raises(ValueError, match=r"Loader: got batch\['names'\] of list .*; wanted a NumPy"):
        next(batches)


def test_bad_input():
    with pytest.raises(ValueError, match="Loader: got 11 examples and a sampler for 12"):
        data.Loader(Numbers(), data.UniformBatchSampler(12, 4))
    with pytest.raises(ValueError, match="Loader: got batch size 4 and world=3"):
        data.Loader(Numbers(), sampler_of("uniform", 4, 0), world=3)
    with pytest.raises(ValueError, match="Loader: got rank=2; wanted 0 to 1"):
        data.Loader(Numbers(), sampler_of("uniform", 4, 0), rank=2, world=2)
    with pytest.raises(ValueError, match="UniformBatchSampler: got no examples"):
        data.UniformBatchSampler(0, 4)
    with pytest.raises(ValueError, match="UniformBatchSampler: got batch_size=0; wanted an integer"):
        data.UniformBatchSampler(4, 0)
    with pytest.raises(ValueError, match="UniformBatchSampler: got batch_size=nan"):
        data.UniformBatchSampler(4, float("nan"))
    with pytest.raises(ValueError, match=r"UniformBatchSampler: got seed=0.5"):
        data.UniformBatchSampler(4, 2, 0.5)
    with pytest.raises(ValueError, match="Loader: got threads=-1"):
        data.Loader(Numbers(), sampler_of("uniform", 4, 0), threads=-1)


def image_examples(pixel=0, label=0):
    images = np.zeros((3, 2, 2, 1), np.uint8)
    images[1, 1, 1] = pixel
    return data.ImageClassificationExamples(images, np.array([0, label, 1]), 2)


def translation_examples(one="ab", two="cd"):
    return data.translation_examples(["x", one, "y"], ["1", two, "2"], data.ByteTokenizer())


def packed_sequences(*documents):
    return data.PackedSequences([[1, 5, 6, 2], *documents], 4, 9)


@pytest.mark.parametrize(
    ("make", "same", "others"),
    [
        (image_examples, (0, 0), [(1, 0), (0, 1)]),
        (translation_examples, ("ab", "cd"), [("ac", "cd"), ("ab", "ce"), ("abc", "d")]),
        (packed_sequences, ([1, 7, 2],), [([1, 8, 2],), ([7, 1, 2],), ([1, 7], [2, 2])]),
    ],
)
def test_a_state_of_other_data_of_the_same_size_is_an_error(make, same, others):
    class FirstTwo:
        """The first two of some examples."""

        def __init__(self, examples):
            self.take, self.fingerprint = examples.take, examples.fingerprint

        def __len__(self):
            return 2

    def iterate(examples):
        return iter(data.Loader(FirstTwo(examples), data.UniformBatchSampler(2, 2, 0)))

    state = json.loads(json.dumps(iterate(make(*same)).get_state()))
    iterate(make(*same)).set_state(state)
    for other in others:
        with pytest.raises(ValueError, match="Loader: got a saved state of batches made with"):
            iterate(make(*other)).set_state(state)
