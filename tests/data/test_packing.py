import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data
from tfm_jax.data.packing import best_fit

DOCUMENTS = st.lists(st.lists(st.integers(0, 49), max_size=23), min_size=1, max_size=12)


def best_fit_by_definition(lengths, capacity):
    spaces, bins = [], {}
    for chunk in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [space for space in spaces if space >= lengths[chunk]]
        if not fitting:
            spaces.append(capacity)
            fitting = [capacity]
        best = spaces.index(min(fitting))
        spaces[best] -= lengths[chunk]
        bins[chunk] = best
    return bins, len(spaces)


@given(st.lists(st.integers(1, 9), max_size=30), st.just(9))
def test_best_fit(lengths, capacity):
    bins = best_fit(np.array(lengths, int), capacity)
    n_bins = max(bins, default=-1) + 1
    loads = np.bincount(bins, weights=lengths, minlength=n_bins)
    assert (loads <= capacity).all() and (loads > 0).all()
    assert n_bins == best_fit_by_definition(lengths, capacity)[1]
    assert (bins == best_fit(np.array(lengths, int), capacity)).all()


def chunks(batch):
    """The segments of all sequences: their ids with the last label."""
    contents = []
    for b in range(len(batch["tokens"])):
        for segment in range(1, batch["segment_ids"][b].max() + 1):
            at = np.flatnonzero(batch["segment_ids"][b] == segment)
            assert (np.diff(at) == 1).all() and (batch["positions"][b, at] == np.arange(len(at))).all()
            tokens, labels = batch["tokens"][b, at], batch["labels"][b, at]
            assert (tokens[1:] == labels[:-1]).all(), "a label is the next token"
            contents.append((*tokens.tolist(), int(labels[-1])))
    return contents


@given(DOCUMENTS, st.sampled_from([1, 4, 7]))
def test_unpacking_gives_the_documents_back(documents, length):
    useful = [document for document in documents if len(document) > 1]
    if not useful:
        with pytest.raises(ValueError, match="none of two tokens or more"):
            data.PackedSequences(documents, length, 50)
        return
    packed = data.PackedSequences(documents, length, 50)
    batch = packed.take(np.arange(len(packed)))
    assert {array.shape for array in batch.values()} == {(len(packed), length)}
    assert batch.pop("weights").dtype == np.float32 and {array.dtype for array in batch.values()} == {
        np.dtype("i4")
    }
    expected = [
        tuple(document[start : start + length + 1])
        for document in useful
        for start in range(0, len(document) - 1, length)
    ]
    assert sorted(chunks(batch)) == sorted(expected)
    assert packed.dropped == {"empty": len(documents) - len(useful)}


@given(DOCUMENTS, st.sampled_from([1, 4, 7]))
def test_padding_is_zero_and_weights_are_the_predictions(documents, length):
    documents = [[*document, 1, 2] for document in documents]
    packed = data.PackedSequences(documents, length, 50)
    batch = packed.take(np.arange(len(packed)))
    padding = batch["segment_ids"] == 0
    for name in ("tokens", "labels", "positions", "weights"):
        assert (batch[name][padding] == 0).all()
    assert (batch["weights"][~padding] == 1).all()
    assert batch["weights"].sum() == packed.n_targets == sum(len(document) - 1 for document in documents)
    assert (batch["segment_ids"][:, 0] == 1).all(), "no sequence is empty"


@given(DOCUMENTS, st.sampled_from([(4, 1), (7, 3), (7, 6), (1, 0)]))
def test_overlapping_chunks_weigh_every_pair_once_and_give_it_context(documents, sizes):
    length, overlap = sizes
    # unique ids, so that a label identifies its pair
    starts = np.cumsum([0, *map(len, documents)])
    documents = [[*range(a, a + len(d)), a + len(d)] for a, d in zip(starts + 50 * np.arange(len(starts)),
                 documents, strict=False)]  # fmt: skip
    documents = [document for document in documents if len(document) > 1] or [[0, 1]]
    packed = data.PackedSequences(documents, length, 5000, overlap=overlap)
    batch = packed.take(np.arange(len(packed)))
    counted = batch["weights"] == 1
    assert sorted(batch["labels"][counted].tolist()) == sorted(i for d in documents for i in d[1:])
    assert batch["weights"].sum() == packed.n_targets
    position_of = {label: position for d in documents for position, label in enumerate(d)}
    for b, t in np.argwhere(counted):
        context = batch["positions"][b, t] + 1
        assert context >= min(overlap + 1, position_of[batch["labels"][b, t]])
    chunks(batch)  # each is still part of one document


def test_sequences_are_taken_by_index():
    packed = data.PackedSequences([range(20), range(5), range(30, 33)], 6, 50)
    all_of_them = packed.take(np.arange(len(packed)))
    chosen = np.array([2, 0, 2])
    for name, array in packed.take(chosen).items():
        assert (array == all_of_them[name][chosen]).all()


def test_a_document_that_fits_is_never_split():
    documents = [range(5), range(10, 18), range(20, 25)]
    packed = data.PackedSequences(documents, 7, 50)
    assert sorted(chunks(packed.take(np.arange(len(packed))))) == sorted(map(tuple, documents))


def test_bad_input():
    with pytest.raises(ValueError, match="PackedSequences: got token id 50 in row 1"):
        data.PackedSequences([[1, 2], [3, 50]], 4, 50)
    with pytest.raises(ValueError, match="PackedSequences: got length=0; wanted an integer"):
        data.PackedSequences([[1, 2]], 0, 50)
    with pytest.raises(ValueError, match="PackedSequences: got overlap=-1; wanted an integer"):
        data.PackedSequences([[1, 2]], 4, 50, overlap=-1)
    with pytest.raises(ValueError, match=r"PackedSequences: got overlap=4 with length=4; .*Pass 0 to 3"):
        data.PackedSequences([[1, 2]], 4, 50, overlap=4)
    with pytest.raises(ValueError, match="PackedSequences: got 0 documents, none of two tokens or more"):
        data.PackedSequences([], 4, 50)


def test_ids_are_checked_before_they_are_cast():
    with pytest.raises(ValueError, match=f"got token id {2**32 + 2} in row 2"):
        data.PackedSequences([[1, 2], [], [3, 2**32 + 2]], 4, 50)
    with pytest.raises(ValueError, match="got token id of float64; wanted integers"):
        data.PackedSequences([[1, 2], [3.0, 4.0]], 4, 50)
    large = 2**31 - 1  # not exact in float32
    batch = data.PackedSequences([[], np.array([large, large - 1], np.int32)], 1, 2**31).take(np.array([0]))
    assert (batch["tokens"].tolist(), batch["labels"].tolist()) == ([[large]], [[large - 1]])
