import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data

DOCUMENTS = st.lists(st.lists(st.integers(0, 49), max_size=23), min_size=1, max_size=12)


def best_fit_plainly(lengths, capacity):
    spaces, rows = [], {}
    for piece in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [space for space in spaces if space >= lengths[piece]]
        if not fitting:
            spaces.append(capacity)
            fitting = [capacity]
        row = spaces.index(min(fitting))
        spaces[row] -= lengths[piece]
        rows[piece] = row
    return rows, len(spaces)


@given(st.lists(st.integers(1, 9), max_size=30), st.just(9))
def test_best_fit(lengths, capacity):
    rows = data.best_fit(np.array(lengths, int), capacity)
    n_rows = max(rows, default=-1) + 1
    loads = np.bincount(rows, weights=lengths, minlength=n_rows)
    assert (loads <= capacity).all() and (loads > 0).all()
    assert n_rows == best_fit_plainly(lengths, capacity)[1]
    assert (rows == data.best_fit(np.array(lengths, int), capacity)).all()


def pieces(batch):
    """The segments of all rows: (ids with the last label, positions)."""
    found = []
    for b in range(len(batch["tokens"])):
        for segment in range(1, batch["segment_ids"][b].max() + 1):
            at = np.flatnonzero(batch["segment_ids"][b] == segment)
            assert (np.diff(at) == 1).all() and (batch["positions"][b, at] == np.arange(len(at))).all()
            tokens, labels = batch["tokens"][b, at], batch["labels"][b, at]
            assert (tokens[1:] == labels[:-1]).all(), "a label is the next token"
            found.append((*tokens.tolist(), int(labels[-1])))
    return found


@given(DOCUMENTS, st.sampled_from([1, 4, 7]))
def test_unpacking_gives_the_documents_back(documents, length):
    useful = [document for document in documents if len(document) > 1]
    if not useful:
        with pytest.raises(ValueError, match="two tokens or more"):
            data.PackedRows(documents, length, 50)
        return
    rows = data.PackedRows(documents, length, 50)
    batch = rows.take(np.arange(len(rows)))
    assert {array.shape for array in batch.values()} == {(len(rows), length)}
    assert batch.pop("weights").dtype == np.float32 and {array.dtype for array in batch.values()} == {
        np.dtype("i4")
    }
    wanted = [
        tuple(document[start : start + length + 1])
        for document in useful
        for start in range(0, len(document) - 1, length)
    ]
    assert sorted(pieces(batch)) == sorted(wanted)
    assert rows.dropped == {"empty": len(documents) - len(useful)}


@given(DOCUMENTS, st.sampled_from([1, 4, 7]))
def test_padding_is_zero_and_weights_are_the_predictions(documents, length):
    documents = [[*document, 1, 2] for document in documents]
    rows = data.PackedRows(documents, length, 50)
    batch = rows.take(np.arange(len(rows)))
    padding = batch["segment_ids"] == 0
    for name in ("tokens", "labels", "positions", "weights"):
        assert (batch[name][padding] == 0).all()
    assert (batch["weights"][~padding] == 1).all()
    assert batch["weights"].sum() == rows.n_targets == sum(len(document) - 1 for document in documents)
    assert (batch["segment_ids"][:, 0] == 1).all(), "no row is empty"


@given(DOCUMENTS, st.sampled_from([(4, 1), (7, 3), (7, 6), (1, 0)]))
def test_pieces_that_overlap_weigh_every_pair_once_and_give_it_context(documents, sizes):
    length, overlap = sizes
    # ids of their own, so that each pair is known by its label
    starts = np.cumsum([0, *map(len, documents)])
    documents = [[*range(a, a + len(d)), a + len(d)] for a, d in zip(starts + 50 * np.arange(len(starts)),
                 documents, strict=False)]  # fmt: skip
    documents = [document for document in documents if len(document) > 1] or [[0, 1]]
    rows = data.PackedRows(documents, length, 5000, overlap=overlap)
    batch = rows.take(np.arange(len(rows)))
    counted = batch["weights"] == 1
    assert sorted(batch["labels"][counted].tolist()) == sorted(i for d in documents for i in d[1:])
    assert batch["weights"].sum() == rows.n_targets
    in_document = {label: place for d in documents for place, label in enumerate(d)}
    for b, t in np.argwhere(counted):
        context = batch["positions"][b, t] + 1
        assert context >= min(overlap + 1, in_document[batch["labels"][b, t]])
    pieces(batch)  # each still a run of one document


def test_rows_are_taken_by_index():
    rows = data.PackedRows([range(20), range(5), range(30, 33)], 6, 50)
    everything = rows.take(np.arange(len(rows)))
    chosen = np.array([2, 0, 2])
    for name, array in rows.take(chosen).items():
        assert (array == everything[name][chosen]).all()


def test_a_document_that_fits_is_never_cut():
    documents = [range(5), range(10, 18), range(20, 25)]
    rows = data.PackedRows(documents, 7, 50)
    assert sorted(pieces(rows.take(np.arange(len(rows))))) == sorted(map(tuple, documents))


def test_bad_input():
    with pytest.raises(ValueError, match="row 1: token id 50 is out of range"):
        data.PackedRows([[1, 2], [3, 50]], 4, 50)
    with pytest.raises(ValueError, match="PackedRows: got length=0; wanted an integer from 1 to"):
        data.PackedRows([[1, 2]], 0, 50)
    with pytest.raises(ValueError, match="PackedRows: got overlap=-1; wanted an integer"):
        data.PackedRows([[1, 2]], 4, 50, overlap=-1)
    with pytest.raises(ValueError, match="pieces of 4 cannot overlap by 4; pass 0 to 3"):
        data.PackedRows([[1, 2]], 4, 50, overlap=4)
    with pytest.raises(ValueError, match="none of the 0 documents"):
        data.PackedRows([], 4, 50)


def test_ids_are_checked_before_they_are_cast():
    with pytest.raises(ValueError, match=f"row 2: token id {2**32 + 2} is out of range"):
        data.PackedRows([[1, 2], [], [3, 2**32 + 2]], 4, 50)
    with pytest.raises(ValueError, match="wanted integers as token id, got float64"):
        data.PackedRows([[1, 2], [3.0, 4.0]], 4, 50)
    large = 2**31 - 1  # no float32
    batch = data.PackedRows([[], np.array([large, large - 1], np.int32)], 1, 2**31).take(np.array([0]))
    assert (batch["tokens"].tolist(), batch["labels"].tolist()) == ([[large]], [[large - 1]])
