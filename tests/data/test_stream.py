import itertools
import json

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data

TOKENIZER = data.ByteTokenizer()
TEXTS = ["ab", "", "a longer text of many bytes", "c", "defgh", "", "é"]
PAIRS = [pair for text in TEXTS if text for pair in itertools.pairwise([1, *TOKENIZER.encode(text), 2])]


def stream(texts=TEXTS, shards=1):
    table = datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset(num_shards=shards)
    return table.map(lambda row: row)  # a mapped stream does not declare its columns


def loader(shards=1, **options):
    return data.StreamLoader(stream(shards=shards), TOKENIZER, length=4, batch_size=3, **options)


def first(iterator, n):
    return [
        {name: array.tolist() for name, array in batch.items()} for batch in itertools.islice(iterator, n)
    ]


def test_sequences_hold_the_pairs_of_the_stream_in_order():
    batches = list(itertools.islice(loader(), 20))
    assert all(array.shape == (3, 4) for batch in batches for array in batch.values())
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    pairs = list(zip(joined["tokens"].ravel().tolist(), joined["labels"].ravel().tolist(), strict=True))
    assert pairs == list(itertools.islice(itertools.cycle(PAIRS), len(pairs)))
    assert (joined["weights"] == 1).all() and {array.dtype.name for array in joined.values()} == {
        "int32",
        "float32",
    }
    for i in range(len(joined["tokens"])):
        ids, positions, tokens = (joined[name][i] for name in ("segment_ids", "positions", "tokens"))
        starts = np.flatnonzero(positions == 0)
        assert starts[0] == 0 and (np.flatnonzero(tokens == 1) == starts[tokens[starts] == 1]).all()
        assert (ids == np.cumsum(positions == 0)).all()
        for at in range(1, 4):
            if positions[at]:
                assert positions[at] == positions[at - 1] + 1 and joined["labels"][i, at - 1] == tokens[at]


@given(st.integers(0, 14), st.booleans(), st.sampled_from([1, 3]))
def test_resuming_anywhere_gives_the_remaining_batches(stop, moved, shards):
    batches = loader(shards)
    expected = first(iter(batches), 16)
    iterator = iter(batches)
    assert first(iterator, stop) == expected[:stop]
    state = json.loads(json.dumps(iterator.get_state()))
    resumed = iter(batches)
    if moved:
        first(resumed, 2)
    resumed.set_state(state)
    assert first(resumed, 16 - stop) == expected[stop:]
    assert first(iterator, 16 - stop) == expected[stop:], "reading the state moves nothing"


def test_two_iterators_are_independent():
    both = loader(shards=3)
    one, other = iter(both), iter(both)
    mixed = [first(one, 1), first(other, 3), first(one, 2)]
    assert mixed[0] + mixed[2] == mixed[1]
    resumed = iter(both)
    resumed.set_state(one.get_state())
    assert first(resumed, 3) == first(one, 3)
    first(one, 20)
    assert both.dataset.epoch == 0 and [row["text"] for row in both.dataset] == TEXTS, (
        "the stream is unchanged"
    )


def test_epochs_of_a_shuffled_stream_differ():
    texts = stream([c * 3 for c in "abcdefgh"]).shuffle(seed=0)
    epochs = data.StreamLoader(texts, TOKENIZER, length=4, batch_size=8)  # a batch is an epoch
    one, two, three = (batch["labels"].ravel().tolist() for batch in itertools.islice(epochs, 3))
    assert one != two and sorted(one) == sorted(two) == sorted(three)


def test_empty_texts_are_counted():
    iterator = iter(loader())
    first(iterator, 4)  # 48 pairs: the 42 of an epoch, and past its first empty text again
    assert iterator.dropped == 3


def test_bad_input():
    with pytest.raises(ValueError, match=r"StreamLoader: got .* the columns 'text'; wanted 'prose'"):
        loader(column="prose")
    with pytest.raises(ValueError, match="StreamLoader: got no text of two tokens or more"):
        next(iter(data.StreamLoader(stream(["", ""]), TOKENIZER, length=4, batch_size=1)))
    ragged = datasets.IterableDataset.from_generator(lambda: iter([{"text": "a"}, {"other": "b"}]))
    with pytest.raises(
        ValueError, match=r"StreamLoader: got \{'other': 'b'\} in row 1; wanted a text in column 'text'"
    ):
        next(iter(data.StreamLoader(ragged, TOKENIZER, length=4, batch_size=3)))
    with pytest.raises(ValueError, match=r"got \{'text': None\} in row 1; wanted a text in column 'text'"):
        next(iter(data.StreamLoader(stream(["a", None]), TOKENIZER, length=4, batch_size=3)))


def test_ids_beyond_the_vocabulary_are_named_with_their_row():
    options = {"length": 2, "batch_size": 1, "vocab_size": 120}
    texts = stream(["ab", "", "abc", "az"])
    iterator = iter(data.StreamLoader(texts, TOKENIZER, **options))
    first(iterator, 2)
    resumed = iter(data.StreamLoader(texts, TOKENIZER, **options))
    resumed.set_state(json.loads(json.dumps(iterator.get_state())))
    for batches in (iterator, resumed):
        with pytest.raises(ValueError, match="StreamLoader: got token id 125 in row 3"):
            first(batches, 5)
