import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data
from tfm_jax.data.bucketing import batch_sizes, padding_fraction

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=25)
PAIRS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=25)


def padded(lengths, shapes):
    return sum(min(shape for shape in shapes if shape >= length) for length in lengths)


@given(LENGTHS, st.integers(1, 5), st.sampled_from([1, 3, 8]))
def test_no_other_choice_pads_less(lengths, n, multiple):
    shapes = [side for (side,) in data.choose_buckets(np.array(lengths), n, multiple_of=multiple)]
    assert len(shapes) <= n and all(side % multiple == 0 for side in shapes) and shapes == sorted(set(shapes))
    rounded = [-(-length // multiple) * multiple for length in lengths]
    choices = itertools.combinations(sorted(set(rounded)), min(n, len(set(rounded))))
    best = min(padded(rounded, choice) for choice in choices if max(choice) == max(rounded))
    assert padded(rounded, shapes) == best


@given(PAIRS, st.integers(1, 4), st.sampled_from([1, 4]))
def test_shapes_of_two_parts_hold_every_example_and_grow(pairs, n, multiple):
    lengths = np.array(pairs)
    shapes = data.choose_buckets(lengths, n, multiple_of=multiple)
    assert 1 <= len(shapes) <= n
    assert (np.diff(shapes, axis=0) >= 0).all() and (np.array(shapes) % multiple == 0).all()
    assert (np.array(shapes[-1]) == -(-lengths.max(0) // multiple) * multiple).all()
    # Among the choices of shapes that grow with the longest part, none pads less.
    rounded = -(-lengths // multiple) * multiple
    keys = sorted(set(rounded.max(1)))
    steps = {key: rounded[rounded.max(1) <= key].max(0) for key in keys}
    by_key = [
        sum(steps[min(end for end in ends if end >= key)].sum() for key in rounded.max(1))
        for k in range(1, n + 1)
        for ends in itertools.combinations(keys, min(k, len(keys)))
        if ends[-1] == keys[-1]
    ]
    assert round((1 - padding_fraction(lengths, shapes)) ** -1 * lengths.sum()) <= min(by_key)


def test_padding_share():
    assert padding_fraction(np.array([2, 3, 4]), [(4,)]) == pytest.approx(1 - 9 / 12)
    assert padding_fraction(np.array([[2, 1], [3, 5]]), [(2, 2), (4, 6)]) == pytest.approx(1 - 11 / 14)


def test_batch_sizes():
    assert batch_sizes([(8, 4), (16, 20), (90, 9)], 80) == [10, 4, 1]
    assert batch_sizes([(8, 4), (16, 20), (90, 9)], 80, multiple_of=4) == [8, 4, 4]


@given(PAIRS, st.integers(1, 4), st.sampled_from([1, 3]), st.sampled_from([None, 0, 7]))
def test_every_example_is_in_one_batch_of_an_epoch(pairs, n, size, seed):
    lengths = np.array(pairs)
    shapes = data.choose_buckets(lengths, n, multiple_of=1)
    batches = data.BucketBatchSampler(lengths, shapes, size, seed)
    for epoch in range(1 if seed is None else 2):
        seen = []
        for i in range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch):
            indices, shape = batches[i]
            assert len(indices) == size and shape in shapes
            real = indices[indices >= 0]
            assert (lengths[real] <= np.array(shape)).all() and len(real)
            seen += real.tolist()
        assert sorted(seen) == list(range(len(pairs)))


def test_epochs_are_shuffled_and_repeatable():
    lengths = np.arange(1, 101) % 7 + 1

    def make(seed):
        return data.BucketBatchSampler(lengths, [(3,), (7,)], [8, 4], seed)

    epochs = [[make(seed)[i][0].tolist() for i in range(50)] for seed in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]
    n = make(0).per_epoch
    assert epochs[0][:n] != epochs[0][n : 2 * n]
    together = [{frozenset(batch) for batch in epochs[0][e * n : (e + 1) * n]} for e in (0, 1)]
    assert not together[0] & together[1], "other examples share a batch"
    shapes = [make(0)[i][1] for i in range(n)]
    assert shapes != sorted(shapes), "batches of different shapes are mixed"


def test_without_a_seed_examples_come_in_order_once():
    batches = data.BucketBatchSampler(np.array([9, 2, 3, 1, 8, 2]), [(3,), (9,)], 3)
    assert [(indices.tolist(), shape) for indices, shape in batches] == [
        ([1, 2, 3], (3,)),
        ([5, -1, -1], (3,)),
        ([0, 4, -1], (9,)),
    ]


def test_bad_input():
    with pytest.raises(ValueError, match="choose_buckets: got no lengths"):
        data.choose_buckets(np.zeros((0, 2), int), 3)
    with pytest.raises(ValueError, match="n=0"):
        data.choose_buckets(np.array([3]), 0)
    with pytest.raises(ValueError, match=r"BucketBatchSampler: got lengths \[5, 9\] of example 1; wanted"):
        data.BucketBatchSampler(np.array([[1, 1], [5, 9]]), [(8, 8)], 2)
    for n in (10**6, 2.0, float("nan"), True):
        with pytest.raises(ValueError, match=f"choose_buckets: got n={n}; wanted an integer"):
            data.choose_buckets(np.array([3]), n)
    with pytest.raises(ValueError, match="choose_buckets: got multiple_of=0"):
        data.choose_buckets(np.array([3]), 1, multiple_of=0)
    with pytest.raises(ValueError, match="batch_sizes: got tokens=inf; wanted an integer"):
        batch_sizes([(4,)], float("inf"))
    with pytest.raises(ValueError, match=r"BucketBatchSampler: got a size=2.5; wanted an integer"):
        data.BucketBatchSampler(np.array([1, 2]), [(2,)], 2.5)
    with pytest.raises(ValueError, match="BucketBatchSampler: got seed=-1; wanted an integer"):
        data.BucketBatchSampler(np.array([1, 2]), [(2,)], 2, seed=-1)
    with pytest.raises(ValueError, match=r"BucketBatchSampler: got sizes=\[4, 4\]; wanted one for each of"):
        data.BucketBatchSampler(np.array([1, 2]), [(2,)], [4, 4])
    with pytest.raises(ValueError, match="BucketBatchSampler: got no examples"):
        data.BucketBatchSampler(np.zeros((0,), int), [(2,)], 4)


@given(PAIRS, st.integers(1, 4), st.sampled_from([2, 3, 5]), st.integers(0, 3))
def test_only_the_last_bucket_has_a_padded_training_batch(pairs, n, size, seed):
    lengths = np.array(pairs)
    shapes = data.choose_buckets(lengths, n, multiple_of=1)
    batches = data.BucketBatchSampler(lengths, shapes, size, seed)
    assert batches.per_epoch == -(-len(pairs) // size)
    padded_shapes = [batches[i][1] for i in range(batches.per_epoch) if (batches[i][0] < 0).any()]
    assert padded_shapes in ([], [shapes[-1]])


def test_examples_move_only_to_a_shape_that_holds_them():
    batches = data.BucketBatchSampler(np.array([[4, 1], [1, 4]]), [(4, 2), (2, 4), (5, 3)], 2, seed=0)
    contents = sorted((shape, indices.tolist()) for indices, shape in (batches[0], batches[1]))
    assert batches.per_epoch == 2 and contents == [((2, 4), [1, -1]), ((5, 3), [0, -1])]
